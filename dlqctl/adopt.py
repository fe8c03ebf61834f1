"""Taking over a home-made queue: one transaction that renames it and installs ours, then its rows, batch by batch.

While the old tables are locked there is one message to the server and the commit, so how long that takes does not
depend on the line. The copying takes no lock that anybody waits for. Where it stands is a row of dlq.adoption,
written with each batch: killed at any moment, it goes on from there. Rows are copied in the order of their old ids,
which VACUUM FULL leaves as they are; what has been copied and was deleted since does not come back.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import click
import psycopg
from psycopg.rows import dict_row

from dlqctl import adopt_sql, preflight
from dlqctl.adopt_columns import LOG, QUEUE, Options, Reading, Table, ident, literal, read_columns
from dlqctl.adopt_plan import Plan, describe, make_plan, read_table
from dlqctl.connection import connect
from dlqctl.definitions import OWNER
from dlqctl.errors import DlqctlError, is_interrupted
from dlqctl.migrate import in_one_transaction, transaction_sql
from dlqctl.output import say

_SMALLEST_BATCH = 100
_FIRST_BATCH = 500
_BIGGEST_BATCH = 5000
_BATCH_SECONDS = 0.5

_ROW_FAULTS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)
"""Errors that can be one row's own fault."""


@dataclass(frozen=True)
class Adoption:
    """How far it is: the row of dlq.adoption. `left` rows could not be copied."""

    step: str
    position: str | None
    entries_expected: int
    entries_copied: int
    runs_expected: int
    runs_copied: int
    grace_until: str
    copied_first: list[str]
    options: Options
    old_functions: list[str]
    left: int

    @property
    def is_done(self) -> bool:
        return self.step == "done"


@dataclass(frozen=True)
class Old:
    """The old tables under their new names, and how the queue is read."""

    reading: Reading | None
    log: Table | None


def main(dsn: str | None, options: Options, *, check: bool, yes: bool, drop: bool, cron: bool, net_worker: bool) -> int:
    """Run `dlqctl adopt`: show the plan, ask, take over, copy. Returns the exit code."""
    with _session(dsn) as connection:
        adoption = read_adoption(connection)
        if drop:
            return _drop_old(dsn, connection, adoption, yes=yes)
        if adoption is None:
            if cron and (other := preflight.cron_database(connection)) is not None:
                say(
                    f"pg_cron runs in database {other}: unschedule the old job there before this, "
                    f"and schedule ours afterwards: dlqctl migrate --cron-dsn dbname={other}"
                )
                cron = False
            plan = look(connection, options, cron=cron, net_worker=net_worker)
            click.echo(describe(plan, options))
            if plan.problems:
                raise DlqctlError(f"{len(plan.problems)} in the way; nothing was changed", plan.problems[0].hint)
            if check:
                say("nothing is in the way: dlqctl adopt")
                return 0
            _ask("Take it over?", yes)
            locked = take_over(dsn, plan, options, cron=cron, net_worker=net_worker)
            say(f"taken over: new webhooks go into dlqctl's {QUEUE}; the old tables were locked for {locked:.2f} s")
        elif options not in (Options(), adoption.options):
            raise DlqctlError(
                "it is taken over already, and how to read it was said then", "dlqctl adopt, without more"
            )
        elif check:
            say(_where(adoption) + (": dlqctl adopt" if not adoption.is_done or adoption.left else ""))
            return 1 if not adoption.is_done or adoption.left else 0
        try:
            with _progress() as on_progress:
                adoption = copy(connection, on_progress)
        except (KeyboardInterrupt, psycopg.Error) as error:
            if not is_interrupted(error):
                raise
            connection.close()  # it may still be at what was cut short, and has nothing to commit
            with _session(dsn) as another:
                if adoption := read_adoption(another):
                    say(f"stopped; {_where(adoption)}", "dlqctl adopt, which goes on")
            return 130
        return _tell(connection, adoption)


def look(connection: psycopg.Connection, options: Options, *, cron: bool, net_worker: bool) -> Plan:
    """Make the plan. Raises DlqctlError if there is nothing to adopt."""
    try:
        with _transaction(connection):
            plan = make_plan(connection, options, cron=cron, net_worker=net_worker)
    except DlqctlError as error:
        raise _meanwhile() if _is_adopted(connection) else error from None
    if _is_adopted(connection):  # what the plan says is neither what was nor what is
        raise _meanwhile()
    return plan


