"""Replays: many entries sent again at a time. All of it is done by dlq.replay(); this calls it and looks on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from dlqctl.errors import DlqctlError

LISTED = ("id", "replayed_at", "replayed_by", "reason", "entries", "waiting", "processing", "reprocessed", "retrying",
          "failed", "discarded", "put_back", "removed", "last_due_at", "cancelled_at", "filters")  # fmt: skip

AT_ONCE = 10_000
"""So many entries a transaction: about a second, in which the processor passes them by."""


@dataclass(frozen=True)
class Preview:
    """What a replay would do: the row of dlq.preview_replay()."""

    matched: int
    entries: int
    services: dict[str, int] | None
    oldest: datetime | None
    newest: datetime | None
    ends_at: datetime | None


@dataclass(frozen=True)
class Progress:
    """How many of a replay's entries are in which state: of the row of dlq.replay_progress."""

    id: int
    entries: int
    reprocessed: int
    retrying: int
    failed: int
    discarded: int
    put_back: int
    removed: int
    processing: int
    waiting: int
    due: int
    last_due_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Each has been tried, or need not be."""
        return self.waiting == 0 and self.processing == 0


def preview(connection: psycopg.Connection, filters: dict[str, Any]) -> Preview:
    """What `replay` with these filters would do. Raises psycopg.Error (WD002) if one is not in order."""
    with connection.cursor(row_factory=class_row(Preview)) as cursor:
        (row,) = cursor.execute(_call("preview_replay", filters), filters).fetchall()
    return row


@dataclass(frozen=True)
class Taken:
    """A replay's entries so far, and how many it shall have: of the row of dlq.replays."""

    id: int
    entries: int
    wanted: int

    @property
    def is_all(self) -> bool:
        return self.entries >= self.wanted


_ALL = sql.SQL("*")
_TAKEN = sql.SQL("id, entries, least(matched, (filters ->> 'max_entries')::int4) as wanted")


def replay(connection: psycopg.Connection, reason: str, filters: dict[str, Any]) -> Iterator[Taken]:
    """Send again what these filters match, AT_ONCE at a time, and yield how far that is after each time.

    `filters` are arguments of dlq.replay() by name; those that are None are left out. Each time is one transaction:
    what is interrupted has not been done, and what was yielded stays. By a phone number, which a replay does not
    keep, it is all at once. Raises psycopg.Error (WD002) if a filter is not in order.
    """
    given = {"reason": reason, **filters, "at_once": None if filters.get("phone_number") else AT_ONCE}
    taken = _take(connection, _call("replay", given, _TAKEN), given)
    yield taken
    if not filters.get("phone_number") and not taken.is_all:
        yield from go_on(connection, taken.id, taken.entries)


def go_on(connection: psycopg.Connection, replay_id: int, entries: int = -1) -> Iterator[Taken]:
    """Go on with a replay that has so many entries, as `replay` does. Raises psycopg.Error (WD002) if it cannot be."""
    given = {"id": replay_id, "at_once": AT_ONCE}
    is_all = False
    while not is_all:
        taken = _take(connection, _call("continue_replay", given, _TAKEN), given)
        is_all = taken.is_all or taken.entries == entries
        entries = taken.entries
        yield taken


def _take(connection: psycopg.Connection, query: sql.Composed, given: dict[str, Any]) -> Taken:
    with connection.transaction(), connection.cursor(row_factory=class_row(Taken)) as cursor:
        (row,) = cursor.execute(query, given).fetchall()
    return row


def progress(connection: psycopg.Connection, replay_id: int) -> Progress:
    """How far a replay is. Raises DlqctlError if there is none of this id."""
    columns = sql.SQL(", ").join(sql.Identifier(field.name) for field in fields(Progress))
    query = sql.SQL("select {} from dlq.replay_progress where id = %s").format(columns)
    with connection.cursor(row_factory=class_row(Progress)) as cursor:
        row = cursor.execute(query, (replay_id,)).fetchone()
    if row is None:
        raise DlqctlError(f"there is no replay {replay_id}", "dlqctl replay list")
    return row


def list_replays(connection: psycopg.Connection, limit: int) -> list[tuple[Any, ...]]:
    """The latest replays, the last one first, with the columns LISTED."""
    columns = sql.SQL(", ").join(map(sql.Identifier, LISTED))
    query = sql.SQL("select {} from dlq.replay_progress order by id desc limit %s").format(columns)
    return connection.execute(query, (limit,)).fetchall()


def cancel(connection: psycopg.Connection, replay_id: int, reason: str) -> Iterator[int]:
    """Put back what of a replay has not been tried, AT_ONCE at a time, and yield how many entries that were each time.

    Each time is one transaction, and the first has it take no more. Raises psycopg.Error (WD002): there is no such one.
    """
    entries = AT_ONCE
    while entries == AT_ONCE:
        with connection.transaction():
            row = connection.execute("select dlq.cancel_replay(%s, %s, %s)", (replay_id, reason, AT_ONCE)).fetchone()
        assert row is not None
        entries = int(row[0])
        yield entries


def held_back(connection: psycopg.Connection, services: dict[str, int]) -> list[tuple[str, str]]:
    """Those of the services to which nothing, or less, is sent now, with the state of their circuit."""
    return connection.execute(
        "select service, state from dlq.circuits where service = any (%s) and state <> 'closed' order by service",
        (list(services),),
    ).fetchall()


def _call(function: str, arguments: dict[str, Any], columns: sql.Composable = _ALL) -> sql.Composed:
    given = [name for name, value in arguments.items() if value is not None]
    return sql.SQL("select {} from dlq.{}({})").format(
        columns,
        sql.Identifier(function),
        sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in given),
    )
