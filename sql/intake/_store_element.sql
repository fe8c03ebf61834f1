-- Stores one element of store_dlq_entries() as store_dlq_entry() does, and returns its id. In PL/pgSQL, and so planned once.
create or replace function dlq._store_element(element jsonb)
returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_unknown text;
begin
  if jsonb_typeof(element) is distinct from 'object' then
    raise exception using errcode = 'WD001', message = 'it is not a JSON object';
  end if;
  select k.name into v_unknown from jsonb_object_keys(element - dlq._element_names()) as k (name) limit 1;
  if found then
    raise exception using errcode = 'WD001', message = format('%I is no parameter of store_dlq_entry', v_unknown);
  end if;
  return public.store_dlq_entry(
    service => element ->> 'service',
    payload => nullif(element -> 'payload', 'null'),
    error_message => element ->> 'error_message',
    phone_number => element ->> 'phone_number',
    raw_body => decode(element ->> 'raw_body', 'base64'),
    headers => nullif(element -> 'headers', 'null'),
    idempotency_key => element ->> 'idempotency_key',
    correlation_id => element ->> 'correlation_id');
end
$$;

comment on function dlq._store_element(jsonb) is 'Stores one element of store_dlq_entries(), and returns its id.';
