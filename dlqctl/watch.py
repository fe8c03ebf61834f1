"""The queue's health, watched: a live view on a terminal, a line now and then elsewhere. Ends with Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from dlqctl.connection import connect
from dlqctl.errors import CannotConnect, DlqctlError
from dlqctl.output import printable, text
from dlqctl.patience import bounded

if TYPE_CHECKING:
    from rich.console import Group

_LEVELS = ("ok", "warning", "error")
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
_SERVICES = """
    select c.service, c.state, coalesce(c.cap, c.max_in_flight) as cap, c.in_flight, coalesce(b.pending, 0) as pending,
      coalesce(b.due, 0) as due
    from dlq.circuits as c left join dlq.backlog as b using (service)
    order by c.state in ('closed', 'paused', 'disabled'), due desc, pending desc, c.service
"""
_RUNS = """
    select processed_at, status, dispatched, entries_processed as delivered, entries_failed as failed, duration
    from public.dlq_processing_log order by processed_at desc limit 5
"""


@dataclass(frozen=True)
class Look:
    """What was seen at once: activity is the row of dlq.activity, findings what of dlq.health is not ok."""

    activity: dict[str, Any]
    findings: list[dict[str, Any]]
    services: list[dict[str, Any]]
    runs: list[dict[str, Any]]

    @property
    def level(self) -> str:
        return max((f["level"] for f in self.findings), key=_LEVELS.index, default="ok")


def watch(dsn: str | None, interval: float | None = None) -> None:
    """Show how the queue is, every `interval` seconds (2 on a terminal, 5 elsewhere), until Ctrl-C.

    A look that takes long is followed by a rest five times as long. A connection that is lost is said so, and made
    again; the first one must succeed. So is whose lock is in the way. Raises CannotConnect, and psycopg.Error for what
    is no matter of connections.
    """
    connection = connect(dsn, autocommit=True)
    is_live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    rest = interval or (2 if is_live else 5)
    seen: Look | None = None
    try:
        with _screen() if is_live else _lines() as show:
            while True:
                began = time.monotonic()
                trouble = None
                try:
                    if connection.closed:
                        connection = connect(dsn, autocommit=True)
                    seen = look(connection)
                except (psycopg.OperationalError, CannotConnect) as error:
                    connection.close()
                    trouble = f"lost: {' '.join(str(error).split())}"
                except DlqctlError as error:
                    trouble = error.message
                show(seen, trouble)
                time.sleep(max(rest, 5 * (time.monotonic() - began) if trouble is None else 0))
    except KeyboardInterrupt:
        return
    finally:
        connection.close()


def look(connection: psycopg.Connection) -> Look:
    """Look once, without a table that a standby has not."""
    with bounded(connection), connection.cursor(row_factory=dict_row) as cursor:
        (activity,) = cursor.execute("select * from dlq.activity").fetchall()
        findings = cursor.execute("select * from dlq.health where level <> 'ok'").fetchall()
        services = cursor.execute(_SERVICES).fetchall()
        runs = cursor.execute(_RUNS).fetchall()
    return Look(activity, findings, services, runs)


_Show = Callable[[Look | None, str | None], None]


@contextlib.contextmanager
def _lines() -> Iterator[_Show]:
    """Yield what prints a line."""
    import click

    def show(seen: Look | None, trouble: str | None) -> None:
        if trouble is not None or seen is None:
            click.echo(f"{text(datetime.now().astimezone())}  {printable(trouble or '')}")
            return
        click.echo(f"{text(seen.activity['at'])}  {'  '.join([seen.level, *_words(seen)])}")

    yield show


def _words(seen: Look) -> list[str]:
    a = seen.activity
    words = [
        f"{a['pending']} pending, {a['due']} due, {a['in_flight']} in flight",
        f"last minute: {a['stored']} stored, {a['delivered']} delivered, {a['failed']} failed",
    ]
    for level in reversed(_LEVELS):
        if names := [f["name"] for f in seen.findings if f["level"] == level]:
            words.append(f"{level}: {', '.join(names)}")
    return words


@contextlib.contextmanager
def _screen() -> Iterator[_Show]:
    """Yield what draws the live view."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda seen, trouble: live.update(_picture(seen, trouble, console.width, console.height), refresh=True)


def _picture(seen: Look | None, trouble: str | None, width: int, height: int) -> Group:
    """Draw it: what is wrong first, so that a low terminal shows that; as many services as there is room for."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    if trouble is not None:
        parts.append(Text(f"{text(datetime.now().astimezone())}  trying again: {printable(trouble)}", "red"))
    if seen is not None:
        activity, last_minute, *_ = _words(seen)
        head = Text(f"{text(seen.activity['at'])}  ")
        head.append(seen.level, "dim" if trouble else _COLOURS[seen.level])
        parts += [head, Text(activity), Text(last_minute)]
        for finding in seen.findings:
            line = Text(f"{finding['name']}: ", _COLOURS[finding["level"]])
            line.append(printable(finding["detail"]), "default")
            if finding["remediation"]:
                line.append(f" -> {printable(finding['remediation'])}", "default")
            parts.append(line)
        used = sum(-(-len(part.plain) // width) for part in parts) + 1
        runs = _table(seen.runs, ("processed_at", "status", "dispatched", "delivered", "failed", "duration"), width)
        room = max(3, height - used - len(runs) - 4)
        services = _table(seen.services[:room], ("service", "state", "cap", "in_flight", "pending", "due"), width)
        if len(seen.services) > room:
            services.append(f"and {len(seen.services) - room} more")
        for lines in (services, runs):
            if lines:
                parts += [Text(), *map(Text, lines)]
    return Group(*parts)


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...], width: int) -> list[str]:
    """The lines of a table: as many of its columns as fit."""
    cells = [list(columns), *([printable(text(row[column])) for column in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    while len(widths) > 2 and sum(widths) + 2 * (len(widths) - 1) > width:
        widths.pop()
    lines = ["  ".join(f"{row[i]:<{w}}" for i, w in enumerate(widths)).rstrip() for row in cells]
    return lines if rows else []
