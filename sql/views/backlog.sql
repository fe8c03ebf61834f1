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
