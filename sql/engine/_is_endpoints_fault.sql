-- Whether an attempt's outcome speaks against the endpoint (true), for it (false), or says nothing of it (null).
-- Against it: it cannot be reached, is overloaded or broken, does not know us, is not there (401, 403, 404, 408, 429, 5xx), sends us
-- elsewhere, or takes the webhook and stores its failure again. For it: any other answer, also one that refuses this webhook.
-- No set clause, so that the planner can inline it.
create or replace function dlq._is_endpoints_fault(outcome text, status_code integer)
returns boolean
language sql immutable
as $$
select case
  when outcome = 'delivered' then false
  when outcome in ('network_error', 'echoed') then true
  when outcome = 'http_error' then status_code in (401, 403, 404, 408, 429) or status_code not between 400 and 499
end
$$;

comment on function dlq._is_endpoints_fault(text, integer) is
'Whether an outcome (as in dlq.delivery_attempts) with its HTTP status speaks against the endpoint. Null: it says nothing of it.';
