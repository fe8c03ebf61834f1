-- Headers without those that admit a request and are not the webhook's: ours to the handler (auth_secret), a gateway's, the
-- handler's to this database. They are secrets, and the queue is no place for them.
-- In PL/pgSQL for the reason that _hmac_pads() gives.
create or replace function dlq._without_keys(headers jsonb)
returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  if jsonb_typeof(headers) = 'object' then
    return headers - array(
      select h.name
      from jsonb_object_keys(headers) as h (name)
      where lower(h.name) in ('authorization', 'proxy-authorization', 'apikey', 'cookie'));
  end if;
  return headers;
end
$$;

comment on function dlq._without_keys(jsonb) is 'Headers without those that admit a request: authorization, apikey, cookie.';
