-- Whether a schema belongs to somebody who is neither dlq_owner nor a superuser. net and vault are found by their names, and
-- whoever may create schemas could put up one of that name where there is none: what is in it would run with our rights.
create or replace function dlq._is_foreign(schema text)
returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
select exists (
  select
  from pg_namespace as n
    join pg_roles as r on r.oid = n.nspowner
  where n.nspname = _is_foreign.schema and not r.rolsuper and r.rolname <> 'dlq_owner')
$$;

comment on function dlq._is_foreign(text) is 'Whether a schema belongs to neither dlq_owner nor a superuser. False if there is none.';
