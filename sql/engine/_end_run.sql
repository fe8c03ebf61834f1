-- Closes the row of a run: ok, or error if a step has left one there. A run that is closed is history, and stays as it is: null.
-- In PL/pgSQL, which plans it once a session.
create or replace function dlq._end_run(run bigint)
returns public.dlq_processing_log
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.dlq_processing_log;
begin
  update public.dlq_processing_log as l
  set
    status = case when l.error_message is null then 'ok' else 'error' end,
    duration = clock_timestamp() - l.processed_at
  where l.id = _end_run.run and l.status in ('running', 'interrupted')
  returning l.* into v_run;
  return v_run;
end
$$;

comment on function dlq._end_run(bigint) is 'Closes the row of a run in dlq_processing_log, and returns it.';
