-- What retry, redeliver and discard have in common: a person puts an entry from one of some states into another, for a reason, on
-- record. To pending: due now, with all retries before it again; the attempts made so far stay counted. False, and nothing
-- changes, where it is in no such state, was erased, or is an echo: these have nothing of their own to send; and, with a
-- warning, where there is no such entry.
-- example: a reason, for whoever gave none.
create or replace function dlq._move_entry(id uuid, verb text, reason text, from_states text[], to_state text, example text)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_due boolean := to_state = 'pending';
  v_old public.webhook_dlq;
  v_new public.webhook_dlq;
begin
  perform dlq._check_reason(_move_entry.reason, format('select dlq.%s(%L, %L)', verb, _move_entry.id, example));
  v_old := dlq._lock_entry(_move_entry.id);
  if v_old.id is null or v_old.status <> all (from_states) or not dlq._is_sendable(v_old) then
    return false;
  end if;

  update public.webhook_dlq as e
  set
    status = to_state,
    next_retry_at = case when v_is_due then dlq._now() end,
    settled_at = case when not v_is_due then dlq._now() end,
    retry_count = case when v_is_due then 0 else e.retry_count end,
    unanswered_count = case when v_is_due then 0 else e.unanswered_count end,
    updated_at = dlq._now()
  where e.id = v_old.id
  returning e.* into v_new;

  perform dlq._audit(
    verb, 'public.webhook_dlq', v_old.id::text, _move_entry.reason, to_jsonb(v_old), to_jsonb(v_new),
    '{status,next_retry_at,settled_at,retry_count,unanswered_count}');
  return true;
end
$$;

comment on function dlq._move_entry(uuid, text, text, text[], text, text) is
$$Puts an entry that is in one of some states into another by a person's verb, for a reason, and records it. False: it is in none of them,
erased, an echo, or (with a warning) not there. WD002: no reason, or no id.$$;
