"""A simulated week with a six-hour outage in it: every alert that should fires, and no other does.

The engine, the circuit breaker and the rules are real; the clock, the sender, the shop and PagerDuty are played.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.db.conftest import Queue
from tests.pagerduty import ROUTING_KEY, PagerDuty

START = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
OUTAGE = (START + 2 * DAY + 10 * HOUR, START + 2 * DAY + 16 * HOUR)
BAD_PAYLOADS = START + 4 * DAY + 9 * HOUR
UNROUTABLE = (START + 5 * DAY + 9 * HOUR, START + 5 * DAY + 9 * HOUR + 30 * MINUTE)
SHORT_PAUSE = (START + DAY, START + DAY + 30 * MINUTE)
LONG_PAUSE = (START + 6 * DAY, START + 6 * DAY + 2 * HOUR)
DEAD_PROCESSOR = (START + 3 * DAY + 12 * HOUR, START + 3 * DAY + 12 * HOUR + 30 * MINUTE)
BUSY = [OUTAGE, UNROUTABLE, SHORT_PAUSE, LONG_PAUSE, DEAD_PROCESSOR, (BAD_PAYLOADS, BAD_PAYLOADS)]


def is_in(at: datetime, span: tuple[datetime, datetime]) -> bool:
    return span[0] <= at < span[1]


class Week:
    """The queue, its shop and its pager, from one moment to the next."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.pagerduty = PagerDuty()
        self.told: list[tuple[datetime, str, str, str]] = []
        self.at = START

    def do(self, query: str, *parameters: Any) -> None:
        self.queue.conn.execute(query.encode(), parameters or None)

    def move_to(self, at: datetime) -> None:
        self.at = at
        self.do("select set_config('test.now', %s, false)", at.isoformat())

    def shop_answers(self, body: bytes) -> int:
        if is_in(self.at, OUTAGE):
            return 503
        return 422 if b"bad" in body else 200

    def send(self) -> None:
        """Play the sender: the shop and PagerDuty answer what is queued."""
        for row in self.queue.rows("select id, url, body from net.http_request_queue order by id"):
            headers: dict[str, str] = {}
            if "pagerduty" in row["url"]:
                before = len(self.pagerduty.events)
                reply = self.pagerduty.take(bytes(row["body"]))
                status, headers = reply.status, dict(reply.headers)
                for event in self.pagerduty.events[before:]:
                    rule = event["dedup_key"].rpartition(":")[2]
                    severity = event.get("payload", {}).get("severity", "")
                    self.told.append((self.at, rule, event["event_action"], severity))
            else:
                status = self.shop_answers(bytes(row["body"]))
            self.do("delete from net.http_request_queue where id = %s", row["id"])
            self.do(
                "insert into net._http_response (id, status_code, headers) values (%s, %s, %s::jsonb)",
                row["id"], status, json.dumps(headers),
            )  # fmt: skip

    def run_cycle(self) -> None:
        """Passes until nothing is due and nothing is in flight, as dlq.run_cycle() makes them."""
        while True:
            self.do("select process_dlq_entries()")
            if not self.queue.one("select exists (select from dlq.in_flight)"):
                return
            self.send()

    def step(self, stored: int) -> None:
        """A few webhooks fail, the processor runs unless it is dead, and the cron job of alerts does."""
        if stored:
            payload = "bad" if self.at == BAD_PAYLOADS else "good"
            self.do(
                "select store_dlq_entry('shop', jsonb_build_object('at', %s::text, 'n', n, 'is', %s::text))"
                " from generate_series(1, %s) as n",
                self.at.isoformat(), payload, stored,
            )  # fmt: skip
        if is_in(self.at, DEAD_PROCESSOR):
            # Who is silent is told by the real clock.
            self.do("delete from dlq_processing_log where id < (select max(id) from dlq_processing_log)")
            ago = self.at - DEAD_PROCESSOR[0]
            self.do("update dlq_processing_log set processed_at = clock_timestamp() - %s, duration = '0'", ago)
        else:
            self.run_cycle()
        self.do("select dlq.evaluate_alerts()")
        self.send()


