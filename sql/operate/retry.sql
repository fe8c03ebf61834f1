-- Sends an entry again, now and with all its retries: one that waits, has failed or was discarded. Over many:
-- select dlq.retry(id, 'the handler is mended') from webhook_dlq where status = 'failed' order by id;
-- False, and nothing changes, for one that is being sent, was delivered (that is dlq.redeliver()), has been erased, or is the
-- echo of another.
create or replace function dlq.retry(id uuid, reason text)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_entry public.webhook_dlq;
begin
  perform dlq._check_reason(retry.reason, format('select dlq.retry(%L, ''the handler is mended'')', retry.id));
  v_entry := dlq._lock_entry(retry.id);
  if v_entry.status not in ('pending', 'failed', 'discarded') or v_entry.duplicate_of is not null or v_entry.erased_at is not null then
    return false;
  end if;
  perform dlq._move_entry(v_entry, 'pending', 'retry', retry.reason);
  return true;
end
$$;

comment on function dlq.retry(uuid, text) is
$$Makes an entry that is pending, failed or discarded due now, with a fresh schedule, for a reason. False: it is being sent, was
delivered, is erased, or is an echo. WD002: no reason, or no such entry.$$;
