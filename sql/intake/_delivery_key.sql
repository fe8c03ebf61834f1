-- Under what name a signed webhook is remembered, from what its signature covers: whoever replays it may change the rest.
-- Standard Webhooks signs the provider's id of the delivery; x-hub-signature-256 signs the body alone.
create or replace function dlq._delivery_key(scheme text, raw_body bytea, headers jsonb)
returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
select case scheme
  when 'standard-webhooks' then (
    select 'webhook-id:' || h.value from jsonb_each_text(headers) as h where lower(h.key) = 'webhook-id' limit 1)
  else 'sha256:' || encode(sha256(raw_body), 'hex')
end
$$;

comment on function dlq._delivery_key(text, bytea, jsonb) is
'Under what name a signed webhook is remembered: its webhook-id where that is signed, else the digest of its body.';
