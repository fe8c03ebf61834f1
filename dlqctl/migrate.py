"""Installing and upgrading: the revisions, then the code, then the schedule, in one transaction."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from psycopg.types.json import Jsonb

from dlqctl import __version__, catalog, definitions, preflight, restore, sender
from dlqctl import cron as elsewhere
from dlqctl.bundle import MIGRATIONS
from dlqctl.connection import connect, refuse_transaction_pooler
from dlqctl.errors import CannotConnect, DlqctlError

_Done = TypeVar("_Done")

_WAITS = (0.2, 0.5, 1, 2, 4, 8, 8, 8)
"""Seconds between tries. A try waits for a lock two seconds at most, so that nobody waits for it longer."""

_WORTH_ANOTHER_TRY = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.UniqueViolation,  # two who create the same role at once, from two databases
    psycopg.errors.DuplicateObject,  # the same, a moment later
    psycopg.errors.InternalError_,  # "tuple concurrently updated": two who grant on the same object at once
)

# What a copy has carried along: it would be sent twice. Entries in processing are given back as unanswered.
_CARRIED_ALONG = ("dlq.in_flight", "net.http_request_queue", "net._http_response")
_IS_PRODUCTION = """
    update dlq.settings
    set system_identifier = c.system_identifier, database_oid = d.oid
    from pg_control_system() as c, pg_database as d
    where d.datname = current_database()
"""


@dataclass(frozen=True)
class Report:
    """What migrate has done, or with `check` would do. `changed` is empty if there was nothing to do.

    `locked` names the tables for which others had, or would have, to wait: "public.webhook_dlq (access exclusive)".
    """

    revision: str
    sender: str
    cron: bool
    changed: list[str] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)
    cron_database: str | None = None
    """Where pg_cron runs, if that is another database and nobody has said how to connect to it."""
    statement: str | None = None
    """What schedules the jobs when it is run over there."""


def migrate(
    dsn: str | None = None,
    *,
    cron: bool = True,
    cron_dsn: str | None = None,
    net_worker: bool = False,
    check: bool = False,
    this_is_production: bool = False,
    change_sender: bool = False,
    on_wait: Callable[[str], None] = lambda _: None,
) -> Report:
    """Install or upgrade the bundle in the database of `dsn`, or with `check` only tell what would change.

    With `cron_dsn` the jobs are scheduled from that database of the same server, once all else is there.

    All of it happens in one transaction, under the engine's lock, with a lock_timeout of two seconds;
    when something stands in the way it is rolled back and tried again for about half a minute, and
    `on_wait` is told why. With `change_sender` what the other sender has under way is waited for, and its schema
    replaced. Raises DlqctlError, before anything is changed, where it cannot be done.
    """

    def once() -> Report:
        with _connect(dsn) as raw, _alembic_connection(raw) as connection:
            here = cron and cron_dsn is None
            report = _migrate(
                connection, raw, here, net_worker, this_is_production, change_sender, on_wait, apply=not check
            )
            if check:
                connection.rollback()
            else:
                connection.commit()
            return report

    if cron_dsn is None:
        return keep_trying(once, on_wait)
    with elsewhere.elsewhere(dsn, cron_dsn) as databases:
        elsewhere.require(*databases)
        report = keep_trying(once, on_wait)
        jobs = keep_trying(lambda: elsewhere.schedule(*databases, apply=not check), on_wait)
        return replace(report, cron=True, changed=report.changed + jobs)


def in_one_transaction(
    dsn: str | None, work: Callable[[psycopg.Connection], _Done], on_wait: Callable[[str], None]
) -> _Done:
    """Run `work` in a transaction under the engine's lock, as migrate runs: all or nothing, and tried again."""

    def once() -> _Done:
        with _connect(dsn) as raw:
            raw.execute(definitions.BEGIN.encode())
            return work(raw)

    return keep_trying(once, on_wait)


def keep_trying(once: Callable[[], _Done], on_wait: Callable[[str], None]) -> _Done:
    """Do this, and do it again for about half a minute while somebody else's lock is in the way."""
    for wait in (*_WAITS, None):
        try:
            return once()
        except (psycopg.Error, sqlalchemy.exc.DBAPIError) as error:
            cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
            assert isinstance(cause, psycopg.Error)
            if wait is None or not isinstance(cause, _WORTH_ANOTHER_TRY):
                raise _explained(cause) from error
            on_wait(f"{cause.diag.message_primary or cause}; trying again in {wait} s")
            time.sleep(wait)
    raise AssertionError


def transaction_sql(*, cron: bool, net_worker: bool) -> str:
    """What print_sql prints, without its BEGIN and COMMIT: for somebody who has begun."""
    _, _, begun = print_sql(cron=cron, net_worker=net_worker).partition("BEGIN;\n")
    return begun.rpartition("COMMIT;")[0]


