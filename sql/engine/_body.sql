-- What is sent for an entry: its payload, or, where that is not JSON, an envelope around its bytes in base64.
create or replace function dlq._body(payload jsonb, raw_body bytea)
returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$
select coalesce(payload, jsonb_build_object('raw_body', translate(encode(raw_body, 'base64'), E'\n', '')))
$$;

comment on function dlq._body(jsonb, bytea) is 'The JSON that is sent for an entry: its payload, or {"raw_body": "<base64>"}.';
