"""store_dlq_entries(): what store_dlq_entry() does for one, for many; all or none, in the order given."""

from __future__ import annotations

import threading
from base64 import b64encode
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

import dlqctl
from dlqctl import Failure
from tests.db.conftest import Queue


def store_all(queue: Queue, *elements: Any) -> list[str]:
    rows = queue.rows("select store_dlq_entries(%s::jsonb[])::text as id", [Jsonb(element) for element in elements])
    return [row["id"] for row in rows]


def element(n: Any, **more: Any) -> dict[str, Any]:
    return {"service": "shop", "payload": {"n": n}, **more}


def test_what_is_stored_is_what_store_dlq_entry_stores(queue: Queue) -> None:
    given = element(1, error_message="boom", phone_number="+31", correlation_id="c", headers={"a": "b"})
    many = [
        *store_all(queue, given),
        *store_all(queue, {**given, "idempotency_key": "k"}),
    ]
    one = queue.store(**{**given, "headers": Jsonb(given["headers"])})
    own = {"id", "created_at", "updated_at", "next_retry_at", "idempotency_key"}
    for entry_id in many:
        entry = queue.entry(entry_id)
        assert {k: v for k, v in entry.items() if k not in own} == {
            k: v for k, v in queue.entry(one).items() if k not in own
        }
        assert entry["created_at"] == entry["updated_at"]
        assert timedelta(minutes=5) <= entry["next_retry_at"] - entry["created_at"] <= timedelta(minutes=5.5)


def test_ids_come_in_the_order_given_whatever_road_each_takes(queue: Queue) -> None:
    known = queue.store(idempotency_key="known")
    queue.endpoint("billing")
    sent = queue.store("billing", payload={"sent": True})
    queue.make_due(sent)
    queue.dispatch()
    more: list[dict[str, Any]] = [
        {}, {"idempotency_key": "a"}, {"headers": {"webhook-id": "msg_1"}}, {"idempotency_key": "known"}, {},
        {"service": "billing"}, {"service": "billing", "payload": {"sent": True}}, {"idempotency_key": "a"},
        {"payload": 0},
    ]  # fmt: skip
    given = [element(n, **other) for n, other in enumerate(more)]
    ids = store_all(queue, *given)
    assert (ids[3], ids[6], ids[7]) == (known, sent, ids[1])
    for n in (0, 1, 2, 4, 5, 8):
        assert queue.entry(ids[n])["payload"] == given[n]["payload"], n
    assert queue.one("select count(*) from webhook_dlq where status = 'pending'") == 7  # six of them, and `known`
    assert queue.one("select duplicate_of::text from webhook_dlq where status = 'discarded'") == sent


def test_each_service_has_its_own_first_wait(queue: Queue) -> None:
    queue.endpoint("quick", retry_schedule=[timedelta(seconds=30)])
    waits = "select next_retry_at - created_at from webhook_dlq where id = %s"
    shop, quick = store_all(queue, element(1), element(1, service="quick"))
    assert timedelta(minutes=5) <= queue.one(waits, shop) <= timedelta(minutes=5.5)
    assert timedelta(seconds=30) <= queue.one(waits, quick) <= timedelta(seconds=33)
    queue.endpoint("*", "https://x.example/{service}", retry_schedule=[timedelta(hours=1)])
    shop, other = store_all(queue, element(1), element(1, service="other"))
    assert timedelta(minutes=5) <= queue.one(waits, shop) <= timedelta(minutes=5.5)
    assert timedelta(hours=1) <= queue.one(waits, other) <= timedelta(hours=1.1)


@pytest.mark.parametrize("body", [b"not json", b"", b'{"a": 1}', b"\xff\xfe", b"[1e400]", b"[0]"])
def test_a_raw_body_is_base64_and_read_where_it_is_json(queue: Queue, body: bytes) -> None:
    (many,) = store_all(queue, {"service": "shop", "raw_body": b64encode(body).decode()})
    one = queue.one("select store_dlq_entry('shop', raw_body => %s)", body)
    entry = queue.entry(many)
    assert (bytes(entry["raw_body"]), entry["payload"]) == (body, queue.entry(one)["payload"])


