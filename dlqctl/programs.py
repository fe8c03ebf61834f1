"""For programs: what they ask of the queue, over their own psycopg connection and in their own transaction.

Nothing here commits, rolls back or closes anything; what fails raises psycopg.Error as the database says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row
from psycopg.types.json import Json, Jsonb


@dataclass(frozen=True)
class Stats:
    """How many entries there are, in all and by status. estimated: total and reprocessed are, the queue being big.

    What is not delivered is counted up to 10,001.
    """

    total: int
    pending: int
    processing: int
    reprocessed: int
    failed: int
    estimated: bool


@dataclass(frozen=True)
class Finding:
    """A check that is not ok: its name in dlq.health, how bad it is, and what is the matter."""

    name: str
    level: Literal["warning", "error"]
    detail: str


@dataclass(frozen=True)
class Health:
    """How the queue is: unhealthy if any finding is an error, degraded if any is a warning."""

    status: Literal["healthy", "degraded", "unhealthy"]
    stats: Stats
    findings: tuple[Finding, ...]


def store(
    conn: psycopg.Connection[Any],
    service: str,
    *,
    payload: Any = None,
    raw_body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    error_message: str | None = None,
    phone_number: str | None = None,
    idempotency_key: str | None = None,
    correlation_id: str | None = None,
) -> UUID:
    """Store a failed webhook and return its id: store_dlq_entry(), in the caller's transaction.

    Give the body as `payload`, whatever json.dumps takes (for the JSON null Jsonb(None)), or as `raw_body` if it may
    not be JSON; and the headers it came with, so that the echo of a retry is recognised. The same idempotency_key
    again returns the first id. Raises psycopg.Error: WD001 if service, body or headers are not in order.
    """
    body = payload if payload is None or isinstance(payload, Json | Jsonb) else Jsonb(payload)
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(
            """
            select public.store_dlq_entry(
              service => %s, payload => %s::jsonb, error_message => %s, phone_number => %s, raw_body => %s,
              headers => %s, idempotency_key => %s, correlation_id => %s)
            """,
            (
                service, body, error_message, phone_number, raw_body,
                None if headers is None else Jsonb(dict(headers)), idempotency_key, correlation_id,
            ),
        ).fetchone()  # fmt: skip
    assert row is not None
    entry_id = row[0]
    assert isinstance(entry_id, UUID)
    return entry_id


def health(conn: psycopg.Connection[Any]) -> Health:
    """Return how the queue is: dlq_health(). It takes milliseconds, and answers on a standby too."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute("select public.dlq_health()").fetchone()
    assert row is not None
    said = row[0]
    return Health(said["status"], Stats(**said["stats"]), tuple(Finding(**finding) for finding in said["findings"]))
