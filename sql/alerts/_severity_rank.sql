-- How severe a severity is: info is 1, critical is 4. No set clause, so that the planner can inline it.
create or replace function dlq._severity_rank(severity text)
returns integer
language sql immutable
as $$
select pg_catalog.array_position('{info,warning,error,critical}'::pg_catalog.text[], severity)
$$;

comment on function dlq._severity_rank(text) is 'How severe a severity is: 1 (info) to 4 (critical).';
