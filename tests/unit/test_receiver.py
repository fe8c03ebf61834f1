"""The receiver that other tests believe: it plays its parts and counts right."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from dlqctl.receiver import (
    Receiver,
    Reply,
    Request,
    always,
    close_without_reply,
    fail_first,
    hang,
    ok,
    reply,
    store_again,
)


def send(
    receiver: Receiver, service: str = "orders", entry: str | None = "e1", *, timeout: float = 5
) -> httpx.Response:
    headers = {"dlq-entry": entry, "webhook-id": entry, "dlq-attempt": "2"} if entry else {}
    return httpx.post(receiver.url(service), json={"n": 1}, headers=headers, timeout=timeout)


def test_a_request_is_remembered_as_it_came(receiver: Receiver) -> None:
    assert send(receiver).status_code == 200
    (request,) = receiver.by_entry("e1")
    assert request.service == "orders"
    assert request.method == "POST"
    assert request.body == b'{"n":1}'
    assert (request.entry_id, request.attempt) == ("e1", 2)
    assert request.headers["CONTENT-TYPE"] == request.headers["content-type"] == "application/json"


def test_an_entry_is_known_by_dlq_entry_whatever_id_the_provider_gave(receiver: Receiver) -> None:
    httpx.post(receiver.url("raw"), content=b"x", headers={"webhook-id": "the provider's", "dlq-entry": "e2"})
    httpx.post(receiver.url("raw"), content=b"x", headers={"webhook-id": "the provider's"})
    assert [request.entry_id for request in receiver.requests] == ["e2", None]
    assert receiver.accepted == {"e2"}


def test_a_service_fails_the_first_times_for_each_entry_and_then_takes_it(receiver: Receiver) -> None:
    receiver.behave("orders", fail_first(2, status=503))
    assert [send(receiver, entry="a").status_code for _ in range(3)] == [503, 503, 200]
    assert [send(receiver, entry="b").status_code for _ in range(2)] == [503, 503]
    assert receiver.accepted == {"a"}


def test_a_status_and_its_headers_are_sent(receiver: Receiver) -> None:
    receiver.behave("orders", always(429, {"Retry-After": "7"}))
    answer = send(receiver)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert receiver.accepted == set()


def test_bytes_that_are_not_text_are_sent_as_they_are(receiver: Receiver) -> None:
    receiver.behave("orders", reply(500, b"\xff\x00\xfe", {"X-Odd": "caf\xe9"}))
    assert send(receiver).content == b"\xff\x00\xfe"


def test_a_body_can_be_shorter_than_announced(receiver: Receiver) -> None:
    receiver.behave("orders", reply(200, b"short", {"Content-Length": "100"}))
    with pytest.raises(httpx.RemoteProtocolError):
        send(receiver)


def test_hanging_up_without_a_reply_takes_nothing(receiver: Receiver) -> None:
    receiver.behave("orders", close_without_reply())
    with pytest.raises(httpx.RemoteProtocolError):
        send(receiver)
    assert len(receiver.requests) == 1
    assert receiver.accepted == set()


def test_a_late_answer_counts_only_if_somebody_is_there_to_hear_it(receiver: Receiver) -> None:
    receiver.behave("slow", hang(0.3))
    with pytest.raises(httpx.ReadTimeout):
        send(receiver, "slow", "impatient", timeout=0.1)
    assert send(receiver, "slow", "patient").status_code == 200
    assert receiver.accepted == {"patient"}


def test_closing_does_not_wait_for_those_who_hang() -> None:
    with Receiver(default=hang(60)) as receiver, ThreadPoolExecutor() as pool:
        answer = pool.submit(send, receiver)
        receiver.wait_for(lambda: len(receiver.requests) == 1)
        started = time.monotonic()
        receiver.close()
        assert time.monotonic() - started < 2
        assert isinstance(answer.exception(), httpx.RemoteProtocolError)


def test_nobody_listens_where_a_service_is_down(receiver: Receiver) -> None:
    assert receiver.down("orders") == receiver.down("orders") != receiver.down("billing")
    with pytest.raises(httpx.ConnectError):
        httpx.post(receiver.down("orders"))


def test_a_behaviour_that_raises_answers_500_and_is_on_record(receiver: Receiver) -> None:
    def broken(request: Request, nth: int) -> Reply:
        raise LookupError("no such thing")

    receiver.behave("orders", broken)
    assert send(receiver).status_code == 500
    assert [type(error) for error in receiver.errors] == [LookupError]


@pytest.mark.parametrize(
    ("how", "with_headers", "expected"),
    [
        ("function", True, ("function", "orders", {"n": 1}, "e1")),
        ("function", False, ("function", "orders", {"n": 1}, None)),
        ("insert", True, ("insert", "orders", {"n": 1}, None)),
    ],
)
def test_a_careless_handler_stores_the_failure_again_and_takes_nothing(
    receiver: Receiver, empty_database: str, how: str, with_headers: bool, expected: tuple[object, ...]
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute(
            """
            create table public.webhook_dlq (
              how text default 'insert', service text, payload jsonb, error_message text, headers jsonb);
            create function public.store_dlq_entry(
              service text, payload jsonb, error_message text, phone_number text default null,
              raw_body bytea default null, headers jsonb default null)
            returns void language sql
            as $$ insert into public.webhook_dlq values ('function', $1, $2, $3, $6) $$;
            """
        )
        behaviour = store_again(empty_database, "insert" if how == "insert" else "function", with_headers=with_headers)
        receiver.behave("orders", behaviour)
        assert send(receiver).status_code == 200
        assert receiver.errors == []
        assert conn.execute(
            "select how, service, payload, headers ->> 'webhook-id' from public.webhook_dlq"
        ).fetchall() == [expected]
    assert receiver.accepted == set()


def test_three_hundred_at_once_are_all_answered(receiver: Receiver) -> None:
    together = threading.Barrier(300)

    def wait_for_the_others(request: Request, nth: int) -> Reply:
        together.wait(30)
        return Reply(200)

    receiver.behave("orders", wait_for_the_others)
    address = ("127.0.0.1", receiver.port)
    connections = [socket.create_connection(address) for _ in range(300)]
    for number, connection in enumerate(connections):
        connection.sendall(f"POST /hooks/orders HTTP/1.1\r\ndlq-entry: {number}\r\n\r\n".encode())
    for connection in connections:
        with connection:
            assert connection.recv(1024).startswith(b"HTTP/1.1 200")
    assert len(receiver.accepted) == 300


def test_a_connection_is_kept_and_answers_come_at_once(receiver: Receiver) -> None:
    with httpx.Client() as client:
        client.post(receiver.url("orders"))
        started = time.monotonic()
        for _ in range(50):
            client.post(receiver.url("orders"), content=b"x" * 5000)
        assert time.monotonic() - started < 1
    assert len(receiver.requests) == 51


def test_waiting_ends_when_the_condition_holds_and_fails_when_time_is_up(receiver: Receiver) -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(send, receiver)
        receiver.wait_for(lambda: receiver.accepted == {"e1"})
    with pytest.raises(TimeoutError):
        receiver.wait_for(lambda: False, timeout=0.1)


def test_the_summary_counts_requests_entries_and_what_was_taken(receiver: Receiver) -> None:
    receiver.behave("flaky", fail_first(1))
    receiver.behave("fine", ok())
    for service, entry in [("flaky", "a"), ("flaky", "a"), ("flaky", "b"), ("fine", "c"), ("fine", None)]:
        send(receiver, service, entry)
    assert httpx.get(receiver.url("x").replace("/hooks/x", "/summary")).json() == {
        "requests": 5,
        "entries": 3,
        "accepted": 2,
        "services": {
            "fine": {"requests": 2, "entries": 1, "accepted": 1},
            "flaky": {"requests": 3, "entries": 2, "accepted": 1},
        },
    }


def test_only_hooks_are_served(receiver: Receiver) -> None:
    assert httpx.get(receiver.url("x").replace("/hooks/x", "/")).status_code == 404
    assert receiver.requests == []
