-- How much waits, counted up to 10,000.
create or replace view dlq._health_pending
as
select
  'pending' as name,
  case when p.n > 100 then 'warning' else 'ok' end as level,
  format('%s%s waiting', case when p.n > 10000 then 'more than ' else '' end, least(p.n, 10000)) as detail,
  case when p.n > 100 then 'select * from dlq.backlog' end as remediation
from (
  select count(*) as n
  from (select from public.webhook_dlq as e where e.status = 'pending' limit 10001) as e
) as p;

comment on view dlq._health_pending is
'Check: how many entries wait. A warning above 100.';
