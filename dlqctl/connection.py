"""Connections: which database is meant, and what to say when it cannot be reached."""

from __future__ import annotations

import os
import re

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dlqctl.errors import CannotConnect, DlqctlError, UsageError


def resolve_dsn(dsn: str | None) -> str:
    """Return the connection string that is meant, in libpq's format.

    The first of: `dsn`, `DLQCTL_DATABASE_URL`, `DATABASE_URL`; else an empty string, which leaves
    everything to libpq (the PG* variables, service files, `.pgpass`). SQLAlchemy's spelling
    `postgresql+psycopg://` is taken too. Raises UsageError if it cannot be parsed.
    """
    chosen = dsn or os.environ.get("DLQCTL_DATABASE_URL") or os.environ.get("DATABASE_URL") or ""
    scheme, separator, rest = chosen.partition("://")
    if separator and scheme.partition("+")[0] in ("postgres", "postgresql"):
        chosen = f"postgresql://{rest}"
    try:
        return make_conninfo(chosen)
    except psycopg.ProgrammingError as error:
        # libpq quotes the whole string in its message, password and all: say only what form is meant.
        raise UsageError(
            "the connection string cannot be parsed",
            "write it as postgresql://USER@HOST:PORT/DATABASE or 'host=… dbname=… user=…'",
        ) from error


def connect(dsn: str | None = None, *, autocommit: bool = False) -> psycopg.Connection:
    """Connect to the database that `resolve_dsn` means.

    The session is named dlqctl unless the connection string names it otherwise, gives up after
    ten seconds if the server does not answer, and calls nothing that somebody has put into another
    schema than pg_catalog. Raises CannotConnect, naming the server but never the password.
    """
    conninfo = make_conninfo(resolve_dsn(dsn), client_encoding="utf8")  # whatever psql is told, no letter is missing
    given = conninfo_to_dict(conninfo)
    if "application_name" not in given and "PGAPPNAME" not in os.environ:
        conninfo = make_conninfo(conninfo, application_name="dlqctl")
    if "connect_timeout" not in given and "PGCONNECT_TIMEOUT" not in os.environ:
        conninfo = make_conninfo(conninfo, connect_timeout=10)
    try:
        # Nothing is prepared: behind a pooler the session may be another one at the next transaction.
        connection = psycopg.connect(conninfo, autocommit=autocommit, prepare_threshold=None)
    except psycopg.OperationalError as error:
        said = " ".join(str(error).split())
        raise CannotConnect(f"cannot connect: {said}", _hint(_host_and_port(conninfo)[0], said)) from error
    _narrow_search_path(connection)
    return connection


def _narrow_search_path(connection: psycopg.Connection) -> None:
    """See to it that no function or operator of a stranger's stands in for one of pg_catalog's (CVE-2018-1058).

    A pooler's session is other people's too, and is left as it is: there the process that we are told of is not the
    one that answers. What our questions call is named in full besides, where another type could be preferred.
    """
    connection.execute(
        "select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)"
        " where pg_catalog.pg_backend_pid() operator(pg_catalog.=) %s::pg_catalog.int4",
        (connection.info.backend_pid,),
    )
    if not connection.autocommit:
        connection.commit()


def refuse_transaction_pooler(dsn: str | None) -> None:
    """Raise DlqctlError if `dsn` means Supabase's pooler in transaction mode, which has a port of its own."""
    host, port = _host_and_port(resolve_dsn(dsn))
    if port == "6543" and host.endswith((".supabase.co", ".supabase.com")):
        raise DlqctlError(
            f"{host}:6543 is Supabase's transaction pooler, where no session is kept",
            "take port 5432 of the same host: the session pooler, or the direct connection. Nothing was changed",
        )


def _host_and_port(conninfo: str) -> tuple[str, str]:
    given = conninfo_to_dict(conninfo)
    return (
        str(given.get("host") or os.environ.get("PGHOST", "")),
        str(given.get("port") or os.environ.get("PGPORT", "")),
    )


def _hint(host: str, said: str) -> str:
    """What to type after a failure to connect. A server that says FATAL has been reached."""
    if (direct := re.fullmatch(r"db\.(\w+)\.supabase\.co", host)) and "FATAL" not in said:
        return (
            f"{host} has an IPv6 address only; without IPv6 take the session pooler (Connect, in the dashboard): "
            f"host aws-….pooler.supabase.com, port 5432, user postgres.{direct[1]}"
        )
    return "check --dsn, DLQCTL_DATABASE_URL, DATABASE_URL or libpq's PG* variables; psql takes the same"
