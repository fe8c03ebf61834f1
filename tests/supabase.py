"""An emulation of a Supabase project's database: its roles, grants, default privileges and event triggers.

Made after the published init scripts and migrations of Supabase's Postgres image as they were in October 2026, in our
own words, and only as far as dlqctl can notice. What it has no part of: Vault (but for the names that are
called), safeupdate, and supautils, which there
lets postgres create pg_cron and pg_net: here the superuser has created them before.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from dlqctl.cluster import Cluster, start_cluster

ADMIN = "supabase_admin"
"""The superuser. postgres, which people connect as, is none."""

# The server's first role cannot lose its rights, so it becomes supabase_admin, and postgres is made anew.
_ROLES = f"""
create role renamer superuser login;
set session authorization renamer;
alter role postgres rename to {ADMIN};
set session authorization {ADMIN};
drop role renamer;
create role postgres nosuperuser createdb createrole login replication bypassrls;
alter database postgres owner to postgres;
create role anon nologin inherit;
create role authenticated nologin inherit;
create role service_role nologin inherit bypassrls;
create role authenticator login noinherit;
create role dashboard_user createdb createrole replication;
grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role, pg_monitor, pg_read_all_data, pg_signal_backend to postgres;
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role postgres set search_path = "$user", public, extensions;
alter role {ADMIN} set search_path = "$user", public, auth, extensions;
do $$
begin
  if current_setting('server_version_num')::integer >= 160000 then
    grant anon, authenticated, service_role to postgres with admin option;
  end if;
end
$$;
"""

_SCHEMAS = """
create schema extensions authorization postgres;
create schema auth;
create schema vault;
grant usage on schema vault to postgres;
create function vault.create_secret(text, text) returns uuid language sql as 'select null::uuid';
create function vault.update_secret(uuid, text) returns void language sql as 'select';
create publication supabase_realtime;
grant usage on schema public, extensions to postgres, anon, authenticated, service_role;
grant all on database postgres to postgres, dashboard_user;
grant usage on schema auth to postgres, anon, authenticated, service_role;
"""

# Whatever postgres or supabase_admin makes in public is everybody's at once.
_DEFAULT_PRIVILEGES = "\n".join(
    f"alter default privileges for role {maker} in schema public "
    f"grant all on {kind} to postgres, anon, authenticated, service_role;"
    for maker in ("postgres", ADMIN)
    for kind in ("tables", "functions", "sequences")
)

# PostgREST reads the schema again whenever something in it changes.
_EVENT_TRIGGERS = """
create function extensions.watch_changes() returns event_trigger language plpgsql as $$
begin
  if exists (select from pg_event_trigger_ddl_commands() as c where c.schema_name is distinct from 'pg_temp') then
    notify pgrst, 'reload schema';
  end if;
end
$$;
create function extensions.watch_drops() returns event_trigger language plpgsql as $$
begin
  if exists (select from pg_event_trigger_dropped_objects() as d where not d.is_temporary) then
    notify pgrst, 'reload schema';
  end if;
end
$$;
create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.watch_changes();
create event trigger pgrst_drop_watch on sql_drop execute function extensions.watch_drops();
"""

# postgres may call everything in schema cron and read the jobs, but not write to their table.
_PG_CRON = f"""
create extension pg_cron with schema pg_catalog;
grant usage on schema cron to postgres with grant option;
grant all on all functions in schema cron to postgres with grant option;
alter default privileges for role {ADMIN} in schema cron grant all on tables to postgres with grant option;
alter default privileges for role {ADMIN} in schema cron grant all on functions to postgres with grant option;
alter default privileges for role {ADMIN} in schema cron grant all on sequences to postgres with grant option;
grant all on all tables in schema cron to postgres with grant option;
revoke all on cron.job from postgres;
grant select on cron.job to postgres with grant option;
revoke trigger on cron.job_run_details from postgres;
"""

_PG_NET = """
create extension pg_net with schema extensions;
create role supabase_functions_admin noinherit createrole login noreplication;
grant usage on schema net to supabase_functions_admin, postgres, anon, authenticated, service_role;
"""


@contextmanager
def supabase_like(*, pg_net: bool = False) -> Iterator[Cluster]:
    """Run such a server. `dsn()` is postgres in database postgres, where pg_cron is, if it is installed."""
    # The CLI takes no other connection strings than those with a host and a port.
    port = free_port()
    settings = {"listen_addresses": "127.0.0.1", "port": str(port)}
    with start_cluster(database="postgres", pg_net=pg_net, settings=settings) as cluster:
        cluster.port = port
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            conn.execute(_ROLES.encode())
            conn.execute(_SCHEMAS.encode())
            conn.execute(_DEFAULT_PRIVILEGES.encode())
            conn.execute(_EVENT_TRIGGERS.encode())
            if cluster.has_pg_cron:
                conn.execute(_PG_CRON.encode())
            if pg_net:
                conn.execute(_PG_NET.encode())
        yield cluster


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def forget_dlqctl(cluster: Cluster) -> None:
    """Take everything of dlqctl away again, its roles and the CLI's record too."""
    with psycopg.connect(cluster.dsn(user=ADMIN), autocommit=True) as conn:
        if cluster.has_pg_cron:
            conn.execute("delete from cron.job; delete from cron.job_run_details")
        conn.execute("drop schema if exists supabase_migrations cascade")
        roles = conn.execute("select rolname from pg_roles where rolname like 'dlq%' order by 1").fetchall()
        for (role,) in roles:
            conn.execute(f"drop owned by {role} cascade; drop role {role}".encode())
