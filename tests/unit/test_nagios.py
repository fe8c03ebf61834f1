"""Nagios' ranges and its one line."""

from __future__ import annotations

import pytest

from dlqctl.errors import UsageError
from dlqctl.nagios import line, parse_range, parse_thresholds


# The table of the Monitoring Plugins Development Guidelines, and what follows from it.
@pytest.mark.parametrize(
    ("text", "alerts", "quiet"),
    [
        ("10", [-1, 11], [0, 10]),
        ("10:", [9, -5], [10, 1000]),
        ("~:10", [11], [10, -1000]),
        ("10:20", [9, 21], [10, 20]),
        ("@10:20", [10, 15, 20], [9, 21]),
        ("@5", [0, 5], [-1, 6]),
        ("0", [1], [0]),
        ("1.5:2.5", [1, 3], [2]),
        ("-10:-5", [-11, 0], [-10, -5]),
        ("~:", [], [-(10**9), 0, 10**9]),
    ],
)
def test_a_value_outside_of_the_range_is_an_alert_and_with_an_at_one_inside(
    text: str, alerts: list[int], quiet: list[int]
) -> None:
    parsed = parse_range(text)
    assert [value for value in alerts if not parsed.alerts(value)] == []
    assert [value for value in quiet if parsed.alerts(value)] == []


@pytest.mark.parametrize("text", ["", "@", "ten", "20:10", "1:2:3", "10 ", "~", "5%"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"range|begins"):
        parse_range(text)


@pytest.mark.parametrize("given", ["pending", "10", "pendng=10", "pending=", "=10"])
def test_a_threshold_that_cannot_be_read_is_a_usage_error(given: str) -> None:
    with pytest.raises(UsageError):
        parse_thresholds([given])


def test_the_line_is_one_and_its_text_begins_no_performance_data() -> None:
    assert line(2, "a | b\nc", ["x=1;;;0;", "y=U;;;0;"]) == "DLQ CRITICAL: a / b c | x=1;;;0; y=U;;;0;"
    assert line(3, "gone") == "DLQ UNKNOWN: gone"
