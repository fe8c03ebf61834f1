-- Whether what was handed to the sender is answered. No request may take longer than 30 seconds.
create or replace view dlq._health_answers
as
select
  'answers' as name,
  case when u.since < dlq._now() - t.answers then 'error' else 'ok' end as level,
  case when u.since < dlq._now() - t.answers then format('%s handed to the sender and not answered, the first since %s',
      u.n, date_trunc('second', u.since))
    else format('nothing has waited for one longer than %s minutes', floor(extract(epoch from t.answers) / 60)) end as detail,
  case when u.since < dlq._now() - t.answers then
    case when exists (select from pg_catalog.pg_extension as x where x.extname = 'pg_net') then 'select net.worker_restart()'
    else 'keep this running: dlqctl net-worker' end end as remediation
from (
  select count(*) as n, min(e.last_retry_at) as since from public.webhook_dlq as e where e.status = 'processing'
) as u
  cross join dlq._thresholds as t;

comment on view dlq._health_answers is
'Check: whether what was sent is answered. An error after the threshold of the rule answers.';
