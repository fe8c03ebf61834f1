-- Schedules our jobs in this database's pg_cron, as jobs of the caller, and repairs those that are not as they should be.
-- cron.schedule() alone would update schedule and command, but leave a job inactive, or bound to a port or database that
-- is gone. Returns the names of the jobs that it scheduled; run again, none.
create or replace function dlq.schedule_jobs()
returns setof text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job record;
begin
  for v_job in
    select w.jobname, w.schedule, w.command, w.stale from dlq._wrong_jobs(dlq._cron_facts()) as w
  loop
    perform cron.unschedule(s.jobid) from unnest(v_job.stale) as s (jobid);
    perform cron.schedule(v_job.jobname, v_job.schedule, v_job.command);
    return next v_job.jobname;
  end loop;
end
$$;

comment on function dlq.schedule_jobs() is
'Schedules our cron jobs as the caller''s, repairs those that differ, and returns the names of those it touched.';
