-- Puts an entry into a state by a person's verb, and records it. Pending: due now, with all retries before it again; the attempts
-- made so far stay counted. The caller has locked the entry.
create or replace function dlq._move_entry(entry public.webhook_dlq, status text, verb text, reason text)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_due boolean := _move_entry.status = 'pending';
  v_new public.webhook_dlq := entry;
begin
  v_new.status := _move_entry.status;
  v_new.next_retry_at := case when v_is_due then dlq._now() end;
  v_new.settled_at := case when not v_is_due then dlq._now() end;
  if v_is_due then
    v_new.retry_count := 0;
    v_new.unanswered_count := 0;
  end if;

  update public.webhook_dlq as e
  set
    status = v_new.status,
    next_retry_at = v_new.next_retry_at,
    settled_at = v_new.settled_at,
    retry_count = v_new.retry_count,
    unanswered_count = v_new.unanswered_count,
    updated_at = dlq._now()
  where e.id = entry.id;

  perform dlq._audit(
    verb, 'public.webhook_dlq', entry.id::text, reason, dlq._state_of(entry), dlq._state_of(v_new),
    '{status,next_retry_at,settled_at,retry_count,unanswered_count}');
end
$$;

comment on function dlq._move_entry(public.webhook_dlq, text, text, text) is
'Puts an entry that is locked into a state by a person''s verb, for a reason, and records it.';
