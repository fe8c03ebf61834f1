-- Whether an entry is a webhook of its own that can still be sent: not the echo of another, and not erased.
create or replace function dlq._is_sendable(entry public.webhook_dlq)
returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$
select entry.duplicate_of is null and entry.erased_at is null
$$;

comment on function dlq._is_sendable(public.webhook_dlq) is 'Whether an entry is a webhook of its own that can still be sent.';
