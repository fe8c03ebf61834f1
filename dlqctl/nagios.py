"""One look at the queue for Nagios, Icinga and what speaks their language: one line, performance data, 0, 1, 2 or 3.

The line and the ranges are those of the Monitoring Plugins Development Guidelines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

import psycopg

from dlqctl.connection import connect
from dlqctl.errors import UsageError
from dlqctl.patience import bounded

STATES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
UNKNOWN = 3

# What can have thresholds: its unit, in the order in which it is printed.
LABELS = {"pending": "", "due": "", "in_flight": "", "failed": "", "oldest_due": "s", "last_run": "s"}
_VALUES = """
    select a.pending, a.due, a.in_flight,
      (select count(*) from (select from dlq.entries as e
        where e.status = 'failed' and e.settled_at > a.at - interval '1 hour' limit 100000) as e),
      (select greatest(extract(epoch from a.at - min(b.next_retry_at)), 0)::bigint from dlq.backlog as b),
      (select extract(epoch from clock_timestamp() - max(l.processed_at))::bigint from public.dlq_processing_log as l)
    from dlq.activity as a
"""
_LEVELS = {"ok": 0, "warning": 1, "error": 2}


@dataclass(frozen=True)
class Range:
    """`[@][start:][end]`: a value outside of it is an alert; with @, one inside. ~ is minus infinity."""

    text: str
    start: Decimal | None
    end: Decimal | None
    is_inside: bool

    def alerts(self, value: int) -> bool:
        within = (self.start is None or value >= self.start) and (self.end is None or value <= self.end)
        return within == self.is_inside


def parse_range(text: str) -> Range:
    """Read a range. Raises ValueError if it is none."""
    found = re.fullmatch(r"(@?)(?:(~|-?\d+(?:\.\d+)?)?:)?(-?\d+(?:\.\d+)?)?", text)
    if not found or not text.strip("@"):
        raise ValueError(f"{text!r} is not a range: 10, 10:, ~:10, 10:20 or @10:20")
    start = Decimal(found[2] or 0) if found[2] != "~" else None
    end = Decimal(found[3]) if found[3] else None
    if start is not None and end is not None and start > end:
        raise ValueError(f"{text!r} begins after its end")
    return Range(text, start, end, found[1] == "@")


def parse_thresholds(given: Iterable[str]) -> dict[str, Range]:
    """Read `LABEL=RANGE`s. Raises UsageError, naming what is wrong."""
    thresholds = {}
    for one in given:
        label, equals, text = one.partition("=")
        if not equals or label not in LABELS:
            raise UsageError(f"{one!r} is not LABEL=RANGE", f"labels: {', '.join(LABELS)}")
        try:
            thresholds[label] = parse_range(text)
        except ValueError as error:
            raise UsageError(f"{label}: {error}") from error
    return thresholds


def check(dsn: str | None, warning: Mapping[str, Range], critical: Mapping[str, Range]) -> tuple[int, str]:
    """Look once; return the exit status and the line.

    The state is the worst of dlq.health's checks and of the thresholds. A threshold for pending or failed takes the
    place of the check of that name. Raises DlqctlError and psycopg.Error where nothing can be said: that is UNKNOWN.
    """
    with connect(dsn, autocommit=True) as connection, bounded(connection):
        checks = connection.execute("select name, level, detail from dlq.health").fetchall()
        values = dict(zip(LABELS, _one(connection), strict=True))
    findings = [
        (_LEVELS[level], f"{name}: {detail}")
        for name, level, detail in checks
        if level != "ok" and name not in warning and name not in critical
    ]
    for label, value in values.items():
        for state, thresholds in ((2, critical), (1, warning)):
            if value is not None and label in thresholds and thresholds[label].alerts(value):
                findings.append((state, f"{label}: {value}{LABELS[label]}, range {thresholds[label].text}"))
                break
    findings.sort(key=lambda finding: -finding[0])
    state = findings[0][0] if findings else 0
    text = "; ".join(words for _, words in findings) or f"{len(checks)} checks, {values['pending']} pending"
    return state, line(state, text, [_performance(label, values[label], warning, critical) for label in LABELS])


def line(state: int, text: str, performance: Iterable[str] = ()) -> str:
    """The plugin's one line. A | in the text would begin the performance data."""
    words = re.sub(r"\s+", " ", text).replace("|", "/")
    return f"DLQ {STATES[state]}: {words}" + "".join(f"{' ' if n else ' | '}{one}" for n, one in enumerate(performance))


def _one(connection: psycopg.Connection) -> tuple[int | None, ...]:
    row = connection.execute(_VALUES).fetchone()
    assert row is not None
    return row


def _performance(label: str, value: int | None, warning: Mapping[str, Range], critical: Mapping[str, Range]) -> str:
    """label=value[unit];warn;crit;min;max. U: there is no value."""
    limits = ";".join(thresholds[label].text if label in thresholds else "" for thresholds in (warning, critical))
    shown = "U" if value is None else f"{value}{LABELS[label]}"
    return f"{label}={shown};{limits};0;"
