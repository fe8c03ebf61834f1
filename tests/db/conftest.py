"""The queue as tests of SQL drive it: without a sender, so that each answer is what the test says."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

URL = "https://handler.example/hook"


@dataclass(frozen=True)
class Queue:
    """A database with dlqctl in it, driven by hand. `answer` plays the sender."""

    conn: psycopg.Connection

    def one(self, query: str, *parameters: Any) -> Any:
        """The first column of the only row."""
        rows = self.conn.execute(query.encode(), parameters or None).fetchall()
        assert len(rows) == 1, rows
        return rows[0][0]

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), parameters or None).fetchall()

    def endpoint(self, service: str = "shop", url: str = URL, **options: Any) -> None:
        given = "".join(f", {name} => %({name})s" for name in options)
        self.conn.execute(
            f"select dlq.set_endpoint(%(service)s, %(url)s{given})".encode(),
            {"service": service, "url": url, **options},
        )

    def store(self, service: str = "shop", payload: Any = None, **options: Any) -> str:
        """Store an entry, as a handler does, and return its id."""
        given = "".join(f", {name} => %({name})s" for name in options)
        row = self.conn.execute(
            f"select public.store_dlq_entry(%(service)s, %(payload)s{given})".encode(),
            {"service": service, "payload": Jsonb(payload if payload is not None else {"n": 1}), **options},
        ).fetchone()
        assert row is not None
        return str(row[0])

    def store_many(self, count: int, service: str = "shop", **columns: Any) -> None:
        """Insert so many entries, all different, that are due now."""
        self.conn.execute(
            """
            insert into public.webhook_dlq (service, payload, next_retry_at)
            select %s, jsonb_build_object('n', n), dlq._now() from generate_series(1, %s) as n
            """,
            (service, count),
        )

    def make_due(self, entry_id: str | None = None) -> None:
        self.conn.execute(
            "update public.webhook_dlq set next_retry_at = dlq._now()"
            " where status = 'pending' and id = coalesce(%s, id)",
            (entry_id,),
        )

    def entry(self, entry_id: str) -> dict[str, Any]:
        (row,) = self.rows("select * from public.webhook_dlq where id = %s", entry_id)
        return row

    def attempts(self, entry_id: str) -> list[dict[str, Any]]:
        return self.rows("select * from dlq.delivery_attempts where entry_id = %s order by attempt", entry_id)

    def dispatch(self) -> int:
        return int(self.one("select dispatched from dlq.dispatch_due()"))

    def collect(self) -> tuple[int, int, int]:
        row = self.conn.execute("select delivered, failed, unanswered from dlq.collect_responses()").fetchone()
        assert row is not None
        return int(row[0]), int(row[1]), int(row[2])

    def send(self, entry_id: str) -> int:
        """Make an entry due, dispatch, and return its request's id."""
        self.make_due(entry_id)
        assert self.dispatch() >= 1
        return int(self.one("select request_id from dlq.in_flight where entry_id = %s", entry_id))

    def answer(
        self,
        entry_id: str,
        status_code: int | None = 200,
        *,
        content: str | None = None,
        headers: dict[str, str] | None = None,
        error_msg: str | None = None,
        timed_out: bool = False,
    ) -> None:
        """Answer an entry's request in flight, as the sender does: out of the queue and into the answers at once."""
        request_id = self.one("select request_id from dlq.in_flight where entry_id = %s", entry_id)
        with self.conn.transaction():
            self.conn.execute("delete from net.http_request_queue where id = %s", (request_id,))
            self.conn.execute(
                """
                insert into net._http_response (id, status_code, content, headers, error_msg, timed_out)
                values (%s, %s, %s, %s, %s, %s)
                """,
                (request_id, status_code, content, Jsonb(headers or {}), error_msg, timed_out),
            )

    def beat(self, ago: str = "0 s", number: int = 1) -> None:
        """Be seen as a net-worker, so long ago."""
        self.conn.execute(
            """
            insert into dlq.net_workers (number, seen_at, host, pid, slots, version)
            values (%(number)s, clock_timestamp() - %(ago)s::interval, 'here', 1, 1, '0')
            on conflict (number) do update set seen_at = excluded.seen_at
            """,
            {"number": number, "ago": ago},
        )

    def meets_a_lock(self, thread: threading.Thread, other: psycopg.Connection) -> None:
        """Start a thread that works with another connection, and return when it waits for a lock, or has ended."""
        waits = "select count(*) from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
        thread.start()
        while thread.is_alive() and not self.one(waits, other.info.backend_pid):
            time.sleep(0.01)

    def attempt(self, entry_id: str, status_code: int | None = 200, **answer: Any) -> None:
        """Send an entry, answer it and collect the answer."""
        self.send(entry_id)
        self.answer(entry_id, status_code, **answer)
        self.collect()


@pytest.fixture
def queue(conn: psycopg.Connection) -> Queue:
    """A queue with one endpoint, of the service `shop`, and a sender that was seen just now."""
    queue = Queue(conn)
    queue.beat()
    queue.endpoint()
    return queue
