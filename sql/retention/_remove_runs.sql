-- Removes up to 10,000 old runs of the processor and of maintenance, and returns how many. The last of each stays, however
-- old: health goes by it. Old replays too, when none of their entries is left: a row of theirs that is still there then is that of an
-- entry which a person has deleted. Resolved alerts as well, with what was told of them.
create or replace function dlq._remove_runs()
returns integer
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
with cycles as (
  delete from public.dlq_processing_log as l
  where l.id = any (array(
    select o.id
    from public.dlq_processing_log as o
    where o.processed_at <= (select dlq._now() - s.retain_runs from dlq.settings as s)
      and o.processed_at < (select max(n.processed_at) from public.dlq_processing_log as n)
    order by o.processed_at
    limit 10000
    for update skip locked))
  returning l.id
),
maintenance as (
  delete from dlq.maintenance_log as l
  where l.began_at <= (select dlq._now() - s.retain_runs from dlq.settings as s) and l.status <> 'running'
    and l.id < (select max(n.id) from dlq.maintenance_log as n where n.status in ('ok', 'partial', 'error'))
  returning l.id
),
replays as (
  delete from dlq.replays as r
  where r.replayed_at <= (select dlq._now() - s.retain_runs from dlq.settings as s)
    and not exists (
      select from dlq.replayed_entries as x
      where x.replay_id = r.id and (select e.id from public.webhook_dlq as e where e.id = x.entry_id) is not null)
  returning r.id
),
unlisted as (
  delete from dlq.replayed_entries as x using replays as r where x.replay_id = r.id
),
alerts as (
  delete from dlq.alerts as a
  where a.id = any (array(
    select o.id
    from dlq.alerts as o
    where o.resolved_at <= (select dlq._now() - s.retain_runs from dlq.settings as s)
    order by o.resolved_at
    limit 10000
    for update skip locked))
  returning a.id
),
untold as (
  delete from dlq.alert_deliveries as d using alerts as a where d.alert_id = a.id
)
select
  (select count(*) from cycles)::integer + (select count(*) from maintenance)::integer + (select count(*) from replays)::integer
  + (select count(*) from alerts)::integer
$$;

comment on function dlq._remove_runs() is 'Removes old rows of dlq_processing_log, dlq.maintenance_log, dlq.replays and dlq.alerts, and returns how many.';
