-- What is sent for an entry: its payload, or, where that is not JSON, an envelope around its bytes in base64.
-- No set clause, so that the planner can inline it.
create or replace function dlq._body(payload jsonb, raw_body bytea)
returns jsonb
language sql stable
as $$
select coalesce(payload, pg_catalog.jsonb_build_object('raw_body', pg_catalog.translate(pg_catalog.encode(raw_body, 'base64'), E'\n', '')))
$$;

comment on function dlq._body(jsonb, bytea) is 'The JSON that is sent for an entry: its payload, or {"raw_body": "<base64>"}.';
