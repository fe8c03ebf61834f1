-- What waits though nothing holds it back: no circuit, no pause, no missing endpoint or secret.
create or replace view dlq._health_overdue
as
select
  'overdue' as name,
  case when o.n > 0 then 'warning' else 'ok' end as level,
  case when o.n > 0 then format('since %s, in %s', o.since, o.services) else format('nothing has waited longer than %s minutes', floor(extract(epoch from t.overdue) / 60)) end as detail,
  case when o.n > 0 then 'dlqctl process; if that does not help: select * from dlq.backlog' end as remediation
from dlq._thresholds as t
  cross join lateral (
    select count(*) as n, date_trunc('second', min(v.first_due)) as since,
      dlq._a_few(array_agg(v.service order by v.first_due)) as services
    from dlq._waiting as v
    where v.has_endpoint and not v.is_held and v.missing_secret is null and v.first_due < dlq._now() - t.overdue
  ) as o;

comment on view dlq._health_overdue is
'Check: whether anything due waits longer than the threshold of the rule overdue (two cycles) though nothing holds it back. Then a warning.';
