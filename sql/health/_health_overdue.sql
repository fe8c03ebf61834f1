-- What waits though nothing holds it back: no circuit, no pause, no missing endpoint or secret.
create or replace view dlq._health_overdue
as
select
  'overdue' as name,
  case when o.n > 0 then 'warning' else 'ok' end as level,
  case when o.n > 0 then format('since %s, in %s', o.since, o.services) else 'nothing has waited longer than two cycles' end as detail,
  case when o.n > 0 then 'dlqctl process; if that does not help: select * from dlq.backlog' end as remediation
from dlq.settings as s
  cross join lateral (
    select count(*) as n, date_trunc('second', min(v.first_due)) as since,
      string_agg(v.service, ', ' order by v.first_due) as services
    from dlq._waiting as v
    where v.has_endpoint and not v.is_held and v.missing_secret is null and v.first_due < dlq._now() - 2 * s.cycle_minutes * interval '1 minute'
  ) as o;

comment on view dlq._health_overdue is
'Check: whether anything due waits longer than two cycles though nothing holds it back. Then a warning.';
