-- What goes on, in one row: how many wait, and how many came and went within the last minute. Each count reads an index and stops
-- at 100,000. Reads no unlogged table, so it answers on a standby: what is under way are the entries in processing.
create or replace view dlq.activity
as
with clock as materialized (
  select dlq._now() as now, dlq._now() - interval '1 minute' as since
)
select
  c.now as at,
  (select count(*) from (select from public.webhook_dlq as e where e.status = 'pending' limit 100000) as e) as pending,
  (
    select count(*)
    from (select from public.webhook_dlq as e where e.status = 'pending' and e.next_retry_at <= c.now limit 100000) as e
  ) as due,
  (select count(*) from (select from public.webhook_dlq as e where e.status = 'processing' limit 100000) as e) as in_flight,
  (select count(*) from (select from public.webhook_dlq as e where e.created_at > c.since limit 100000) as e) as stored,
  (
    select count(*)
    from (
      select from public.webhook_dlq as e
      where e.status in ('reprocessed', 'discarded') and e.status = 'reprocessed' and e.settled_at > c.since limit 100000) as e
  ) as delivered,
  (
    select count(*)
    from (select from public.webhook_dlq as e where e.status = 'failed' and e.settled_at > c.since limit 100000) as e
  ) as failed
from clock as c;

comment on view dlq.activity is
$$What goes on, one row: entries pending, due and in flight, and those stored, delivered and failed (given up) within the last
minute. Counts stop at 100,000.$$;
comment on column dlq.activity.at is 'The time of the look.';
comment on column dlq.activity.pending is 'Entries that wait.';
comment on column dlq.activity.due is 'Of them, those whose next_retry_at has come.';
comment on column dlq.activity.in_flight is 'Entries that are being sent.';
comment on column dlq.activity.stored is 'Entries stored within the last minute.';
comment on column dlq.activity.delivered is 'Entries delivered within the last minute.';
comment on column dlq.activity.failed is 'Entries given up within the last minute.';
