-- HMAC-SHA256 of a message, under a key's pads. No set clause, so that the planner can inline it.
create or replace function dlq._hmac_sha256(pads bytea, message bytea)
returns bytea
language sql immutable strict
as $$
select pg_catalog.sha256(
  pg_catalog.substr(pads, 65) || pg_catalog.sha256(pg_catalog.substr(pads, 1, 64) || message))
$$;

comment on function dlq._hmac_sha256(bytea, bytea) is 'HMAC-SHA256 of a message, under what dlq._hmac_pads() makes of the key.';
