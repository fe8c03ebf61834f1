-- How a service is called: by its own endpoint, else by the template. No row: nobody has said how.
-- Invoker's rights and no set clause, so that the planner can inline it; only definer functions call it.
create or replace function dlq._route(service text)
returns table (
  url text, headers jsonb, timeout_ms integer, max_in_flight integer, enabled boolean, retry_schedule interval[],
  signing text, secret_names text[], auth text, auth_secret text, body text
)
language sql stable
as $$
select
  replace(e.url, '{service}', _route.service), e.headers, e.timeout_ms, e.max_in_flight, e.enabled,
  coalesce(e.retry_schedule, s.retry_schedule), e.signing, e.secret_names, e.auth, e.auth_secret, e.body
from dlq.endpoints as e, dlq.settings as s
where e.service in (_route.service, '*')
order by e.service = '*'
limit 1
$$;

comment on function dlq._route(text) is 'The endpoint of a service: its own, else the template''s. No row if there is neither.';
