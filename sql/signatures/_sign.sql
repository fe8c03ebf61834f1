-- The headers that sign a body, under keys as _signing_keys() returns them. x-hub-signature-256 has room for one signature:
-- the first key's; the receiver holds old and new. Standard Webhooks carries one of each key, over id.timestamp.body.
-- In PL/pgSQL for the reason that _hmac_pads() gives.
create or replace function dlq._sign(scheme text, keys bytea[], id text, at timestamptz, body bytea)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_seconds text;
begin
  if scheme = 'x-hub-signature-256' then
    return jsonb_build_object('x-hub-signature-256', 'sha256=' || encode(dlq._hmac_sha256(keys[1], body), 'hex'));
  elsif scheme = 'standard-webhooks' then
    v_seconds := floor(extract(epoch from at))::bigint::text;
    return jsonb_build_object(
      'webhook-id', id,
      'webhook-timestamp', v_seconds,
      'webhook-signature', (
        select string_agg(
          'v1,' || translate(encode(dlq._hmac_sha256(k.pads, convert_to(id || '.' || v_seconds || '.', 'UTF8') || body), 'base64'), E'\n', ''),
          ' ' order by k.nth)
        from unnest(keys) with ordinality as k (pads, nth)));
  end if;
  return '{}';
end
$$;

comment on function dlq._sign(text, bytea[], text, timestamptz, bytea) is 'The headers that sign a body by a scheme. None for a null scheme.';
