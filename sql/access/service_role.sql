-- On Supabase the service key speaks as service_role. It is given itself what dlq_admin has, whatever that is: membership
-- would do nothing where it is NOINHERIT, as it was made until 2023. It bypasses row level security, so needs no policy.
do $$
declare
  v_grant text;
begin
  if to_regrole('service_role') is null then
    return;
  end if;
  for v_grant in
    select format('grant %s%s on %s %s to service_role', a.privilege_type, o.columns, o.kind, o.name)
    from (
      select 'schema' as kind, n.oid::regnamespace::text as name, null as columns, n.nspacl as acl
      from pg_namespace as n where n.nspowner = 'dlq_owner'::regrole
      union all
      select case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass::text, null, c.relacl
      from pg_class as c where c.relowner = 'dlq_owner'::regrole
      union all
      select 'table', c.oid::regclass::text, format(' (%I)', t.attname), t.attacl
      from pg_attribute as t join pg_class as c on c.oid = t.attrelid
      where c.relowner = 'dlq_owner'::regrole
      union all
      select 'routine', p.oid::regprocedure::text, null, p.proacl
      from pg_proc as p where p.proowner = 'dlq_owner'::regrole
    ) as o
      cross join lateral aclexplode(o.acl) as a
    where a.grantee = 'dlq_admin'::regrole
  loop
    execute v_grant;
  end loop;
end
$$;
