-- What waits, by service. Reads the index of waiting entries, of each service the 10,000 that are due first, so that
-- a million waiting cost what 10,000 of each service do, and nothing of what is settled.
create or replace view dlq.backlog
as
with clock as materialized (  -- once, and not for each entry
  select
    dlq._now() as now,
    dlq._now() - interval '5 minutes' as five_minutes_ago,
    dlq._now() - interval '1 hour' as an_hour_ago,
    dlq._now() - interval '1 day' as a_day_ago
)
select
  w.service, b.pending, b.due, b.next_retry_at, b.due_5_minutes, b.due_1_hour, b.due_1_day
from dlq._waiting_services as w
  cross join clock as c
  cross join lateral (
    select
      count(*) as pending,
      count(*) filter (where e.next_retry_at <= c.now) as due,
      min(e.next_retry_at) as next_retry_at,
      count(*) filter (where e.next_retry_at <= c.five_minutes_ago) as due_5_minutes,
      count(*) filter (where e.next_retry_at <= c.an_hour_ago) as due_1_hour,
      count(*) filter (where e.next_retry_at <= c.a_day_ago) as due_1_day
    from (
      select q.next_retry_at
      from public.webhook_dlq as q
      where q.status = 'pending' and q.service = w.service
      order by q.next_retry_at
      limit 10000
    ) as e
  ) as b;

comment on view dlq.backlog is
$$What waits, by service: entries pending, those of them that are due now, the earliest next_retry_at, and how many have been due
for longer than 5 minutes, 1 hour and 1 day. Counts stop at 10,000 a service: 10000 is that many or more.$$;
comment on column dlq.backlog.service is 'As in webhook_dlq.service.';
comment on column dlq.backlog.pending is 'Its entries that wait.';
comment on column dlq.backlog.due is 'Of them, those whose next_retry_at has come.';
comment on column dlq.backlog.next_retry_at is 'The earliest of theirs.';
comment on column dlq.backlog.due_5_minutes is 'Those that have been due for longer than 5 minutes.';
comment on column dlq.backlog.due_1_hour is 'Those that have been due for longer than an hour.';
comment on column dlq.backlog.due_1_day is 'Those that have been due for longer than a day.';
