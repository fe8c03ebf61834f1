"""Replays as tests make and look at them."""

from __future__ import annotations

from typing import Any

import psycopg.rows

from tests.db.conftest import Queue

STATE = "status, next_retry_at, settled_at, retry_count, unanswered_count, attempt_count"


def call(function: str, filters: dict[str, Any]) -> str:
    given = ", ".join(f"{name} => %({name})s" for name in filters)
    return f"select * from dlq.{function}({given})"


def replay(queue: Queue, reason: str | None = "mended", **filters: Any) -> dict[str, Any]:
    with queue.conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        given = {"reason": reason, **filters}
        (row,) = cursor.execute(call("replay", given).encode(), given).fetchall()
        return row


def preview(queue: Queue, **filters: Any) -> dict[str, Any]:
    with queue.conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        (row,) = cursor.execute(call("preview_replay", filters).encode(), filters).fetchall()
        return row


def cancel(queue: Queue, replay_id: int, reason: str = "it fails again", at_once: int | None = None) -> int:
    return int(queue.one("select dlq.cancel_replay(%s, %s, %s)", replay_id, reason, at_once))


def progress(queue: Queue, replay_id: int) -> dict[str, int]:
    (row,) = queue.rows("select * from dlq.replay_progress where id = %s", replay_id)
    names = ["waiting", "processing", "reprocessed", "retrying", "failed", "discarded", "put_back", "removed"]
    assert sum(row[name] for name in names) == row["entries"]
    return {name: row[name] for name in names if row[name]}


def of(queue: Queue, replay_id: int) -> list[str]:
    """The entries of a replay, in the order in which they become due."""
    rows = queue.rows("select entry_id::text from dlq.replayed_entries where replay_id = %s order by due_at", replay_id)
    return [row["entry_id"] for row in rows]


def states(queue: Queue) -> dict[str, dict[str, Any]]:
    """All entries, without updated_at."""
    rows = queue.rows(f"select id::text, {STATE} from webhook_dlq")
    return {row["id"]: row for row in rows}


def insert(queue: Queue, count: int, service: str = "shop", status: str = "failed") -> list[str]:
    """So many entries, all in a state, stored an hour apart, the oldest first. The last is an hour old."""
    settled = "null" if status == "pending" else "dlq._now() - n * interval '1 minute'"
    rows = queue.rows(
        f"""
        insert into webhook_dlq
          (service, payload, status, created_at, next_retry_at, settled_at,
           retry_count, unanswered_count, attempt_count)
        select %s, to_jsonb(n), %s, dlq._now() - n * interval '1 hour', dlq._now() + interval '4 hours', {settled},
          5, 1, 6
        from generate_series(1, %s) as n
        returning id::text, created_at
        """,
        service, status, count,
    )  # fmt: skip
    return [row["id"] for row in sorted(rows, key=lambda row: row["created_at"])]


def fail(queue: Queue, service: str, status_code: int | None, error: str | None = None, **columns: Any) -> str:
    """An entry that failed as entries do, by its last answer; the one before was a 503."""
    entry_id = queue.store(service=service, payload={"service": service, "error": error}, **columns)
    queue.attempt(entry_id, 503)
    queue.conn.execute("select dlq.reset_endpoint(%s, 'test')", (service,))
    queue.conn.execute("update webhook_dlq set retry_count = 4 where id = %s", (entry_id,))
    if status_code is None:
        queue.attempt(entry_id, None, error_msg=error)
    else:
        queue.attempt(entry_id, status_code)
    assert queue.entry(entry_id)["status"] == "failed"
    return entry_id