def test_echoes_are_echoes_by_header_by_body_and_by_key(queue: Queue) -> None:
    by_header, by_body = queue.store(payload={"a": 1}), queue.store(payload={"b": 1})
    by_key = queue.store(payload={"c": 1}, idempotency_key="k")
    late = queue.store("late", payload={"d": 1})
    queue.endpoint("late")
    queue.attempt(late, 200)
    queue.make_due()
    assert queue.dispatch() == 3
    elements = [
        element(9, headers={"DLQ-Entry": by_header}),
        {"service": "shop", "payload": {"b": 1}},
        element(8, idempotency_key="k"),
        element(7, service="late", headers={"webhook-id": late}),
    ]
    assert store_all(queue, *elements) == [by_header, by_body, by_key, late]
    for entry_id in (by_header, by_body, by_key):
        queue.answer(entry_id, 200)
    assert queue.collect() == (0, 3, 0)
    assert queue.entry(late)["status"] == "pending"
    assert queue.one("select count(*) from webhook_dlq where status <> 'discarded'") == 4


@pytest.mark.parametrize(
    "bad",
    [
        {"payload": 1}, {"service": "Shop", "payload": 1}, {"service": "shop"}, {"service": "shop", "payload": None},
        {"service": "shop", "payload": 1, "headers": [1]}, {"service": "shop", "payload": 1, "status": "failed"},
        {"service": "shop", "raw_body": "?"}, [1], 1, None,
    ],
)  # fmt: skip
def test_one_that_is_not_in_order_refuses_all_and_is_named(queue: Queue, bad: Any) -> None:
    with pytest.raises(psycopg.Error) as caught:
        store_all(queue, element(1), element(2, idempotency_key="k"), bad, element(4))
    assert caught.value.diag.sqlstate == "WD001"
    assert "element 3" in str(caught.value.diag.message_primary)
    assert caught.value.diag.message_hint
    assert queue.one("select count(*) from webhook_dlq") == 0


def test_a_number_that_cannot_be_written_out_refuses_all(queue: Queue) -> None:
    for number in ("1e131071", "-1e400", "0e-16383", "1e-16383"):
        for text in (
            f'{{"service": "shop", "payload": [{number}]}}',
            f'{{"service": "shop", "payload": 1, "headers": {{"x": {number}}}}}',
        ):
            with pytest.raises(psycopg.Error) as caught:
                queue.conn.execute(
                    'select store_dlq_entries(array[\'{"service": "shop", "payload": 1}\', %s]::jsonb[])', (text,)
                )
            assert caught.value.diag.sqlstate == "WD001"
            assert "element 2" in str(caught.value.diag.message_primary)


def test_an_echo_after_it_in_its_transaction_is_still_an_echo(queue: Queue) -> None:
    """What it says to the trigger about its own rows holds for no others, whatever time they are given."""
    queue.endpoint("quick")
    sent = queue.store("quick", payload={"b": 1})
    queue.send(sent)
    with queue.conn.transaction():
        store_all(queue, element(1), element(1, idempotency_key="k"))
        queue.conn.execute(
            "insert into webhook_dlq (service, payload, next_retry_at) values ('quick', '{\"b\": 1}', now())"
        )
    assert queue.one("select duplicate_of::text from webhook_dlq where status = 'discarded'") == sent


def test_none_are_none(queue: Queue) -> None:
    assert store_all(queue) == []
    assert queue.rows("select store_dlq_entries(null)") == []


