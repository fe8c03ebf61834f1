-- The services that have anything pending, and what keeps them waiting. What nobody asks for of it is not looked up.
create or replace view dlq._waiting
as
select
  w.service,
  r.enabled is not null as has_endpoint,
  dlq._is_paused(w.service) or not coalesce(r.enabled, true) or t.cap is not null as is_held,
  not coalesce(r.enabled, true) as is_disabled,
  dlq._missing_secret(w.service) as missing_secret,
  (select min(e.next_retry_at) from public.webhook_dlq as e where e.status = 'pending' and e.service = w.service) as first_due
from dlq._waiting_services as w
  left join lateral (
    select n.enabled from dlq.endpoints as n where n.service in (w.service, '*') order by n.service = '*' limit 1
  ) as r on true
  left join dlq.endpoint_state as t on t.service = w.service;

comment on view dlq._waiting is
$$The services that have anything pending: whether they have an endpoint, whether a pause, a switch or a circuit holds them,
whether it is the switch, the secret that is missing, and when the first is due.$$;
