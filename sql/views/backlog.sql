-- What waits, by service. Reads the index of waiting entries, and nothing of what is settled.
create or replace view dlq.backlog
as
select
  e.service,
  count(*) as pending,
  count(*) filter (where e.next_retry_at <= dlq._now()) as due,
  min(e.next_retry_at) as next_retry_at
from public.webhook_dlq as e
where e.status = 'pending'
group by e.service;

comment on view dlq.backlog is
'What waits, by service: entries pending, those of them that are due now, and the earliest next_retry_at.';
comment on column dlq.backlog.service is 'As in webhook_dlq.service.';
comment on column dlq.backlog.pending is 'Its entries that wait.';
comment on column dlq.backlog.due is 'Of them, those whose next_retry_at has come.';
comment on column dlq.backlog.next_retry_at is 'The earliest of theirs.';
