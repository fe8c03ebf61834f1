-- Repairs a payload. The old one, with its bytes, is kept in dlq.amendments. raw_body goes, since an endpoint that is sent raw
-- bodies would get the old one. It does not send: that is dlq.retry(). Every attempt is signed anew.
-- False, and nothing changes, for one that is being sent or was delivered, was erased, is the echo of another, or is not there.
create or replace function dlq.amend(id uuid, payload jsonb, reason text)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_entry public.webhook_dlq;
begin
  perform dlq._check_reason(amend.reason, format('select dlq.amend(%L, ''{"a": 1}'', ''a was missing'')', amend.id));
  if amend.payload is null then
    raise exception using
      errcode = 'WD002', message = 'a payload is needed', detail = 'Nothing was changed.',
      hint = 'To give the entry up: select dlq.discard(id, reason).';
  end if;
  if dlq._is_unwritable(amend.payload) then
    raise exception using
      errcode = 'WD002', message = 'the payload holds a number that no double holds, or is nested too deep',
      detail = 'Nothing was changed.', hint = 'Give such a number as a string.';
  end if;
  v_entry := dlq._lock_entry(amend.id);
  if v_entry.id is null or v_entry.status not in ('pending', 'failed', 'discarded') or not dlq._is_sendable(v_entry) then
    return false;
  end if;
  insert into dlq.amendments (entry_id, amended_at, amended_by, reason, payload, raw_body)
  values (v_entry.id, clock_timestamp(), session_user, amend.reason, v_entry.payload, v_entry.raw_body);
  update public.webhook_dlq as e
  set payload = amend.payload, raw_body = null, updated_at = dlq._now()
  where e.id = v_entry.id;
  perform dlq._audit(
    'amend', 'public.webhook_dlq', v_entry.id::text, amend.reason,
    jsonb_build_object('payload', v_entry.payload, 'raw_body', v_entry.raw_body), jsonb_build_object('payload', amend.payload));
  return true;
end
$$;

comment on function dlq.amend(uuid, jsonb, text) is
$$Replaces the payload of an entry that is pending, failed or discarded, for a reason, and keeps the old one in dlq.amendments.
False: it is being sent, was delivered, is erased, an echo, or (with a warning) not there. WD002: no payload or one that cannot be
written out, no reason, or no id.$$;
