-- Removes a batch of entries that are as old as the settings say, oldest first from a time on, with their attempts. Entries
-- that somebody has locked are passed over. Nobody waits longer than for one batch, and only who touches what is to go.
-- Where a batch cannot be deleted (a table of the user's refers to an entry, or has a trigger that raises), it is redone one
-- by one: what cannot go stays, and the first reason is returned. after: where to go on, so that what an earlier batch left
-- behind is not gone through again; null at the end.
create or replace function dlq._remove_entries(
  failed boolean,
  inout after timestamptz,
  out entries integer,
  out attempts integer,
  out error text
)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  c_batch constant integer := 1000;
  v_until timestamptz := (
    select dlq._now() - case when failed then s.retain_failed else s.retain_settled end from dlq.settings as s);
  v_ids uuid[];
  v_id uuid;
  v_gone record;
  v_state text;
  v_message text;
begin
  if failed then
    select array_agg(b.id), max(b.settled_at) into v_ids, after
    from (
      select e.id, e.settled_at
      from public.webhook_dlq as e
      where e.status = 'failed' and e.settled_at >= after and e.settled_at <= v_until
      order by e.settled_at
      limit c_batch
      for update skip locked
    ) as b;
  else
    select array_agg(b.id), max(b.settled_at) into v_ids, after
    from (
      select e.id, e.settled_at
      from public.webhook_dlq as e
      where e.status in ('reprocessed', 'discarded') and e.settled_at >= after and e.settled_at <= v_until
      order by e.settled_at
      limit c_batch
      for update skip locked
    ) as b;
  end if;

  entries := 0;
  attempts := 0;
  begin
    select d.entries, d.attempts into entries, attempts from dlq._delete_entries(v_ids) as d;
  exception when others then
    foreach v_id in array v_ids loop
      begin
        select d.entries, d.attempts into v_gone from dlq._delete_entries(array[v_id]) as d;
        entries := entries + v_gone.entries;
        attempts := attempts + v_gone.attempts;
      exception when others then
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
        error := coalesce(error, format('%s %s: %s', v_state, v_id, v_message));
      end;
    end loop;
  end;

  if cardinality(v_ids) < c_batch then
    after := null;
  elsif entries = 0 then  -- a whole batch that must stay, and may be of one time
    after := after + interval '1 microsecond';
  end if;
end
$$;

comment on function dlq._remove_entries(boolean, timestamptz) is
$$Removes a batch of old entries, of those that failed or of those delivered or discarded, and their attempts. Returns how many,
where the next batch begins, and why something could not go.$$;
