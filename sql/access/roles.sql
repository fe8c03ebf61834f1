-- Before anything else, as the connected user: the roles, the schema, and what dlq_owner needs to own things.
-- Roles belong to the whole server, so another database may have made them already: only what is missing is made.
do $$
declare
  v_role name;
begin
  foreach v_role in array array['dlq_owner', 'dlq_admin', 'dlq_reader', 'dlq_writer', 'dlq_net_worker'] loop
    if to_regrole(v_role) is null then
      execute format('create role %I nologin', v_role);
    end if;
  end loop;
  if not pg_has_role('dlq_owner', 'member') then
    execute format('grant dlq_owner to %I', current_user);
  end if;
  -- From 16 on, the right to SET ROLE is granted apart from membership.
  if current_setting('server_version_num')::int >= 160000
    and not (select rolsuper from pg_roles where rolname = current_user)
    and not pg_has_role('dlq_owner', 'set') then
    execute format('grant dlq_owner to %I with set true', current_user);
  end if;
  if to_regnamespace('dlq') is null then
    create schema dlq authorization dlq_owner;
  end if;
  if not has_schema_privilege('dlq_owner', 'public', 'create') then
    grant usage, create on schema public to dlq_owner;
  end if;
  if not has_database_privilege('dlq_owner', current_database(), 'temporary') then
    execute format('grant temporary on database %I to dlq_owner', current_database());
  end if;
end
$$;