def print_sql(*, cron: bool = True, net_worker: bool = False) -> str:
    """Everything that migrate does on a new database, as SQL. Connects to nothing."""
    afterwards = [definitions.AS_CALLER]
    if net_worker:
        afterwards += [definitions.net_schema(), definitions.AS_OWNER]
        afterwards += [*definitions.net_everything(), definitions.AS_CALLER]
    else:
        afterwards += ["create extension if not exists pg_net;", definitions.pg_net_grants()]
    if cron:
        afterwards += ["create extension if not exists pg_cron;", "select dlq.schedule_jobs();"]
    output = io.StringIO()
    config = _config(afterwards=afterwards)
    config.output_buffer = output
    command.upgrade(config, "head", sql=True)
    return output.getvalue()


def _migrate(
    connection: sqlalchemy.Connection,
    raw: psycopg.Connection,
    cron: bool,
    net_worker: bool,
    this_is_production: bool,
    change_sender: bool,
    on_wait: Callable[[str], None],
    *,
    apply: bool,
) -> Report:
    raw.execute(definitions.BEGIN.encode())
    restored = restore.has_lost_its_owner(raw)
    if restored:
        _provide_roles(raw)
        restore.give_to_owner(raw)
    preflight.check(raw, cron=cron, net_worker=net_worker, change_sender=change_sender)
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head
    is_current = _revision(raw) == head
    uses_pg_net = preflight.has_pg_net(raw)
    report = Report(head, "pg_net" if uses_pg_net else "net-worker", cron)
    changed = report.changed

    if restored:
        changed.append("owner of everything: this was restored without")
    if not is_current:
        changed.append(f"revision {head}")
        if not apply:
            changed.append("all functions, views, triggers, policies, grants and cron jobs that differ")
            report.locked.extend(_locked_by_revisions(raw))
            return report
    outgoing = sender.outgoing(raw) if change_sender else None
    if outgoing and apply:
        sender.wait_until_sent(raw, on_wait)  # before anything is locked
    changed += _provide_roles(raw)
    if not is_current:
        _upgrade(connection, raw)
    changed += _as_owner(raw, catalog.lay_down, apply=apply)
    if outgoing and not apply:
        changed.append(f"the sender: {report.sender} in the place of {outgoing}")
    else:
        changed += sender.retire(raw, outgoing) if outgoing else []
        changed += _provide_pg_net(raw, apply=apply) if uses_pg_net else _provide_net_schema(raw, apply=apply)
        changed += sender.give_back(raw) if outgoing else []
    if this_is_production:
        changed += _declare_production(raw)
    other = preflight.cron_database(raw) if cron else None
    if other is not None:
        report = replace(report, cron_database=other, statement=elsewhere.statement(raw) if apply else None)
    elif cron:
        changed += _schedule(raw, apply=apply)
    on_tables = _as_owner(raw, catalog.lay_down_on_tables, apply=apply)
    changed += [step.what for step in on_tables]
    changed += _as_owner(raw, catalog.drop_what_is_not_defined, apply=apply)
    report.locked.extend(dict.fromkeys(f"{step.table} ({step.lock})" for step in on_tables))
    if apply and changed:
        _record(raw, changed)
    return report


def _as_owner(raw: psycopg.Connection, lay_down: Callable[..., list[_Done]], *, apply: bool) -> list[_Done]:
    raw.execute(definitions.AS_OWNER.encode())
    changed = lay_down(raw, apply=apply)
    raw.execute(definitions.AS_CALLER.encode())
    return changed


def _record(raw: psycopg.Connection, changed: list[str]) -> None:
    """Write into dlq.audit_log what was installed or mended, and by whom."""
    raw.execute(definitions.AS_OWNER.encode())
    raw.execute(
        "select dlq._audit('migrate', 'dlq', new => %s, plain => '{version,changed}')",
        (Jsonb({"version": __version__, "changed": changed}),),
    )
    raw.execute(definitions.AS_CALLER.encode())


def _provide_roles(raw: psycopg.Connection) -> list[str]:
    missing = raw.execute(definitions.missing_roles().encode()).fetchall()
    for statement, _ in missing:
        raw.execute(statement.encode())
    return ["roles"] if missing else []


def _upgrade(connection: sqlalchemy.Connection, raw: psycopg.Connection, revision: str = "head") -> None:
    """Run the revisions, through migrations/env.py."""
    raw.execute(definitions.AS_OWNER.encode())
    command.upgrade(_config(connection=connection), revision)
    raw.execute(definitions.AS_CALLER.encode())


def _locked_by_revisions(raw: psycopg.Connection) -> list[str]:
    """The tables that are there already and that a revision yet to come alters, by the text of its SQL."""
    scripts = ScriptDirectory.from_config(_config()).iterate_revisions("head", _revision(raw) or "base")
    texts = [Path(script.path).with_suffix(".sql").read_text() for script in scripts]
    names = {name for text in texts for name in re.findall(r"^(?:alter table|create .*\bon) ([\w.]+)", text, re.M)}
    rows = raw.execute(
        "select n from unnest(%s::text[]) as n where to_regclass(n) is not null order by 1", (list(names),)
    )
    return [f"{name} (access exclusive)" for (name,) in rows]


