"""What `dlqctl migrate` looks at before it changes anything, and what it says where it must refuse."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from dlqctl import definitions
from dlqctl.definitions import OWNER
from dlqctl.errors import DlqctlError

JOBS = ("process-dlq-entries", "dlq-maintain", "dlq-alerts")
"""The names of our jobs, as dlq._jobs() has them where there is one."""


@dataclass(frozen=True)
class Extension:
    """What a server says of an extension, as seen from the database that is connected to."""

    installed: str | None
    available: bool
    loaded_for: str | None
    """The database that its worker serves; None if its library is not loaded."""
    hidden: bool
    """Whether this role may not see which settings the server has: what is loaded then reads as not loaded."""


def look_at(connection: psycopg.Connection, name: str) -> Extension:
    """What there is of pg_cron or pg_net."""
    setting = {"pg_cron": "cron.database_name", "pg_net": "pg_net.database_name"}[name]
    row = connection.execute(
        """
        select
          (select extversion from pg_extension where extname = %(name)s),
          exists (select from pg_available_extensions where name = %(name)s),
          (select s.setting from pg_settings as s where s.name = %(setting)s),
          not pg_has_role('pg_read_all_settings', 'usage')
        """,
        {"name": name, "setting": setting},
    ).fetchone()
    assert row
    return Extension(*row)


def has_pg_net(connection: psycopg.Connection) -> bool:
    """Whether this server is one with pg_net, so that the net-worker has no business here."""
    extension = look_at(connection, "pg_net")
    return bool(extension.available or extension.loaded_for)


def has_our_net(connection: psycopg.Connection) -> bool:
    """Whether there is a schema net, and it is the net-worker's."""
    return _one(connection, "select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'net'") == OWNER


def check(
    connection: psycopg.Connection,
    *,
    cron: bool,
    net_worker: bool,
    change_sender: bool = False,
    adopting: bool = False,
) -> None:
    """Refuse, naming what is missing, wherever migrate could not finish. Reads only.

    With `adopting`, a home-made queue is what is expected.
    """
    _check_server(connection)
    _check_names(connection, adopting)
    if cron:
        check_cron(connection)
        cron = cron_database(connection) is None  # where it is elsewhere, nothing of it is needed here
    _check_sender(connection, net_worker, change_sender)
    _check_rights(connection, cron=cron, net_worker=net_worker)


def _check_server(connection: psycopg.Connection) -> None:
    version = connection.info.server_version
    if version < 150000:
        raise DlqctlError(
            f"the server is PostgreSQL {version // 10000}, and dlqctl needs 15 or later", "upgrade the server"
        )
    if _one(connection, "select pg_is_in_recovery()"):
        raise DlqctlError("this server is a standby, where nothing can be changed", "connect to the primary")
    encoding = _one(connection, "select getdatabaseencoding()")
    if encoding != "UTF8":
        raise DlqctlError(
            f"this database is encoded in {encoding}, which cannot hold every webhook",
            "create database NAME encoding 'UTF8' template template0, and use that",
        )


def _check_names(connection: psycopg.Connection, adopting: bool) -> None:
    """Nothing that is not ours may stand where our objects go."""
    if connection.execute("select from pg_roles where rolname = %s and (rolsuper or rolcanlogin)", (OWNER,)).rowcount:
        raise DlqctlError(
            f"the role {OWNER} can log in or is a superuser, and what dlqctl installs runs with its rights",
            f"alter role {OWNER} nologin nosuperuser. Nothing was changed",
        )
    schema_owner = _one(connection, "select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'dlq'")
    if schema_owner is not None and schema_owner != OWNER:
        raise DlqctlError(
            f"there is a schema dlq already, of {schema_owner}, and it is not dlqctl's",
            "rename it: alter schema dlq rename to dlq_old. Nothing was changed",
        )
    foreign = connection.execute(
        """
        select i.type || ' ' || i.identity, pg_get_userbyid(o.owner)
        from (
          select 'pg_class'::regclass as class, c.oid, c.relowner as owner
          from pg_class as c
          where c.relnamespace = 'public'::regnamespace and c.relname in ('webhook_dlq', 'dlq_processing_log')
          union all
          select 'pg_proc'::regclass, p.oid, p.proowner
          from pg_proc as p
          where p.pronamespace = 'public'::regnamespace
            and p.proname in ('process_dlq_entries', 'store_dlq_entry', 'dlq_health', 'receive_webhook',
              'administer_dlq')
        ) as o
          cross join lateral pg_identify_object(o.class, o.oid, 0) as i
        where pg_get_userbyid(o.owner) <> %s
        order by 1
        """,
        (OWNER,),
    ).fetchall()
    found = [f"{what} (of {owner})" for what, owner in foreign]
    if schema_owner is not None and found:
        raise DlqctlError(
            f"not everything that is named like dlqctl's is {OWNER}'s: {', '.join(found)}",
            f"if it is dlqctl's: alter {foreign[0][0]} owner to {OWNER}; else rename it; "
            "then run dlqctl migrate again. Nothing was changed",
        )
    if schema_owner is None and may_look_into(connection, "cron"):
        jobs = connection.execute(
            "select jobname, command from cron.job"
            " where jobname = any (%s) and database = current_database() order by jobname desc",
            (list(JOBS),),
        ).fetchall()
        found += [f"cron job {name} ({command})" for name, command in jobs]
    if found and not adopting:
        raise DlqctlError(
            f"this database has a dead-letter queue that dlqctl did not make: {', '.join(found)}",
            "dlqctl adopt --check, which shows how dlqctl adopt takes it over. Nothing was changed",
        )


def may_look_into(connection: psycopg.Connection, schema: str) -> bool:
    """Whether there is such a schema, and this role may use it."""
    query = "select from pg_namespace where nspname = %s and has_schema_privilege(oid, 'usage')"
    return connection.execute(query, (schema,)).rowcount > 0


