"""The story of docs/operating.md: six hours in which a handler answers 503, and what health and the circuit say.

A real net-worker sends to a real handler; the queue's clock is set forward from run to run. bench/README.md has the
figures of 40,000 webhooks.
"""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from dlqctl import receiver
from dlqctl.bundle import ROOT
from tests.faults.conftest import Place, place

_PAGE = ROOT / "docs" / "operating.md"
_TOLD = (0, 5, 10, 15, 20, 25, 30, 90, 360, 370, 375, 380)


class Day:
    """A place, and one connection to it."""

    def __init__(self, here: Place, conn: psycopg.Connection) -> None:
        self._here = here
        self._conn = conn
        self._minute = 0

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return self._conn.execute(query.encode()).fetchall()

    def fail(self, minute: int) -> None:
        """The handler stores what it could not take since the last time: one webhook a minute."""
        self._here.clock.set_forward(f"{minute} minutes")
        self.ask(
            "select store_dlq_entry('shop', to_jsonb(n), 'HTTP 503')"
            f" from generate_series({self._minute + 1}, {minute}) as n"
        )
        self._minute = minute

    def run(self, minute: int) -> None:
        """What the cron job does at that minute: passes until nothing is due and nothing is under way."""
        self._here.clock.set_forward(f"{minute} minutes")
        while self.ask("select process_dlq_entries() ->> 'dispatched'") != [("0",)] or self.ask(
            "select from dlq.in_flight"
        ):
            self._here.until(self._is_answered)
        self.ask("select dlq.evaluate_alerts()")  # each minute, in truth

    def _is_answered(self) -> bool:
        return not self.ask("select from dlq.in_flight where request_id not in (select id from net._http_response)")

    def told(self, minute: int) -> str:
        """A row of the table."""
        red = self.ask("select format('`%s` %s', name, level) from dlq.health where level <> 'ok' order by level, name")
        raised = self.ask(
            "select format('`%s` %s', rule, severity) from dlq.alerts where edge > 0 and resolved_at is null"
        )
        (state, cap), *_ = self.ask("select state, cap from dlq.circuits where service = 'shop'")
        (counts,) = self.ask(
            """
            select count(*) filter (where status = 'pending'),
              (select count(*) from dlq.delivery_attempts where not is_probe and outcome <> 'delivered'),
              (select count(*) from dlq.delivery_attempts where is_probe),
              count(*) filter (where status = 'failed')
            from webhook_dlq
            """
        )
        words = ", ".join(row[0] for row in red) or "all ok"
        alerts = ", ".join(sorted(row[0] for row in raised))
        circuit = f"{state}, {cap} at most" if state == "half open" else state
        return f"| {minute} | {words} | {alerts} | {circuit} | {' | '.join(map(str, counts))} |"


def test_six_hours_are_as_they_are_told() -> None:
    pytest.importorskip("pycurl", reason="the net-worker's extra is not installed: dlqctl[net-worker]")
    rows = []
    with place("net-worker") as here, psycopg.connect(here.cluster.dsn(), autocommit=True) as conn:
        day = Day(here, conn)
        conn.execute("update dlq.settings set jitter = 0")  # or one that is due five minutes later may wait for ten
        here.receiver.behave("shop", receiver.always(503))
        here.until(lambda: here.health("sender") == "ok")
        for minute in (*range(0, 60, 5), *range(60, 361, 15), 365, 370, 375, 380):
            if minute <= 360:
                day.fail(minute)
            day.run(minute)
            if minute in _TOLD:
                rows.append(day.told(minute))
            if minute == 360:
                here.receiver.behave("shop", receiver.ok())

    print("\n".join(rows))
    if _PAGE.exists():
        assert rows == [line for line in _PAGE.read_text().splitlines() if re.match(r"\| \d", line)]
