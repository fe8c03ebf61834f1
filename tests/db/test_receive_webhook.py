"""The door: a failed webhook is stored if its signature is right, and once."""

from __future__ import annotations

import json
import threading
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dlqctl.signatures import sign_hub, sign_standard
from tests.db.conftest import Queue
from tests.unit.test_signatures import WHSEC

HUB, STANDARD = "x-hub-signature-256", "standard-webhooks"
BODY = b'{"entry": []}'


@pytest.fixture(autouse=True)
def _endpoint(queue: Queue) -> None:
    queue.one("select dlq.set_secret('app', 'secret')")
    queue.one("select dlq.set_secret('whsec', %s)", WHSEC)
    queue.endpoint(signing=HUB, secret_names=["app"])
    queue.endpoint("std", signing=STANDARD, secret_names=["whsec"])


def receive(queue: Queue, body: bytes, headers: dict[str, str], service: str = "shop") -> dict[str, Any]:
    answer: dict[str, Any] = queue.one("select dlq.receive_webhook(%s, %s, %s, 'boom')", service, body, Jsonb(headers))
    return answer


def test_what_is_signed_is_accepted_with_its_bytes_and_once(queue: Queue) -> None:
    headers = {**sign_hub(BODY, "secret"), "Content-Type": "application/json"}
    first = receive(queue, BODY, headers)
    again = receive(queue, BODY, {**headers, "x-github-delivery": "another"})
    assert first["status"] == "accepted"
    assert again == {"status": "duplicate", "id": first["id"]}
    (row,) = queue.rows("select raw_body, payload, headers, error_message, status from webhook_dlq")
    assert (bytes(row["raw_body"]), row["payload"], row["headers"]) == (BODY, {"entry": []}, headers)
    assert (row["error_message"], row["status"]) == ("boom", "pending")


@pytest.mark.parametrize("headers", [{}, sign_hub(BODY, "another"), sign_hub(BODY + b" ", "secret")])
def test_what_is_not_is_refused_and_leaves_nothing(queue: Queue, headers: dict[str, str]) -> None:
    answer = receive(queue, BODY, headers)
    assert answer["status"] == "invalid_signature"
    assert answer["reason"]
    assert queue.one("select count(*) from webhook_dlq") == 0


def test_the_signed_id_of_a_delivery_tells_two_of_one_body_apart(queue: Queue) -> None:
    one = receive(queue, BODY, sign_standard(BODY, "msg_1", [WHSEC]), "std")
    two = receive(queue, BODY, sign_standard(BODY, "msg_2", [WHSEC]), "std")
    again = receive(queue, BODY, sign_standard(BODY, "msg_1", [WHSEC]), "std")
    assert [one["status"], two["status"], again["status"]] == ["accepted", "accepted", "duplicate"]
    assert again["id"] == one["id"]


def test_after_the_window_the_same_body_is_another_webhook(queue: Queue, clock: Any) -> None:
    headers = sign_hub(BODY, "secret")
    first = receive(queue, BODY, headers)
    clock.set_forward("6 days")
    assert receive(queue, BODY, headers)["status"] == "duplicate"
    clock.set_forward("8 days")
    second = receive(queue, BODY, headers)
    assert second["status"] == "accepted"
    assert second["id"] != first["id"]
    assert receive(queue, BODY, headers)["id"] == second["id"]


@pytest.mark.parametrize("service", ["shop", "std"])
def test_a_failed_retry_of_ours_comes_through_as_an_echo(queue: Queue, service: str) -> None:
    entry_id = queue.store(service)
    queue.send(entry_id)
    (request,) = queue.rows("select headers, body from net.http_request_queue")
    answer = receive(queue, bytes(request["body"]), request["headers"], service)
    assert answer == {"status": "duplicate", "id": entry_id}
    assert queue.one("select echoed from dlq.in_flight") is True
    assert queue.one("select count(*) from webhook_dlq where status = 'pending'") == 0


