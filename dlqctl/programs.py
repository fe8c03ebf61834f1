"""For programs: what they ask of the queue, over their own psycopg connection and in their own transaction.

Nothing here commits, rolls back or closes anything; what fails raises psycopg.Error as the database says it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row
from psycopg.types.json import Json, Jsonb


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed webhook to store, as store() takes it."""

    service: str
    payload: Any = None
    raw_body: bytes | None = None
    headers: Mapping[str, str] | None = None
    error_message: str | None = None
    phone_number: str | None = None
    idempotency_key: str | None = None
    correlation_id: str | None = None


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


def store_many(conn: psycopg.Connection[Any], failures: Iterable[Failure]) -> list[UUID]:
    """Store many failed webhooks in one call and return their ids in the order given: store_dlq_entries().

    All or none, in the caller's transaction; what store() does for one, this does for each. A thousand at a time is a
    good size. Raises psycopg.Error: WD001, whose message says which of them is not in order, counted from 1.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "select public.store_dlq_entries(%s::jsonb[])", ([Jsonb(_element(failure)) for failure in failures],)
        ).fetchall()
    return [row[0] for row in rows]


def _element(failure: Failure) -> dict[str, Any]:
    """Return what store_dlq_entries() takes for it. A JSON null is no payload there, so that one goes as bytes."""
    payload, raw_body = failure.payload, failure.raw_body
    if isinstance(payload, Json | Jsonb):
        payload = payload.obj
        if payload is None and raw_body is None:
            raw_body = b"null"
    element = {
        "service": failure.service,
        "payload": payload,
        "raw_body": None if raw_body is None else b64encode(raw_body).decode(),
        "headers": None if failure.headers is None else dict(failure.headers),
        "error_message": failure.error_message,
        "phone_number": failure.phone_number,
        "idempotency_key": failure.idempotency_key,
        "correlation_id": failure.correlation_id,
    }
    return {name: value for name, value in element.items() if value is not None}


def health(conn: psycopg.Connection[Any]) -> Health:
    """Return how the queue is: dlq_health(). It takes milliseconds, and answers on a standby too."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute("select public.dlq_health()").fetchone()
    assert row is not None
    said = row[0]
    return Health(said["status"], Stats(**said["stats"]), tuple(Finding(**finding) for finding in said["findings"]))
