-- The JSON in a body's bytes, or null if there is none that jsonb can hold and write out again: not UTF-8, not JSON, with \u0000
-- in it, or with what _is_unwritable() finds.
create or replace function dlq._parse_body(raw_body bytea)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_document jsonb;
begin
  v_document := convert_from(raw_body, 'UTF8')::jsonb;
  if dlq._may_be_unwritable(v_document) and dlq._is_unwritable(v_document) then
    return null;  -- it goes out as the bytes that it is
  end if;
  return v_document;
exception when data_exception or program_limit_exceeded or statement_too_complex then
  return null;
end
$$;

comment on function dlq._parse_body(bytea) is
'The JSON in a body. Null if it is not JSON, or not JSON that jsonb can hold and write out.';
