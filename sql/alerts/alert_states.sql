-- Every rule, and how it stands: what `dlqctl alerts list` shows. threshold is what dlq.set_alert_rule() takes.
create or replace view dlq.alert_states
as
select
  r.name as rule,
  case
    when not r.enabled then 'disabled'
    when a.raised_at is null and a.id is not null then 'holding'
    when a.id is null then 'well'
    when a.good_since is not null then 'settling'
    else 'raised'
  end as state,
  a.severity,
  coalesce(a.raised_at, a.since) as since,
  a.detail,
  a.subjects,
  s.silenced_until,
  s.silenced_by,
  s.reason as silence_reason,
  coalesce(r.more_than::text, r.longer_than::text) as threshold,
  r.hold,
  r.quiet,
  r.severity_at_warning,
  r.severity_at_error,
  r.runbook,
  a.id as alert_id
from dlq.alert_rules as r
  left join dlq.alerts as a on a.rule = r.name and a.resolved_at is null
  left join lateral (
    select s.* from dlq.alert_silences as s
    where s.rule in (r.name, '*') and s.silenced_until > dlq._now()
    order by s.silenced_until desc limit 1
  ) as s on true;

comment on view dlq.alert_states is
$$Every rule, and how it stands. state: well, holding (unwell, but not for long enough yet), raised, settling (well again, but not for
long enough yet) or disabled.$$;
