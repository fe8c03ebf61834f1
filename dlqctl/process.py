"""A cycle now, from outside: what pg_cron does every five minutes."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg.rows import dict_row

from dlqctl.connection import connect

_LAST_RUN = """
    select id, status, entries_processed, entries_failed, dispatched, unanswered, duration, error_message
    from public.dlq_processing_log where id > %s order by id limit 1
"""


def process(dsn: str | None = None) -> dict[str, Any]:
    """Run one cycle and return its row of dlq_processing_log, as a dict.

    On a terminal it shows how far the cycle is. Ctrl-c ends the cycle; nothing is left half done.
    Raises psycopg.Error as the database does.
    """
    with (
        connect(dsn, autocommit=True) as working,
        connect(dsn, autocommit=True) as other,
        other.cursor(row_factory=dict_row) as watching,
    ):
        last = watching.execute("select coalesce(max(id), 0) as id from public.dlq_processing_log").fetchone()
        assert last is not None
        failures: list[psycopg.Error] = []

        def cycle() -> None:
            try:
                working.execute("call dlq.run_cycle()")
            except psycopg.Error as error:
                failures.append(error)

        worker = threading.Thread(target=cycle, daemon=True)
        worker.start()
        with _progress() as show:
            try:
                while worker.is_alive():
                    worker.join(0.25)
                    show(watching.execute(_LAST_RUN, (last["id"],)).fetchone())
            except KeyboardInterrupt:
                working.cancel_safe()
                worker.join()
                raise
        if failures:
            raise failures[0]
        run = watching.execute(_LAST_RUN, (last["id"],)).fetchone()
        assert run is not None
        return run


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[dict[str, Any] | None], None]]:
    """Yield what shows a run's row: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda row: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("answered", total=None)

        def show(row: dict[str, Any] | None) -> None:
            if row and row["dispatched"]:
                answered = row["entries_processed"] + row["entries_failed"] + row["unanswered"]
                progress.update(task, total=max(row["dispatched"], answered), completed=answered)

        yield show
