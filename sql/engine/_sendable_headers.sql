-- Of these headers those that can be sent, names in lower case so that of two with one name the later wins: without what
-- belongs to one connection (RFC 9110, section 7.6.1), what the sender sets itself, and what is ours to say.
-- In PL/pgSQL, which plans it once a session.
create or replace function dlq._sendable_headers(headers jsonb)
returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(jsonb_object_agg(lower(h.key), h.value), '{}')
    from jsonb_each_text(case when jsonb_typeof(headers) = 'object' then headers end) as h
    where h.key ~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]+$'
      and h.value !~ '[\x01-\x1f\x7f]'
      and lower(h.key) <> all (
        '{host,connection,keep-alive,proxy-connection,te,trailer,transfer-encoding,upgrade,content-length,expect,accept-encoding,user-agent,idempotency-key,dlq-entry,dlq-attempt,x-correlation-id}'));
end
$$;

comment on function dlq._sendable_headers(jsonb) is 'Of these headers those that can be sent, names in lower case.';
