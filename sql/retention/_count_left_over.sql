-- How many entries a maintenance run leaves for the next one, from where it stopped, counted up to 10,001.
create or replace function dlq._count_left_over(failed boolean, after timestamptz)
returns integer
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
select count(*)::integer
from (
  (select
   from public.webhook_dlq as e
   where not failed and e.status in ('reprocessed', 'discarded') and e.settled_at >= after
     and e.settled_at <= (select dlq._now() - s.retain_settled from dlq.settings as s)
   limit 10001)
  union all
  (select
   from public.webhook_dlq as e
   where failed and e.status = 'failed' and e.settled_at >= after
     and e.settled_at <= (select dlq._now() - s.retain_failed from dlq.settings as s)
   limit 10001)
  limit 10001
) as e
$$;

comment on function dlq._count_left_over(boolean, timestamptz) is 'How many old entries are left to remove, counted up to 10,001.';
