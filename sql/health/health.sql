-- How the queue is, one row a check: the one truth that dlqctl health and verify-cron print. level is ok, warning or
-- error; remediation says what to type. A check is a view of its own beside this one. None reads an unlogged table, so it
-- answers on a standby; counts stop at 10,000.
create or replace view dlq.health
as
select c.name, c.level, c.detail, c.remediation from dlq._health_server as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_sender as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_pg_net_grants as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_answers as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_processor as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_retention as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_overdue as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_endpoints as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_secrets as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_circuits as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_paused as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_pending as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_failed as c
union all
select c.name, c.level, c.detail, c.remediation from dlq._health_alerts as c;

comment on view dlq.health is
$$How the queue is, one row a check: name, level (ok, warning, error), detail, and remediation: what to type.
Safe on a standby, and in milliseconds whatever is stored.$$;
comment on column dlq.health.name is 'What is looked at.';
comment on column dlq.health.level is 'ok, warning or error.';
comment on column dlq.health.detail is 'How it is.';
comment on column dlq.health.remediation is 'What to type. Null if there is nothing to do.';
