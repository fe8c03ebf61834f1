-- Our jobs: what pg_cron shows of them to whoever asks, and when they last ran by our own log.
create or replace view dlq.cron_status
as
select c.job, c.schedule, c.command, c.is_scheduled, c.is_active, c.username, c.last_status, c.last_started_at, c.last_run_at
from dlq._cron_status() as c;

comment on view dlq.cron_status is
$$Our jobs, one row each: name, schedule and command as they should be; whether pg_cron has it, whether it is active, whose it is, and how
and when it last ended, as far as pg_cron shows it to you (a role sees its own jobs only: null is unknown); and last_run_at: when it last
ran by our own log, which does not depend on that. What is wrong with it: dlqctl verify-cron.$$;
comment on column dlq.cron_status.job is 'As in cron.job.jobname, without the name of the database.';
comment on column dlq.cron_status.schedule is 'When it should run.';
comment on column dlq.cron_status.command is 'What it should run.';
comment on column dlq.cron_status.is_scheduled is 'Whether pg_cron has it. Null: it does not show you.';
comment on column dlq.cron_status.is_active is 'Whether it is switched on. Null: pg_cron does not show you.';
comment on column dlq.cron_status.username is 'Whose it is. Null: pg_cron does not show you.';
comment on column dlq.cron_status.last_status is 'How it last ended, as pg_cron says. Null: it does not show you, or keeps no record.';
comment on column dlq.cron_status.last_started_at is 'When that run began, as pg_cron says.';
comment on column dlq.cron_status.last_run_at is 'When it last began by our own log, whoever called it.';
