"""What a probe makes of what it has seen; the looking itself: tests/live/test_health.py."""

from __future__ import annotations

from typing import Any, cast

import httpx
import psycopg
import pytest

from dlqctl import preflight
from dlqctl import probe as module
from dlqctl.probe import Endpoint, open_files, reach
from dlqctl.receiver import Receiver


@pytest.mark.parametrize(
    ("batch_size", "limit", "level"),
    [
        (200, 1024, "ok"),
        (1000, 1024, "ok"),
        (1001, 1024, "error"),
        (200, 128, "error"),
        (200, None, "ok"),
        (1001, None, "warning"),
        (None, 1024, "warning"),
    ],
)
def test_a_batch_must_fit_into_the_open_files(batch_size: int | None, limit: int | None, level: str) -> None:
    _, found, _, remediation = open_files(batch_size, limit)
    assert found == level
    assert (remediation is None) == (level == "ok")


def test_a_server_without_pg_cron_is_warned_of_and_no_broken_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        """Stands for one to a server that has no pg_cron: Debian's, on which tests run, has."""

        def execute(self, *_: object) -> Any:
            return self

        def fetchall(self) -> list[tuple[str, str, str, str]]:
            return [("extension", "error", "pg_cron is not installed", "install it"), ("processor", "ok", "", "")]

    nothing = preflight.Extension(installed=None, available=False, loaded_for=None, hidden=False)
    monkeypatch.setattr(preflight, "look_at", lambda *_: nothing)
    rows = list(module._cron(cast(psycopg.Connection, Connection())))
    assert [row[:2] for row in rows] == [("cron: extension", "warning")]


def test_an_endpoint_is_asked_how_it_is_and_sent_no_webhook(receiver: Receiver) -> None:
    health = f"http://127.0.0.1:{receiver.port}/summary"  # which answers 200
    cases = {
        "its health_url": (receiver.url("shop"), health, "ok"),
        "a health_url that is not well": (receiver.url("shop"), f"{health}/nowhere", "error"),
        "no health_url, and its host answers": (receiver.url("shop"), None, "ok"),
        "a host that is not there": (receiver.down("away"), None, "error"),
        "a health_url that is not there": (receiver.url("shop"), receiver.down("away"), "error"),
    }
    with httpx.Client(timeout=2) as client:
        for case, (url, health_url, level) in cases.items():
            _, found, _, remediation = reach(client, Endpoint("shop", url, health_url, None, None))
            assert found == level, case
            assert (remediation is None) == (level == "ok")
    assert receiver.requests == []
