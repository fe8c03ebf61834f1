-- Records how attempts ended and moves their entries on. The one place where an entry changes state after a try:
--
--   delivered                              reprocessed
--   unanswered                             pending again, no retry used; failed when it happened too often
--   a probe that found its endpoint down   pending again, no retry used, behind all that are due
--   410 Gone, or the retries are used up   failed
--   anything else                          pending, with the schedule's next wait, lengthened by jitter
--
-- The arrays are parallel: one element of each is one attempt. Entries that somebody else has locked are left
-- for the next pass. An entry that a person has settled meanwhile stays as it is; one that a person has made
-- due again stays due, unless it was delivered. The caller holds the engine's lock and its rows of dlq.in_flight.
-- What the answers say of their endpoints moves the caps: see dlq._move_cap().
-- Planned once a session, perhaps over an empty queue with nothing in flight, and run over a full one. So a "limit" that limits nothing,
-- but has the planner expect one row: it looks up the entry of each then, while for ten it would read all of a queue that has hardly any.
-- And dlq.in_flight is looked up by "offset" and "= any": joined, it can be read once for each entry.
create or replace function dlq._settle(
  entry_ids uuid[],
  outcomes text[],
  status_codes integer[],
  errors text[],
  replies text[],
  waits interval[],
  out delivered integer,
  out failed integer,
  out unanswered integer
)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_service record;
begin
  delivered := 0;
  failed := 0;
  unanswered := 0;
  for v_service in
    with verdicts as (
      select
        v.*,
        v.outcome in ('http_error', 'network_error', 'echoed', 'not_sent') as is_failure,
        dlq._is_endpoints_fault(v.outcome, v.status_code) as is_endpoints_fault
      from unnest(entry_ids, outcomes, status_codes, errors, replies, waits)
        as v (entry_id, outcome, status_code, error, reply, wait)
      limit cardinality(entry_ids)
    ),
    entries as (
      select
        v.*, e.service, e.status, e.retry_count, e.unanswered_count, e.last_retry_at, s.jitter, s.max_unanswered, s.retry_schedule,
        coalesce(f.is_probe, false) as is_probe,
        f.is_probe is true and v.is_endpoints_fault is true as is_in_vain,
        f.request_id, f.dispatched_at,
        e.attempt_count + (v.outcome = 'not_sent')::integer as attempt
      from verdicts as v
        join public.webhook_dlq as e on e.id = v.entry_id
        cross join dlq.settings as s
        left join lateral (select l.* from dlq.in_flight as l where l.entry_id = v.entry_id offset 0) as f on true
      for update of e skip locked
    ),
    routes as (  -- looked up once a service
      select s.service, r.retry_schedule
      from (select distinct e.service from entries as e) as s
        cross join lateral dlq._route(s.service) as r
    ),
    scheduled as (
      select e.*, coalesce(r.retry_schedule, e.retry_schedule) as schedule
      from entries as e
        left join routes as r on r.service = e.service
    ),
    counted as (
      select
        e.*,
        e.retry_count + (e.is_failure and not e.is_in_vain)::integer as retries_used,
        -- What a Retry-After asks for, up to the schedule's longest wait.
        case when e.wait is not null then least(e.wait, (select max(w) from unnest(e.schedule) as w)) end as asked
      from scheduled as e
    ),
    decided as (
      select
        c.*,
        case
          when c.status not in ('pending', 'processing') then c.status
          when c.outcome = 'delivered' then 'reprocessed'
          when c.outcome = 'not_sent' or c.status = 'processing' then
            case
              when c.is_in_vain then 'pending'
              when c.is_failure and (c.retries_used >= cardinality(c.schedule) or c.status_code = 410) then 'failed'
              when c.outcome = 'unanswered' and c.unanswered_count + 1 >= c.max_unanswered then 'failed'
              else 'pending'
            end
          else 'pending'
        end as new_status,
        case
          when c.is_in_vain then interval '0'
          when c.outcome = 'unanswered' then
            -- At once, then after 1, 2, 4 … 32 minutes.
            interval '1 minute' * case when c.unanswered_count = 0 then 0 else 2 ^ least(c.unanswered_count - 1, 5) end
          else
            greatest(c.schedule[least(c.retries_used + 1, cardinality(c.schedule))] * (1 + c.jitter * random()), c.asked)
        end as next_wait
      from counted as c
    ),
    moved as (
      update public.webhook_dlq as e
      set
        status = d.new_status,
        retry_count = d.retries_used,
        unanswered_count = e.unanswered_count + (d.outcome = 'unanswered')::integer,
        attempt_count = d.attempt,
        next_retry_at = case
          when d.new_status <> 'pending' then null
          when d.status = 'pending' and d.outcome <> 'not_sent' then e.next_retry_at
          else dlq._now() + d.next_wait
        end,
        settled_at = case
          when d.new_status = 'pending' then null
          when d.new_status = d.status then e.settled_at
          else dlq._now()
        end,
        updated_at = dlq._now()
      from decided as d
      where e.id = d.entry_id
      returning e.id
    ),
    landed as (
      delete from dlq.in_flight as f
      where f.entry_id = any (array(select m.id from moved as m))
    ),
    recorded as (
      -- The counters of an entry can be edited by hand; history must not stop the run for it.
      insert into dlq.delivery_attempts
        (entry_id, dispatched_at, settled_at, request_id, attempt, status_code, is_probe, outcome, service, error, reply)
      select
        d.entry_id, coalesce(d.dispatched_at, d.last_retry_at, clock_timestamp()), clock_timestamp(), d.request_id,
        d.attempt, d.status_code, d.is_probe, d.outcome, d.service,
        case when d.outcome = 'unanswered' and d.new_status = 'failed'
          then format('%s; given up after %s attempts without an answer', d.error, d.unanswered_count + 1) else d.error end,
        d.reply
      from decided as d
      on conflict do nothing
      returning service, outcome, coalesce(status_code, 0) as status_code, outcome = 'network_error' and error ~* 'timeout' as is_timeout,
        case when outcome = 'not_sent' then 0 else greatest(date_part('epoch', settled_at - dispatched_at), 0) end as seconds
    ),
    added_up as (
      insert into dlq.attempt_counts as c (hour, service, outcome, status_code, attempts, timeouts, seconds, seconds_max)
      select
        date_trunc('hour', dlq._now(), 'UTC'), r.service, r.outcome, r.status_code,
        count(*), count(*) filter (where r.is_timeout), sum(r.seconds), max(r.seconds)
      from recorded as r
      group by r.service, r.outcome, r.status_code
      on conflict (hour, service, outcome, status_code) do update
      set
        attempts = c.attempts + excluded.attempts,
        timeouts = c.timeouts + excluded.timeouts,
        seconds = c.seconds + excluded.seconds,
        seconds_max = greatest(c.seconds_max, excluded.seconds_max)
    ),
    told as (  -- what speaks for or against the endpoint: nothing that was asked before its cap last moved
      select
        d.*,
        case when t.cap_changed_at is null or d.dispatched_at > t.cap_changed_at then d.is_endpoints_fault end as is_fault
      from decided as d
        left join dlq.endpoint_state as t on t.service = d.service
    )
    select
      t.service,
      count(*) filter (where t.outcome = 'delivered') as delivered,
      count(*) filter (where t.is_failure) as failed,
      count(*) filter (where t.outcome = 'unanswered') as unanswered,
      count(*) filter (where not t.is_fault)::integer as well,
      coalesce(array_agg(t.entry_id) filter (where t.is_fault), '{}') as suspects,
      count(*) filter (where t.is_fault and t.outcome = 'network_error' and t.error ~* 'timeout')::integer as timed_out,
      max(case t.outcome when 'http_error' then 'HTTP ' || t.status_code else t.outcome end) filter (where t.is_fault) as trouble,
      max(t.asked) filter (where t.is_fault) as asked
    from told as t
    group by t.service
    order by t.service
  loop
    delivered := delivered + v_service.delivered;
    failed := failed + v_service.failed;
    unanswered := unanswered + v_service.unanswered;
    perform dlq._move_cap(
      v_service.service, v_service.well, v_service.suspects, v_service.timed_out, v_service.trouble, v_service.asked);
  end loop;
end
$$;

comment on function dlq._settle(uuid[], text[], integer[], text[], text[], interval[]) is
$$Records how attempts ended and moves their entries on. Parallel arrays, one element an attempt: entry, outcome
(as in dlq.delivery_attempts), HTTP status, error, reply, and the wait that the answer asked for.$$;
