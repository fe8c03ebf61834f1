-- Everything about the schedule that can be checked from inside the database, one row a check. Runs with the
-- caller's rights: cron.job shows a role its own jobs only, so who sees nothing is told so, not that all is well.
-- Where pg_cron is in another database, dlqctl brings the facts from there; without them, only what arrives is judged.
create or replace function dlq.cron_checks(facts jsonb default null)
returns table (name text, level text, detail text, remediation text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_database text;
  v_in_background boolean;
  v_sees_all boolean;
begin
  if facts is null and exists (select from pg_extension as e where e.extname = 'pg_cron') then
    facts := dlq._cron_facts();
  end if;

  -- pg_cron works in one database only. pg_settings shows its settings to pg_read_all_settings alone.
  v_database := coalesce(facts ->> 'database', (select s.setting from pg_settings as s where s.name = 'cron.database_name'));
  if facts is null and v_database <> current_database() then
    return query
    select 'extension', 'warning', format('pg_cron runs in database %s: its jobs cannot be seen from here', v_database),
      format('dlqctl verify-cron --cron-dsn dbname=%s', v_database)
    union all
    select h.name, h.level, h.detail, case when h.level = 'error' then format(
        'dlqctl migrate --cron-dsn dbname=%s', v_database) else h.remediation end
    from dlq.health as h
    where h.name in ('processor', 'retention');
    return;
  elsif facts is null then
    return query
    select 'extension', 'error', 'pg_cron is not installed in this database',
      case
        when exists (select from pg_available_extensions as a where a.name = 'pg_cron') then 'dlqctl migrate'
        else 'install pg_cron (Debian: postgresql-NN-cron) and add it to shared_preload_libraries; or run dlqctl process and maintain from any scheduler'
      end;
    return;
  end if;

  return query
  values ('extension', 'ok', 'pg_cron ' || (facts ->> 'version'), null);

  v_in_background := facts ->> 'in_background';
  return query
  select 'database', d.level, d.detail, d.remediation
  from (values (
    case when v_database = facts ->> 'here' then 'ok' when v_database is null then 'warning' else 'error' end,
    coalesce('pg_cron runs in ' || v_database, 'cannot be checked: pg_cron is not loaded, or its settings are hidden from this role'),
    case
      when v_database is null then format('grant pg_read_all_settings to %I', facts ->> 'user')
      when v_database <> facts ->> 'here' then
        format('set cron.database_name = ''%s'' in postgresql.conf and restart', facts ->> 'here')
    end)) as d (level, detail, remediation);

  -- Our jobs, column by column. A copy under another user is a second processor.
  v_sees_all := facts ->> 'sees_all';
  return query
  select
    'job ' || coalesce(c.jobname, j.jobname),
    case when w.problems is null then 'ok' else 'error' end,
    coalesce(w.problems, format('%s  %s', j.schedule, j.command)),
    case
      when w.problems is null then null
      when c.jobid is null and not v_sees_all then 'run this as the role that ran dlqctl migrate, or as a superuser'
      when c.copies > 1 then format('keep one: select cron.unschedule(%s)', c.last_jobid)
      else 'dlqctl migrate'
    end
  from dlq._jobs() as j
    left join (
      select o.*, count(*) over (partition by o.job) as copies, max(o.jobid) over (partition by o.job) as last_jobid
      from dlq._our_jobs(facts) as o
    ) as c on c.job = j.jobname
    cross join lateral (
      select nullif(concat_ws('; ',
        case when c.jobid is null then
          case when v_sees_all then 'is not scheduled'
          else format('is not scheduled by %s, who cannot see the jobs of others', facts ->> 'user') end end,
        case when c.copies > 1 then format('is scheduled %s times, here by %s', c.copies, c.username) end,
        case when c.command <> j.command then format('runs %L, not %L', c.command, j.command) end,
        case when c.schedule <> j.schedule then format('runs at %L, not %L', c.schedule, j.schedule) end,
        case when c.database <> current_database() then format('runs in database %s, which does not exist', c.database) end,
        case when not c.active then 'is switched off' end,
        case when not coalesce(v_in_background, true) and c.nodeport <> current_setting('port')::integer then
          format('connects to port %s, and the server is at %s', c.nodeport, current_setting('port')) end), '') as problems
    ) as w;

  -- Whoever owns them must exist, may have to log in, and must be allowed to run them. A statement_timeout covers the
  -- whole run: the budget adapts to it, but below ten seconds little is left.
  return query
  select
    'owner ' || o.username,
    case when o.problem is not null then 'error' when o.is_short then 'warning' else 'ok' end,
    coalesce(o.problem, case when o.is_short then format('has statement_timeout = %s: a run is cut to 80 %% of it', o.timeout) end,
      'exists and may run ' || o.jobs || coalesce(', statement_timeout = ' || o.timeout, '')),
    case
      when o.role_oid is null then format('select cron.unschedule(%s); then: dlqctl migrate', o.jobid)
      when not o.may_log_in then format('alter role %I login, or set cron.use_background_workers = on', o.username)
      when not o.may_run then format('grant dlq_admin to %I', o.username)
      when o.is_short then format('alter role %I set statement_timeout = 0', o.username)
    end
  from (
    select
      c.*,
      case
        when c.role_oid is null then 'does not exist: pg_cron''s launcher crashes over it, again and again, with all jobs'
        when not c.may_log_in then 'may not log in, and pg_cron connects as it'
        when not c.may_run then 'may not run ' || c.jobs
      end as problem,
      dlq._to_interval(c.timeout) between '1 ms' and '10 s' as is_short
    from (
      select
        c.jobid, c.jobs, c.username, r.oid as role_oid,
        coalesce(v_in_background, true) or r.rolcanlogin as may_log_in,
        dlq._may_run_jobs(r.oid) as may_run,
        (select split_part(o.setting, '=', 2)
         from pg_db_role_setting as s
           cross join unnest(s.setconfig) as o (setting)
         where s.setrole in (r.oid, 0)
           and s.setdatabase in ((select d.oid from pg_database as d where d.datname = current_database()), 0)
           and o.setting like 'statement_timeout=%'
         order by s.setrole = 0, s.setdatabase = 0
         limit 1) as timeout
      from (
        select o.username, min(o.jobid) as jobid, string_agg(o.jobname, ', ' order by o.jobid) as jobs
        from dlq._our_jobs(facts) as o
        group by o.username
      ) as c
        left join pg_roles as r on r.rolname = c.username
    ) as c
  ) as o;

  -- That a job of once a day has not run yet is no finding: how long it may be silent, the line retention says.
  return query
  select
    'last run of ' || c.jobname,
    case when d.status = 'failed' then 'error' when d.status is null and c.job <> 'dlq-maintain' then 'warning' else 'ok' end,
    case
      when d.status is null then 'pg_cron has not run the job yet, or keeps no record (cron.log_run)'
      else format('%s at %s%s', d.status, date_trunc('second', d.start_time),
        case when d.status = 'failed' then ': ' || btrim(d.return_message, E' \n') end)
    end,
    case
      when d.status is null then format('wait for the schedule: %s', c.schedule)
      when d.status = 'failed' and d.return_message like '%connection failed%' then
        'pg_cron could not connect: let its role in with pg_hba.conf, or set cron.use_background_workers = on'
      when d.status = 'failed' then format('select * from cron.job_run_details where jobid = %s order by runid desc limit 10', c.jobid)
    end
  from dlq._our_jobs(facts) as c
    cross join jsonb_to_record(coalesce(nullif(c.last_run, 'null'), '{}')) as d (status text, return_message text, start_time timestamptz);

  -- Jobs that are not ours and yet matter: a second processor, and one without a role, which stops all jobs.
  return query
  select
    'job ' || coalesce(c.jobname, c.jobid::text), 'error',
    case when r.oid is null then format('belongs to %s, which does not exist: pg_cron''s launcher crashes over it, with all jobs', c.username)
    else format('also calls the processor: %s', c.command) end,
    format('select cron.unschedule(%s)', c.jobid)
  from jsonb_to_recordset(facts -> 'jobs') as c (jobid bigint, jobname text, command text, database text, username text)
    left join pg_roles as r on r.rolname = c.username
  where c.jobid not in (select o.jobid from dlq._our_jobs(facts) as o)
    and (r.oid is null
      or c.database = current_database() and (c.command ilike '%run_cycle%' or c.command ilike '%process_dlq_entries%'));

  -- Whether anything arrives: pg_cron's "succeeded" does not say.
  return query
  select h.name, h.level, h.detail, h.remediation from dlq.health as h where h.name in ('processor', 'retention');
end
$$;

comment on function dlq.cron_checks(jsonb) is
$$Checks pg_cron and our jobs, one row a check: name, level (ok, warning, error), detail, remediation.
Run it as the role that owns the jobs, or as a superuser: pg_cron hides the jobs of others.
facts: dlq._cron_facts() of another database, where pg_cron is there.$$;
