-- Whether the processor runs, by its own log: pg_cron's "succeeded" says nothing of what it did. And whether it can see: where the
-- queue is hidden from us it refuses to run, and what every other line counts is not what is there.
create or replace view dlq._health_processor
as
select
  'processor' as name,
  case
    when h.tables <> '{}' or r.is_silent then 'error'
    when l.id is null or l.status in ('error', 'interrupted') then 'warning'
    else 'ok'
  end as level,
  case
    when h.tables <> '{}' then
      format('row level security hides %s from dlq_owner: no line here knows what is there', dlq._a_few(h.tables))
    when l.id is null then 'it has not run yet'
    else format('last run %s ago, %s%s',
      date_trunc('second', clock_timestamp() - l.processed_at), l.status, coalesce(': ' || dlq._error_in_short(l.error_message), ''))
  end as detail,
  case
    when h.tables <> '{}' then 'dlqctl migrate --check; then dlqctl migrate'
    when r.is_silent then 'dlqctl verify-cron'
    when l.id is null then format('wait for the schedule: it runs every %s minutes', s.cycle_minutes)
    when l.status in ('error', 'interrupted') then
      'select * from dlq_processing_log order by processed_at desc limit 20'
  end as remediation
from (select dlq._hidden_tables() as tables) as h
  left join dlq.settings as s on true
  cross join dlq._thresholds as t
  left join lateral (
    select l.* from public.dlq_processing_log as l order by l.processed_at desc limit 1
  ) as l on true
  cross join lateral (
    select coalesce(l.processed_at + coalesce(l.duration, '0'), s.installed_at) < clock_timestamp() - t.processor as is_silent
  ) as r;

comment on view dlq._health_processor is
$$Check: whether the processor runs, and sees the queue. An error when it does not, or is silent for longer than the threshold of the rule
processor.$$;
