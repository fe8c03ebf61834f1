-- Schedules our jobs in pg_cron, as jobs of the caller, and repairs those that are not as they should be. cron.schedule()
-- alone would update schedule and command, but leave a job inactive, or bound to a port or database that is gone.
-- Returns the names of the jobs that it scheduled; run again, none.
create or replace function dlq.schedule_jobs()
returns setof text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job record;
begin
  for v_job in
    select j.jobname, j.schedule, j.command
    from dlq._jobs() as j
    where not exists (
      select
      from cron.job as c
      where c.jobname = j.jobname
        and c.username = current_user
        and c.schedule = j.schedule
        and c.command = j.command
        and c.database = current_database()
        and c.nodeport = current_setting('port')::integer
        and c.active)
  loop
    perform cron.unschedule(c.jobid)
    from cron.job as c
    where c.jobname = v_job.jobname and c.username = current_user;
    perform cron.schedule(v_job.jobname, v_job.schedule, v_job.command);
    return next v_job.jobname;
  end loop;
end
$$;

comment on function dlq.schedule_jobs() is
'Schedules our cron jobs as the caller''s, repairs those that differ, and returns the names of those it touched.';
