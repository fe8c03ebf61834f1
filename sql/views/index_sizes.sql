-- How big the indexes of our tables are, the biggest first, and how often they were used.
create or replace view dlq.index_sizes
as
select
  format('%I.%I', n.nspname, c.relname) as table_name,
  i.relname as index_name,
  pg_relation_size(i.oid) as bytes,
  t.idx_scan as scans
from pg_catalog.pg_index as x
  join pg_catalog.pg_class as c on c.oid = x.indrelid
  join pg_catalog.pg_class as i on i.oid = x.indexrelid
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
  left join pg_catalog.pg_stat_all_indexes as t on t.indexrelid = i.oid
where n.nspname = 'dlq' or n.nspname = 'public' and c.relname in ('webhook_dlq', 'dlq_processing_log')
order by bytes desc, index_name;

comment on view dlq.index_sizes is
'The indexes of our tables, the biggest first: bytes, and how often each was used since the statistics began.';
comment on column dlq.index_sizes.table_name is 'With its schema.';
comment on column dlq.index_sizes.index_name is 'Without.';
comment on column dlq.index_sizes.bytes is 'How big it is.';
comment on column dlq.index_sizes.scans is 'How often it was used since the statistics began.';
