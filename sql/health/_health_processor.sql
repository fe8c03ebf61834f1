-- Whether the processor runs, by its own log: pg_cron's "succeeded" says nothing of what it did.
create or replace view dlq._health_processor
as
select
  'processor' as name,
  case
    when r.is_silent then 'error'
    when l.id is null or l.status in ('error', 'interrupted') then 'warning'
    else 'ok'
  end as level,
  case
    when l.id is null then 'it has not run yet'
    else format('last run %s ago, %s%s',
      date_trunc('second', clock_timestamp() - l.processed_at), l.status, coalesce(': ' || l.error_message, ''))
  end as detail,
  case
    when r.is_silent then 'dlqctl verify-cron'
    when l.id is null then format('wait for the schedule: it runs every %s minutes', s.cycle_minutes)
    when l.status in ('error', 'interrupted') then
      'select * from dlq_processing_log order by processed_at desc limit 20'
  end as remediation
from dlq.settings as s
  cross join dlq._thresholds as t
  left join lateral (
    select l.* from public.dlq_processing_log as l order by l.processed_at desc limit 1
  ) as l on true
  cross join lateral (
    select coalesce(l.processed_at + coalesce(l.duration, '0'), s.installed_at) < clock_timestamp() - t.processor as is_silent
  ) as r;

comment on view dlq._health_processor is
'Check: whether the processor runs. An error when it is silent for longer than the threshold of the rule processor.';
