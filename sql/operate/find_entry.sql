-- The entry that the beginning of an id means, as people type it: hexadecimal digits, dashes or not, four at least. Walks the primary
-- key. For example: select dlq.retry(dlq.find_entry('01a20d9a-eaa1'), 'the handler is mended').
-- With the caller's rights: it sees the ids that the caller may see.
create or replace function dlq.find_entry(prefix text)
returns uuid
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_digits text := lower(replace(find_entry.prefix, '-', ''));
  v_found uuid[];
begin
  if v_digits is null or v_digits !~ '^[0-9a-f]{4,32}$' then
    raise exception using
      errcode = 'WD002',
      message = format('%L is not an id, nor the beginning of one', find_entry.prefix),
      hint = 'Give four or more of its digits, 0-9 and a-f. To find it: dlqctl list, or select * from dlq.entries.';
  end if;
  v_found := array(
    select e.id from dlq.entries as e
    where e.id between rpad(v_digits, 32, '0')::uuid and rpad(v_digits, 32, 'f')::uuid
    order by e.id
    limit 11);
  case cardinality(v_found)
    when 1 then
      return v_found[1];
    when 0 then
      raise exception using
        errcode = 'WD002',
        message = format('there is no entry %s', find_entry.prefix),
        hint = 'To find it: dlqctl list, or select * from dlq.entries.';
    else
      raise exception using
        errcode = 'WD002',
        message = format('%s is the beginning of %s ids', find_entry.prefix,
          case when cardinality(v_found) > 10 then 'more than 10' else cardinality(v_found)::text end),
        hint = format('Give more of its digits: %s%s',
          array_to_string(v_found[1:10], ', '), case when cardinality(v_found) > 10 then ', …' end);
  end case;
end
$$;

comment on function dlq.find_entry(text) is
$$The id that begins so: four or more hexadecimal digits, dashes or not. WD002: none does, or several, which the hint lists.$$;
