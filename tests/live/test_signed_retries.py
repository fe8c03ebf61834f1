"""What a handler receives over the wire verifies there, whichever sender it comes through."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dlqctl.receiver import Receiver
from dlqctl.sandbox import Sandbox
from dlqctl.signatures import InvalidSignature, sign_hub, verify_hub, verify_standard

HUB_SECRET = "It's a Secret to Everybody"
STANDARD_SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
PAYLOADS: tuple[Any, ...] = (
    {"ä": '日本 " \\ \n', "n": 1.50, "e": 1e3},
    [],
    "text",
    {"big": "x" * 5000, "b": {"z": 1, "a": None}},
)


@pytest.fixture
def conn(live: Sandbox, receiver: Receiver) -> Iterator[psycopg.Connection]:
    """A connection to a sandbox with an endpoint for each way of signing, and none of its own afterwards."""
    with psycopg.connect(live.dsn, autocommit=True) as conn:
        conn.execute("select dlq.set_secret('HUB', %s), dlq.set_secret('STANDARD', %s)", (HUB_SECRET, STANDARD_SECRET))
        for service, options in (
            ("signed-hub", "signing => 'x-hub-signature-256', secret_names => '{HUB}'"),
            ("signed-standard", "signing => 'standard-webhooks', secret_names => '{STANDARD}'"),
            ("signed-raw", "body => 'raw', auth => 'both', auth_secret => 'HUB'"),
        ):
            conn.execute(
                f"select dlq.set_endpoint(%s, %s, allow_http => true, allow_private => true, {options})".encode(),
                (service, receiver.url(service)),
            )
        yield conn
        conn.execute("delete from webhook_dlq where service like 'signed-%'")
        conn.execute("delete from dlq.endpoints where service like 'signed-%'")
        conn.execute("select dlq.remove_secret('HUB'), dlq.remove_secret('STANDARD')")


def deliver(conn: psycopg.Connection) -> None:
    """Send what is stored, and see that all of it is taken."""
    conn.execute("update webhook_dlq set next_retry_at = now() where service like 'signed-%'")
    conn.execute("call dlq.run_cycle()")
    statuses = conn.execute("select distinct status from webhook_dlq where service like 'signed-%'").fetchall()
    assert statuses == [("reprocessed",)]


def test_what_is_signed_here_verifies_there(conn: psycopg.Connection, receiver: Receiver) -> None:
    for payload in PAYLOADS:
        for service in ("signed-hub", "signed-standard"):
            conn.execute("select store_dlq_entry(%s, %s)", (service, Jsonb(payload)))
    deliver(conn)

    assert len(receiver.requests) == 2 * len(PAYLOADS)
    for request in receiver.requests:
        headers = dict(request.headers)
        if request.service == "signed-hub":
            verify_hub(request.body, headers, [HUB_SECRET])
            with pytest.raises(InvalidSignature):
                verify_hub(request.body + b" ", headers, [HUB_SECRET])
        else:
            verify_standard(request.body, headers, [STANDARD_SECRET])


def test_a_raw_body_arrives_byte_for_byte_with_its_own_signature(conn: psycopg.Connection, receiver: Receiver) -> None:
    bodies = {b'{"b": 1,\t"a":1e3}', b"a=1&b=\xff\xfe", b"", b"x" * 100_000}
    for body in bodies:
        came = {**sign_hub(body, "the provider's"), "Content-Type": "application/x-thing; a=b", "Host": "elsewhere"}
        conn.execute("select store_dlq_entry('signed-raw', raw_body => %s, headers => %s)", (body, Jsonb(came)))
    deliver(conn)

    assert {request.body for request in receiver.requests} == bodies
    for request in receiver.requests:
        headers = {name.lower(): value for name, value in request.headers.items()}
        verify_hub(request.body, headers, ["the provider's"])
        assert headers["content-type"] == "application/x-thing; a=b"
        assert headers["host"].startswith("127.0.0.1")
        assert (headers["authorization"], headers["apikey"]) == (f"Bearer {HUB_SECRET}", HUB_SECRET)
