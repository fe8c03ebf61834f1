-- What of an entry a verb changes, for the audit log: no body, nothing personal.
create or replace function dlq._state_of(entry public.webhook_dlq)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
select jsonb_build_object(
  'status', entry.status, 'next_retry_at', entry.next_retry_at, 'settled_at', entry.settled_at,
  'retry_count', entry.retry_count, 'unanswered_count', entry.unanswered_count)
$$;

comment on function dlq._state_of(public.webhook_dlq) is 'What of an entry a verb changes: status, times and counts, as one JSON object.';
