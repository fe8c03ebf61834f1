"""pg_cron in another database of the same server, as it is by default on RDS and Cloud SQL.

What belongs there and what of it is wrong, our own database says (`sql/schedule/`); from here comes only
what cron.job holds over there, read by the text of the very function that reads it where pg_cron is at home.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import Jsonb

from dlqctl import preflight
from dlqctl.connection import connect, resolve_dsn
from dlqctl.definitions import BEGIN
from dlqctl.errors import DlqctlError

_IN_DATABASE = "cron.schedule_in_database(text, text, text, text, text, boolean)"


@contextmanager
def elsewhere(dsn: str | None, cron_dsn: str | None) -> Iterator[tuple[psycopg.Connection, psycopg.Connection]]:
    """Connect to our database and, in autocommit both, to the one that pg_cron is in: the same, without `cron_dsn`.

    What `cron_dsn` leaves out is as in `dsn`, so that `dbname=postgres` can be all of it. Raises
    DlqctlError if it is on another server.
    """
    given = make_conninfo(resolve_dsn(dsn), client_encoding="utf8")
    other = conninfo_to_dict(resolve_dsn(cron_dsn)) if cron_dsn else {}
    there = make_conninfo(given, **{name: str(value) for name, value in other.items()})
    with connect(given, autocommit=True) as ours, connect(there, autocommit=True) as cron:
        ours.prepare_threshold = cron.prepare_threshold = None  # either may be behind a pooler
        ours.isolation_level = cron.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        if _server(ours) != _server(cron):
            raise DlqctlError(
                "--cron-dsn and --dsn are on two servers, and pg_cron serves its own alone",
                f"name the database of pg_cron on the server of {_name(ours)}. Nothing was changed",
            )
        yield ours, cron


def require(ours: psycopg.Connection, cron: psycopg.Connection) -> None:
    """Refuse, naming what is missing, where `schedule` could not finish. Reads only."""
    preflight.check_cron(cron)
    if (other := preflight.cron_database(cron)) is not None:
        raise DlqctlError(
            f"pg_cron runs in database {other}, and --cron-dsn names {_name(cron)}",
            f"--cron-dsn dbname={other}. Nothing was changed",
        )
    missing = _missing_rights(cron)
    if missing:
        raise DlqctlError(
            f"{cron.info.user} may not schedule jobs for other databases",
            f"as a superuser, in {_name(cron)}: {'; '.join(missing)}. Nothing was changed",
        )
    if preflight.look_at(cron, "pg_cron").installed is None:
        return
    found = cron.execute(
        "select jobname, command from cron.job where jobname = any (%s) and database = %s order by jobname desc",
        (list(preflight.JOBS), _name(ours)),
    ).fetchone()
    if found and ours.execute("select where to_regnamespace('dlq') is null").rowcount:
        raise DlqctlError(
            f"pg_cron has a job {found[0]} for {_name(ours)} that dlqctl did not make: {found[1]}",
            "unschedule the job, and run dlqctl migrate again. Nothing was changed",
        )


def _missing_rights(cron: psycopg.Connection) -> list[str]:
    """The statements without which this role can schedule nothing from here."""
    user = sql.Identifier(cron.info.user).as_string(cron)
    usage, execute = f"grant usage on schema cron to {user}", f"grant execute on function {_IN_DATABASE} to {user}"
    if preflight.look_at(cron, "pg_cron").installed is None:
        try:
            with cron.transaction(force_rollback=True):  # the only way to know: platforms have rules of their own
                cron.execute("create extension pg_cron")
        except psycopg.errors.InsufficientPrivilege:
            return ["create extension pg_cron", usage, execute]
        return []
    row = cron.execute(
        """
        select has_schema_privilege('cron', 'usage'), has_function_privilege(p.oid, 'execute')
        from pg_proc as p
        where p.proname = 'schedule_in_database' and p.pronamespace = 'cron'::regnamespace
        """
    ).fetchone()
    if row is None:
        return ["alter extension pg_cron update (this needs 1.4)"]
    return [*([usage] if not row[0] else []), *([execute] if not row[1] else [])]


def schedule(ours: psycopg.Connection, cron: psycopg.Connection, *, apply: bool = True) -> list[str]:
    """Make pg_cron's jobs for our database as they should be; return what was, or is, different.

    The jobs belong to the user of `cron`. Raises DlqctlError if that user could not run them.
    """
    if apply:
        cron.execute("create extension if not exists pg_cron")
    elif preflight.look_at(cron, "pg_cron").installed is None:
        return ["extension pg_cron", "its jobs"]
    with ours.transaction():
        ours.execute(BEGIN.encode())  # of two at once, the second finds nothing to do
        return _schedule(ours, cron, apply=apply)


def _schedule(ours: psycopg.Connection, cron: psycopg.Connection, *, apply: bool) -> list[str]:
    try:
        known = facts(ours, cron)
        wrong = ours.execute("select * from dlq._wrong_jobs(%s)", (Jsonb(known),)).fetchall()
    except psycopg.errors.UndefinedFunction:
        if apply:
            raise
        return ["cron jobs that differ"]
    if not apply or not wrong:
        return [f"cron job {name}" for name, *_ in wrong]
    user = known["user"]
    if not ours.execute(
        "select from pg_roles as r where r.rolname = %s and dlq._may_run_jobs(r.oid)", (user,)
    ).rowcount:
        raise DlqctlError(
            f"all is installed but the jobs: {user}, whose they would be, may not run them",
            f"grant dlq_admin to {user}; then run dlqctl migrate again",
        )
    try:
        with cron.transaction():
            for name, when, command, stale in wrong:
                for jobid in stale or ():
                    cron.execute("select cron.unschedule(%s::bigint)", (jobid,))
                cron.execute("select cron.schedule_in_database(%s, %s, %s, %s)", (name, when, command, _name(ours)))
    except psycopg.Error as error:
        said = error.diag.message_primary or error
        raise DlqctlError(
            f"all is installed but the jobs, which pg_cron in {_name(cron)} refuses: {said}",
            "mend that, and run dlqctl migrate again",
        ) from error
    return [f"cron job {name}" for name, *_ in wrong]


def unschedule(cron: psycopg.Connection, jobs: list[dict[str, Any]]) -> None:
    """Remove these jobs, rows of cron.job, and commit."""
    with cron.transaction():
        for job in jobs:
            cron.execute("select cron.unschedule(%s::bigint)", (job["jobid"],))


def put_back(cron: psycopg.Connection, jobs: list[dict[str, Any]]) -> None:
    """Schedule again what `unschedule` has removed."""
    with cron.transaction():
        for job in jobs:
            own = job["username"] == cron.info.user
            if own and job["active"] and job["database"] == _name(cron):  # which anybody may
                cron.execute("select cron.schedule(%(jobname)s, %(schedule)s, %(command)s)", job)
            else:
                cron.execute(
                    "select cron.schedule_in_database("
                    "%(jobname)s, %(schedule)s, %(command)s, %(database)s, %(username)s, %(active)s)",
                    job | {"username": None if own else job["username"]},
                )


def facts(ours: psycopg.Connection, cron: psycopg.Connection) -> dict[str, Any]:
    """What pg_cron's database knows of its jobs: `dlq._cron_facts()`, run over there."""
    text = ours.execute("select prosrc from pg_proc where oid = 'dlq._cron_facts()'::regprocedure").fetchone()
    assert text
    try:
        with cron.transaction():
            cron.execute("set local search_path = pg_catalog, pg_temp")
            row = cron.execute(text[0].encode()).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise DlqctlError(
            f"pg_cron is not in database {_name(cron)}",
            f"dlqctl migrate --cron-dsn dbname={preflight.cron_database(cron) or _name(cron)}",
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise DlqctlError(
            f"{cron.info.user} may not look at pg_cron's jobs in {_name(cron)}",
            f"there: grant usage on schema cron to {cron.info.user}",
        ) from error
    assert row
    found: dict[str, Any] = row[0]
    return found


def checks(dsn: str | None, cron_dsn: str) -> list[tuple[Any, ...]]:
    """The rows of `dlq.cron_checks()` by what is in pg_cron's database."""
    with elsewhere(dsn, cron_dsn) as (ours, cron):
        return ours.execute("select * from dlq.cron_checks(%s)", (Jsonb(facts(ours, cron)),)).fetchall()


def statement(ours: psycopg.Connection) -> str:
    """What schedules our jobs when it is run in pg_cron's database.

    Under the long names: which of the short ones another database's jobs have cannot be seen from here.
    """
    rows = ours.execute(
        """
        select format('select cron.schedule_in_database(%L, %L, %L, %L);',
          j.jobname || '@' || current_database(), j.schedule, j.command, current_database())
        from dlq._jobs() as j
        """
    ).fetchall()
    return " ".join(text for (text,) in rows)


def _server(connection: psycopg.Connection) -> object:
    """A standby and a copied data folder have the same identifier, but did not start at the same microsecond."""
    return connection.execute(
        "select system_identifier, pg_postmaster_start_time() from pg_control_system()"
    ).fetchone()


def _name(connection: psycopg.Connection) -> str:
    return connection.info.dbname
