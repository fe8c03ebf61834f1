"""What `dlqctl migrate` looks at before it changes anything, and what it says where it must refuse."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from dlqctl.definitions import OWNER
from dlqctl.errors import DlqctlError

NET_COMMENT = "pg_net-compatible, served by dlqctl net-worker: not the extension"
"""How our own schema net is told from the extension's: see sql/net/schema.sql."""


@dataclass(frozen=True)
class Extension:
    """What a server says of an extension, as seen from the database that is connected to."""

    installed: str | None
    available: bool
    loaded_for: str | None
    """The database that its worker serves; None if its library is not loaded, or hides it."""


def look_at(connection: psycopg.Connection, name: str) -> Extension:
    """What there is of pg_cron or pg_net. Raises nothing: what is hidden reads as absent."""
    setting = {"pg_cron": "cron.database_name", "pg_net": "pg_net.database_name"}[name]
    row = connection.execute(
        """
        select
          (select extversion from pg_extension where extname = %(name)s),
          exists (select from pg_available_extensions where name = %(name)s),
          (select s.setting from pg_settings as s where s.name = %(setting)s)
        """,
        {"name": name, "setting": setting},
    ).fetchone()
    assert row
    return Extension(*row)


def check(connection: psycopg.Connection, *, cron: bool, net_worker: bool) -> None:
    """Refuse, naming what is missing, wherever migrate could not finish. Reads only."""
    _check_server(connection)
    _check_names(connection)
    if cron:
        _check_cron(connection)
    _check_sender(connection, net_worker)


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


def _check_names(connection: psycopg.Connection) -> None:
    """Nothing that is not ours may stand where our objects go."""
    schema_owner = _one(connection, "select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'dlq'")
    if schema_owner is not None and schema_owner != OWNER:
        raise DlqctlError(
            f"there is a schema dlq already, of {schema_owner}, and it is not dlqctl's",
            "rename it: alter schema dlq rename to dlq_old. Nothing was changed",
        )
    foreign = connection.execute(
        """
        select format('%%s %%s', case c.relkind when 'v' then 'view' else 'table' end, c.oid::regclass)
        from pg_class as c
        where c.relnamespace = 'public'::regnamespace
          and c.relname in ('webhook_dlq', 'dlq_processing_log') and pg_get_userbyid(c.relowner) <> %(owner)s
        union all
        select format('function %%s', p.oid::regprocedure)
        from pg_proc as p
        where p.pronamespace = 'public'::regnamespace
          and p.proname in ('process_dlq_entries', 'store_dlq_entry', 'dlq_health') and pg_get_userbyid(p.proowner) <> %(owner)s
        """,
        {"owner": OWNER},
    ).fetchall()
    found = [str(row[0]) for row in foreign]
    if schema_owner is None and _one(connection, "select to_regclass('cron.job') is not null"):
        jobs = connection.execute(
            "select format('cron job %%s (%%s)', jobname, command) from cron.job where jobname = 'process-dlq-entries'"
        ).fetchall()
        found += [str(row[0]) for row in jobs]
    if found:
        raise DlqctlError(
            f"this database has a dead-letter queue that dlqctl did not make: {', '.join(found)}",
            "rename what is there, unschedule the job, and run dlqctl migrate again. Nothing was changed",
        )


def _check_cron(connection: psycopg.Connection) -> None:
    database = _one(connection, "select current_database()")
    extension = look_at(connection, "pg_cron")
    if extension.installed:
        return
    if not extension.available:
        major = connection.info.server_version // 10000
        raise DlqctlError(
            "pg_cron is not on this server, and the processor is its job",
            f"install it (Debian: postgresql-{major}-cron) and set shared_preload_libraries = 'pg_cron'; "
            "or run dlqctl migrate --no-cron, and dlqctl process from any scheduler. Nothing was changed",
        )
    if extension.loaded_for is None:
        raise DlqctlError(
            "pg_cron is on this server but not loaded",
            "set shared_preload_libraries = 'pg_cron' "
            f"and cron.database_name = '{database}' in postgresql.conf and restart; "
            "or run dlqctl migrate --no-cron. Nothing was changed",
        )
    if extension.loaded_for != database:
        raise DlqctlError(
            f"pg_cron runs in database {extension.loaded_for}, and this is {database}",
            f"set cron.database_name = '{database}' in postgresql.conf and restart; or run dlqctl migrate "
            f"--no-cron here, and schedule from there: select cron.schedule_in_database("
            f"'process-dlq-entries', '*/5 * * * *', 'call dlq.run_cycle()', '{database}'). Nothing was changed",
        )


def _check_sender(connection: psycopg.Connection, net_worker: bool) -> None:
    database = _one(connection, "select current_database()")
    extension = look_at(connection, "pg_net")
    comment = _one(
        connection, "select coalesce(obj_description(oid, 'pg_namespace'), '') from pg_namespace where nspname = 'net'"
    )
    if extension.installed or extension.available or extension.loaded_for:
        if net_worker:
            raise DlqctlError(
                "pg_net is on this server, and two senders on one schema is a trap",
                "leave out --net-worker: pg_net does the sending. Nothing was changed",
            )
        if comment == NET_COMMENT:
            raise DlqctlError(
                "pg_net has come to this server, and schema net is still the net-worker's",
                "stop the net-worker, wait until net.http_request_queue is empty, drop schema net cascade, "
                "and run dlqctl migrate again. Nothing was changed",
            )
        if extension.loaded_for is None and not extension.installed:
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
    if comment is not None and comment != NET_COMMENT:
        raise DlqctlError(
            "there is a schema net that is neither pg_net's nor dlqctl's",
            "rename it: alter schema net rename to net_old. Nothing was changed",
        )
    if comment is None and not net_worker:
        raise DlqctlError(
            "pg_net is not on this server, and something must send the requests",
            "run dlqctl migrate --net-worker, and keep dlqctl net-worker running. Nothing was changed",
        )


def _one(connection: psycopg.Connection, query: str) -> object:
    """The first column of the first row, or None."""
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None
