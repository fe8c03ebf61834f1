"""Alerts as tests of SQL drive them: minute by minute, with the channels' answers played by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from tests.conftest import Clock
from tests.db.conftest import Queue

KEY = "R0UT1NGKEYR0UT1NGKEYR0UT1NGKEY00"


@dataclass(frozen=True)
class Alerts:
    """The alerts of a queue. `minute` is one run of the cron job, a minute after the one before."""

    queue: Queue
    clock: Clock

    def evaluate(self) -> tuple[int | None, ...]:
        """What was raised, changed, resolved and sent."""
        (row,) = self.queue.rows("select * from dlq.evaluate_alerts()")
        return row["raised"], row["changed"], row["resolved"], row["sent"]

    def minute(self, count: int = 1) -> None:
        for _ in range(count):
            self.clock.advance("1 minute")
            self.evaluate()

    def channel(self, name: str = "pager", kind: str = "pagerduty", **options: Any) -> None:
        if kind == "pagerduty":
            self.queue.conn.execute("select dlq.set_secret('PAGERDUTY_KEY', %s)", (KEY,))
            options.setdefault("secret", "PAGERDUTY_KEY")
        given = "".join(f", {option} => %({option})s" for option in options)
        self.queue.conn.execute(
            f"select dlq.set_alert_channel(%(name)s, %(kind)s{given})".encode(),
            {"name": name, "kind": kind, **options},
        )

    def raised(self) -> set[str]:
        return {
            row["rule"] for row in self.queue.rows("select rule from dlq.alerts where edge > 0 and resolved_at is null")
        }

    def queued(self) -> list[dict[str, Any]]:
        """What waits in the sender's queue, oldest first; `body` as it was parsed."""
        rows = self.queue.rows("select id, url, headers, body from net.http_request_queue order by id")
        return [row | {"body": json.loads(bytes(row["body"]))} for row in rows]

    def answer(self, status_code: int | None = 202, **answer: Any) -> list[dict[str, Any]]:
        """Answer all that is queued alike, as the sender does, and return it."""
        requests = self.queued()
        for request in requests:
            with self.queue.conn.transaction():
                self.queue.conn.execute("delete from net.http_request_queue where id = %s", (request["id"],))
                self.queue.conn.execute(
                    """
                    insert into net._http_response (id, status_code, content, headers, error_msg, timed_out)
                    values (%s, %s, %s, %s, %s, false)
                    """,
                    (
                        request["id"], status_code, answer.get("content"),
                        Jsonb(answer.get("headers", {})), answer.get("error_msg"),
                    ),
                )  # fmt: skip
        return requests

    def deliveries(self, channel: str = "pager") -> list[tuple[str, str, str, int]]:
        """Rule, event, status and attempts, in the order in which they came to be."""
        return [
            (row["rule"], row["event"], row["status"], row["attempts"])
            for row in self.queue.rows(
                "select * from dlq.alert_deliveries where channel = %s order by alert_id, edge", channel
            )
        ]
