-- Sends an entry once more that was delivered already: the handler did not do with it what it should. A verb of its own, so that
-- nobody who retries what failed sends twice what did not. False, and nothing changes, for any other.
create or replace function dlq.redeliver(id uuid, reason text)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_entry public.webhook_dlq;
begin
  perform dlq._check_reason(redeliver.reason, format('select dlq.redeliver(%L, ''the handler lost it'')', redeliver.id));
  v_entry := dlq._lock_entry(redeliver.id);
  if v_entry.status <> 'reprocessed' or v_entry.erased_at is not null then
    return false;
  end if;
  perform dlq._move_entry(v_entry, 'pending', 'redeliver', redeliver.reason);
  return true;
end
$$;

comment on function dlq.redeliver(uuid, text) is
$$Makes an entry that was delivered due now, with a fresh schedule, for a reason. False: it was not delivered, or is erased. WD002: no reason, or
no such entry.$$;
