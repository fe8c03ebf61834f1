-- Which endpoints get nothing but probes, and for how long they have failed. What has failed for longer than outage_patience has no
-- open circuit any more, and is no better for it.
create or replace view dlq._health_circuits
as
select
  'circuits' as name,
  case when c.since < dlq._now() - t.circuits then 'error' when c.n > 0 then 'warning' else 'ok' end as level,
  case when c.n > 0 then c.circuits else 'every endpoint takes what is sent' end as detail,
  case when c.n > 0 then
    format('mend the endpoint, and it goes on by itself; at once: dlqctl endpoints reset %s --reason WHY', c.first) end as remediation
from (
  select count(*) as n, min(t.failing_since) as since, (array_agg(t.service order by t.failing_since))[1] as first,
    string_agg(format('%s fails since %s (%s), %s', t.service, date_trunc('second', t.failing_since), t.trouble,
      case when t.cap = 0 then format('next try %s', date_trunc('second', t.probe_at)) else 'and its failures use up retries again' end),
      '; ' order by t.failing_since) as circuits
  from dlq.endpoint_state as t, dlq.settings as s
  where t.cap = 0 or t.failing_since <= dlq._now() - s.outage_patience
) as c
  cross join dlq._thresholds as t;

comment on view dlq._health_circuits is
$$Check: which circuits are open, and what has failed for longer than outage_patience. A warning, and an error after the threshold of the
rule circuits.$$;
