-- One row a service that has an endpoint, trouble, or anything pending, in flight or lately given up: what waits as dlq.backlog
-- has it, how its endpoint is as dlq.circuits has it. Counts 10,000 that were given up, in all.
create or replace view dlq._service_figures
as
with
failed as materialized (
  select f.service, count(*) as n
  from (
    select e.service from public.webhook_dlq as e
    where e.status = 'failed' and e.settled_at > dlq._now() - interval '1 hour' limit 10000) as f
  group by f.service
),
processing as materialized (
  select e.service, count(*) as n, min(e.last_retry_at) as first_sent
  from public.webhook_dlq as e
  where e.status = 'processing'
  group by e.service
),
circuits as materialized (
  select c.service, c.state, c.cap, c.max_in_flight, c.failing_since from dlq.circuits as c
)
select
  s.service,
  coalesce(b.pending, 0) as pending,
  coalesce(b.due, 0) as due,
  greatest(0, extract(epoch from dlq._now() - b.next_retry_at)) as due_age,
  coalesce(p.n, 0) as in_flight,
  greatest(0, extract(epoch from dlq._now() - p.first_sent)) as in_flight_age,
  coalesce(f.n, 0) as failed_last_hour,
  c.state,
  coalesce(c.cap, c.max_in_flight) as cap,
  c.max_in_flight,
  c.failing_since
from (select service from circuits union select service from processing union select service from failed) as s
  left join circuits as c on c.service = s.service
  left join dlq.backlog as b on b.service = s.service
  left join processing as p on p.service = s.service
  left join failed as f on f.service = s.service;

comment on view dlq._service_figures is
'What the metrics tell of each service: what waits, is due, in flight and lately given up, and how its endpoint is. Ages in seconds.';
