-- Removes our jobs from pg_cron, as far as they belong to the caller. Returns their names.
create or replace function dlq.unschedule_jobs()
returns setof text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  return query
  select c.jobname::text
  from cron.job as c
    join dlq._jobs() as j using (jobname)
  where c.username = current_user and cron.unschedule(c.jobid);
end
$$;

comment on function dlq.unschedule_jobs() is 'Removes our cron jobs that belong to the caller, and returns their names.';
