-- Removes our jobs from this database's pg_cron, as far as they belong to the caller. Returns their names.
create or replace function dlq.unschedule_jobs()
returns setof text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  return query
  select o.jobname
  from dlq._our_jobs(dlq._cron_facts()) as o
  where o.username = current_user and cron.unschedule(o.jobid);
end
$$;

comment on function dlq.unschedule_jobs() is 'Removes our cron jobs that belong to the caller, and returns their names.';
