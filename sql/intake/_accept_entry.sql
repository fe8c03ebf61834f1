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
  v_now timestamptz := dlq._now();
  v_jitter double precision;
  v_schedule interval[];
  v_original uuid;
begin
  new.created_at := coalesce(new.created_at, v_now);
  new.updated_at := v_now;
  if new.payload is null and new.raw_body is not null then
    new.payload := dlq._parse_body(new.raw_body);
  end if;

  if new.status = 'pending' then
    v_original := dlq._echo_of(new.service, new.headers, new.payload, new.raw_body);
    if v_original is not null then
      new.status := 'discarded';
      new.duplicate_of := v_original;
      new.idempotency_key := null;
    elsif new.next_retry_at is null then
      select coalesce(r.retry_schedule, s.retry_schedule), s.jitter
      into v_schedule, v_jitter
      from dlq.settings as s
        left join lateral dlq._route(new.service) as r on true;
      new.next_retry_at := v_now + v_schedule[1] * (1 + v_jitter * random());
    end if;
  end if;

  if new.status in ('reprocessed', 'failed', 'discarded') then
    new.settled_at := coalesce(new.settled_at, v_now);
    new.next_retry_at := null;
  end if;
  return new;
end
$$;

comment on function dlq._accept_entry() is
'Trigger: completes a new row of webhook_dlq, reads its body, and recognises echoes of our own retries.';