def take_over(
    dsn: str | None,
    plan: Plan,
    options: Options,
    *,
    cron: bool,
    net_worker: bool,
    on_wait: Callable[[str], None] = say,
) -> float:
    """Rename what is old and install what is ours, in one transaction. Returns for how many seconds that held locks.

    Raises DlqctlError, and nothing is changed, if something has changed since the plan was made, or
    somebody else's lock does not go away.
    """

    def work(raw: psycopg.Connection) -> float:
        if _is_adopted(raw):
            raise _meanwhile()
        again = make_plan(raw, options, cron=cron, net_worker=net_worker, count=False)
        if again.catalog != plan.catalog or again.problems:
            raise DlqctlError("the old queue has changed since the plan was made; nothing was changed", "dlqctl adopt")
        use_net_worker = not preflight.has_pg_net(raw)
        # What may take its time, or has to be waited for, comes before anybody waits for us.
        if not use_net_worker:
            raw.execute("create extension if not exists pg_net")
        if cron:
            raw.execute("create extension if not exists pg_cron")
        for job in plan.jobs:
            _unschedule(raw, job.id, job.user)
        script = adopt_sql.take_over(plan, options, transaction_sql(cron=cron, net_worker=use_net_worker))
        message = (adopt_sql.lock(plan) + script).encode()
        started = time.monotonic()
        raw.execute(message)
        raw.commit()
        return time.monotonic() - started

    return in_one_transaction(dsn, work, on_wait)


def copy(connection: psycopg.Connection, on_progress: Callable[[Adoption], None] = lambda _: None) -> Adoption:
    """Copy what is still to be copied, batch by batch, rows that could not be copied before first."""
    adoption = read_adoption(connection)
    assert adoption
    with _transaction(connection):
        old = _old_tables(connection, adoption.options)
    if adoption.left and old.reading:
        _retry_left(connection, old.reading)
    limit = _FIRST_BATCH
    while True:
        started = time.monotonic()
        with _transaction(connection, OWNER):
            adoption = _read(connection, "for update of a")
            if not adoption.is_done:
                _copy_some(connection, old, adoption, limit)
                adoption = _read(connection)
        on_progress(adoption)
        if adoption.is_done:
            return adoption
        took = time.monotonic() - started
        limit = int(limit * min(2, max(0.5, _BATCH_SECONDS / took)))
        limit = max(_SMALLEST_BATCH, min(_BIGGEST_BATCH, limit))


def read_adoption(connection: psycopg.Connection) -> Adoption | None:
    """How far the adoption in this database is; None if there is none."""
    if not _is_adopted(connection):
        return None
    with _transaction(connection, OWNER):
        return _read(connection)


def _is_adopted(connection: psycopg.Connection) -> bool:
    return connection.execute("select where to_regclass('dlq.adoption') is not null").rowcount > 0


def _meanwhile() -> DlqctlError:
    return DlqctlError("somebody else has taken it over meanwhile", "dlqctl adopt")


def _read(connection: psycopg.Connection, lock: str = "") -> Adoption:
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            f"""
            select a.step, a.position, a.entries_expected, a.entries_copied, a.runs_expected, a.runs_copied,
              a.grace_until::text as grace_until, a.copied_first, a.options, a.old_functions,
              (select count(*) from dlq.adoption_left) as "left"
            from dlq.adoption as a {lock}
            """.encode()
        ).fetchone()
    assert row
    told = row["options"]
    return Adoption(**{**row, "options": Options(**{**told, "leave_aside": tuple(told["leave_aside"])})})


def _copy_some(connection: psycopg.Connection, old: Old, adoption: Adoption, limit: int) -> None:
    """One batch of the step that it is at, or the step after it."""
    if adoption.step == "log":
        copied = _copy_log(connection, old.log) if old.log else 0
        connection.execute("update dlq.adoption set step = 'done', position = null, runs_copied = %s", (copied,))
        connection.execute(f"analyze public.{QUEUE}".encode())
        return
    assert old.reading
    # From the index on the ids. The planner, who does not know what is left, might sort all of it, for each batch.
    connection.execute("set local enable_sort = off; set local max_parallel_workers_per_gather = 0")
    query = adopt_sql.next_keys(old.reading, adoption.options, adoption.step, adoption.position, limit)
    keys = [key for (key,) in connection.execute(query.encode())]
    if not keys:
        after = {"waiting": "settled", "settled": "log"}[adoption.step]
        connection.execute("update dlq.adoption set step = %s, position = null", (after,))
        return
    there = set(adoption.copied_first)
    new = [key for key in keys if key not in there]
    left = _copy_keys(connection, old.reading, adoption, new)
    connection.execute(
        "update dlq.adoption set position = %s, entries_copied = entries_copied + %s", (keys[-1], len(new) - left)
    )


