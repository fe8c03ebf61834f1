"""A server of its own for what breaks servers: with a real sender, and no pg_cron, so that each pass is ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from dlqctl.cluster import Cluster, loopback_is_direct, start_cluster
from dlqctl.migrate import migrate
from dlqctl.receiver import Receiver, Reply, Request
from tests.conftest import Clock, _require_pg_net
from tests.db.conftest import queue as queue

SENDERS = ["net-worker", pytest.param("pg_net", marks=pytest.mark.pg_net)]


class Gate:
    """A handler that takes everything, once it is opened; until then its callers wait, for a few seconds.

    Not for long: pg_net's worker hears nothing, not even that the server stops, before its batch has ended.
    """

    def __init__(self) -> None:
        self._open = threading.Event()

    def __call__(self, request: Request, nth: int) -> Reply:
        self._open.wait(4)
        return Reply(200, b"ok")

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.clear()


class Place:
    """A server, its sender, and a service `shop` with a handler behind a gate. The sender is restarted if it dies."""

    def __init__(self, cluster: Cluster, receiver: Receiver, sender: str) -> None:
        self.cluster = cluster
        self.receiver = receiver
        self.is_pg_net = sender == "pg_net"
        self.gate = Gate()
        self.clock = Clock(cluster.dsn())
        self.worker: subprocess.Popen[bytes] | None = None

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """Run a statement on a connection of its own: servers come and go here."""
        with psycopg.connect(self.cluster.dsn(), autocommit=True, row_factory=dict_row) as conn:
            cursor = conn.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def one(self, query: str, *parameters: Any) -> Any:
        (row,) = self.rows(query, *parameters)
        return next(iter(row.values()))

    def install(self) -> None:
        migrate(self.cluster.dsn(), cron=False, net_worker=not self.is_pg_net)
        self.rows("select dlq.set_endpoint('shop', %s, true, true, timeout_ms => 20000)", self.receiver.url("shop"))

    def fresh(self) -> None:
        """Forget what the last test has left; the gate is shut."""
        self.cluster.start()
        self.clock.reset()
        self.rows("truncate public.webhook_dlq, dlq.delivery_attempts, public.dlq_processing_log, dlq.in_flight")
        self.rows("delete from net.http_request_queue")
        self.rows("delete from net._http_response")
        self.rows("update dlq.settings set max_unanswered = 10")
        self.gate.open()
        self.gate = Gate()
        self.receiver.behave("shop", self.gate)

    def start_worker(self) -> None:
        if not self.is_pg_net:
            self.worker = subprocess.Popen(
                [sys.executable, "-m", "dlqctl", "--dsn", self.cluster.dsn(), "net-worker"],
                env={**os.environ, **loopback_is_direct()},
                stderr=subprocess.DEVNULL,
            )

    def end_worker(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
            self.worker = None

    def store(self, count: int = 3) -> list[str]:
        """Store so many, due now."""
        rows = self.rows(
            "insert into webhook_dlq (service, payload, next_retry_at)"
            " select 'shop', to_jsonb(n), dlq._now() from generate_series(1, %s) as n returning id::text",
            count,
        )
        return [row["id"] for row in rows]

    def run(self) -> dict[str, Any]:
        run = self.one("select process_dlq_entries()")
        assert isinstance(run, dict)
        return run

    def send(self, count: int = 3) -> list[str]:
        """Store so many and send them. Returns when the handler has all of them."""
        entries = self.store(count)
        before = len(self.receiver.requests)
        assert self.run()["dispatched"] == count
        self.until(lambda: len(self.receiver.requests) >= before + count)
        return entries

    def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain; {self.rows('select * from webhook_dlq')}"
            time.sleep(0.05)

    def until_delivered(self) -> None:
        """Run passes until every entry is delivered."""

        def delivered() -> bool:
            self.run()
            return not self.rows("select id from webhook_dlq where status <> 'reprocessed'")

        self.until(delivered)

    def a_minute_goes_by(self) -> None:
        """For what is missing: by the real clock, which is not ours to set."""
        self.rows("update dlq.in_flight set missing_since = missing_since - interval '2 minutes'")

    def health(self, name: str) -> str:
        return str(self.one("select level from dlq.health where name = %s", name))

    def story(self, entry_id: str) -> list[str]:
        """How its attempts ended, which must all be on record, and no retry be used up by those without an answer."""
        attempts = self.rows("select * from dlq.delivery_attempts where entry_id = %s order by attempt", entry_id)
        (entry,) = self.rows("select * from webhook_dlq where id = %s", entry_id)
        assert [attempt["attempt"] for attempt in attempts] == list(range(1, entry["attempt_count"] + 1))
        assert entry["unanswered_count"] == sum(attempt["outcome"] == "unanswered" for attempt in attempts)
        assert entry["retry_count"] == 0
        return [attempt["outcome"] for attempt in attempts]

    def kill_a_backend(self) -> None:
        with psycopg.connect(self.cluster.dsn()) as conn:
            pid = conn.info.backend_pid
            os.kill(pid, signal.SIGKILL)
            while Path(f"/proc/{pid}").exists():  # the server notices when it reaps it
                time.sleep(0.01)
        self.until_up()

    def kill_the_server(self) -> None:
        os.kill(self.cluster.postmaster_pid, signal.SIGKILL)
        self.cluster.wait()
        self.cluster.start()

    def stop_immediately(self) -> None:
        self.cluster.stop("immediate")
        self.cluster.start()

    def until_up(self) -> None:
        def is_up() -> bool:
            try:
                return bool(self.one("select true"))
            except psycopg.OperationalError:
                return False

        self.until(is_up)


@contextmanager
def place(sender: str, **settings: str) -> Iterator[Place]:
    """Run a server with this sender until the block ends."""
    if sender == "pg_net":
        _require_pg_net()
    else:
        pytest.importorskip("pycurl", reason="the net-worker's extra is not installed: dlqctl[net-worker]")
    with start_cluster(pg_net=sender == "pg_net", settings=settings) as cluster, Receiver() as receiver:
        here = Place(cluster, receiver, sender)
        here.install()
        here.start_worker()
        try:
            yield here
        finally:
            here.gate.open()
            here.end_worker()


@pytest.fixture(scope="module", params=SENDERS)
def _place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with place(request.param) as here:
        yield here


@pytest.fixture
def here(_place: Place) -> Place:
    """A place with an empty queue and a shut gate, once with each sender."""
    _place.fresh()
    return _place


@pytest.fixture
def real(_place: Place) -> Place:
    """The same with the real pg_net only."""
    if not _place.is_pg_net:
        pytest.skip("this is pg_net's own way to fail")
    _place.fresh()
    return _place
