-- The service that has an idempotency key, where the one it was given for has it not. Reads the whole index of keys.
create or replace function dlq._service_with_key(service text, idempotency_key text)
returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
select e.service
from public.webhook_dlq as e
where e.idempotency_key is not null
  and sha256(decode(replace(e.idempotency_key, '\', '\\'), 'escape'))
    = sha256(decode(replace(_service_with_key.idempotency_key, '\', '\\'), 'escape'))
order by e.service = _service_with_key.service desc, e.created_at desc
limit 1
$$;

comment on function dlq._service_with_key(text, text) is
'The service that has an entry with this idempotency key: this one, or the one of the newest such entry. Null if there is none.';
