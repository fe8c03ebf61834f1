-- What pg_cron's database knows of its jobs, as one document: the only place where cron.job is read. One query that
-- needs nothing of ours, because where pg_cron is in another database, dlqctl runs its text there (dlqctl/cron.py).
-- With the caller's rights: cron.job shows a role its own jobs only, pg_settings its settings to pg_read_all_settings.
create or replace function dlq._cron_facts()
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
select jsonb_build_object(
  'version', (select e.extversion from pg_extension as e where e.extname = 'pg_cron'),
  'here', current_database(),
  'database', (select s.setting from pg_settings as s where s.name = 'cron.database_name'),
  'in_background', (select s.setting::boolean from pg_settings as s where s.name = 'cron.use_background_workers'),
  'user', current_user,
  'sees_all', not row_security_active('cron.job'),
  'jobs', (
    select coalesce(jsonb_agg(to_jsonb(c) || jsonb_build_object('last_run', to_jsonb(d)) order by c.jobid), '[]')
    from cron.job as c
      left join lateral (
        select d.status, d.return_message, d.start_time
        from cron.job_run_details as d
        where d.jobid = c.jobid and d.status not in ('starting', 'running')
          and (c.jobname like '%dlq%' or c.command like '%dlq%')  -- there is no index on jobid
        order by d.runid desc
        limit 1
      ) as d on true))
$$;

comment on function dlq._cron_facts() is
$$What pg_cron's database knows of its jobs: version, here, database, in_background, user, sees_all, jobs.
sees_all is false for a role to which pg_cron shows its own jobs only.$$;