def _copy_keys(connection: psycopg.Connection, reading: Reading, adoption: Adoption, keys: list[str]) -> int:
    """Copy the rows of these old ids, one by one if together they cannot be. Returns how many could not be copied."""
    try:
        with connection.transaction():
            _insert(connection, reading, adoption, keys)
            return 0
    except _ROW_FAULTS:
        pass
    left = 0
    for key in keys:
        try:
            with connection.transaction():
                _insert(connection, reading, adoption, [key])
        except _ROW_FAULTS as error:
            connection.execute(
                """
                insert into dlq.adoption_left (old_id, error) values (%s, %s)
                on conflict (old_id) do update set error = excluded.error
                """,
                (key, f"{error.sqlstate} {error.diag.message_primary}"),
            )
            left += 1
    return left


def _insert(connection: psycopg.Connection, reading: Reading, adoption: Adoption, keys: list[str]) -> None:
    """Copy rows. Of two with one idempotency key, the second loses the key."""
    result = """
        select b.old_key
        from batch as b
          left join copied as c on c.id = b.id
        where c.id is null"""

    def insert(keys: list[str], *, with_keys: bool) -> list[str]:
        which = adopt_sql.those(reading, keys)
        grace_until = f"{literal(adoption.grace_until)}::timestamptz"
        query = adopt_sql.copy_rows(reading, adoption.options, grace_until, which, result, keys=with_keys)
        return [key for (key,) in connection.execute(query.encode()).fetchall()]

    there_already = insert(keys, with_keys=True)
    if there_already and "idempotency_key" in reading.sources:
        insert(there_already, with_keys=False)


def _retry_left(connection: psycopg.Connection, reading: Reading) -> None:
    """Rows that were left: forget those that have been deleted, copy those that have been mended."""
    key = reading.table.key
    assert key
    position = ""
    while True:
        with _transaction(connection, OWNER):
            adoption = _read(connection, "for update of a")
            rows = connection.execute(
                f"""
                delete from dlq.adoption_left as l
                where l.old_id in (
                  select n.old_id from dlq.adoption_left as n
                  where n.old_id collate "C" > %s
                  order by n.old_id collate "C" limit {_BIGGEST_BATCH})
                returning l.old_id,
                  (select l.old_id from public.{QUEUE}_old as o where o.{key.quoted} = l.old_id::{key.type})
                """.encode(),
                (position,),
            ).fetchall()
            if not rows:
                return
            keys = [there for _, there in rows if there is not None]
            left = _copy_keys(connection, reading, adoption, keys) if keys else 0
            connection.execute("update dlq.adoption set entries_copied = entries_copied + %s", (len(keys) - left,))
        position = max(old_id for old_id, _ in rows)


def _copy_log(connection: psycopg.Connection, log: Table) -> int:
    """Copy all old runs in one transaction: they may have no ids to go by. Those that cannot be read stay there."""
    if not adopt_sql.read_log(log):
        return 0
    copied = 0
    with connection.cursor("ctids") as ctids:
        ctids.itersize = _BIGGEST_BATCH
        ctids.execute(f"select ctid::text from public.{LOG}_old".encode())
        while batch := [ctid for (ctid,) in ctids.fetchmany(_BIGGEST_BATCH)]:
            try:
                copied += _insert_runs(connection, log, batch)
            except _ROW_FAULTS:
                for ctid in batch:
                    with suppress(*_ROW_FAULTS):
                        copied += _insert_runs(connection, log, [ctid])
    return copied


def _insert_runs(connection: psycopg.Connection, log: Table, ctids: list[str]) -> int:
    with connection.transaction():
        return connection.execute(adopt_sql.copy_log(log, ctids).encode()).rowcount


def _unschedule(raw: psycopg.Connection, job: int, user: str) -> None:
    """Unschedule a job as its owner: pg_cron lets nobody else do it but a superuser."""
    if raw.execute("select where current_setting('is_superuser') = 'off'").rowcount:
        raw.execute(f"set local role {ident(user)}".encode())
    raw.execute("select cron.unschedule(%s::bigint)", (job,))
    raw.execute("reset role")


