-- Removes the old rows of our jobs, in this database, from cron.job_run_details, up to 50,000. With the caller's rights:
-- pg_cron shows a role its own rows, so this belongs to the role that owns the jobs. Null where there is nothing to be done:
-- pg_cron is not in this database, or not for the caller to tidy.
-- A job that was scheduled anew has another id, so what ran goes by its command, unless a job of another name runs the same.
-- pg_cron gives no start_time to a run that could not begin, but ids in order. It has no index but the one on them: this
-- reads the table once or twice.
create or replace function dlq._remove_cron_runs()
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := (select dlq._now() - s.retain_runs from dlq.settings as s);
  v_removed integer;
begin
  if not coalesce((select has_schema_privilege(n.oid, 'usage') from pg_namespace as n where n.nspname = 'cron'), false) then
    return null;
  elsif to_regclass('cron.job_run_details') is null
    or not has_table_privilege(to_regclass('cron.job_run_details'), 'select')
    or not has_table_privilege(to_regclass('cron.job_run_details'), 'delete')
  then
    return null;
  end if;

  with ours as materialized (
    select d.runid, d.start_time
    from cron.job_run_details as d
    where d.database = current_database()
      and d.command in (select j.command from dlq._jobs() as j)
      and not exists (
        select from cron.job as c
        where c.jobid = d.jobid and c.jobid not in (select o.jobid from dlq._our_jobs(dlq._cron_facts()) as o))
  )
  delete from cron.job_run_details as d
  where d.runid in (
    select o.runid
    from ours as o
    where o.runid <= (select max(l.runid) from ours as l where l.start_time <= v_until)
    order by o.runid
    limit 50000);
  get diagnostics v_removed = row_count;
  return v_removed;
exception when others then  -- a platform's rules for what is not ours; the queue's own tables must have their turn
  raise warning 'cron.job_run_details: % %', sqlstate, sqlerrm;
  return null;
end
$$;

comment on function dlq._remove_cron_runs() is
$$Removes old rows of our jobs from cron.job_run_details, as far as they are the caller's, and returns how many. Null: pg_cron
is not in this database, or not for the caller to tidy.$$;
