-- Whether there is a Supabase Vault that dlq_owner may use, and not somebody's look-alike of one. Looked for in the catalog:
-- to_regclass() raises where the schema is closed to dlq_owner.
-- In PL/pgSQL, which plans it once a session.
create or replace function dlq._has_vault()
returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select not dlq._is_foreign('vault') and exists (
      select
      from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
      where n.nspname = 'vault' and c.relname = 'decrypted_secrets'
        and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')));
end
$$;

comment on function dlq._has_vault() is 'Whether there is a Supabase Vault that dlq_owner may use.';
