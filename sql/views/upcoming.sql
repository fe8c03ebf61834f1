-- The retries ahead, by service and hour. Reads the index of waiting entries, 1,000 of each service and hour at most.
create or replace view dlq.upcoming
as
select w.service, h.starts_at, u.retries
from dlq._waiting_services as w
  cross join generate_series(0, 23) as n
  cross join lateral (select date_trunc('minute', dlq._now()) + n * interval '1 hour' as starts_at) as h
  cross join lateral (
    select count(*) as retries
    from (
      select from public.webhook_dlq as q
      where q.status = 'pending' and q.service = w.service
        and q.next_retry_at > greatest(h.starts_at, dlq._now()) and q.next_retry_at <= h.starts_at + interval '1 hour'
      limit 1000
    ) as e
  ) as u
where u.retries > 0;

comment on view dlq.upcoming is
$$The retries of the next 24 hours, by service and hour from now: starts_at, and how many become due within the hour after it. What
is due already is in dlq.backlog. Counts stop at 1,000: 1000 is that many or more.$$;
comment on column dlq.upcoming.service is 'As in webhook_dlq.service.';
comment on column dlq.upcoming.starts_at is 'When the hour begins: now, in one hour, and so on, to the minute.';
comment on column dlq.upcoming.retries is 'How many of its entries become due in that hour.';