def moments() -> list[datetime]:
    """Every five minutes while something is the matter and for an hour after, else every hour."""
    found, at = [], START
    while at < START + 7 * DAY:
        found.append(at)
        near = any(begin - 15 * MINUTE <= at < end + HOUR for begin, end in BUSY)
        at += 5 * MINUTE if near else 15 * MINUTE if at.minute else 45 * MINUTE
    return found


@pytest.fixture
def week(queue: Queue, conn: psycopg.Connection) -> Week:
    conn.execute("set jit = off")
    conn.execute("select set_config('test.now', %s, false)", (START.isoformat(),))
    conn.execute(
        "create or replace function dlq._now() returns timestamptz language sql stable"
        " as 'select current_setting(''test.now'')::timestamptz'"
    )
    conn.execute("call dlq.maintain()")
    conn.execute("select dlq.set_secret('KEY', %s)", (ROUTING_KEY,))
    conn.execute("select dlq.set_alert_channel('pager', 'pagerduty', secret => 'KEY')")
    queue.beat("-30 days")
    return Week(queue)


def test_a_week_with_a_six_hour_outage(week: Week) -> None:
    for at in moments():
        week.move_to(at)
        if at == UNROUTABLE[0]:
            week.do("select store_dlq_entry('nobody', '1')")
        elif at == UNROUTABLE[1]:
            week.do("select dlq.set_endpoint('nobody', 'https://nobody.example/hook')")
        elif at in (SHORT_PAUSE[0], LONG_PAUSE[0]):
            week.do("select dlq.pause('a move', 'shop')")
        elif at in (SHORT_PAUSE[1], LONG_PAUSE[1]):
            week.do("select dlq.resume('shop')")
        week.pagerduty.trouble = [429] if at.minute == 5 and is_in(at, OUTAGE) else []
        week.step(40 if at == BAD_PAYLOADS else 3 if is_in(at, OUTAGE) else 1)

    assert [(rule, action, severity) for _, rule, action, severity in week.told] == [
        ("circuits", "trigger", "warning"),  # the outage, and when it lasts for an hour
        ("circuits", "trigger", "error"),
        ("pending", "trigger", "warning"),
        ("circuits", "resolve", ""),
        ("pending", "resolve", ""),
        ("overdue", "trigger", "error"),  # the processor is dead, and what waits for it is late
        ("processor", "trigger", "critical"),
        ("overdue", "resolve", ""),
        ("processor", "resolve", ""),
        ("failed", "trigger", "error"),  # 17 hours after the bad payloads came in
        ("failed", "resolve", ""),
        ("endpoints", "trigger", "error"),
        ("endpoints", "resolve", ""),
        ("paused", "trigger", "warning"),  # the long one
        ("paused", "resolve", ""),
    ], week.told
    times = {(rule, action): at for at, rule, action, _ in week.told}
    assert times["circuits", "resolve"] - OUTAGE[1] <= 30 * MINUTE
    assert times["processor", "trigger"] - DEAD_PROCESSOR[0] == 10 * MINUTE
    assert 17 * HOUR < times["failed", "trigger"] - BAD_PAYLOADS < 20 * HOUR
    assert times["paused", "trigger"] - LONG_PAUSE[0] == HOUR
    assert 400 not in week.pagerduty.answers
    assert 429 in week.pagerduty.answers
    assert week.pagerduty.open == set()
    # The outage has cost no webhook: what failed are the bad payloads.
    assert week.queue.one("select count(*) from webhook_dlq where status = 'failed'") == 40
    assert week.queue.one("select count(*) from webhook_dlq where status = 'pending' and payload ->> 'is' = 'bad'") == 0
