-- What waits in the sender's queue, counted up to 10,000. With the owner's rights: the table is closed to readers. It and ours
-- are unlogged: a standby has none, and is told nothing. Each statement is planned only where it is come to,
-- so a standby and a server without schema net get no error.
create or replace function dlq._net_queue(out waiting bigint, out waiting_ours bigint, out in_flight bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if pg_is_in_recovery() then
    return;
  end if;
  select count(*) into in_flight from (select from dlq.in_flight as f limit 10000) as f;
  if dlq._is_foreign('net') or to_regclass('net.http_request_queue') is null then
    return;
  end if;
  select count(*) into waiting from (select from net.http_request_queue as q limit 10000) as q;
  select count(*) into waiting_ours
  from (
    select from dlq.in_flight as f where f.request_id in (select q.id from net.http_request_queue as q limit 10000) limit 10000
  ) as f;
end
$$;

comment on function dlq._net_queue() is
'What waits in the sender''s queue: see the view dlq.net_queue. All null on a standby.';
