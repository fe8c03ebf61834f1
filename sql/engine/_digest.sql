-- SHA-256 of the bytes that pg_net puts on the wire for this body. By it an echo is recognised.
create or replace function dlq._digest(body jsonb)
returns bytea
language sql stable set search_path = pg_catalog, pg_temp
as $$
select sha256(convert_to(body::text, 'UTF8'))
$$;

comment on function dlq._digest(jsonb) is 'SHA-256 of a body as pg_net sends it.';
