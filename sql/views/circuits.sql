-- Every service that has an endpoint, anything waiting, a pause or trouble, and how much may be sent to it now.
-- Reads no unlogged table: what is under way are its entries in processing.
create or replace view dlq.circuits
as
with processing as materialized (
  select e.service, count(*) as n from public.webhook_dlq as e where e.status = 'processing' group by e.service
)
select
  s.service,
  case
    when r.enabled is null then 'no endpoint'
    when p.service is not null then 'paused'
    when not r.enabled then 'disabled'
    when t.cap = 0 then 'open'
    when t.cap < r.max_in_flight then 'half open'
    else 'closed'
  end as state,
  least(t.cap, r.max_in_flight) as cap,
  r.max_in_flight,
  coalesce(i.n, 0) as in_flight,
  t.failing_since,
  t.trouble,
  t.trips,
  case when t.cap = 0 then t.probe_at end as probe_at,
  t.timed_out_at > clock_timestamp() - interval '10 minutes' as is_slow,
  p.paused_at,
  p.paused_until,
  p.paused_by,
  p.reason as pause_reason
from (
    select e.service from dlq.endpoints as e where e.service <> '*'
    union select w.service from dlq._waiting_services as w
    union select t.service from dlq.endpoint_state as t
    union select p.service from dlq.pauses as p where p.service <> '*'
  ) as s
  left join lateral (
    select e.enabled, e.max_in_flight from dlq.endpoints as e
    where e.service in (s.service, '*') order by e.service = '*' limit 1
  ) as r on true
  left join dlq.endpoint_state as t on t.service = s.service
  left join processing as i on i.service = s.service
  left join lateral (
    select p.* from dlq.pauses as p
    where p.service in (s.service, '*') and (p.paused_until is null or p.paused_until > dlq._now())
    order by p.service = '*' limit 1
  ) as p on true;

comment on view dlq.circuits is
$$How much may be sent to each service now. state: closed (all is well), half open (fewer than max_in_flight), open (only probes, the next
at probe_at), paused (by a person), disabled, or no endpoint. is_slow: it lately timed out, and goes apart from the others where pg_net sends.$$;
comment on column dlq.circuits.service is 'As in webhook_dlq.service.';
comment on column dlq.circuits.state is 'closed, half open, open, paused, disabled, or no endpoint.';
comment on column dlq.circuits.cap is 'At most this many of its requests are under way at once. Null: max_in_flight.';
comment on column dlq.circuits.in_flight is 'Its entries that are being sent.';
comment on column dlq.circuits.max_in_flight is 'At most what cap grows to, as its endpoint says.';
comment on column dlq.circuits.probe_at is 'When the next probe is sent. Null unless the circuit is open.';
comment on column dlq.circuits.is_slow is 'Whether it timed out within the last ten minutes.';
comment on column dlq.circuits.paused_at is 'When a person paused it, or everything.';
comment on column dlq.circuits.paused_until is 'When the pause ends by itself. Null: when it is resumed.';
comment on column dlq.circuits.paused_by is 'Who paused it.';
comment on column dlq.circuits.pause_reason is 'Why.';
