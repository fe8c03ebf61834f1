-- Notices the attempts that will never be answered and gives their entries back. No retry is used up.
-- Lost is: an entry in processing without a request in flight (a crash or failover emptied the unlogged tables),
-- a request of another net._http_response (pg_net was dropped and created), or one that has been neither queued
-- nor answered for its timeout and a minute. Both are looked up in ONE statement: in two, a request that was
-- answered in between looks lost. The minute: pg_net 0.11 to 0.17 keeps a request in neither while it is sent.
-- One transaction; does nothing beside another engine.
-- No scan of dlq.in_flight for each entry: it is small when this is planned, and may hold thousands of dead rows later.
create or replace function dlq.requeue_lost(out unanswered integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off
as $$
declare
  v_net_oid oid := case when not dlq._is_foreign('net') then to_regclass('net._http_response') end;
  v_since timestamptz;
  v_first bigint;
  v_last bigint;
  v_lost uuid[];
begin
  unanswered := 0;
  if not dlq._engine_lock() then
    return;
  end if;

  -- An array is looked up once. "in" would be, too, or once for each request: that is a matter of statistics.
  delete from dlq.in_flight as f
  where f.entry_id = any (array(
    select o.entry_id
    from dlq.in_flight as o
    -- Not "not exists": that can be had by reading all entries once, and a planner that takes many to be in flight does so.
    where (select e.id from public.webhook_dlq as e where e.id = o.entry_id) is null
    for update skip locked));

  select min(f.dispatched_at) - interval '20 seconds', min(f.request_id), max(f.request_id) into v_since, v_first, v_last
  from dlq.in_flight as f;
  if v_net_oid is not null and v_since is not null then
    with missing as (
      -- "not in" is looked up in a hash table; "not exists" would read all recent answers for each request.
      select f.entry_id
      from dlq.in_flight as f
      where f.request_id not in (select q.id from net.http_request_queue as q where q.id between v_first and v_last)
        and f.request_id not in (
          select r.id from net._http_response as r where r.created >= v_since and r.id between v_first and v_last)
    )
    update dlq.in_flight as f
    set missing_since = case when (f.missing_since <= clock_timestamp()) is not true then clock_timestamp() end
    where f.entry_id = any (array(
      select changed.entry_id
      from dlq.in_flight as changed
      -- A time that is yet to come was noted before the clock was set back, and says nothing.
      where ((changed.missing_since <= clock_timestamp()) is not true) = (changed.entry_id in (select m.entry_id from missing as m))
      for update skip locked));
  end if;

  with gone as (
    select f.entry_id
    from dlq.in_flight as f
    where f.net_oid is distinct from v_net_oid
      or f.missing_since < clock_timestamp() - f.timeout_ms * interval '1 millisecond' - interval '1 minute'
    for update of f skip locked
  )
  select array_agg(lost.entry_id)
  into v_lost
  from (
    select g.entry_id from gone as g
    union
    select e.id
    from (
      -- In this order, because idx_webhook_dlq_status has it: any index of few rows would do, as long as nothing waits.
      select p.id from public.webhook_dlq as p where p.status = 'processing' order by p.settled_at offset 0
    ) as e
    where (select f.entry_id from dlq.in_flight as f where f.entry_id = e.id) is null
  ) as lost;

  if v_lost is not null then
    select s.unanswered
    into unanswered
    from dlq._settle(
      v_lost, array_fill('unanswered'::text, array[cardinality(v_lost)]), '{}',
      array_fill('the request is gone, and so is its answer'::text, array[cardinality(v_lost)]), '{}', '{}') as s;
  end if;
end
$$;

comment on function dlq.requeue_lost() is
'Gives back the entries whose request is gone without an answer, and returns how many.';
