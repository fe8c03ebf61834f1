-- Closes the row of a maintenance run, unless another has taken over: error if something could not go, partial if the time
-- was up before everything had.
create or replace function dlq._end_maintenance(run bigint, cron_runs integer)
returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
update dlq.maintenance_log as l
set
  status = case when l.error_message is not null then 'error' when l.left_over is not null then 'partial' else 'ok' end,
  cron_runs = _end_maintenance.cron_runs,
  duration = clock_timestamp() - l.began_at
where l.id = run and l.status = 'running'
$$;

comment on function dlq._end_maintenance(bigint, integer) is 'Closes the row of a run in dlq.maintenance_log.';
