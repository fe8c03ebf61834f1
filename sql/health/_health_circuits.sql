-- Which endpoints fail, and for how long they have.
create or replace view dlq._health_circuits
as
select
  'circuits' as name,
  case when c.since < dlq._now() - t.circuits then 'error' when c.n > 0 then 'warning' else 'ok' end as level,
  case when c.n > 0 then c.circuits else 'every endpoint takes what is sent' end as detail,
  case when c.n > 0 then
    format('mend the endpoint, and it goes on by itself; at once: dlqctl endpoints reset %s --reason WHY', c.first) end as remediation
from (
  select count(*) as n, min(e.failing_since) as since, (array_agg(e.service order by e.failing_since))[1] as first,
    dlq._a_few(array_agg(format('%s fails since %s (%s), %s', e.service, date_trunc('second', e.failing_since), e.trouble,
      case when e.cap = 0 then format('next try %s', date_trunc('second', e.probe_at)) else 'and its failures use up retries again' end)
      order by e.failing_since), '; ') as circuits
  from dlq._failing_endpoints as e
) as c
  cross join dlq._thresholds as t;

comment on view dlq._health_circuits is
$$Check: which circuits are open, and what has failed for longer than outage_patience. A warning, and an error after the threshold of the
rule circuits.$$;