def check_cron(connection: psycopg.Connection) -> None:
    """Refuse where the server has no pg_cron that runs. It may run in another database."""
    database = _one(connection, "select current_database()")
    extension = look_at(connection, "pg_cron")
    if not extension.installed and not extension.available:
        major = connection.info.server_version // 10000
        raise DlqctlError(
            "pg_cron is not on this server, and the processor is its job",
            f"install it (Debian: postgresql-{major}-cron) and set shared_preload_libraries = 'pg_cron'; "
            "or run dlqctl migrate --no-cron, and dlqctl process and maintain from any scheduler. Nothing was changed",
        )
    if extension.loaded_for is None and not extension.hidden:
        raise DlqctlError(
            "pg_cron is on this server but not loaded",
            "set shared_preload_libraries = 'pg_cron' "
            f"and cron.database_name = '{database}' in postgresql.conf and restart; "
            "or run dlqctl migrate --no-cron. Nothing was changed",
        )


def cron_database(connection: psycopg.Connection) -> str | None:
    """The database that pg_cron runs in, if it is another one than this."""
    found = look_at(connection, "pg_cron").loaded_for
    return None if found == _one(connection, "select current_database()") else found


def _check_sender(connection: psycopg.Connection, net_worker: bool, change_sender: bool) -> None:
    database = _one(connection, "select current_database()")
    extension = look_at(connection, "pg_net")
    net_owner = _one(connection, "select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'net'")
    if net_owner not in (None, OWNER) and not extension.installed:
        raise DlqctlError(
            "there is a schema net that is neither pg_net's nor dlqctl's",
            "rename it: alter schema net rename to net_old. Nothing was changed",
        )
    if has_pg_net(connection):
        if net_worker:
            raise DlqctlError(
                "pg_net is on this server, and two senders on one schema is a trap",
                "leave out --net-worker: pg_net does the sending. Nothing was changed",
            )
        if net_owner == OWNER and not change_sender:
            raise DlqctlError(
                "pg_net has come to this server, and schema net is still the net-worker's",
                "to let pg_net send from now on: dlqctl migrate --change-sender. Nothing was changed",
            )
        if extension.loaded_for is None and not extension.hidden:
            raise DlqctlError(
                "pg_net is on this server but not loaded",
                f"set shared_preload_libraries = 'pg_cron, pg_net' and pg_net.database_name = '{database}' "
                "in postgresql.conf and restart. Nothing was changed",
            )
        if extension.loaded_for not in (None, database):
            raise DlqctlError(
                f"pg_net sends for database {extension.loaded_for}, and this is {database}: it would queue for ever",
                f"set pg_net.database_name = '{database}' in postgresql.conf and restart. Nothing was changed",
            )
        return
    if extension.installed and not (net_worker and change_sender):
        raise DlqctlError(
            "the extension pg_net is in this database, and the server does not have it any more",
            "install it on the server again; or, to let the net-worker send from now on: "
            "dlqctl migrate --net-worker --change-sender. Nothing was changed",
        )
    if change_sender and not net_worker:
        raise DlqctlError(
            "pg_net is not on this server, so there is no other sender to change to",
            "install it, or leave out --change-sender. Nothing was changed",
        )
    if net_owner is None and not net_worker:
        raise DlqctlError(
            "pg_net is not on this server, and something must send the requests",
            "run dlqctl migrate --net-worker, and keep dlqctl net-worker running. Nothing was changed",
        )


def _check_rights(connection: psycopg.Connection, *, cron: bool, net_worker: bool) -> None:
    """Refuse if something must be done first that this role may not do, with all of it in one list."""
    missing = connection.execute(definitions.missing_roles().encode()).fetchall()
    if not all(may_run for _, may_run in missing):  # each needs those before it, so one person runs them all
        missing = [(statement, False) for statement, _ in missing]
    if look_at(connection, "pg_net").installed and has_pg_net(connection):
        missing += connection.execute(definitions.missing_pg_net_grants().encode()).fetchall()
    missing += connection.execute(
        """
        select %(create_net)s, has_database_privilege(current_database(), 'create')
        where %(net_worker)s
          and (to_regnamespace('net') is null or exists (select from pg_extension where extname = 'pg_net'))
        union all
        select format('grant usage on schema cron to %%I', current_user),
          has_schema_privilege(n.oid, 'usage with grant option')
        from pg_namespace as n
        where %(cron)s and n.nspname = 'cron' and not has_schema_privilege(n.oid, 'usage')
        """,
        {"create_net": definitions.net_schema().rstrip(";"), "net_worker": net_worker, "cron": cron},
    ).fetchall()
    statements = [statement for statement, may_run in missing if not may_run]
    user = _one(connection, "select quote_ident(current_user)")
    for name in ("pg_cron",) * cron + ("pg_net",) * has_pg_net(connection):
        if not look_at(connection, name).installed and not _may_create_extension(connection, name):
            statements.append(f"create extension {name}")
            if name == "pg_cron":
                statements.append(f"grant usage on schema cron to {user}")
    if statements:
        raise DlqctlError(
            f"{user} lacks {'a right' if len(statements) == 1 else 'rights'} that this needs",
            f"as a superuser, in this database: {'; '.join(statements)}. Then run it again as {user}. "
            "Nothing was changed",
        )


def _may_create_extension(connection: psycopg.Connection, name: str) -> bool:
    """Whether this role may create an extension. Tried and undone: platforms have rules of their own for it."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(f"create extension {name}".encode())
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.DatabaseError:  # our own schema net stands there, and goes before
        return True
    return True


def _one(connection: psycopg.Connection, query: str) -> object:
    """The first column of the first row, or None."""
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None
