-- Takes every right on what dlq_owner owns in these schemas, and on those of them that it owns, from PUBLIC, from our own
-- roles and from those of Supabase's API; the grants that follow give again what is meant. What somebody has granted to
-- roles of their own stays, and so do their own objects.
create or replace function dlq._revoke_everything(schemas regnamespace[])
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  c_from constant text := 'from public, dlq_admin, dlq_reader, dlq_writer, dlq_net_worker'
    || case when to_regrole('anon') is null then '' else ', anon' end
    || case when to_regrole('authenticated') is null then '' else ', authenticated' end
    || case when to_regrole('service_role') is null then '' else ', service_role' end;
  v_schema regnamespace;
  v_relation regclass;
  v_routine regprocedure;
begin
  for v_schema in
    select n.oid from pg_namespace as n where n.nspowner = 'dlq_owner'::regrole and n.oid = any (schemas)
  loop
    execute format('revoke all privileges on schema %s ', v_schema) || c_from;
  end loop;
  for v_relation in
    select c.oid
    from pg_class as c
    where c.relowner = 'dlq_owner'::regrole and c.relnamespace = any (schemas) and c.relkind in ('r', 'v', 'S')
  loop
    execute format('revoke all privileges on table %s ', v_relation) || c_from;
  end loop;
  for v_routine in
    select p.oid from pg_proc as p where p.proowner = 'dlq_owner'::regrole and p.pronamespace = any (schemas)
  loop
    execute format('revoke all privileges on routine %s ', v_routine) || c_from;
  end loop;
end
$$;

comment on function dlq._revoke_everything(regnamespace[]) is
'Takes every right on what dlq_owner owns in these schemas from PUBLIC, our own roles and those of Supabase''s API.';
