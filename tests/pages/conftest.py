"""A sandbox in which the pages' examples find what they speak of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from dlqctl.bundle import ROOT
from dlqctl.cluster import loopback_is_direct
from dlqctl.receiver import Receiver, ok
from dlqctl.sandbox import Sandbox, sandbox


@dataclass(frozen=True)
class Place:
    """A sandbox, and handlers that take everything."""

    box: Sandbox
    receiver: Receiver

    def entry(self, status: str, status_code: int = 503, service: str = "whatsapp") -> str:
        """Store an entry in a state, with one attempt, and return its id."""
        with psycopg.connect(self.box.cluster.dsn()) as conn:
            row = conn.execute(
                """
                insert into webhook_dlq (service, payload, phone_number, error_message, correlation_id)
                values (%s, jsonb_build_object('n', gen_random_uuid()), '+15550100123', 'timeout', 'load-test')
                returning id::text
                """,
                (service,),
            ).fetchone()
            assert row is not None
            conn.execute("set session_replication_role = replica")  # as if it had happened
            conn.execute(
                """
                update webhook_dlq set status = %(status)s, attempt_count = 1,
                  next_retry_at = case when %(status)s = 'pending' then now() + interval '1 hour' end,
                  settled_at = case when %(status)s <> 'pending' then now() end
                where id = %(id)s
                """,
                {"status": status, "id": row[0]},
            )
            conn.execute(
                "insert into dlq.delivery_attempts"
                " (entry_id, attempt, dispatched_at, settled_at, outcome, status_code, service, error)"
                " values (%s, 1, now(), now(), 'http_error', %s, %s, 'HTTP')",
                (row[0], status_code, service),
            )
        return str(row[0])

    def fill(self) -> None:
        """Have entries in each state, whatever was done to those of before."""
        with psycopg.connect(self.box.cluster.dsn()) as conn:
            tables = "webhook_dlq, dlq.delivery_attempts, dlq.in_flight, dlq.replays, dlq.replayed_entries"
            conn.execute(f"truncate {tables}".encode())
        for status in ("pending", "failed", "discarded", "reprocessed"):
            for code in (500, 503):
                self.entry(status, code)
        self.replay()

    def replay(self) -> int:
        """Replay an entry, and return the replay's id."""
        self.entry("failed", 599)
        with psycopg.connect(self.box.cluster.dsn()) as conn:
            row = conn.execute("select id from dlq.replay('mended', status_code => 599)").fetchone()
            assert row is not None
        return int(row[0])


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Receiver() as receiver, sandbox(net_worker=True) as box:
        receiver.behave("whatsapp", ok())
        place = Place(box, receiver)
        with psycopg.connect(box.cluster.dsn(), autocommit=True) as conn:
            conn.execute("create role grafana; create role handlers; create role oncall login in role dlq_admin")
            conn.execute(
                "select dlq.set_endpoint('whatsapp', %s, true, true), dlq.set_secret('WHATSAPP_APP_SECRET', 'x')",
                (receiver.url("whatsapp"),),
            )
            conn.execute("call dlq.run_cycle()")
            conn.execute("call dlq.maintain()")
        yield place


def run(script: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script of a page in a shell that knows this dlqctl and this python."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    main = "import sys; sys.argv[0] = 'dlqctl'; from dlqctl.cli import main; main()"
    for name, words in (("dlqctl", f'-c "{main}"'), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (programs / name).chmod(0o755)
    return subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={**env, **loopback_is_direct(), "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
