-- What there is to tell of one edge of an alert, whoever is told: the data of our own webhook, and what the others are made of.
-- Bounded, whatever the line says and of however many services: PagerDuty takes 512 KB, and refuses more for good.
-- dedup_key is the same for each alert of a rule in this database, so that a pager sees one thing that comes and goes.
create or replace function dlq._alert_facts(alert dlq.alerts, event text)
returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
select jsonb_build_object(
  'event', _alert_facts.event,
  'rule', alert.rule,
  'severity', alert.severity,
  'summary', format('%s: %s: %s', w.source, alert.rule, w.detail),
  'detail', w.detail,
  'remediation', alert.remediation,
  'subjects', alert.subjects[1:100],
  'source', w.source,
  'dedup_key', format('dlqctl:%s:%s:%s', s.system_identifier, s.database_oid, alert.rule),
  'raised_at', alert.raised_at,
  'changed_at', alert.changed_at,
  'resolved_at', case when _alert_facts.event = 'resolved' then alert.resolved_at end,
  'runbook', coalesce((select r.runbook from dlq.alert_rules as r where r.name = alert.rule), 'docs/alerts.md'))
from dlq.settings as s
  cross join (
    select
      concat_ws('/', nullif(current_setting('cluster_name'), ''), current_database()) as source,
      left(alert.detail, 1500) || case when length(alert.detail) > 1500 then '...' else '' end as detail
  ) as w
$$;

comment on function dlq._alert_facts(dlq.alerts, text) is
$$What there is to tell of an edge: {"event", "rule", "severity", "summary", "detail", "remediation", "subjects", "source",
"dedup_key", "raised_at", "changed_at", "resolved_at", "runbook"}. subjects has the first 100, detail 1,500 characters.$$;
