-- Chooses and locks the entries to send now, in the order to send them. For each service that has something due, has
-- an endpoint and the secrets for it, and is not paused: its most overdue entries, up to its free slots, and then one of
-- each service in turn, so that a flood for one does not delay another. An even share of the room bounds what each
-- service locks: to lock what is not sent would be a write for each row and pass.
-- The cost is that of the services that wait and of the entries that are due.
-- An entry whose last request is still in flight (a person has made it due again) waits for that answer first.
create or replace function dlq._claim(room integer)
returns uuid[]
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
with clock as materialized (
  select dlq._now() as now
),
callable as (
  select w.service, r.max_in_flight - (select count(*) from dlq.in_flight as f where f.service = w.service) as free
  from dlq._waiting_services as w
    cross join clock
    cross join lateral dlq._route(w.service) as r
  where r.enabled
    and not dlq._is_paused(w.service)
    and dlq._missing_secret(w.service) is null
    and exists (
      select from public.webhook_dlq as e
      where e.status = 'pending' and e.service = w.service and e.next_retry_at <= clock.now)
),
due as (
  select d.id, row_number() over (partition by c.service order by d.next_retry_at) as turn, d.next_retry_at
  from (select c.*, count(*) over () as services from callable as c where c.free > 0) as c
    cross join clock
    cross join lateral (
      select e.id, e.next_retry_at
      from public.webhook_dlq as e
      where e.status = 'pending' and e.service = c.service and e.next_retry_at <= clock.now
        and not exists (select from dlq.in_flight as f where f.entry_id = e.id)
      order by e.next_retry_at
      limit least(c.free, greatest(1, _claim.room / c.services))
      for update of e skip locked
    ) as d
)
select array_agg(first.id order by first.turn, first.next_retry_at)
from (select d.* from due as d order by d.turn, d.next_retry_at limit _claim.room) as first
$$;

comment on function dlq._claim(integer) is 'Chooses and locks up to so many entries to send now. Null if there are none.';