def test_a_late_echo_takes_the_delivery_back(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    (request,) = queue.rows("select headers, body from net.http_request_queue")
    queue.answer(entry_id, 200)
    queue.collect()
    assert queue.entry(entry_id)["status"] == "reprocessed"
    assert receive(queue, bytes(request["body"]), request["headers"]) == {"status": "duplicate", "id": entry_id}
    assert queue.entry(entry_id)["status"] == "pending"


def test_of_many_at_once_with_one_body_one_is_accepted(queue: Queue, database: str) -> None:
    headers, answers = sign_hub(BODY, "secret"), []

    def call() -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            row = conn.execute("select dlq.receive_webhook('shop', %s, %s)", (BODY, Jsonb(headers))).fetchone()
            assert row is not None
            answers.append(row[0])

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer["status"] for answer in answers) == ["accepted"] + ["duplicate"] * 7
    assert len({answer["id"] for answer in answers}) == 1


def test_without_a_scheme_or_a_secret_nothing_is_let_in(queue: Queue) -> None:
    queue.endpoint("open")
    for service, state in (("open", "WD006"), ("nowhere", "WD006"), (None, "WD006")):
        with pytest.raises(psycopg.Error) as error:
            receive(queue, BODY, sign_hub(BODY, "secret"), service)  # type: ignore[arg-type]
        assert error.value.sqlstate == state
    queue.one("select dlq.remove_secret('app')")
    with pytest.raises(psycopg.Error) as error:
        receive(queue, BODY, sign_hub(BODY, "secret"))
    assert error.value.sqlstate == "WD005"


def test_over_postgrest_raw_bytes_come_in_and_401_goes_out(queue: Queue, conn: psycopg.Connection) -> None:
    # What PostgREST does with POST /rpc/receive_webhook of application/octet-stream, on one connection.
    def call(body: bytes, headers: dict[str, str]) -> tuple[Any, str | None]:
        with conn.transaction():
            conn.execute("set local role dlq_writer")
            conn.execute("select set_config('request.headers', %s, true)", (json.dumps(headers),))
            row = conn.execute(
                "select public.receive_webhook(%s), current_setting('response.status', true)", (body,)
            ).fetchone()
            assert row is not None
            return row[0], row[1]

    signed = {
        "dlq-service": "shop",
        "dlq-error": "boom",
        "authorization": "Bearer key",
        "content-type": "application/octet-stream",
        **sign_hub(BODY, "secret"),
    }
    answer, status = call(BODY, signed)
    assert (answer["status"], status or "") == ("accepted", "")
    assert queue.one("select headers from webhook_dlq") == sign_hub(BODY, "secret")
    answer, status = call(BODY + b" ", signed)
    assert (answer["error"], status) == ("invalid_signature", "401")
    form = {**signed, **sign_hub(b"a=1", "secret"), "dlq-content-type": "application/x-www-form-urlencoded"}
    assert call(b"a=1", form)[0]["status"] == "accepted"
    types = "select headers ->> 'content-type' from webhook_dlq where payload is null"
    assert queue.one(types) == "application/x-www-form-urlencoded"


def test_what_admits_a_request_is_not_kept_with_the_webhook(queue: Queue) -> None:
    queue.endpoint(signing=HUB, secret_names=["app"], auth="both", auth_secret="app")
    keys = {"Authorization": "Bearer k", "apikey": "k", "Cookie": "k", "Proxy-Authorization": "k"}
    receive(queue, BODY, {**sign_hub(BODY, "secret"), **keys, "x-own": "1"})
    assert queue.one("select headers from webhook_dlq") == {**sign_hub(BODY, "secret"), "x-own": "1"}
    queue.send(queue.store(payload={"n": 2}))
    (request,) = queue.rows("select headers, body from net.http_request_queue")
    assert {"authorization", "apikey"} < request["headers"].keys()
    # A handler that keeps what it failed on, with all the headers of our own request.
    queue.one(
        "select store_dlq_entry('shop', raw_body => %s, headers => %s)", request["body"], Jsonb(request["headers"])
    )
    echo = queue.one("select headers from webhook_dlq where duplicate_of is not null")
    assert echo == {
        name: value for name, value in request["headers"].items() if name not in ("authorization", "apikey")
    }
