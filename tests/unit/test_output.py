"""How values are written for people and for programs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dlqctl.output import text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (timedelta(0), "00:00:00"),
        (timedelta(minutes=5), "00:05:00"),
        (timedelta(seconds=1.25), "00:00:01.2"),
        (timedelta(hours=17, minutes=20), "17:20:00"),
        (timedelta(days=1, hours=2), "1 day 02:00:00"),
        (timedelta(days=30), "30 days 00:00:00"),
        (timedelta(seconds=59.99), "00:01:00"),
        (timedelta(seconds=-3), "-00:00:03"),
    ],
)
def test_an_interval_is_written_as_postgresql_writes_and_reads_it(value: timedelta, written: str) -> None:
    assert text(value) == written
