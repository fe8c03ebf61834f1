-- Gives an entry up: one that waits or has failed is not sent any more. dlq.retry() brings it back while it is kept.
-- False, and nothing changes, for one that is being sent, was delivered or is discarded already.
create or replace function dlq.discard(id uuid, reason text)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_entry public.webhook_dlq;
begin
  perform dlq._check_reason(discard.reason, format('select dlq.discard(%L, ''a test of ours'')', discard.id));
  v_entry := dlq._lock_entry(discard.id);
  if v_entry.status not in ('pending', 'failed') then
    return false;
  end if;
  perform dlq._move_entry(v_entry, 'discarded', 'discard', discard.reason);
  return true;
end
$$;

comment on function dlq.discard(uuid, text) is
$$Gives up an entry that is pending or failed, for a reason. False: it is being sent, was delivered, or is discarded. WD002: no
reason, or no such entry.$$;
