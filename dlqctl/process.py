"""From outside, what pg_cron does: a cycle of the engine, and the removal of what is old."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from dlqctl.connection import connect

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_CYCLE = """
    select id, status, entries_processed, entries_failed, dispatched, unanswered, duration, error_message
    from public.dlq_processing_log where id > %s order by id limit 1
"""
_MAINTENANCE = """
    select id, status, entries, attempts, runs, cron_runs, acts, left_over, duration, error_message
    from dlq.maintenance_log where id > %s order by id limit 1
"""


def process(dsn: str | None = None) -> dict[str, Any]:
    """Run one cycle and return its row of dlq_processing_log, as a dict.

    On a terminal it shows how far the cycle is. Ctrl-c ends the cycle; nothing is left half done.
    Raises psycopg.Error as the database does.
    """

    def show(progress: Progress, task: TaskID, row: dict[str, Any]) -> None:
        if row["dispatched"]:
            answered = row["entries_processed"] + row["entries_failed"] + row["unanswered"]
            progress.update(task, total=max(row["dispatched"], answered), completed=answered)

    last = "select coalesce(max(id), 0) as id from public.dlq_processing_log"
    return _call(dsn, "call dlq.run_cycle()", last, _CYCLE, "answered", show)


def maintain(dsn: str | None = None) -> dict[str, Any]:
    """Remove what is old and return the run's row of dlq.maintenance_log, as a dict.

    On a terminal it shows how many entries are gone. Ctrl-c ends it; nothing is left half done.
    Raises psycopg.Error as the database does.
    """

    def show(progress: Progress, task: TaskID, row: dict[str, Any]) -> None:
        progress.update(task, completed=row["entries"])

    last = "select coalesce(max(id), 0) as id from dlq.maintenance_log"
    return _call(dsn, "call dlq.maintain()", last, _MAINTENANCE, "entries removed", show)


def _call(
    dsn: str | None,
    statement: str,
    last_query: str,
    row_query: str,
    words: str,
    show: Callable[[Progress, TaskID, dict[str, Any]], None],
) -> dict[str, Any]:
    """Call a procedure in one connection, look at its row in another, and return the row at the end."""
    with (
        connect(dsn, autocommit=True) as working,
        connect(dsn, autocommit=True) as other,
        other.cursor(row_factory=dict_row) as watching,
    ):
        last = watching.execute(last_query.encode()).fetchone()
        assert last is not None
        failures: list[psycopg.Error] = []

        def call() -> None:
            try:
                working.execute(statement.encode())
            except psycopg.Error as error:
                failures.append(error)

        def look() -> dict[str, Any] | None:
            return watching.execute(row_query.encode(), (last["id"],)).fetchone()

        worker = threading.Thread(target=call, daemon=True)
        worker.start()
        with _progress(words, show) as update:
            try:
                while worker.is_alive():
                    worker.join(0.25)
                    update(look())
            except KeyboardInterrupt:
                working.cancel_safe()
                worker.join()
                raise
        if failures:
            raise failures[0]
        row = look()
        assert row is not None
        return row


@contextlib.contextmanager
def _progress(
    words: str, show: Callable[[Progress, TaskID, dict[str, Any]], None]
) -> Iterator[Callable[[dict[str, Any] | None], None]]:
    """Yield what shows a run's row: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda row: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(words, total=None)
        yield lambda row: show(progress, task, row) if row else None
