-- Those jobs of pg_cron that are this database's, by its facts; job is the name in dlq._jobs().
-- pg_cron has one table for the whole server, where a name is unique for its user only. So a job is ours by its name
-- and by where it runs, and the second database of a user has its job as name@database. One for a database that is
-- not there (it was renamed, or dropped) is taken for ours: it can only fail.
create or replace function dlq._our_jobs(facts jsonb)
returns table (job text, jobid bigint, jobname text, schedule text, command text, database text, username text, nodeport integer, active boolean, last_run jsonb)
language sql stable set search_path = pg_catalog, pg_temp
as $$
select j.jobname, c.jobid, c.jobname, c.schedule, c.command, c.database, c.username, c.nodeport, c.active, c.last_run
from dlq._jobs() as j
  join jsonb_to_recordset(_our_jobs.facts -> 'jobs') as c (
    jobid bigint, jobname text, schedule text, command text, database text, username text, nodeport integer,
    active boolean, last_run jsonb)
    on c.jobname in (j.jobname, j.jobname || '@' || c.database)
where c.database = current_database() or not exists (select from pg_database as d where d.datname = c.database)
$$;

comment on function dlq._our_jobs(jsonb) is 'Those jobs of pg_cron that are this database''s, by dlq._cron_facts().';
