-- Before a row of webhook_dlq is inserted, by whatever road: fills in what the caller left out, reads the body if only
-- its bytes are given, and recognises echoes.
--
-- An echo: a handler that fails on a retry does what it always did, and stores the failure again. Such a row has a
-- header webhook-id that names an entry, or the service and body of a request in flight. It is kept, as discarded,
-- and the attempt counts as failed, whatever the handler answers. If the answer was quicker, and the entry has
-- been taken for delivered, it goes back to pending with its next retry.
--
-- Locks, for an echo only: the request in flight, until the caller's transaction ends. The engine leaves it for later.
create or replace function dlq._accept_entry()
returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_plain boolean;
begin
  -- PL/pgSQL prepares each expression anew in each transaction: what most rows are is told by one.
  if new.next_retry_at is not null or new.raw_body is not null
    or dlq._may_be_unwritable(new.payload) or dlq._may_be_unwritable(new.headers)
  then
    -- store_dlq_entries() has looked up for all its rows what is looked up here for one, and says so. Whoever else says so has the
    -- right to set next_retry_at, and harms his own row.
    if new.next_retry_at is not null and current_setting('dlq.looked_up', true) = 'yes' then
      return new;
    end if;
    if new.raw_body is not null then
      if new.payload is null then
        new.payload := dlq._parse_body(new.raw_body);
      elsif dlq._is_unwritable(new.payload) then
        new.payload := null;  -- it goes out as the bytes that it is
      end if;
    end if;
    if (dlq._may_be_unwritable(new.payload) and dlq._is_unwritable(new.payload))
      or (dlq._may_be_unwritable(new.headers) and dlq._is_unwritable(new.headers))
    then
      raise exception using
        errcode = 'WD001',
        message = 'payload or headers hold a number beyond double precision, or are nested too deep',
        detail = 'Nothing was stored.',
        hint = 'Give the body as raw_body (bytea): it is kept as it is.';
    end if;
  end if;

  -- One query for all that must be looked up, since every webhook pays for it, and for each table in it.
  select
    coalesce(new.created_at, dlq._now()), coalesce(new.updated_at, dlq._now()),
    coalesce(new.next_retry_at, case when new.status = 'pending' then dlq._now() + (1 + s.jitter * random())
      * case when s.endpoints_have_schedules then dlq._first_wait(new.service) else s.retry_schedule[1] end end),
    new.status = 'pending'
      and dlq._may_name_an_entry(new.headers) is not true
      and not exists (select from dlq.in_flight as f where f.service = new.service)
  into new.created_at, new.updated_at, new.next_retry_at, v_is_plain
  from dlq.settings as s;
  if v_is_plain then
    return new;
  end if;

  -- Whoever is dlq_owner by set role brings in what failed long ago: dlqctl adopt.
  if new.status = 'pending' and current_setting('role') <> 'dlq_owner' then
    new.duplicate_of := dlq._echo_of(new.service, new.headers, new.payload, new.raw_body);
    if new.duplicate_of is not null then
      new.status := 'discarded';
      new.idempotency_key := null;
      new.headers := dlq._without_keys(new.headers);  -- those of our own request
    end if;
  end if;
  if new.status in ('reprocessed', 'failed', 'discarded') then
    new.settled_at := coalesce(new.settled_at, dlq._now());
    new.next_retry_at := null;
  end if;
  return new;
end
$$;

comment on function dlq._accept_entry() is
'Trigger: completes a new row of webhook_dlq, reads its body, and recognises echoes of our own retries.';
