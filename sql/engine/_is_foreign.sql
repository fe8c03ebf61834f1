-- Whether a schema is neither dlq_owner's nor a superuser's, nor made by pg_net or Vault. net and vault are found by their names,
-- and whoever may create schemas could put up one of that name where there is none: what is in it would run with our rights.
-- In PL/pgSQL, which plans it once a session: each step asks, and an idle one does hardly anything else.
create or replace function dlq._is_foreign(schema text)
returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select
    from pg_namespace as n
      join pg_roles as r on r.oid = n.nspowner
    where n.nspname = _is_foreign.schema and not r.rolsuper and r.rolname <> 'dlq_owner'
      and not exists (
        select
        from pg_depend as d
          join pg_extension as x on d.refclassid = 'pg_extension'::regclass and x.oid = d.refobjid
        where d.classid = 'pg_namespace'::regclass and d.objid = n.oid and d.deptype = 'e'
          and x.extname in ('pg_net', 'supabase_vault')));
end
$$;

comment on function dlq._is_foreign(text) is
'Whether a schema belongs to neither dlq_owner, a superuser, pg_net nor Vault. False if there is none.';
