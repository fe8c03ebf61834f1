-- Before a person updates a row of webhook_dlq by hand: keeps the times consistent with the status, so that
-- update webhook_dlq set status = 'pending' where … is enough to have entries sent again, at once.
create or replace function dlq._amend_entry()
returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  new.updated_at := dlq._now();
  if old.erased_at is not null and new.status in ('pending', 'processing') then
    new.status := old.status;  -- there is nothing left to send, and the others of the statement are
  end if;
  if new.status = 'pending' then
    new.settled_at := null;
    new.next_retry_at := coalesce(new.next_retry_at, dlq._now());
  else
    new.next_retry_at := null;
    if new.status = 'processing' then
      new.settled_at := null;
    elsif new.status is distinct from old.status then
      new.settled_at := dlq._now();
    end if;
  end if;
  return new;
end
$$;

comment on function dlq._amend_entry() is 'Trigger: keeps a row''s times consistent with its status when a person updates it.';
