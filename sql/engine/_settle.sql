-- Records how attempts ended and moves their entries on. The one place where an entry changes state after a try:
--
--   delivered                              reprocessed
--   unanswered                             pending again, no retry used; failed when it happened too often
--   410 Gone, or the retries are used up   failed
--   anything else                          pending, with the schedule's next wait, lengthened by jitter
--
-- The arrays are parallel: one element of each is one attempt. Entries that somebody else has locked are left
-- for the next pass. An entry that a person has settled meanwhile stays as it is; one that a person has made
-- due again stays due, unless it was delivered. The caller holds the engine's lock and its rows of dlq.in_flight.
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
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  with verdicts as (
    select v.*, v.outcome in ('http_error', 'network_error', 'echoed', 'not_sent') as is_failure
    from unnest(entry_ids, outcomes, status_codes, errors, replies, waits)
      as v (entry_id, outcome, status_code, error, reply, wait)
  ),
  entries as (
    select
      v.*, e.service, e.status, e.retry_count, e.unanswered_count, s.jitter, s.max_unanswered,
      coalesce(r.retry_schedule, s.retry_schedule) as schedule,
      e.retry_count + v.is_failure::integer as retries_used,
      e.attempt_count + (v.outcome = 'not_sent')::integer as attempt,
      e.last_retry_at
    from verdicts as v
      join public.webhook_dlq as e on e.id = v.entry_id
      cross join dlq.settings as s
      left join lateral dlq._route(e.service) as r on true
    for update of e skip locked
  ),
  decided as (
    select
      e.*,
      case
        when e.status not in ('pending', 'processing') then e.status
        when e.outcome = 'delivered' then 'reprocessed'
        when e.outcome = 'not_sent' or e.status = 'processing' then
          case
            when e.is_failure and (e.retries_used >= cardinality(e.schedule) or e.status_code = 410) then 'failed'
            when e.outcome = 'unanswered' and e.unanswered_count + 1 >= e.max_unanswered then 'failed'
            else 'pending'
          end
        else 'pending'
      end as new_status,
      case
        when e.outcome = 'unanswered' then
          -- At once, then after 1, 2, 4 … 32 minutes.
          interval '1 minute' * case when e.unanswered_count = 0 then 0 else 2 ^ least(e.unanswered_count - 1, 5) end
        else
          greatest(
            e.schedule[least(e.retries_used + 1, cardinality(e.schedule))] * (1 + e.jitter * random()),
            case when e.wait is not null then least(e.wait, (select max(w) from unnest(e.schedule) as w)) end)
      end as next_wait
    from entries as e
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
    using moved as m
    where f.entry_id = m.id
    returning f.entry_id, f.request_id, f.dispatched_at
  ),
  recorded as (
    -- The counters of an entry can be edited by hand; history must not stop the run for it.
    insert into dlq.delivery_attempts
      (entry_id, dispatched_at, settled_at, request_id, attempt, status_code, outcome, service, error, reply)
    select
      d.entry_id, coalesce(l.dispatched_at, d.last_retry_at, clock_timestamp()), clock_timestamp(), l.request_id,
      d.attempt, d.status_code, d.outcome, d.service,
      d.error || case when d.outcome = 'unanswered' and d.new_status = 'failed' then '; given up: max_unanswered' else '' end,
      d.reply
    from decided as d
      left join landed as l using (entry_id)
    on conflict do nothing
  )
  select
    count(*) filter (where d.outcome = 'delivered'),
    count(*) filter (where d.is_failure),
    count(*) filter (where d.outcome = 'unanswered')
  into delivered, failed, unanswered
  from decided as d;
end
$$;

comment on function dlq._settle(uuid[], text[], integer[], text[], text[], interval[]) is
$$Records how attempts ended and moves their entries on. Parallel arrays, one element an attempt: entry, outcome
(as in dlq.delivery_attempts), HTTP status, error, reply, and the wait that the answer asked for.$$;
