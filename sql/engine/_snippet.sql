-- The beginning of an answer's body, safe to store: pg_net keeps whatever bytes came, valid UTF-8 or not, and
-- one invalid text makes every reader of the table fail. Bytes that are not UTF-8 are written as \ooo.
-- decode(replace()) gives the bytes as they are: convert_to() would refuse them.
create or replace function dlq._snippet(content text)
returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_bytes bytea := substring(decode(replace(content, '\', '\\'), 'escape') from 1 for 1000);
  v_ascii text := encode(v_bytes, 'escape');
begin
  if position('\' in v_ascii) = 0 then
    return v_ascii;
  end if;
  -- The cut may have gone through a character of up to four bytes.
  for v_dropped in 0 .. case when length(v_bytes) = 1000 then 3 else 0 end loop
    begin
      return convert_from(substring(v_bytes from 1 for length(v_bytes) - v_dropped), getdatabaseencoding());
    exception when character_not_in_repertoire or untranslatable_character then
      null;
    end;
  end loop;
  return v_ascii;
end
$$;

comment on function dlq._snippet(text) is 'The first 1,000 bytes of a text that may not be valid UTF-8.';
