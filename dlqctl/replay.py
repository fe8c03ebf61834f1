"""Replays: many entries sent again at a time. All of it is done by dlq.replay(); this calls it and looks on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row

from dlqctl.errors import DlqctlError

LISTED = ("id", "replayed_at", "replayed_by", "reason", "entries", "waiting", "processing", "reprocessed", "retrying",
          "failed", "discarded", "put_back", "removed", "last_due_at", "cancelled_at", "filters")  # fmt: skip


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


def replay(connection: psycopg.Connection, reason: str, filters: dict[str, Any]) -> tuple[int, int]:
    """Send again what these filters match, and return the replay's id and how many entries it has.

    `filters` are arguments of dlq.replay() by name; those that are None are left out. One transaction: if it is
    interrupted, nothing has been done. Raises psycopg.Error (WD002) if a filter is not in order.
    """
    given = {"reason": reason, **filters}
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        (row,) = cursor.execute(_call("replay", given), given).fetchall()
    return row["id"], row["entries"]


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


def cancel(connection: psycopg.Connection, replay_id: int, reason: str) -> int:
    """Put back what of a replay has not been tried, and return how many entries. WD002: there is no such replay."""
    row = connection.execute("select dlq.cancel_replay(%s, %s)", (replay_id, reason)).fetchone()
    assert row is not None
    return int(row[0])


def held_back(connection: psycopg.Connection, services: dict[str, int]) -> list[tuple[str, str]]:
    """Those of the services to which nothing, or less, is sent now, with the state of their circuit."""
    return connection.execute(
        "select service, state from dlq.circuits where service = any (%s) and state <> 'closed' order by service",
        (list(services),),
    ).fetchall()


def _call(function: str, arguments: dict[str, Any]) -> sql.Composed:
    given = [name for name, value in arguments.items() if value is not None]
    return sql.SQL("select * from dlq.{}({})").format(
        sql.Identifier(function),
        sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in given),
    )
