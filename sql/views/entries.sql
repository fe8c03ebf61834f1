-- The queue without what may be personal: no payload, phone number, headers or error text. Runs with its owner's
-- rights, because a view with the caller's would refuse even count(*) to a role that may read only some columns.
-- The last two are subqueries, not a join, so that they cost nothing where nobody asks for them.
create or replace view dlq.entries
as
select
  e.id, e.service, e.status, e.retry_count, e.attempt_count, e.unanswered_count, e.created_at, e.next_retry_at,
  e.last_retry_at, e.settled_at, e.erased_at, e.updated_at, e.duplicate_of, e.correlation_id, e.payload is null as is_raw,
  (
    select a.outcome from dlq.delivery_attempts as a where a.entry_id = e.id order by a.attempt desc limit 1
  ) as last_outcome,
  (
    select a.status_code from dlq.delivery_attempts as a where a.entry_id = e.id order by a.attempt desc limit 1
  ) as last_status_code
from public.webhook_dlq as e;

comment on view dlq.entries is
$$The queue without payload, phone number, headers and error text. is_raw: the body is not JSON and is kept in raw_body.
last_outcome and last_status_code: of the last attempt, as in dlq.delivery_attempts; null before the first.$$;
comment on column dlq.entries.is_raw is 'The body is not JSON, and is kept in raw_body.';
comment on column dlq.entries.last_outcome is 'The outcome of the last attempt. Null before the first.';
comment on column dlq.entries.last_status_code is 'The HTTP status that the last attempt was answered. Null if it was not.';
