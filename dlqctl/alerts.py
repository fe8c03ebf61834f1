"""Alerts: how the rules stand, who is told, and whether a channel takes what it is sent."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psycopg

from dlqctl.errors import DlqctlError

CHANNEL_COLUMNS = ("name", "kind", "host", "secret", "severities", "enabled", "waiting", "last_status", "trouble")
_RULE_COLUMNS = (
    "rule", "state", "severity", "since", "threshold", "hold", "quiet", "severity_at_warning", "severity_at_error",
    "silenced_until", "silenced_by", "silence_reason", "subjects", "detail", "runbook",
)  # fmt: skip
_BRIEF = ("rule", "state", "severity", "since", "threshold", "silenced_until", "detail")

# What is raised first, the rest by name.
_RULES = "select {} from dlq.alert_states order by state in ('well', 'disabled'), since, rule"


@dataclass(frozen=True)
class Answer:
    """What a channel answered to one event of a test."""

    channel: str
    event: str
    status: str
    status_code: int | None
    error: str | None
    reply: str | None


def list_rules(connection: psycopg.Connection, *, brief: bool) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return the columns and a row for every rule, what is raised first; with `brief` what fits a terminal."""
    columns = _BRIEF if brief else _RULE_COLUMNS
    return columns, connection.execute(_RULES.format(", ".join(columns)).encode()).fetchall()


def who_is_told(connection: psycopg.Connection) -> str:
    """Return in words who is told, as health says it."""
    row = connection.execute("select detail from dlq.health where name = 'alerts'").fetchone()
    return str(row[0]) if row else "nobody is told"


def list_channels(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Return every channel, a row each in the order of CHANNEL_COLUMNS."""
    query = f"select {', '.join(CHANNEL_COLUMNS)} from dlq.alert_channel_states order by name"
    return connection.execute(query.encode()).fetchall()


def channel_names(connection: psycopg.Connection) -> list[str]:
    """Return the names of all channels."""
    return [name for (name,) in connection.execute("select name from dlq.alert_channels order by name")]


def try_channel(connection: psycopg.Connection, name: str, *, patience: float = 45) -> list[Answer]:
    """Send a channel an alert and its resolution, wait for the answers, and return them.

    The connection must be in autocommit. Other alerts that are due may be sent as well. Raises DlqctlError if there
    is no answer, psycopg.Error as dlq.test_alert_channel() does.
    """
    row = connection.execute("select dlq.test_alert_channel(%s)", (name,)).fetchone()
    assert row is not None
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        connection.execute("select dlq.deliver_alerts()")
        answers = connection.execute(
            "select channel, event, status, status_code, error, reply, settled_at is not null"
            " from dlq.alert_deliveries where alert_id = %s order by edge",
            row,
        ).fetchall()
        if all(is_settled for *_, is_settled in answers):
            return [Answer(*answer) for *answer, _ in answers]
        time.sleep(0.1)
    raise DlqctlError(f"no answer within {patience:.0f} s", "is the sender running? dlqctl health")