@pytest.mark.parametrize("in_flight", [False, True])  # then they are stored one by one
def test_two_calls_with_the_same_keys_in_another_order_store_each_once(
    queue: Queue, database: str, in_flight: bool
) -> None:
    if in_flight:
        queue.send(queue.store())
    keys = [f"k{n}" for n in range(200)]
    found: list[list[str]] = []

    def run(order: list[str]) -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            found.append(store_all(Queue(conn), *(element(key, idempotency_key=key) for key in order)))

    threads = [threading.Thread(target=run, args=(order,)) for order in (keys, keys[::-1]) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({frozenset(ids) for ids in found}) == 1
    assert queue.one("select count(*) from webhook_dlq where idempotency_key is not null") == 200


@pytest.mark.parametrize("named", [False, True])
def test_two_calls_with_the_same_echoes_in_another_order_do_not_wait_for_each_other_for_ever(
    queue: Queue, database: str, named: bool
) -> None:
    queue.endpoint(max_in_flight=100)
    queue.conn.execute("update dlq.settings set max_in_flight = 1000")
    queue.store_many(60)
    assert queue.dispatch() == 60
    echoes = [
        {"service": "shop", "payload": row["payload"], **({"headers": {"webhook-id": row["id"]}} if named else {})}
        for row in queue.rows("select id::text, payload from webhook_dlq order by random()")
    ]
    failed: list[psycopg.Error] = []

    def run(order: list[dict[str, Any]]) -> None:
        try:
            with psycopg.connect(database, autocommit=True) as conn:
                for _ in range(3):
                    store_all(Queue(conn), *order)
        except psycopg.Error as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(order,)) for order in (echoes, echoes[::-1]) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert queue.one("select count(*) from webhook_dlq where status = 'discarded'") == 60 * 12
    assert queue.one("select count(*) from dlq.in_flight where echoed") == 60


def test_a_writer_may_store_many_and_read_none(queue: Queue) -> None:
    queue.conn.execute("set role dlq_writer")
    assert len(store_all(queue, *(element(n) for n in range(50)))) == 50
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        queue.conn.execute("select * from webhook_dlq")


def test_in_python_failures_are_stored_as_they_are_given(queue: Queue) -> None:
    failures = [
        Failure(service="shop", payload={"a": 1}, headers={"x": "y"}, idempotency_key="k"),
        Failure(service="shop", raw_body=b"\x00\xff", error_message="boom"),
        Failure(service="shop", payload=Jsonb(None)),
    ]
    ids = dlqctl.store_many(queue.conn, iter(failures))
    entries = [queue.entry(str(entry_id)) for entry_id in ids]
    assert [entry["payload"] for entry in entries] == [{"a": 1}, None, None]
    assert queue.one("select payload = 'null' from webhook_dlq where id = %s", ids[2])
    assert bytes(entries[1]["raw_body"]) == b"\x00\xff"
    assert (entries[0]["headers"], entries[0]["idempotency_key"], entries[1]["error_message"]) == (
        {"x": "y"},
        "k",
        "boom",
    )
    with pytest.raises(psycopg.Error) as caught:
        dlqctl.store_many(queue.conn, [Failure(service="shop", payload=1), Failure(service="shop")])
    assert caught.value.diag.sqlstate == "WD001"


def test_a_trigger_that_renames_services_is_heeded(queue: Queue) -> None:
    """dlqctl adopt makes one. The echo is one under its new name, and the first wait is that name's."""
    queue.endpoint("quick", retry_schedule=[timedelta(seconds=30)])
    queue.conn.execute(
        "create function rename() returns trigger language plpgsql as 'begin new.service := $$quick$$; return new; end'"
    )
    queue.conn.execute(
        "create trigger accept_dialect before insert on webhook_dlq for each row execute function rename()"
    )
    sent = queue.store("quick", payload={"a": 1})
    queue.send(sent)
    echo, other = store_all(queue, {"service": "Old Name", "payload": {"a": 1}}, {"service": "shop", "payload": 2})
    assert echo == sent
    entry = queue.entry(other)
    assert entry["next_retry_at"] - entry["created_at"] <= timedelta(seconds=33)