def _provide_pg_net(raw: psycopg.Connection, *, apply: bool) -> list[str]:
    missing = not preflight.look_at(raw, "pg_net").installed
    if apply:
        raw.execute("create extension if not exists pg_net")
        raw.execute(definitions.pg_net_grants().encode())
    return ["extension pg_net"] if missing else []


def _provide_net_schema(raw: psycopg.Connection, *, apply: bool) -> list[str]:
    if raw.execute("select where to_regnamespace('net') is null").rowcount:
        if not apply:
            return ["schema net"]
        raw.execute(definitions.net_schema().encode())
    return _as_owner(raw, catalog.lay_down_net, apply=apply)


def _declare_production(raw: psycopg.Connection) -> list[str]:
    raw.execute(definitions.AS_OWNER.encode())
    changed = []
    if raw.execute("select where dlq._is_production() is not true").rowcount:
        raw.execute(_IS_PRODUCTION)
        changed.append("this database is production now")
        for table in _CARRIED_ALONG if preflight.has_our_net(raw) else _CARRIED_ALONG[:1]:
            rows = raw.execute(f"delete from {table}".encode()).rowcount
            if rows:
                changed.append(f"{table}: {rows} carried along, deleted")
    raw.execute(definitions.AS_CALLER.encode())
    return changed


def _schedule(raw: psycopg.Connection, *, apply: bool) -> list[str]:
    if not preflight.look_at(raw, "pg_cron").installed:
        if not apply:
            return ["extension pg_cron", "its jobs"]
        raw.execute("create extension if not exists pg_cron")
    try:
        with raw.transaction(force_rollback=not apply):
            return [f"cron job {name}" for (name,) in raw.execute("select dlq.schedule_jobs()").fetchall()]
    except psycopg.errors.UndefinedFunction:
        if apply:
            raise
        return ["cron jobs that differ"]  # what would schedule them is among what is missing


def _connect(dsn: str | None) -> psycopg.Connection:
    refuse_transaction_pooler(dsn)
    raw = connect(dsn)
    # Each statement must see what others committed before the lock was ours, whatever the default is here.
    raw.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return raw


@contextmanager
def _alembic_connection(raw: psycopg.Connection) -> Iterator[sqlalchemy.Connection]:
    """The same session as alembic wants it. Closing it rolls back what was not committed through it."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: raw,
        poolclass=sqlalchemy.StaticPool,
        pool_reset_on_return=None,
        use_native_hstore=False,
    )
    with engine.connect() as connection:
        connection.begin()  # else alembic would begin, and commit, a transaction of its own
        yield connection


def _config(**attributes: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    return config


def revisions() -> list[Script]:
    """The revisions of the tables, in the order in which they are made. Beside each `path` is its SQL."""
    return list(ScriptDirectory.from_config(_config()).walk_revisions())[::-1]


def _revision(raw: psycopg.Connection) -> str | None:
    """The revision of the tables. Raises DlqctlError if this dlqctl does not know it."""
    if raw.execute("select where to_regclass('dlq.alembic_version') is null").rowcount:
        return None
    raw.execute(definitions.AS_OWNER.encode())
    row = raw.execute("select version_num from dlq.alembic_version").fetchone()
    raw.execute(definitions.AS_CALLER.encode())
    known = {script.revision for script in revisions()}
    if row and row[0] not in known:
        raise DlqctlError(
            f"the database is at revision {row[0]}, which this dlqctl ({__version__}) does not know",
            "upgrade dlqctl: pip install --upgrade dlqctl. Nothing was changed",
        )
    return str(row[0]) if row else None


def _explained(error: psycopg.Error) -> DlqctlError:
    if isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith(("08", "57P")):
        return CannotConnect(
            f"the connection was lost: {error.diag.message_primary or ' '.join(str(error).split())}",
            "run it again: it does all or nothing",
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return DlqctlError(
            f"a right is missing: {error.diag.message_primary}",
            "connect as a superuser, or as a role that owns the database and has CREATEROLE or, where dlqctl is "
            "installed already, dlq_owner. Nothing was changed",
        )
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return DlqctlError(
            "somebody holds a lock on the queue, and dlqctl does not make others wait behind it",
            "look for long transactions: select pid, xact_start, query from pg_stat_activity "
            "where xact_start < now() - interval '1 minute'. Nothing was changed",
        )
    said = str(error.diag.message_primary or error)
    if said.startswith("can only create extension in database"):  # pg_cron's; which, may be hidden from this role
        return DlqctlError(
            f"pg_cron is in another database: {said}",
            "name it: dlqctl migrate --cron-dsn dbname=THAT; or --no-cron. Nothing was changed",
        )
    return DlqctlError(said, error.diag.message_hint or "Nothing was changed")
