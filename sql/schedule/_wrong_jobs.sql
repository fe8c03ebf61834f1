-- Which of our jobs are not as they should be: what the user of these facts is to schedule, and under which name, once
-- what is stale is unscheduled. One that is right is enough, whoever's it is: two would be two processors. Only a superuser
-- can unschedule what is another's. A name that another database's job has is left to it: see dlq._our_jobs().
create or replace function dlq._wrong_jobs(facts jsonb)
returns table (jobname text, schedule text, command text, stale bigint[])
language sql stable set search_path = pg_catalog, pg_temp
as $$
select
  case when exists (
    select
    from jsonb_to_recordset(_wrong_jobs.facts -> 'jobs') as c (jobname text, database text, username text)
      join pg_database as d on d.datname = c.database
    where c.jobname = j.jobname and c.username = u.name and c.database <> current_database())
  then j.jobname || '@' || current_database() else j.jobname end,
  j.schedule,
  j.command,
  o.jobids
from dlq._jobs() as j
  cross join (
    select
      _wrong_jobs.facts ->> 'user' as name,
      exists (select from pg_roles as r where r.rolname = _wrong_jobs.facts ->> 'user' and r.rolsuper) as is_superuser
  ) as u
  cross join lateral (
    select
      array_agg(o.jobid) filter (where o.username = u.name or u.is_superuser) as jobids,
      bool_or(
        o.schedule = j.schedule and o.command = j.command and o.database = current_database()
        and o.nodeport = current_setting('port')::integer and o.active
        and exists (select from pg_roles as r where r.rolname = o.username)) as is_right
    from dlq._our_jobs(_wrong_jobs.facts) as o
    where o.job = j.jobname
  ) as o
where o.is_right is not true
$$;

comment on function dlq._wrong_jobs(jsonb) is
'Which of our jobs are not as they should be, by dlq._cron_facts(): what to schedule once what is stale is unscheduled.';
