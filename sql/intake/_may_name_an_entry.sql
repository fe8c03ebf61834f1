-- Whether it takes _entry_named_in() to tell: whether the names of the headers that it looks for are in their text. No set clause,
-- so that it can be inlined.
create or replace function dlq._may_name_an_entry(headers jsonb)
returns boolean
language sql immutable
as $$
select headers::pg_catalog.text operator(pg_catalog.~*) 'dlq-entry|webhook-id'
$$;

comment on function dlq._may_name_an_entry(jsonb) is 'Whether headers may name an entry, so that _entry_named_in() must be asked.';
