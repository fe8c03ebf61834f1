-- Everything about the schedule that can be checked from inside the database, one row a check. Runs with the
-- caller's rights: cron.job shows a role its own jobs only, so who sees nothing is told so, not that all is well.
create or replace function dlq.cron_checks()
returns table (name text, level text, detail text, remediation text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_job record;
  v_found record;
  v_sees_all boolean;
  v_setting text;
  v_last record;
  v_seen integer;
  v_background boolean;
begin
  -- The extension, in this database.
  if to_regclass('cron.job') is null then
    name := 'extension';
    level := 'error';
    detail := 'pg_cron is not installed in this database';
    remediation := case
      when exists (select from pg_available_extensions as a where a.name = 'pg_cron') then
        'create extension pg_cron; then: dlqctl migrate'
      else 'install pg_cron (Debian: postgresql-NN-cron) and set shared_preload_libraries = ''pg_cron'', or run dlqctl process from any scheduler'
    end;
    return next;
    return;
  end if;
  return query
  select 'extension', 'ok', format('pg_cron %s', e.extversion), null::text
  from pg_extension as e
  where e.extname = 'pg_cron';

  -- It works in one database only, and its settings are hidden from most roles.
  begin
    v_setting := current_setting('cron.database_name');
    if v_setting = current_database() then
      return query select 'database', 'ok', format('pg_cron runs in %s', v_setting), null::text;
    else
      return query select
        'database', 'error', format('pg_cron runs in %s, this is %s', v_setting, current_database()),
        format('set cron.database_name = ''%s'' in postgresql.conf and restart', current_database());
    end if;
    v_background := coalesce(current_setting('cron.use_background_workers', true)::boolean, false);
  exception
    when insufficient_privilege then
      return query select
        'database', 'warning', 'cannot be checked: the cron settings are hidden from this role',
        format('grant pg_read_all_settings to %I', current_user);
    when undefined_object then
      return query select
        'database', 'error', 'pg_cron is installed but not loaded',
        'add pg_cron to shared_preload_libraries in postgresql.conf and restart';
  end;

  v_sees_all := not row_security_active('cron.job');

  for v_job in select j.jobname, j.schedule, j.command from dlq._jobs() as j loop
    v_seen := 0;
    for v_found in
      select c.*, r.oid as role_oid, r.rolcanlogin
      from cron.job as c
        left join pg_roles as r on r.rolname = c.username
      where c.jobname = v_job.jobname
      order by c.jobid
    loop
      v_seen := v_seen + 1;
      name := format('job %s', v_job.jobname);
      level := 'error';
      remediation := 'dlqctl migrate';
      if v_found.command is distinct from v_job.command then
        detail := format('runs %L, not %L', v_found.command, v_job.command);
        return next;
      end if;
      if v_found.schedule is distinct from v_job.schedule then
        detail := format('runs at %L, not %L', v_found.schedule, v_job.schedule);
        return next;
      end if;
      if v_found.database is distinct from current_database() then
        detail := format('runs in database %L, not %L', v_found.database, current_database());
        return next;
      end if;
      if not v_found.active then
        detail := 'is switched off';
        return next;
      end if;
      if v_background is false and v_found.nodeport is distinct from current_setting('port')::integer then
        detail := format('connects to port %s, the server listens on %s', v_found.nodeport, current_setting('port'));
        return next;
      end if;

      name := format('owner %s', v_found.username);
      if v_found.role_oid is null then
        detail := 'the job''s role does not exist: pg_cron''s launcher crashes over it, again and again, with all jobs';
        remediation := format('select cron.unschedule(%s); then: dlqctl migrate', v_found.jobid);
        return next;
      elsif v_background is false and not v_found.rolcanlogin then
        detail := 'may not log in, and pg_cron connects as it';
        remediation := format('alter role %I login, or cron.use_background_workers = on', v_found.username);
        return next;
      elsif not has_function_privilege(v_found.role_oid, 'dlq.run_cycle()', 'execute')
        or not has_schema_privilege(v_found.role_oid, 'dlq', 'usage') then
        detail := 'may not call dlq.run_cycle()';
        remediation := format('grant dlq_admin to %I', v_found.username);
        return next;
      end if;

      -- A statement_timeout covers the whole cycle. The budget adapts to it; below ten seconds little is left.
      v_setting := (
        select regexp_replace(o.setting, '^statement_timeout=', '')
        from pg_db_role_setting as s
          cross join unnest(s.setconfig) as o (setting)
        where s.setrole in (v_found.role_oid, 0)
          and s.setdatabase in ((select d.oid from pg_database as d where d.datname = current_database()), 0)
          and o.setting like 'statement_timeout=%'
        order by s.setrole = 0, s.setdatabase = 0
        limit 1);
      name := format('owner %s', v_found.username);
      if v_setting is not null and dlq._to_interval(v_setting) between '1 ms' and '10 seconds' then
        level := 'warning';
        detail := format('has statement_timeout = %s: a cycle is cut to 80 %% of it', v_setting);
        remediation := format('alter role %I set statement_timeout = 0', v_found.username);
      else
        level := 'ok';
        detail := case when v_found.rolcanlogin or v_background then 'may run the job' else 'exists' end
          || coalesce(format(', statement_timeout = %s', v_setting), '');
        remediation := null;
      end if;
      return next;

      select d.status, d.return_message, d.start_time
      into v_last
      from cron.job_run_details as d
      where d.jobid = v_found.jobid
      order by d.runid desc
      limit 1;
      name := 'last run';
      if v_last is null then
        level := 'warning';
        detail := 'pg_cron has not run the job yet, or keeps no record (cron.log_run)';
        remediation := format('wait for the schedule %s, then look again', v_job.schedule);
      elsif v_last.status = 'failed' then
        level := 'error';
        detail := format('failed at %s: %s', date_trunc('second', v_last.start_time), btrim(v_last.return_message, E' \n'));
        remediation := case
          when v_last.return_message ilike '%connection failed%' then
            'pg_cron could not connect: check pg_hba.conf for its role, or set cron.use_background_workers = on'
          else 'select * from cron.job_run_details order by runid desc limit 10'
        end;
      else
        level := 'ok';
        detail := format('%s at %s', v_last.status, date_trunc('second', v_last.start_time));
        remediation := null;
      end if;
      return next;
    end loop;

    name := format('job %s', v_job.jobname);
    if v_seen = 0 and v_sees_all then
      return query select name, 'error', 'is not scheduled', 'dlqctl migrate';
    elsif v_seen = 0 then
      return query select
        name, 'error', format('is not scheduled by %s, and this role cannot see the jobs of others', current_user),
        'run this as the role that ran dlqctl migrate, or as a superuser';
    elsif v_seen > 1 then
      return query select
        name, 'error', format('is scheduled %s times, by %s', v_seen,
          (select string_agg(c.username, ', ' order by c.jobid) from cron.job as c where c.jobname = v_job.jobname)),
        format('keep one: select cron.unschedule(%s)',
          (select max(c.jobid) from cron.job as c where c.jobname = v_job.jobname));
    else
      return query select name, 'ok', format('%s  %s', v_job.schedule, v_job.command), null::text;
    end if;
  end loop;

  -- The same work under another name.
  return query
  select
    format('job %s', coalesce(c.jobname, c.jobid::text)), 'error', format('also calls the processor: %s', c.command),
    format('select cron.unschedule(%s)', c.jobid)
  from cron.job as c
  where (c.command ilike '%run_cycle%' or c.command ilike '%process_dlq_entries%')
    and coalesce(c.jobname, '') <> all (select j.jobname from dlq._jobs() as j);

  -- One job without a role stops all jobs.
  return query
  select
    format('job %s', coalesce(c.jobname, c.jobid::text)), 'error',
    format('belongs to the role %s, which does not exist: pg_cron''s launcher crashes over it, with all jobs', c.username),
    format('select cron.unschedule(%s)', c.jobid)
  from cron.job as c
  where not exists (select from pg_roles as r where r.rolname = c.username)
    and coalesce(c.jobname, '') <> all (select j.jobname from dlq._jobs() as j);

  return query select h.name, h.level, h.detail, h.remediation from dlq.health as h where h.name = 'processor';
end
$$;

comment on function dlq.cron_checks() is
$$Checks pg_cron and our jobs, one row a check: name, level (ok, warning, error), detail, remediation.
Run it as the role that owns the jobs, or as a superuser: pg_cron hides the jobs of others.$$;
