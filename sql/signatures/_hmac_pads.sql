-- A key as HMAC-SHA256 uses it (RFC 2104): the 64 bytes of the inner pad, then the 64 of the outer one. Computed once for
-- a key and then used for many messages, it makes built-in sha256() as fast as pgcrypto, which is not everywhere.
-- The exclusive or is done on eight integers of eight bytes.
-- In PL/pgSQL, whose statements auto_explain logs without what is bound to them: to a function in SQL, that is the key.
create or replace function dlq._hmac_pads(key bytea)
returns bytea
language plpgsql immutable strict set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    with block as (
      select encode(k.key || decode(repeat('00', 64 - length(k.key)), 'hex'), 'hex') as hex
      from (select case when length(_hmac_pads.key) > 64 then sha256(_hmac_pads.key) else _hmac_pads.key end as key) as k
    )
    select
      string_agg(
        int8send(('x' || substr(b.hex, 16 * n.nth + 1, 16))::bit(64)::bigint # ('x' || repeat(p.byte, 8))::bit(64)::bigint),
        ''::bytea order by p.byte, n.nth)
    from block as b
      cross join (values ('36'), ('5c')) as p (byte)
      cross join generate_series(0, 7) as n (nth));
end
$$;

comment on function dlq._hmac_pads(bytea) is 'A key''s inner and outer pad for HMAC-SHA256, 128 bytes (RFC 2104).';
