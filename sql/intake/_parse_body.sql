-- The JSON in a body's bytes, or null if there is none that jsonb can hold: not UTF-8, not JSON, or with \u0000 in it.
create or replace function dlq._parse_body(raw_body bytea)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return convert_from(raw_body, 'UTF8')::jsonb;
exception when data_exception or program_limit_exceeded or statement_too_complex then
  return null;
end
$$;

comment on function dlq._parse_body(bytea) is 'The JSON in a body. Null if it is not JSON, or not JSON that jsonb can hold.';
