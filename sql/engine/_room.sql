-- How many more requests may be handed to the sender now. pg_net is shared with others, and sends one batch after the other, oldest
-- first: never more of ours than a batch holds, and half of that while somebody else's wait there. So whoever comes waits for one
-- batch of ours at most, and keeps half of its rate at least: that none waits may only mean that it has just been answered. More would
-- gain nothing: there is a second after each batch to fill the next. The net-worker tells no batch size; there a setting decides.
-- pg_net's queue has no index, and its dead rows stay while somebody holds a transaction open: after ten minutes of 200 a second they
-- were 150 MB. Who comes then writes at its end, so its last thousand pages are read.
-- In PL/pgSQL, which plans it once a session.
create or replace function dlq._room()
returns integer
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_from tid := '(0,0)';
begin
  if current_setting('pg_net.batch_size', true) <> '' and pg_stat_get_dead_tuples('net.http_request_queue'::regclass) > 5000 then
    v_from := format('(%s,0)',
      greatest(0, pg_relation_size('net.http_request_queue') / current_setting('block_size')::integer - 1000));
  end if;
  return (
    select greatest(0,
      case
        when b.size is null then s.max_in_flight
        when exists (
          select from net.http_request_queue as q
          where q.ctid >= v_from and q.id not in (select f.request_id from dlq.in_flight as f))
        then (b.size + 1) / 2
        else b.size
      end
      - (select count(*) from dlq.in_flight)::integer)
    from dlq.settings as s
      cross join (select nullif(current_setting('pg_net.batch_size', true), '')::integer as size) as b);
end
$$;

comment on function dlq._room() is 'How many more requests may be handed to the sender now.';
