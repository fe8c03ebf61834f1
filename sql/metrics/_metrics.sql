-- The rows of dlq.metrics: one a sample, and the one definition of their names. dlqctl metrics prints them, and
-- monitoring/sql_exporter/ has them scraped. Reads no unlogged table, so it answers on a standby; nothing is counted beyond
-- 10,000, and of history only what is added up already, so its cost does not grow with what is stored. A function, so that it is
-- never compiled (jit): it reads little from many places, and compiling that took ten times as long as reading it.
create or replace function dlq._metrics(out name text, out type text, out help text, out labels jsonb, out value double precision)
returns setof record
language sql stable security definer set search_path = pg_catalog, pg_temp set jit = off
as $$
with
families (name, type, help) as (
  values
    ('dlq_info', 'gauge', 'Always 1: the revision of the tables, the version of PostgreSQL, and what sends.'),
    ('dlq_read_timestamp_seconds', 'gauge', 'When these figures were read. Old: whoever hands them on repeats himself.'),
    ('dlq_in_recovery', 'gauge', '1 on a standby: nothing is sent from there, and figures may be behind.'),
    ('dlq_health_level', 'gauge', 'Each line of dlq.health: 0 ok, 1 warning, 2 error.'),
    ('dlq_alert_raised', 'gauge', '1 while the alert of this rule is raised, until it is resolved; else 0.'),
    ('dlq_alerts_evaluated_timestamp_seconds', 'gauge', 'When the rules of alerts were last evaluated; before the first time, when it was installed.'),
    ('dlq_entries_pending', 'gauge', 'Entries that wait, counted up to 10,000 a service.'),
    ('dlq_entries_due', 'gauge', 'Entries that wait and whose time has come, counted up to 10,000 a service.'),
    ('dlq_entries_in_flight', 'gauge', 'Entries handed to the sender and not answered yet.'),
    ('dlq_entries_failed', 'gauge', 'Entries given up and not seen to by anybody, counted up to 10,000 in all.'),
    ('dlq_entries_failed_last_hour', 'gauge', 'Entries given up within the last hour, counted up to 10,000 in all.'),
    ('dlq_oldest_due_age_seconds', 'gauge', 'For how long the first of the entries that are due has been. 0: none is.'),
    ('dlq_oldest_in_flight_age_seconds', 'gauge', 'How long ago the first of the entries in flight was sent. 0: none is.'),
    ('dlq_attempts_total', 'counter', 'Attempts that ended, by outcome as in dlq.delivery_attempts.'),
    ('dlq_attempt_seconds_total', 'counter', 'How long these attempts took in all, from dispatch to record.'),
    ('dlq_endpoint_state', 'gauge', '1 for the state that the service is in, as in dlq.circuits, 0 for the others.'),
    ('dlq_endpoint_cap', 'gauge', 'How many requests of the service may be under way now. 0: its circuit is open.'),
    ('dlq_endpoint_max_in_flight', 'gauge', 'How many may be while all is well.'),
    ('dlq_endpoint_failing_since_timestamp_seconds', 'gauge', 'Since when the endpoint fails. Absent: it does not.'),
    ('dlq_processor_seen_timestamp_seconds', 'gauge', 'When the processor was last at work; before its first run, when it was installed.'),
    ('dlq_processor_last_run_timestamp_seconds', 'gauge', 'When its last run began.'),
    ('dlq_processor_last_success_timestamp_seconds', 'gauge', 'When its last run that ended well began.'),
    ('dlq_processor_last_run_duration_seconds', 'gauge', 'How long its last run took, up to its last recorded pass.'),
    ('dlq_sender_up', 'gauge', '1 unless the line sender of dlq.health is an error: there is a sender, and nothing forbids it to send.'),
    ('dlq_net_workers', 'gauge', 'net-workers seen within the last minute. Absent: pg_net sends.'),
    ('dlq_retention_seen_timestamp_seconds', 'gauge', 'When dlq.maintain() last came to an end; before its first run, when it was installed.'),
    ('dlq_retention_last_success_timestamp_seconds', 'gauge', 'When its last run that removed all it should began.'),
    ('dlq_retention_last_run_duration_seconds', 'gauge', 'How long its last run took.'),
    ('dlq_table_bytes', 'gauge', 'Size of a table that grows, with its indexes and its TOAST.'),
    ('dlq_table_rows', 'gauge', 'Rows of a table, as the server''s statistics estimate them.'),
    ('dlq_table_dead_rows', 'gauge', 'Rows of a table that wait for vacuum, by the same estimate.')
),
figures as materialized (
  select * from dlq._service_figures
),
samples (name, labels, value) as (
  select 'dlq_info', jsonb_build_object('revision', v.version_num, 'postgresql', current_setting('server_version_num'), 'sender',
      case when exists (select from pg_catalog.pg_extension as x where x.extname = 'pg_net') then 'pg_net' else 'net-worker' end), 1
  from dlq.alembic_version as v
  union all
  select 'dlq_read_timestamp_seconds', '{}', extract(epoch from clock_timestamp())
  union all
  select 'dlq_in_recovery', '{}', pg_is_in_recovery()::integer
  union all
  select n.name, n.labels, n.value
  from (select h.name, array_position('{ok,warning,error}', h.level) - 1 as level from dlq.health as h) as h
    cross join lateral (values
      ('dlq_health_level', jsonb_build_object('check', h.name), h.level),
      ('dlq_sender_up', '{}', case when h.name = 'sender' then (h.level < 2)::integer end)
    ) as n (name, labels, value)
  union all
  select 'dlq_alert_raised', jsonb_build_object('rule', r.name),
    (exists (select from dlq.alerts as a where a.rule = r.name and a.raised_at is not null and a.resolved_at is null))::integer
  from dlq.alert_rules as r
  union all
  select 'dlq_alerts_evaluated_timestamp_seconds', '{}', extract(epoch from e.evaluated_at)
  from dlq.alert_evaluation as e
  union all
  select n.name, jsonb_build_object('service', f.service), n.value
  from figures as f
    cross join lateral (values
      ('dlq_entries_pending', f.pending),
      ('dlq_entries_due', f.due),
      ('dlq_oldest_due_age_seconds', f.due_age),
      ('dlq_entries_in_flight', f.in_flight),
      ('dlq_oldest_in_flight_age_seconds', f.in_flight_age),
      ('dlq_entries_failed_last_hour', f.failed_last_hour),
      ('dlq_endpoint_cap', f.cap),
      ('dlq_endpoint_max_in_flight', f.max_in_flight),
      ('dlq_endpoint_failing_since_timestamp_seconds', extract(epoch from f.failing_since))
    ) as n (name, value)
  union all
  select 'dlq_endpoint_state', jsonb_build_object('service', f.service, 'state', s.state), (f.state = s.state)::integer
  from figures as f
    cross join unnest('{closed,half open,open,paused,disabled,no endpoint}'::text[]) as s (state)
  union all
  select 'dlq_entries_failed', '{}', count(*)
  from (select from public.webhook_dlq as e where e.status = 'failed' limit 10000) as e
  union all
  select n.name, jsonb_build_object('service', a.service, 'outcome', a.outcome), n.value
  from (
      select c.service, c.outcome, sum(c.attempts) as attempts, sum(c.seconds) as seconds
      from dlq.attempt_counts as c
      group by c.service, c.outcome
    ) as a
    cross join lateral (values
      ('dlq_attempts_total', a.attempts), ('dlq_attempt_seconds_total', a.seconds)
    ) as n (name, value)
  union all
  select n.name, '{}', extract(epoch from n.value)
  from dlq.settings as s
    left join lateral (select l.* from public.dlq_processing_log as l order by l.processed_at desc limit 1) as r on true
    left join lateral (
      select l.processed_at
      from (select l.processed_at, l.status from public.dlq_processing_log as l order by l.processed_at desc limit 10000) as l
      where l.status = 'ok' limit 1
    ) as o on true
    left join lateral (
      select l.* from dlq.maintenance_log as l where l.status in ('ok', 'partial', 'error') order by l.id desc limit 1
    ) as m on true
    left join lateral (
      select l.began_at from dlq.maintenance_log as l where l.status = 'ok' order by l.id desc limit 1
    ) as k on true
    cross join lateral (values
      ('dlq_processor_seen_timestamp_seconds', coalesce(r.processed_at + coalesce(r.duration, '0'), s.installed_at) - 'epoch'),
      ('dlq_processor_last_run_timestamp_seconds', r.processed_at - 'epoch'),
      ('dlq_processor_last_success_timestamp_seconds', o.processed_at - 'epoch'),
      ('dlq_processor_last_run_duration_seconds', r.duration),
      ('dlq_retention_seen_timestamp_seconds', coalesce(m.began_at, s.installed_at) - 'epoch'),
      ('dlq_retention_last_success_timestamp_seconds', k.began_at - 'epoch'),
      ('dlq_retention_last_run_duration_seconds', m.duration)
    ) as n (name, value)
  union all
  select 'dlq_net_workers', '{}', count(*) filter (where w.stopped_at is null and w.seen_at > clock_timestamp() - interval '1 minute')
  from dlq.net_workers as w
  having not exists (select from pg_catalog.pg_extension as x where x.extname = 'pg_net')
  union all
  select n.name, jsonb_build_object('table', t.table_name), n.value
  from dlq.table_sizes as t
    cross join lateral (values
      ('dlq_table_bytes', t.total_bytes), ('dlq_table_rows', t.rows_estimated), ('dlq_table_dead_rows', t.dead_rows)
    ) as n (name, value)
  where t.table_name in (
    'public.webhook_dlq', 'public.dlq_processing_log', 'dlq.delivery_attempts', 'dlq.in_flight', 'dlq.attempt_counts',
    'dlq.audit_log', 'net.http_request_queue', 'net._http_response')
)
select
  f.name, f.type, f.help,
  s.labels || jsonb_build_object('database', current_database()) as labels,
  s.value::double precision as value
from families as f
  join samples as s on s.name = f.name
where s.value is not null
$$;

comment on function dlq._metrics() is 'The rows of dlq.metrics.';
