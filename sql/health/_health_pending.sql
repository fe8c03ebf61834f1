-- How much waits, counted up to 10,000.
create or replace view dlq._health_pending
as
select
  'pending' as name,
  case when p.n > t.pending then 'warning' else 'ok' end as level,
  format('%s%s waiting', case when p.n > 10000 then 'more than ' else '' end, least(p.n, 10000)) as detail,
  case when p.n > t.pending then 'select * from dlq.backlog' end as remediation
from (
  select count(*) as n
  from (select from public.webhook_dlq as e where e.status = 'pending' limit 10001) as e
) as p
  cross join dlq._thresholds as t;

comment on view dlq._health_pending is
'Check: how many entries wait. A warning above the threshold of the rule pending.';
