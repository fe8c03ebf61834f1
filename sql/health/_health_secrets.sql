-- Whether every service that waits has the secrets that its endpoint names.
create or replace view dlq._health_secrets
as
select
  'secrets' as name,
  case when m.n > 0 then 'error' else 'ok' end as level,
  case when m.n > 0 then m.missing else 'every waiting service has its own' end as detail,
  case when m.n > 0 then 'dlqctl secrets list' end as remediation
from (
  select count(*) as n,
    dlq._a_few(array_agg(format('%s waits: %s', v.service, v.missing_secret) order by v.service), '; ') as missing
  from dlq._waiting as v
  where v.missing_secret is not null
) as m;

comment on view dlq._health_secrets is
'Check: whether every waiting service has its secrets. An error if not.';
