-- Headers without those that admit a request and are not the webhook's: ours to the handler (auth_secret), a gateway's, the
-- handler's to this database. They are secrets, and the queue is no place for them.
create or replace function dlq._without_keys(headers jsonb)
returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$
select case
  when jsonb_typeof(headers) = 'object' then
    headers - array(
      select h.name
      from jsonb_object_keys(headers) as h (name)
      where lower(h.name) in ('authorization', 'proxy-authorization', 'apikey', 'cookie'))
  else headers
end
$$;

comment on function dlq._without_keys(jsonb) is 'Headers without those that admit a request: authorization, apikey, cookie.';
