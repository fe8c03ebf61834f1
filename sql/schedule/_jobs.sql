-- The cron jobs that belong here: the one definition that scheduling, unscheduling and verifying go by.
create or replace function dlq._jobs()
returns table (jobname text, schedule text, command text)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
select
  'process-dlq-entries',
  case s.cycle_minutes when 1 then '* * * * *' else format('*/%s * * * *', s.cycle_minutes) end,
  'call dlq.run_cycle()'
from dlq.settings as s
union all
select 'dlq-maintain', to_char(s.maintain_at, 'FMMI FMHH24 "* * *"'), 'call dlq.maintain()'
from dlq.settings as s
union all
select 'dlq-alerts', '* * * * *', 'select dlq.evaluate_alerts()'
$$;

comment on function dlq._jobs() is 'The cron jobs that belong here: name, schedule, command.';
