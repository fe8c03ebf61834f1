"""Intake: store_dlq_entry(), a plain insert, and what is an echo of a retry."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Clock
from tests.db.conftest import Queue


def _count(queue: Queue) -> int:
    return int(queue.one("select count(*) from webhook_dlq"))


def test_a_stored_entry_is_pending_and_has_its_first_retry(queue: Queue) -> None:
    entry_id = queue.store(payload={"a": 1}, error_message="boom", phone_number="+31", correlation_id="c")
    entry = queue.entry(entry_id)
    assert (entry["status"], entry["retry_count"], entry["payload"], entry["error_message"]) == (
        "pending", 0, {"a": 1}, "boom",
    )  # fmt: skip
    wait = entry["next_retry_at"] - entry["created_at"]
    assert timedelta(minutes=5) <= wait <= timedelta(minutes=5.5)


def test_a_plain_insert_works_too(queue: Queue) -> None:
    queue.conn.execute(
        "insert into webhook_dlq (service, payload, error_message) values ('shop', '{\"a\": 1}', 'boom')"
    )
    (entry,) = queue.rows("select * from webhook_dlq")
    assert entry["status"] == "pending"
    assert timedelta(minutes=5) <= entry["next_retry_at"] - entry["created_at"] <= timedelta(minutes=5.5)


@pytest.mark.parametrize("how", ["set_endpoint", "insert", "update", "template"])
def test_a_schedule_of_an_endpoints_own_is_heeded_however_it_came_there(queue: Queue, how: str) -> None:
    if how == "set_endpoint":
        queue.endpoint("shop", retry_schedule=[timedelta(seconds=30)])
    elif how == "template":
        queue.endpoint("*", "https://x.example/{service}", retry_schedule=[timedelta(seconds=30)])
        queue.conn.execute("delete from dlq.endpoints where service = 'shop'")
    elif how == "insert":
        queue.conn.execute("delete from dlq.endpoints")
        queue.conn.execute(
            "insert into dlq.endpoints (service, url, retry_schedule) values ('shop', 'https://x.example/', '{30 s}')"
        )
    else:
        queue.endpoint("shop")
        queue.conn.execute("update dlq.endpoints set retry_schedule = '{30 s}' where service = 'shop'")
    entry = queue.entry(queue.store())
    assert timedelta(seconds=30) <= entry["next_retry_at"] - entry["created_at"] <= timedelta(seconds=33)


def test_copy_works_too(queue: Queue) -> None:
    with queue.conn.cursor() as cursor, cursor.copy("copy webhook_dlq (service, payload) from stdin") as copy:
        for n in range(100):
            copy.write_row(("shop", json.dumps({"n": n})))
    assert queue.one("select count(*) from webhook_dlq where next_retry_at > created_at") == 100


def test_ids_ascend_in_time(queue: Queue) -> None:
    ids = []
    for n in range(20):
        ids.append(queue.store(payload=n))
        queue.conn.execute("select pg_sleep(0.002)")
    assert ids == sorted(ids)
    assert all(entry_id[14] == "7" and entry_id[19] in "89ab" for entry_id in ids)


def test_the_same_key_twice_returns_the_first_id_and_stores_nothing(queue: Queue) -> None:
    for key in ("k", "back\\slash \\x41", "é" * 5000):
        first = queue.store(payload={"key": len(key)}, idempotency_key=key)
        before = _count(queue)
        assert queue.store(payload={"other": 1}, idempotency_key=key) == first
        assert _count(queue) == before
        assert queue.store("other", payload=1, idempotency_key=key) != first, "keys are a service's own"


def test_the_same_key_twice_is_found_where_a_trigger_has_filed_it(queue: Queue) -> None:
    queue.conn.execute("""
        create function file_it() returns trigger language plpgsql as $$
          begin new.service := lower(new.service); return new; end $$;
        create trigger a_file_it before insert on webhook_dlq for each row execute function file_it();
        set statement_timeout = '10s';
    """)
    other = queue.store("elsewhere", idempotency_key="k0")
    first = queue.store("Shop", idempotency_key="k")
    assert queue.store("Shop", idempotency_key="k") == first
    assert queue.entry(first)["service"] == "shop"
    assert (_count(queue), other == first) == (2, False)


def test_a_payload_that_is_nested_too_deep_is_said_to_be(queue: Queue) -> None:
    deep = "[" * 12_000 + "]" * 12_000
    with pytest.raises(psycopg.Error) as caught:
        queue.conn.execute("select store_dlq_entry('shop', %s)", (deep,))
    assert caught.value.sqlstate == "WD001"
    assert queue.conn.execute("select store_dlq_entry('shop', raw_body => %s)", (deep.encode(),)).fetchone()


def test_the_same_key_from_two_at_once_is_stored_once(queue: Queue, database: str) -> None:
    ids: list[str] = []

    def store() -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            row = conn.execute("select store_dlq_entry('shop', '1', idempotency_key => 'k')").fetchone()
            assert row
            ids.append(str(row[0]))

    with psycopg.connect(database) as first:
        row = first.execute("select store_dlq_entry('shop', '1', idempotency_key => 'k')").fetchone()
        threads = [threading.Thread(target=store) for _ in range(8)]
        for thread in threads:
            thread.start()
        first.commit()
        for thread in threads:
            thread.join()
    assert row is not None
    assert set(ids) == {str(row[0])}
    assert _count(queue) == 1


@pytest.mark.parametrize(
    "body",
    [b"not json", b"", b'{"a": "\\u0000"}', b"\xff\xfe", b"{", b"a=1&b=2", b"[" * 100_000, b'{"a": 1}\x00'],
)
def test_a_body_that_jsonb_cannot_hold_is_kept_byte_for_byte_and_marked(queue: Queue, body: bytes) -> None:
    entry_id = str(queue.one("select store_dlq_entry('shop', raw_body => %s)", body))
    entry = queue.entry(entry_id)
    assert bytes(entry["raw_body"]) == body
    assert entry["payload"] is None
    assert queue.one("select is_raw from dlq.entries where id = %s", entry_id)


def test_a_raw_body_that_is_json_is_read(queue: Queue) -> None:
    for statement in (
        "select store_dlq_entry('shop', raw_body => '{\"a\":  1}')",
        "insert into webhook_dlq (service, raw_body) values ('shop', '{\"a\":  1}') returning id",
    ):
        entry = queue.entry(str(queue.one(statement)))
        assert entry["payload"] == {"a": 1}
        assert bytes(entry["raw_body"]) == b'{"a":  1}'


def test_twenty_megabytes_are_taken_and_sent(queue: Queue) -> None:
    entry_id = queue.store(payload={"big": "x" * 20_000_000})
    queue.send(entry_id)
    assert queue.one("select length(body) from net.http_request_queue") > 20_000_000
    queue.answer(entry_id, 200)
    assert queue.collect() == (1, 0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        "null, '{}'",
        "'', '{}'",
        "'WhatsApp', '{}'",
        "'a b', '{}'",
        "'-x', '{}'",
        f"'{'x' * 64}', '{{}}'",
        "'shop'",
        "'shop', '{}', headers => '[1]'",
    ],
)
def test_what_is_not_in_order_is_refused_clearly_and_shows_nothing_of_the_webhook(queue: Queue, arguments: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        queue.conn.execute(f"select store_dlq_entry({arguments}, error_message => 'secret')".encode())
    assert caught.value.diag.sqlstate == "WD001"
    assert caught.value.diag.message_hint
    assert "secret" not in str(caught.value)
    assert _count(queue) == 0


def test_an_echo_by_header_makes_no_second_entry_and_the_attempt_counts_as_failed(queue: Queue) -> None:
    entry_id = queue.store(payload={"a": 1})
    queue.send(entry_id)
    again = queue.store(payload={"wrapped": True}, headers=Jsonb({"Webhook-ID": entry_id.upper()}))
    assert again == entry_id
    queue.answer(entry_id, 200)
    assert queue.collect() == (0, 1, 0)
    entry = queue.entry(entry_id)
    assert (entry["status"], entry["retry_count"]) == ("pending", 1)
    assert [a["outcome"] for a in queue.attempts(entry_id)] == ["echoed"]
    (echo,) = queue.rows("select * from webhook_dlq where id <> %s", entry_id)
    assert (echo["status"], str(echo["duplicate_of"]), echo["next_retry_at"]) == ("discarded", entry_id, None)


def test_an_echo_by_plain_insert_is_recognised_by_its_body(queue: Queue) -> None:
    entry_id = queue.store(payload={"a": 1, "b": 2})
    queue.send(entry_id)
    queue.conn.execute("insert into webhook_dlq (service, payload) values ('shop', '{\"b\":2,\"a\":1}')")
    queue.answer(entry_id, 200)
    assert queue.collect() == (0, 1, 0)
    assert queue.entry(entry_id)["status"] == "pending"
    assert _count(queue) == 2


def test_an_echo_under_the_same_key_is_an_echo_too(queue: Queue) -> None:
    entry_id = queue.store(payload={"a": 1}, idempotency_key="k")
    queue.send(entry_id)
    assert queue.store(payload={"a": 1, "now": 2}, idempotency_key="k") == entry_id
    queue.answer(entry_id, 200)
    assert queue.collect() == (0, 1, 0)


def test_an_echo_by_plain_insert_with_the_same_key_succeeds(queue: Queue) -> None:
    entry_id = queue.store(payload={"a": 1}, idempotency_key="k")
    queue.send(entry_id)
    queue.conn.execute("insert into webhook_dlq (service, payload, idempotency_key) values ('shop', '{\"a\": 1}', 'k')")
    queue.answer(entry_id, 200)
    assert queue.collect() == (0, 1, 0)


@pytest.mark.parametrize("how", ["function", "insert"])
def test_a_handler_that_stores_each_retry_again_leaves_one_entry_that_fails(
    queue: Queue, clock: Clock, how: str
) -> None:
    entry_id = queue.store(payload={"a": 1})
    for _ in range(5):
        clock.advance("14 hours")
        queue.send(entry_id)
        if how == "function":
            queue.store(payload={"a": 1}, headers=Jsonb({"webhook-id": entry_id}))
        else:
            queue.conn.execute("insert into webhook_dlq (service, payload) values ('shop', '{\"a\": 1}')")
        queue.answer(entry_id, 200)
        queue.collect()
    entry = queue.entry(entry_id)
    assert (entry["status"], entry["retry_count"]) == ("failed", 5)
    assert queue.one("select count(*) from webhook_dlq where status <> 'discarded'") == 1


def test_an_echo_that_comes_after_a_good_answer_takes_the_delivery_back(queue: Queue) -> None:
    entry_id = queue.store(payload={"a": 1})
    queue.attempt(entry_id, 200)
    assert queue.entry(entry_id)["status"] == "reprocessed"
    queue.store(payload={"a": 1}, headers=Jsonb({"webhook-id": entry_id}))
    entry = queue.entry(entry_id)
    assert (entry["status"], entry["retry_count"], entry["settled_at"]) == ("pending", 1, None)
    assert timedelta(minutes=14) < entry["next_retry_at"] - queue.one("select dlq._now()")


def test_a_late_echo_under_the_same_key_takes_the_delivery_back_too(queue: Queue) -> None:
    entry_id = queue.store(payload={"a": 1}, idempotency_key="k")
    queue.attempt(entry_id, 200)
    assert queue.store(payload={"a": 1}, idempotency_key="k") == entry_id
    assert queue.entry(entry_id)["status"] == "reprocessed", "the provider delivered it again, and it failed once more"
    assert queue.store(payload={"a": 1}, idempotency_key="k", headers=Jsonb({"webhook-id": entry_id})) == entry_id
    assert queue.entry(entry_id)["status"] == "pending"
    assert _count(queue) == 1


def test_an_echo_under_the_same_key_while_a_good_answer_is_read_takes_the_delivery_back(
    queue: Queue, database: str
) -> None:
    entry_id = queue.store(payload={"a": 1}, idempotency_key="k")
    queue.send(entry_id)
    queue.answer(entry_id, 200)
    with psycopg.connect(database) as engine, psycopg.connect(database, autocommit=True) as handler:
        assert engine.execute("select delivered from dlq.collect_responses()").fetchone() == (1,)
        thread = threading.Thread(
            target=handler.execute, args=("select store_dlq_entry('shop', '2', idempotency_key => 'k')",)
        )
        queue.meets_a_lock(thread, handler)
        engine.commit()
        thread.join()
    entry = queue.entry(entry_id)
    assert (entry["status"], entry["retry_count"], _count(queue)) == ("pending", 1, 1)
    assert [a["outcome"] for a in queue.attempts(entry_id)] == ["delivered"]


def test_an_echo_that_is_still_uncommitted_when_the_answer_comes_is_waited_for(queue: Queue, database: str) -> None:
    entry_id = queue.store(payload={"a": 1})
    queue.send(entry_id)
    with psycopg.connect(database) as handler:
        handler.execute("insert into webhook_dlq (service, payload) values ('shop', '{\"a\": 1}')")
        queue.answer(entry_id, 200)
        assert queue.collect() == (0, 0, 0)
        handler.commit()
    assert queue.collect() == (0, 1, 0)


def test_echoes_of_two_entries_with_the_same_body_are_one_of_each(queue: Queue, database: str) -> None:
    entries = [queue.store(payload={"a": 1}), queue.store(payload={"a": 1})]
    for entry_id in entries:
        queue.send(entry_id)
    store = "insert into webhook_dlq (service, payload) values ('shop', '{\"a\": 1}')"
    with psycopg.connect(database) as one, psycopg.connect(database) as other:
        one.execute(store)
        other.execute(store)
    for entry_id in entries:
        queue.answer(entry_id, 200)
    assert queue.collect() == (0, 2, 0)
    originals = queue.rows("select duplicate_of from webhook_dlq where duplicate_of is not null")
    assert {str(row["duplicate_of"]) for row in originals} == set(entries)
    # The same one after the other. A third finds both marked already, and is an echo all the same.
    for entry_id in entries:
        queue.send(entry_id)
    for marked in (1, 2, 2):
        queue.conn.execute(store)
        assert queue.one("select count(*) from dlq.in_flight where echoed") == marked
    assert _count(queue) == 7
    assert queue.one("select count(*) from webhook_dlq where status = 'pending'") == 0


def test_an_echo_that_is_rolled_back_never_was(queue: Queue, database: str) -> None:
    entry_id = queue.store(payload={"a": 1})
    queue.send(entry_id)
    with psycopg.connect(database) as handler:
        handler.execute("insert into webhook_dlq (service, payload) values ('shop', '{\"a\": 1}')")
        handler.rollback()
    queue.answer(entry_id, 200)
    assert queue.collect() == (1, 0, 0)


@pytest.mark.parametrize("webhook_id", ["msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", "00000000-0000-7000-8000-000000000000"])
def test_a_webhook_id_of_somebody_else_is_no_echo(queue: Queue, webhook_id: str) -> None:
    entry_id = queue.store(payload={"a": 1}, headers=Jsonb({"webhook-id": webhook_id}))
    assert queue.entry(entry_id)["status"] == "pending"


def test_the_same_body_of_another_service_or_another_body_is_no_echo(queue: Queue) -> None:
    queue.send(queue.store(payload={"a": 1}))
    assert queue.entry(queue.store("other", payload={"a": 1}))["status"] == "pending"
    assert queue.entry(queue.store(payload={"a": 2}))["status"] == "pending"


def test_a_writer_may_store_and_not_read(queue: Queue, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as writer:
        writer.execute("set role dlq_writer")
        writer.execute("select store_dlq_entry('shop', '1')")
        writer.execute("insert into webhook_dlq (service, payload) values ('shop', '2')")
        writer.execute("insert into webhook_dlq (service, payload) values ('shop', '2') on conflict do nothing")
        for forbidden in (
            "select * from webhook_dlq",
            "insert into webhook_dlq (service, payload, status) values ('shop', '3', 'reprocessed')",
            "update webhook_dlq set status = 'failed'",
            "delete from webhook_dlq",
            "select process_dlq_entries()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                writer.execute(forbidden)
    assert _count(queue) == 3


def test_a_person_may_set_an_entry_pending_and_nothing_else_by_hand(queue: Queue) -> None:
    entry_id = queue.store()
    queue.attempt(entry_id, 410)
    assert queue.entry(entry_id)["status"] == "failed"
    queue.conn.execute("update webhook_dlq set status = 'pending', retry_count = 0 where id = %s", (entry_id,))
    entry = queue.entry(entry_id)
    assert entry["settled_at"] is None
    assert queue.dispatch() == 1
