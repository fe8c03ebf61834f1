-- Our jobs as pg_cron shows them to the caller, one row each. With the caller's rights, for pg_cron shows a role its own jobs only:
-- what nobody may see is null, and when it last ran is from our own log, which whoever reads this may read.
create or replace function dlq._cron_status()
returns table (job text, schedule text, command text, is_scheduled boolean, is_active boolean, username text, last_status text, last_started_at timestamptz, last_run_at timestamptz)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_facts jsonb;
begin
  if coalesce((select has_schema_privilege(n.oid, 'usage') from pg_namespace as n where n.nspname = 'cron'), false)
    and exists (select from pg_extension as e where e.extname = 'pg_cron')
  then
    v_facts := dlq._cron_facts();
  end if;
  return query
  select
    j.jobname, j.schedule, j.command,
    case when c.jobid is not null then true when (v_facts ->> 'sees_all')::boolean then false end,
    c.active, c.username, c.last_run ->> 'status', (c.last_run ->> 'start_time')::timestamptz,
    case j.jobname
      when 'process-dlq-entries' then (select max(l.processed_at) from public.dlq_processing_log as l)
      when 'dlq-maintain' then (select l.began_at from dlq.maintenance_log as l order by l.id desc limit 1)
      when 'dlq-alerts' then (select e.evaluated_at from dlq.alert_evaluation as e)
    end
  from dlq._jobs() as j
    left join dlq._our_jobs(v_facts) as c on c.job = j.jobname;
end
$$;

comment on function dlq._cron_status() is 'Our jobs as pg_cron shows them to the caller: see the view dlq.cron_status.';
