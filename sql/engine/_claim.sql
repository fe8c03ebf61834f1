-- Chooses and locks the entries to send now, in the order to send them. For each service that has something due, has
-- an endpoint and the secrets for it, and is not paused: its most overdue entries, up to its free slots, and then one of
-- each service in turn, so that a flood for one does not delay another. An even share of the room bounds what each
-- service locks: to lock what is not sent would be a write for each row and pass. Under way at once it has no more than an even
-- share of what the sender takes, one share being left for whoever comes next: slow handlers would keep all of it otherwise.
-- The cost is that of the services that wait and of the entries that are due.
-- An entry whose last request is still in flight (a person has made it due again) waits for that answer first.
-- claimed: by service, up to which next_retry_at the same cycle has claimed. Nothing is looked for that was due a minute before
-- that: what has been claimed leaves dead entries in the index, vacuum cannot remove them while somebody holds a transaction open,
-- and at 200 a second they are 120,000 after ten minutes. What appears there all the same (a row that somebody had locked, a commit
-- that came late) is found by the next cycle, whose first claim looks for everything.
--
-- In PL/pgSQL, which plans it once a session: to plan it takes as long as to run it. By statistics of a time when nothing waited
-- it would take any index that has the service in it, and sort: 50,000 waiting entries were read to claim 100. Hence without sorts, but
-- for those that it cannot do without, and without the compiler, which their price would call.
--
-- The slots are as many as dlq._move_cap() has left. An open circuit lets one entry through when its next probe is due.
-- pg_net answers a batch when the slowest of it has answered, so there the endpoints that lately timed out take the slow lane: they
-- are sent while nothing else of ours is due or under way, and otherwise together, once in twelve times their timeout: they hold up
-- the others for a thirteenth of the time.
create or replace function dlq._claim(room integer, inout claimed jsonb default null, out entry_ids uuid[])
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan set enable_sort = off set enable_incremental_sort = off
as $$
begin
  claimed := coalesce(claimed, '{}');
  with clock as materialized (
    select dlq._now() as now, b.size is not null as has_lanes, coalesce(2 * b.size, s.max_in_flight) as capacity
    from dlq.settings as s
      cross join (select nullif(current_setting('pg_net.batch_size', true), '')::integer as size) as b
  ),
  callable as materialized (
    select
      w.service,
      t.timed_out_at + r.timeout_ms * interval '12 milliseconds' as apart_until,
      clock.has_lanes and t.timed_out_at > clock_timestamp() - interval '10 minutes' as is_slow,
      case when t.cap = 0 then 1 else least(t.cap, r.max_in_flight) end as most,
      b.due_from,
      (select count(*) from dlq.in_flight as f where f.service = w.service) as in_flight
    from dlq._waiting_services as w
      cross join clock
      cross join lateral dlq._route(w.service) as r
      cross join lateral (
        select coalesce((_claim.claimed ->> w.service)::timestamptz - interval '1 minute', '-infinity') as due_from) as b
      left join dlq.endpoint_state as t on t.service = w.service
    where r.enabled
      and (t.cap is distinct from 0 or t.probe_at <= clock.now)
      and not dlq._is_paused(w.service)
      and dlq._missing_secret(w.service) is null
      and (  -- from the youngest, since it is the oldest that are dead; not "exists", which keeps no order
        select true from public.webhook_dlq as e
        where e.status = 'pending' and e.service = w.service and e.next_retry_at between b.due_from and clock.now
        order by e.next_retry_at desc
        limit 1)
  ),
  shares as materialized (
    select greatest(1, (select clock.capacity from clock) / (1 + count(*))) as share
    from (select c.service from callable as c union select f.service from dlq.in_flight as f) as busy
  ),
  lanes as materialized (
    select
      not exists (select from callable as c where c.is_slow is not true)
      and not exists (
        select from dlq.in_flight as f
        where f.service not in (
          select t.service from dlq.endpoint_state as t where t.timed_out_at > clock_timestamp() - interval '10 minutes'))
      or (select max(c.apart_until) from callable as c) < clock_timestamp() as is_slow_open
  ),
  due as (
    select d.id, c.service, row_number() over (partition by c.service order by d.next_retry_at) as turn, d.next_retry_at
    from (
        select c.service, c.due_from, least(c.most, s.share) - c.in_flight as free, count(*) over () as services
        from callable as c cross join shares as s cross join lanes
        where least(c.most, s.share) > c.in_flight and (c.is_slow is not true or lanes.is_slow_open)
      ) as c
      cross join clock
      cross join lateral (
        select e.id, e.next_retry_at
        from public.webhook_dlq as e
        where e.status = 'pending' and e.service = c.service and e.next_retry_at between c.due_from and clock.now
          and e.id not in (select f.entry_id from dlq.in_flight as f)  -- a hash table: "exists" can be a scan for each entry
        order by e.next_retry_at
        limit least(c.free, greatest(1, _claim.room / c.services))
        for update of e skip locked
      ) as d
  ),
  first as materialized (
    select d.* from due as d order by d.turn, d.next_retry_at limit _claim.room
  )
  select
    (select array_agg(f.id order by f.turn, f.next_retry_at) from first as f),
    _claim.claimed || coalesce(
      (select jsonb_object_agg(f.service, f.until)
       from (select f.service, max(f.next_retry_at) as until from first as f group by f.service) as f), '{}')
  into entry_ids, claimed;
end
$$;

comment on function dlq._claim(integer, jsonb) is
$$Chooses and locks up to so many entries to send now. Null if there are none. claimed: what it returned when it was last called in
this cycle, {"service": up to which next_retry_at}.$$;
