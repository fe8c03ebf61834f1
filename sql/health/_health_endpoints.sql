-- Whether every service that waits has somewhere to be retried.
create or replace view dlq._health_endpoints
as
select
  'endpoints' as name,
  case when u.n > 0 then 'error' else 'ok' end as level,
  case when u.n > 0 then format('nobody has said where to retry: %s', u.services)
    else 'every waiting service has one' end as detail,
  case when u.n > 0 then format('dlqctl endpoints set %s URL', u.first) end as remediation
from (
  select count(*) as n, min(v.service) as first, dlq._a_few(array_agg(v.service order by v.service)) as services
  from dlq._waiting as v
  where not v.has_endpoint
) as u;

comment on view dlq._health_endpoints is
'Check: whether every waiting service has an endpoint. An error if not.';