def _drop_old(dsn: str | None, connection: psycopg.Connection, adoption: Adoption | None, *, yes: bool) -> int:
    if adoption is None:
        raise DlqctlError("nothing has been adopted in this database", "dlqctl adopt --check")
    if not adoption.is_done:
        raise DlqctlError(f"{_where(adoption)}, not all of it", "dlqctl adopt")
    if adoption.left:
        raise DlqctlError(
            f"{adoption.left} entries are in {QUEUE}_old alone",
            "select * from dlq.adoption_left; mend or delete them there, then: dlqctl adopt",
        )
    with _transaction(connection):
        old = _old_tables(connection, adoption.options)
    tables = [f"public.{t.name}" for t in (old.reading.table if old.reading else None, old.log) if t]
    for table in tables:
        row = connection.execute(f"select count(*) from {table}".encode()).fetchone()
        assert row
        click.echo(f"table {table}, {row[0]:,} rows")
    for column in old.reading.aside if old.reading else ():
        click.echo(f"column {column} is in {QUEUE}_old alone")
    for function in adoption.old_functions:
        click.echo(f"function {function}")
    _ask("Drop all of this?", yes)

    def work(raw: psycopg.Connection) -> None:
        raw.execute("set local role dlq_owner")
        raw.execute("drop table dlq.adoption, dlq.adoption_left")
        raw.execute("reset role")
        for statement in (
            *(f"drop table {table}" for table in tables),
            *(f"drop routine if exists {function}" for function in adoption.old_functions),
        ):
            try:
                raw.execute(statement.encode())
            except psycopg.errors.DependentObjectsStillExist as error:
                raise DlqctlError(
                    f"{error.diag.message_primary}: {' '.join((error.diag.message_detail or '').split())}",
                    "drop that first, and dlqctl adopt --drop-old again. Nothing was dropped",
                ) from error

    in_one_transaction(dsn, work, say)
    say("dropped")
    return 0


def _old_tables(connection: psycopg.Connection, options: Options) -> Old:
    queue, log = read_table(connection, f"{QUEUE}_old"), read_table(connection, f"{LOG}_old")
    return Old(read_columns(queue, options) if queue else None, log)


def _where(adoption: Adoption) -> str:
    left = f", {adoption.left} could not be" if adoption.left else ""
    if not adoption.is_done:
        return f"adopted: {adoption.entries_copied:,} of {adoption.entries_expected:,} entries are copied{left}"
    runs = f"{adoption.runs_copied:,}"
    if adoption.runs_copied < adoption.runs_expected:
        runs += f" of {adoption.runs_expected:,}"
    return f"adopted: {adoption.entries_copied:,} entries and {runs} runs are copied{left}"


def _tell(connection: psycopg.Connection, adoption: Adoption) -> int:
    say(_where(adoption))
    with _transaction(connection, OWNER):
        left = connection.execute("select old_id, error from dlq.adoption_left order by old_id limit 5").fetchall()
        unknown = connection.execute(
            "select detail, remediation from dlq.health where name = 'endpoints' and level = 'error'"
        ).fetchone()
        has_dialect = connection.execute(
            "select where to_regproc(%s) is not null", (f"public.{adopt_sql.DIALECT}",)
        ).rowcount
    for key, error in left:
        say(f"left in {QUEUE}_old: {key}: {error}")
    if left:
        say("all of them: select * from dlq.adoption_left. Mend or delete them there, then: dlqctl adopt")
    if unknown:
        say(f"{unknown[0]}: {unknown[1]}")
    if has_dialect:
        say(f"old names are translated by {adopt_sql.DIALECT}(), which stays until you drop it")
    if not left:
        say("the old tables stay until: dlqctl adopt --drop-old")
    return 1 if left else 0


def _ask(question: str, yes: bool) -> None:
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise DlqctlError("there is no terminal to ask on; nothing was changed", "the same with --yes")
    if not click.confirm(question, err=True):
        raise click.Abort


@contextmanager
def _progress() -> Iterator[Callable[[Adoption], None]]:
    """Says how far it is: a bar on a terminal, elsewhere a line a second."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("copying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda a: bar.update(
                task, completed=a.entries_copied, total=max(a.entries_expected, a.entries_copied)
            )
        return
    said = time.monotonic()

    def line(adoption: Adoption) -> None:
        nonlocal said
        if time.monotonic() - said >= 1:
            said = time.monotonic()
            say(f"{adoption.entries_copied:,} of {adoption.entries_expected:,}")

    yield line


def _session(dsn: str | None) -> psycopg.Connection:
    connection = connect(dsn, autocommit=True)
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.prepare_threshold = None
    return connection


@contextmanager
def _transaction(connection: psycopg.Connection, role: str | None = None) -> Iterator[None]:
    """One transaction, in which names are written in full, and times without a zone are UTC."""
    with connection.transaction():
        connection.execute("set local search_path = pg_catalog, pg_temp; set local timezone = 'UTC'")
        if role:
            connection.execute(f"set local role {role}".encode())
        yield
