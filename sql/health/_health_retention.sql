-- Whether what is old is removed: dlq.maintain() runs once a day.
create or replace view dlq._health_retention
as
select
  'retention' as name,
  case when r.is_late or m.status in ('partial', 'error') then 'warning' else 'ok' end as level,
  case
    when m.id is null then 'what is old has not been removed yet'
    else format('last run %s ago, %s, %s entries removed%s%s', date_trunc('second', clock_timestamp() - m.began_at), m.status,
      m.entries, ', ' || case when m.left_over > 10000 then 'more than 10000' else m.left_over::text end || ' left over',
      ': ' || dlq._error_in_short(m.error_message))
  end as detail,
  case
    when r.is_late then 'dlqctl maintain; and for the schedule: dlqctl verify-cron'
    when m.status = 'partial' then 'dlqctl maintain; if that is so every day, raise maintain_budget in dlq.settings'
    when m.status = 'error' then 'select * from dlq.maintenance_log order by id desc limit 20'
  end as remediation
from dlq.settings as s
  cross join dlq._thresholds as t
  left join lateral (
    select l.* from dlq.maintenance_log as l where l.status in ('ok', 'partial', 'error') order by l.id desc limit 1
  ) as m on true
  cross join lateral (
    select coalesce(m.began_at, s.installed_at) < clock_timestamp() - t.retention as is_late
  ) as r;

comment on view dlq._health_retention is
'Check: whether what is old is removed. A warning after the threshold of the rule retention, and when something could not go.';
