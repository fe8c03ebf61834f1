-- What sends, and how it is set up. Reads no unlogged table, so it answers on a standby; what waits there: dlq.net_queue.
-- Settings and processes are hidden from those without pg_read_all_settings and pg_read_all_stats: null, then, is unknown.
create or replace view dlq.net_status
as
select
  case when x.extversion is not null then 'pg_net' when to_regnamespace('net') is not null then 'net-worker' end as sender,
  x.extversion as version,
  s.database,
  s.database = current_database() as is_here,
  s.batch_size,
  s.ttl,
  case
    when x.extversion is null then w.running > 0
    when pg_has_role('pg_read_all_stats', 'usage') then
      exists (select from pg_catalog.pg_stat_activity as a where a.backend_type like 'pg_net%')
  end as is_running,
  case when x.extversion is null then w.running end as workers,
  case when x.extversion is null then w.seen_at end as seen_at
from (select) as one
  left join pg_catalog.pg_extension as x on x.extname = 'pg_net'
  cross join (
    select
      max(g.setting) filter (where g.name = 'pg_net.database_name') as database,
      max(g.setting) filter (where g.name = 'pg_net.batch_size')::integer as batch_size,
      max(g.setting) filter (where g.name = 'pg_net.ttl') as ttl
    from pg_catalog.pg_settings as g
  ) as s
  cross join (
    select
      count(*) filter (where w.stopped_at is null and w.seen_at > clock_timestamp() - interval '1 minute') as running,
      max(w.seen_at) as seen_at
    from dlq.net_workers as w
  ) as w;

comment on view dlq.net_status is
$$What sends, one row: pg_net or net-worker (null: nothing), pg_net's version, the database it serves and whether it is this one, its
batch size, how long it keeps answers, whether it runs; of net-workers how many were seen within a minute, and when the last was.
Null is unknown: for pg_net's part grant pg_read_all_stats and pg_read_all_settings.$$;
comment on column dlq.net_status.sender is 'pg_net or net-worker. Null: there is no schema net.';
comment on column dlq.net_status.version is 'pg_net''s, in this database.';
comment on column dlq.net_status.database is 'The database that pg_net serves. Null: it is not loaded, or its settings are hidden from you.';
comment on column dlq.net_status.is_here is 'Whether that is this one.';
comment on column dlq.net_status.batch_size is 'How many requests pg_net sends at a time.';
comment on column dlq.net_status.ttl is 'How long pg_net keeps answers.';
comment on column dlq.net_status.is_running is 'Whether pg_net''s process, or a net-worker, runs. Null: it is hidden from you.';
comment on column dlq.net_status.workers is 'How many net-workers were seen within a minute. Null with pg_net.';
comment on column dlq.net_status.seen_at is 'When a net-worker was last seen. Null with pg_net.';
