-- Whether this is the database that migrate was told is production. A restored dump, a staging clone or a
-- copied data folder carries the settings along but runs elsewhere, and must not call anybody's handlers.
-- A promoted standby has the same identifier, and goes on.
-- In PL/pgSQL, which plans it once a session: every cycle asks.
create or replace function dlq._is_production()
returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select s.system_identifier = c.system_identifier and s.database_oid = d.oid
    from dlq.settings as s, pg_control_system() as c, pg_database as d
    where d.datname = current_database());
end
$$;

comment on function dlq._is_production() is 'False on a copy of the database that was declared production: nothing is sent there.';
