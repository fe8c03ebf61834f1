"""Endpoints: where a service's webhooks are retried, and whether one answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from dlqctl.errors import DlqctlError

COLUMNS = ("service", "url", "timeout_ms", "max_in_flight", "retries", "state")

# A circuit says more than a configuration; the template has none.
_LIST = """
    select e.service, e.url, e.timeout_ms, e.max_in_flight,
      pg_catalog.cardinality(coalesce(e.retry_schedule, s.retry_schedule)) as retries,
      case
        when not e.enabled then 'disabled'
        when c.state = 'paused' then 'paused: ' || c.pause_reason
        when c.state = 'open' then
          pg_catalog.format('open, %s; next try %s', c.trouble, to_char(c.probe_at, 'HH24:MI:SS TZ'))
        when c.state = 'half open' then pg_catalog.format('half open, %s in flight at most', c.cap)
        else 'on'
      end as state
    from dlq.endpoints as e
      cross join dlq.settings as s
      left join dlq.circuits as c on c.service = e.service
    order by e.service
"""


@dataclass(frozen=True)
class Trial:
    """What became of a test: the entry, and its attempt's outcome, status code, error and reply."""

    entry_id: UUID
    outcome: str
    status_code: int | None
    error: str | None
    reply: str | None
    seconds: float


def list_endpoints(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Return every endpoint, a row each in the order of COLUMNS."""
    return connection.execute(_LIST).fetchall()


def try_endpoint(connection: psycopg.Connection, service: str, *, patience: float = 45) -> Trial:
    """Store a marked entry for a service, send it now, and return how it went.

    The connection must be in autocommit. Other entries that are due may be sent as well. If the endpoint
    does not take the entry, it is discarded: a test is not retried for 17 hours. Raises DlqctlError if it
    is not sent, saying why.
    """
    entry_id = _store_marked(connection, service)
    try:
        return _send_and_wait(connection, service, entry_id, patience)
    finally:
        connection.execute(
            "update public.webhook_dlq set status = 'discarded' where id = %s and status in ('pending', 'processing')",
            (entry_id,),
        )


def _store_marked(connection: psycopg.Connection, service: str) -> UUID:
    row = connection.execute(
        "select public.store_dlq_entry(service => %s, payload => %s, error_message => %s)",
        (service, Jsonb({"dlqctl": "test", "at": time.time()}), "dlqctl endpoints test"),
    ).fetchone()
    assert row is not None
    connection.execute("update public.webhook_dlq set next_retry_at = '-infinity' where id = %s", row)
    return UUID(str(row[0]))


def _send_and_wait(connection: psycopg.Connection, service: str, entry_id: UUID, patience: float) -> Trial:
    began = time.monotonic()
    while time.monotonic() < began + patience:
        run = connection.execute("select public.process_dlq_entries()").fetchone()
        assert run is not None
        attempt = connection.execute(
            "select outcome, status_code, error, reply from dlq.delivery_attempts where entry_id = %s", (entry_id,)
        ).fetchone()
        if attempt is not None:
            outcome, status_code, error, reply = attempt
            return Trial(entry_id, outcome, status_code, error, reply, time.monotonic() - began)
        if run[0]["status"] == "error":
            raise DlqctlError(f"nothing is sent: {run[0]['error']}", "dlqctl health")
        if run[0]["status"] == "ok" and _is_waiting(connection, entry_id):
            raise DlqctlError(_why_waiting(connection, service), "dlqctl endpoints list; dlqctl health")
        time.sleep(0.1)
    raise DlqctlError(f"no answer within {patience:.0f} s", "is the sender running? dlqctl health")


def _is_waiting(connection: psycopg.Connection, entry_id: UUID) -> bool:
    row = connection.execute("select status from public.webhook_dlq where id = %s", (entry_id,)).fetchone()
    return row is not None and row[0] == "pending"


def _why_waiting(connection: psycopg.Connection, service: str) -> str:
    row = connection.execute(
        """
        select case
          when r.url is null then pg_catalog.format('no endpoint for %%s, and no template *', %(service)s::text)
          else pg_catalog.format('the endpoint of %%s ', %(service)s::text) || case
            when not r.enabled then 'is disabled'
            when dlq._is_paused(%(service)s) then 'is paused'
            when exists (select from dlq.endpoint_state as t where t.service = %(service)s and t.cap = 0) then
              'has failed too often: its circuit is open'
            else coalesce('waits: ' || dlq._missing_secret(%(service)s), 'has no free slot')
          end
        end
        from (select) as one left join lateral dlq._route(%(service)s) as r on true
        """,
        {"service": service},
    ).fetchone()
    assert row is not None
    return str(row[0])
