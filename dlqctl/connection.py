"""Connections: which database is meant, and what to say when it cannot be reached."""

from __future__ import annotations

import os

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dlqctl.errors import CannotConnect, UsageError


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

    The session is named dlqctl unless the connection string names it otherwise, and gives up after
    ten seconds if the server does not answer. Raises CannotConnect, naming the server but never
    the password.
    """
    conninfo = resolve_dsn(dsn)
    given = conninfo_to_dict(conninfo)
    if "application_name" not in given and "PGAPPNAME" not in os.environ:
        conninfo = make_conninfo(conninfo, application_name="dlqctl")
    if "connect_timeout" not in given and "PGCONNECT_TIMEOUT" not in os.environ:
        conninfo = make_conninfo(conninfo, connect_timeout=10)
    try:
        return psycopg.connect(conninfo, autocommit=autocommit)
    except psycopg.OperationalError as error:
        raise CannotConnect(
            f"cannot connect: {' '.join(str(error).split())}",
            "check --dsn, DLQCTL_DATABASE_URL, DATABASE_URL or libpq's PG* variables; psql takes the same",
        ) from error
