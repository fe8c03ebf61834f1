"""What every benchmark starts from: a throw-away server with dlqctl in it, handlers to send to, a table at the end."""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, LiteralString

import psycopg

from bench.handlers import Handlers, handlers
from dlqctl.cluster import find_server
from dlqctl.sandbox import Sandbox, sandbox

Sender = Literal["net-worker", "pg_net"]
Connection = psycopg.Connection[Any]

# Without what is measured: no cap moves, so that no circuit opens and nothing takes the slow lane.
NO_CURE: LiteralString = """
    create or replace function dlq._move_cap(
      service text, well integer, suspects uuid[], timed_out integer, trouble text, wait interval)
    returns void language sql volatile security definer set search_path = pg_catalog, pg_temp as ''
"""


@dataclass(frozen=True)
class World:
    """One throw-away server, its handlers, and a connection to it as the superuser, in autocommit."""

    box: Sandbox
    handlers: Handlers
    conn: Connection
    _stopped: threading.Event = field(default_factory=threading.Event)

    def endpoint(self, service: str, **options: Any) -> None:
        """Send a service's webhooks to its handler."""
        given = "".join(f", {name} => %({name})s" for name in options)
        self.conn.execute(
            f"select dlq.set_endpoint(%(service)s, %(url)s, true, true{given})".encode(),
            {"service": service, "url": self.handlers.url(service), **options},
        )

    def store(self, count: int, *services: str, size: int = 900) -> None:
        """Insert so many entries for each service, all due now, with payloads of `size` bytes."""
        self.conn.execute(
            """
            insert into webhook_dlq (service, payload, next_retry_at)
            select s, jsonb_build_object('n', n, 'text', repeat('x', %s)), dlq._now() - n * interval '1 ms'
            from generate_series(%s, 1, -1) as n, unnest(%s::text[]) as s
            """,
            (size - 30, count, list(services)),
        )
        self.conn.execute("vacuum analyze webhook_dlq")

    @contextmanager
    def cycles(self, seconds: float) -> Iterator[threading.Thread]:
        """Run cycles one after the other meanwhile, for so many seconds or until stop()."""
        budget = "update dlq.settings set cycle_budget = least(make_interval(secs => %s), '1 hour')"
        self.conn.execute(budget, (seconds,))
        thread = threading.Thread(target=self._run_cycles, args=(time.monotonic() + seconds,))
        thread.start()
        yield thread
        thread.join()

    def _run_cycles(self, until: float) -> None:
        with psycopg.connect(self.box.cluster.dsn(), autocommit=True) as conn:
            while time.monotonic() < until and not self._stopped.is_set():
                conn.execute("call dlq.run_cycle()")
                time.sleep(0.05)

    def stop(self, cycles: threading.Thread) -> None:
        """End cycles() before its time: a cycle ends with its next pass when its budget is spent."""
        self._stopped.set()
        self.conn.execute("update dlq.settings set cycle_budget = '1 s'")
        self.conn.execute("update dlq_processing_log set error_message = 'stopped' where status = 'running'")
        cycles.join()

    def one(self, query: LiteralString, *parameters: Any) -> Any:
        """The first column of the first row."""
        row = self.conn.execute(query, parameters or None).fetchone()
        return row[0] if row else None


@contextmanager
def world(sender: Sender, *, cure: bool = True, batch_size: int | None = None) -> Iterator[World]:
    """Run a server with this sender and no cron job; without `cure`, also without circuit breaker and slow lane."""
    with (
        handlers() as theirs,
        sandbox(net_worker=sender == "net-worker") as box,
        psycopg.connect(box.cluster.dsn(), autocommit=True) as conn,
    ):
        if box.has_cron:
            conn.execute("select dlq.unschedule_jobs()")
        if batch_size is not None:
            conn.execute(f"alter system set pg_net.batch_size = {batch_size:d}".encode())
            conn.execute("select pg_reload_conf()")
        if not cure:
            conn.execute("set role dlq_owner")
            conn.execute(NO_CURE)
            conn.execute("reset role")
        yield World(box, theirs, conn)


def senders(names: Sequence[str] = ("net-worker", "pg_net")) -> list[Sender]:
    """Those of the two senders that can be had here; says which cannot."""
    found: list[Sender] = []
    if "net-worker" in names:
        found.append("net-worker")
    if "pg_net" in names:
        if find_server().has_pg_net:
            found.append("pg_net")
        else:
            print(f"pg_net is not installed for PostgreSQL {find_server().major}: its figures are left out.")
    return found


def print_conditions(*words: str) -> None:
    """Say what the figures depend on."""
    load = ", ".join(f"{part:.1f}" for part in os.getloadavg())
    print(f"PostgreSQL {find_server().major}, {os.cpu_count()} cores ({platform.machine()}), load before {load}.")
    print(*words, sep="\n", flush=True)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown, its columns aligned."""
    cells = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    for row in cells:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)


def spread(values: Sequence[float]) -> str:
    """The median, and between which all lie."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.0f} ({low:,.0f} to {high:,.0f})" if len(values) > 1 else f"{values[0]:,.0f}"
