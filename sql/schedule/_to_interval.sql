-- The value of a time setting as an interval. A bare number is milliseconds.
create or replace function dlq._to_interval(setting text)
returns interval
language sql immutable set search_path = pg_catalog, pg_temp
as $$
select case when setting ~ '^\d+$' then setting::bigint * interval '1 millisecond' else setting::interval end
$$;

comment on function dlq._to_interval(text) is 'A setting such as 3000 or 3s as an interval. A bare number is milliseconds.';
