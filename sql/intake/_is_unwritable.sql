-- Whether a document holds a number that no double holds, or is nested too deep to be looked through. 1e131071 takes ten bytes
-- here and 131,072 written out: 27 KB of such numbers kept the engine for a minute and a half, with 3 GB of memory. Other
-- readers of JSON do not take them either (RFC 8259, section 6).
-- Those that are too big or too small are found while the document is walked; a zero can hide thousands of decimals.
create or replace function dlq._is_unwritable(document jsonb)
returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select
    from jsonb_path_query(
      document,
      'strict $.** ? (@.type() == "number" && (@ >= 1e400 || @ <= -1e400 || (@ < 1e-400 && @ > -1e-400)))') as n
    where n::numeric <> 0 or scale(n::numeric) > 400);
exception when statement_too_complex then
  return true;
end
$$;

comment on function dlq._is_unwritable(jsonb) is 'Whether a document holds a number that no double holds, or is nested too deep.';
