-- The first ten of a list in words, and how many more there are: a line of health is read by people, and sent to pagers that
-- take no megabytes.
create or replace function dlq._a_few(words text[], separator text default ', ')
returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
select array_to_string(words[1:10], separator)
  || case when cardinality(words) > 10 then format('%sand %s more', separator, cardinality(words) - 10) else '' end
$$;

comment on function dlq._a_few(text[], text) is 'The first ten of a list in words, and how many more there are. Null for null.';
