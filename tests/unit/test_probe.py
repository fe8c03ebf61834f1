"""What a probe makes of what it has seen; the looking itself: tests/live/test_health.py."""

from __future__ import annotations

import httpx
import pytest

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
