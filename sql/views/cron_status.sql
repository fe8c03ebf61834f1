-- Our jobs: what pg_cron shows of them to whoever asks, and when they last ran by our own log.
create or replace view dlq.cron_status
as
select c.job, c.schedule, c.command, c.is_scheduled, c.is_active, c.username, c.last_status, c.last_started_at, c.last_run_at
from dlq._cron_status() as c;

comment on view dlq.cron_status is
$$Our jobs, one row each: name, schedule and command as they should be; whether pg_cron has it, whether it is active, whose it is, and how
and when it last ended, as far as pg_cron shows it to you (a role sees its own jobs only: null is unknown); and last_run_at: when it last
ran by our own log, which does not depend on that. What is wrong with it: dlqctl verify-cron.$$;
