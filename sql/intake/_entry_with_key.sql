-- The entry of a service that has this idempotency key, found by the key's digest. In PL/pgSQL, which plans it once a session.
create or replace function dlq._entry_with_key(service text, idempotency_key text)
returns uuid
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select e.id
    from public.webhook_dlq as e
    where e.service = _entry_with_key.service
      and e.idempotency_key is not null
      and sha256(decode(replace(e.idempotency_key, '\', '\\'), 'escape'))
        = sha256(decode(replace(_entry_with_key.idempotency_key, '\', '\\'), 'escape')));
end
$$;

comment on function dlq._entry_with_key(text, text) is 'The entry of a service that has this idempotency key. Null if there is none.';
