-- How much was given up within the last hour, counted up to 10,000.
create or replace view dlq._health_failed
as
select
  'failed' as name,
  case when f.n > t.failed then 'error' when f.n > 0 then 'warning' else 'ok' end as level,
  format('%s%s failed in the last hour', case when f.n > 10000 then 'more than ' else '' end, least(f.n, 10000)) as detail,
  case when f.n > 0 then
    'select id, service, settled_at from dlq.entries where status = ''failed'' order by settled_at desc limit 20' end as remediation
from (
  select count(*) as n
  from (
    select from public.webhook_dlq as e
    where e.status = 'failed' and e.settled_at > dlq._now() - interval '1 hour' limit 10001) as e
) as f
  cross join dlq._thresholds as t;

comment on view dlq._health_failed is
'Check: how many entries failed in the last hour. A warning, and an error above the threshold of the rule failed.';
