-- A late echo: the handler answered well, was believed, and then stored the failure. The delivered entry takes up
-- its retries where it was. Other states already say that it is not delivered, and stay.
create or replace function dlq._reopen(entry_id uuid)
returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
update public.webhook_dlq as e
set
  retry_count = e.retry_count + 1,
  status = case when u.used_up then 'failed' else 'pending' end,
  settled_at = case when u.used_up then dlq._now() end,
  next_retry_at = case when not u.used_up then
    dlq._now() + u.schedule[least(e.retry_count + 2, cardinality(u.schedule))] * (1 + u.jitter * random()) end,
  updated_at = dlq._now()
from (
  select d.id, s.jitter, coalesce(r.retry_schedule, s.retry_schedule) as schedule,
    d.retry_count + 1 >= cardinality(coalesce(r.retry_schedule, s.retry_schedule)) as used_up
  from public.webhook_dlq as d
    cross join dlq.settings as s
    left join lateral dlq._route(d.service) as r on true
  where d.id = _reopen.entry_id
) as u
where e.id = u.id and e.status = 'reprocessed'
$$;

comment on function dlq._reopen(uuid) is 'Takes back a delivery that an echo has disproved.';
