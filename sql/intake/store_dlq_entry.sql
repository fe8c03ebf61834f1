-- Stores a failed webhook and returns its id. Give the body as payload, or as raw_body if it may not be JSON; give
-- headers, so that the echo of a retry is recognised for sure.
-- The same idempotency key twice for a service returns the first id and stores nothing, whoever comes first.
-- An echo of a retry returns the id of the entry that was retried.
create or replace function public.store_dlq_entry(
  service text,
  payload jsonb default null,
  error_message text default null,
  phone_number text default null,
  raw_body bytea default null,
  headers jsonb default null,
  idempotency_key text default null,
  correlation_id text default null
)
returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_id uuid;
  v_service text := store_dlq_entry.service;
  v_constraint text;
begin
  if store_dlq_entry.idempotency_key is null then
    -- Without "on conflict", by which a row is written in two steps.
    insert into public.webhook_dlq as e
      (service, payload, error_message, phone_number, raw_body, headers, correlation_id)
    values (
      store_dlq_entry.service, store_dlq_entry.payload, store_dlq_entry.error_message, store_dlq_entry.phone_number,
      store_dlq_entry.raw_body, store_dlq_entry.headers, store_dlq_entry.correlation_id)
    returning coalesce(e.duplicate_of, e.id) into v_id;
    return v_id;
  end if;

  for v_round in 1 .. 100 loop
    v_id := dlq._entry_with_key(v_service, store_dlq_entry.idempotency_key);
    if v_id is not null then
      -- A handler that stores its own failure again under the same key is an echo too; once the request has
      -- been answered, only its headers can tell that from another delivery by the provider. By the status too: a repeatable
      -- read transaction may not see the request, and _mark_echo() says so.
      if dlq._entry_named_in(store_dlq_entry.headers) = v_id
        or exists (select from dlq.in_flight as f where f.entry_id = v_id)
        or exists (select from public.webhook_dlq as e where e.id = v_id and e.status = 'processing')
      then
        perform dlq._mark_echo(v_id);
      end if;
      return v_id;
    end if;

    insert into public.webhook_dlq as e
      (service, payload, error_message, phone_number, raw_body, headers, correlation_id, idempotency_key)
    values (
      store_dlq_entry.service, store_dlq_entry.payload, store_dlq_entry.error_message, store_dlq_entry.phone_number,
      store_dlq_entry.raw_body, store_dlq_entry.headers, store_dlq_entry.correlation_id, store_dlq_entry.idempotency_key)
    on conflict (service, sha256(decode(replace(idempotency_key, '\', '\\'), 'escape')))
      where idempotency_key is not null do nothing
    returning coalesce(e.duplicate_of, e.id) into v_id;
    if found then
      return v_id;
    end if;
    -- Somebody else was first: the next round finds theirs. If it does not, a trigger of somebody's files this service under
    -- another name, which only the key tells: dlqctl adopt makes such a trigger.
    if v_round > 1 then
      v_service := coalesce(dlq._service_with_key(store_dlq_entry.service, store_dlq_entry.idempotency_key), v_service);
    end if;
  end loop;
  raise exception using
    errcode = 'WD001',
    message = 'the idempotency key is taken, and nobody has it',
    detail = 'Nothing was stored: 100 times it was there and then was not.',
    hint = 'Store it again.';
exception when check_violation or not_null_violation or statement_too_complex then
  get stacked diagnostics v_constraint = constraint_name;
  raise exception using
    errcode = 'WD001',
    message = case
      when store_dlq_entry.service is null then 'the service is missing'
      when v_constraint = 'service_is_a_slug' then format('%L cannot be a service''s name', store_dlq_entry.service)
      when v_constraint = 'there_is_a_body' then 'the webhook has no body'
      when v_constraint = 'headers_are_an_object' then 'headers is not a JSON object'
      when sqlstate = '54001' then 'payload or headers are nested too deep'
      else sqlerrm
    end,
    detail = 'Nothing was stored.',
    hint = case
      when store_dlq_entry.service is null or v_constraint = 'service_is_a_slug' then
        'service: 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or a digit, for example ''whatsapp''.'
      when sqlstate = '54001' then
        'Give the body as raw_body (bytea): it is kept as it is.'
      when v_constraint = 'there_is_a_body' then
        'Give payload (jsonb), or raw_body (bytea) if the body may not be JSON.'
      when v_constraint = 'headers_are_an_object' then
        'Give them as {"name": "value", …}.'
      else 'See \d webhook_dlq.'
    end;
end
$$;

comment on function public.store_dlq_entry(text, jsonb, text, text, bytea, jsonb, text, text) is
$$Stores a failed webhook and returns its id. Its first retry follows by itself.
The same idempotency_key again for a service: the first id, and nothing is stored. The echo of a retry: the id of the
entry that was retried. WD001: service, body or headers are not in order.$$;
