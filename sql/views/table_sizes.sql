-- How big our tables are, the biggest first; the sender's two are among them.
create or replace view dlq.table_sizes
as
select
  format('%I.%I', n.nspname, c.relname) as table_name,
  case when c.reltuples >= 0 then c.reltuples::bigint end as rows_estimated,
  t.n_dead_tup as dead_rows,
  pg_relation_size(c.oid) as table_bytes,
  pg_indexes_size(c.oid) as index_bytes,
  coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0) as toast_bytes,
  pg_total_relation_size(c.oid) as total_bytes,
  greatest(t.last_vacuum, t.last_autovacuum) as vacuumed_at,
  greatest(t.last_analyze, t.last_autoanalyze) as analyzed_at
from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
  left join pg_catalog.pg_stat_all_tables as t on t.relid = c.oid
where c.relkind = 'r' and (
  n.nspname = 'dlq'
  or n.nspname = 'public' and c.relname in ('webhook_dlq', 'dlq_processing_log')
  or n.nspname = 'net' and c.relname in ('http_request_queue', '_http_response'))
order by total_bytes desc, table_name;

comment on view dlq.table_sizes is
$$Our tables and the sender's two, the biggest first: rows and dead rows as the statistics have them, bytes of the table, its indexes,
its TOAST and all of it, and when it was last vacuumed and analyzed. A standby has statistics of its own, and no unlogged rows.$$;
comment on column dlq.table_sizes.table_name is 'With its schema.';
comment on column dlq.table_sizes.rows_estimated is 'Rows, by the statistics. Null: it was never analyzed.';
comment on column dlq.table_sizes.dead_rows is 'Rows that vacuum has yet to remove, by the statistics.';
comment on column dlq.table_sizes.table_bytes is 'Of the rows themselves.';
comment on column dlq.table_sizes.index_bytes is 'Of all its indexes.';
comment on column dlq.table_sizes.toast_bytes is 'Of what is kept apart because it is long.';
comment on column dlq.table_sizes.total_bytes is 'Of all of it.';
comment on column dlq.table_sizes.vacuumed_at is 'When it was last vacuumed, by whomever.';
comment on column dlq.table_sizes.analyzed_at is 'When it was last analyzed, by whomever.';
