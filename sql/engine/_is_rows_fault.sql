-- Whether an error can be one row's own fault, so that parking the row mends it. Missing objects and rights (42), lack
-- of resources (53, 58), lost races (23, 25, 40, 55), intervention (57) and a secret that is missing (WD) are nobody's
-- row: they end the step, and every entry stays where it is. XX is a row's: pg_net raises XX000 for a bad URL.
create or replace function dlq._is_rows_fault(sqlstate text)
returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$
select left(sqlstate, 2) <> all ('{23,25,40,42,53,55,57,58,WD}')
$$;

comment on function dlq._is_rows_fault(text) is 'Whether an error can be one row''s own fault, going by its SQLSTATE.';
