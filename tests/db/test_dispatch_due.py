"""dlq.dispatch_due(): what is sent, to whom, how much of it, and what a request looks like."""

from __future__ import annotations

import json

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.db.conftest import Queue


def test_a_request_carries_the_entry_its_attempt_and_the_payload(queue: Queue) -> None:
    queue.endpoint(headers=Jsonb({"X-Api-Key": "k"}), timeout_ms=1234)
    entry_id = queue.store(payload={"b": 1, "a": [1e3]}, correlation_id="trace-7")
    queue.attempt(entry_id, 500)
    queue.send(entry_id)
    (request,) = queue.rows("select * from net.http_request_queue")
    assert json.loads(request["body"]) == {"b": 1, "a": [1000]}
    assert request["timeout_milliseconds"] == 1234
    assert request["headers"] == {
        "x-api-key": "k",
        "content-type": "application/json",
        "webhook-id": entry_id,
        "idempotency-key": entry_id,
        "dlq-entry": entry_id,
        "dlq-attempt": "2",
        "x-correlation-id": "trace-7",
    }


def test_the_digest_is_of_the_bytes_that_are_sent(queue: Queue) -> None:
    queue.send(queue.store(payload={"ä": '日本 " \\ \n', "n": 1.50}))
    assert queue.one("select sha256(q.body) = f.digest from net.http_request_queue q, dlq.in_flight f")


def test_a_body_that_is_not_json_goes_out_in_base64(queue: Queue) -> None:
    entry_id = str(queue.one("select store_dlq_entry('shop', raw_body => %s)", b"a=1&b=\x00\xff" * 40))
    queue.send(entry_id)
    body = json.loads(queue.one("select body from net.http_request_queue"))
    import base64

    assert base64.b64decode(body["raw_body"], validate=True) == b"a=1&b=\x00\xff" * 40


def test_a_line_break_in_a_correlation_id_makes_no_header(queue: Queue) -> None:
    queue.send(queue.store(correlation_id="a\r\nX-Evil: 1"))
    headers = queue.one("select headers from net.http_request_queue")
    assert headers["x-correlation-id"] == "aX-Evil: 1"


def test_nothing_is_sent_before_its_time(queue: Queue) -> None:
    queue.store()
    assert queue.dispatch() == 0
    queue.make_due()
    assert queue.dispatch() == 1
    assert queue.dispatch() == 0


def test_never_more_in_flight_than_the_endpoint_allows(queue: Queue) -> None:
    queue.endpoint(max_in_flight=7)
    queue.store_many(30)
    assert [queue.dispatch() for _ in range(3)] == [7, 0, 0]
    entry_id = str(queue.one("select entry_id from dlq.in_flight limit 1"))
    queue.answer(entry_id, 500)
    queue.collect()
    assert queue.dispatch() == 1


def test_never_more_in_flight_than_the_sender_may_have(queue: Queue) -> None:
    queue.conn.execute("update dlq.settings set max_in_flight = 10")
    queue.endpoint("*", "https://hooks.example/{service}")
    for n in range(12):
        queue.store_many(3, f"s{n}")
    assert [queue.dispatch() for _ in range(2)] == [10, 0]


def test_a_flood_for_one_service_does_not_delay_another(queue: Queue) -> None:
    queue.conn.execute("set pg_net.batch_size = 20")
    queue.endpoint("flood", max_in_flight=1000)
    queue.endpoint("brook", max_in_flight=1000)
    queue.store_many(500, "flood")
    queue.store_many(10, "brook")
    assert queue.dispatch() == 20
    assert queue.one("select count(*) from dlq.in_flight where service = 'brook'") == 10
    first_two = queue.rows(
        "select q.headers ->> 'webhook-id' as id from net.http_request_queue as q order by q.id limit 2"
    )
    assert len({queue.entry(row["id"])["service"] for row in first_two}) == 2, "in turn"


def test_a_flood_that_is_under_way_leaves_a_share_for_whoever_comes(queue: Queue) -> None:
    queue.conn.execute("update dlq.settings set max_in_flight = 60")
    for service in ("flood", "torrent", "brook"):
        queue.endpoint(service, max_in_flight=1000)
    queue.store_many(500, "flood")
    assert [queue.dispatch() for _ in range(2)] == [30, 0]
    queue.store_many(500, "torrent")
    assert queue.dispatch() == 20
    queue.store_many(10, "brook")
    assert queue.dispatch() == 10


def test_a_claim_locks_no_more_than_it_sends(queue: Queue, database: str) -> None:
    for service in ("one", "two"):
        queue.endpoint(service, max_in_flight=1000)
        queue.store_many(500, service)
    with psycopg.connect(database) as engine:
        row = engine.execute("select cardinality(entry_ids) from dlq._claim(20)").fetchone()
        free = "select count(*) from (select from webhook_dlq for update skip locked) as free"
        assert (row, queue.one(free)) == ((20,), 980)


def test_the_most_overdue_come_first(queue: Queue) -> None:
    queue.endpoint(max_in_flight=2)
    ids = [queue.store(payload=n) for n in range(4)]
    for minutes, entry_id in zip((1, 4, 3, 2), ids, strict=True):
        queue.conn.execute(
            "update webhook_dlq set next_retry_at = dlq._now() - %s * interval '1 minute' where id = %s",
            (minutes, entry_id),
        )
    queue.dispatch()
    assert {str(row["entry_id"]) for row in queue.rows("select entry_id from dlq.in_flight")} == {ids[1], ids[2]}


def test_a_pass_does_not_look_past_what_its_cycle_has_claimed_but_for_a_minute(queue: Queue) -> None:
    queue.endpoint(max_in_flight=100)
    queue.store_many(2)
    claimed = queue.one("select claimed::text from dlq.dispatch_due()")
    for seconds in (0, 58, 62):
        entry_id = queue.store(payload={"seconds": seconds})
        queue.conn.execute(
            "update webhook_dlq set next_retry_at = dlq._now() - %s * interval '1 s' where id = %s", (seconds, entry_id)
        )
    assert queue.one("select dispatched from dlq.dispatch_due(%s)", claimed) == 2
    assert queue.dispatch() == 1  # another cycle looks for everything


def test_how_far_a_service_is_claimed_says_nothing_of_the_others_nor_of_what_its_cap_has_left(queue: Queue) -> None:
    queue.endpoint("one", max_in_flight=2)
    queue.endpoint("two", max_in_flight=2)
    queue.store_many(5, "one")
    queue.conn.execute("update webhook_dlq set next_retry_at = next_retry_at - interval '1 day' where service = 'one'")
    claimed = queue.one("select claimed::text from dlq.dispatch_due()")
    queue.store_many(1, "two")
    queue.conn.execute("update webhook_dlq set next_retry_at = next_retry_at - interval '2 days' where service = 'two'")
    queue.endpoint("one", max_in_flight=100)
    claimed = queue.one("select claimed::text from dlq.dispatch_due(%s)", claimed)
    assert queue.one("select count(*) from dlq.in_flight") == 6
    assert set(json.loads(claimed)) == {"one", "two"}


def test_a_service_without_an_endpoint_follows_the_template_and_waits_where_there_is_none(queue: Queue) -> None:
    entry_id = queue.store("newcomer")
    queue.make_due()
    assert queue.dispatch() == 0
    assert queue.entry(entry_id)["status"] == "pending"
    assert "newcomer" in queue.one("select detail from dlq.health where name = 'endpoints' and level = 'error'")
    queue.endpoint("*", "https://hooks.example/{service}?s={service}")
    assert queue.dispatch() == 1
    assert queue.one("select url from net.http_request_queue") == "https://hooks.example/newcomer?s=newcomer"
    assert queue.one("select level from dlq.health where name = 'endpoints'") == "ok"


def test_a_disabled_endpoint_waits(queue: Queue) -> None:
    queue.endpoint(enabled=False)
    queue.endpoint("*", "https://hooks.example/{service}")
    queue.store_many(1)
    assert queue.dispatch() == 0


def test_a_request_that_cannot_be_made_does_not_stop_the_others(queue: Queue) -> None:
    # The constraints keep such a URL out; suppose they do not.
    queue.conn.execute("alter table dlq.endpoints drop constraint url_is_http, drop constraint https_unless_allowed")
    queue.endpoint("broken", "gopher://old.example/")
    bad, good = queue.store("broken"), queue.store()
    queue.make_due()
    row = queue.conn.execute("select dispatched, failed from dlq.dispatch_due()").fetchone()
    assert row == (1, 1)
    assert queue.entry(good)["status"] == "processing"
    entry = queue.entry(bad)
    assert (entry["status"], entry["retry_count"]) == ("pending", 1)
    assert entry["next_retry_at"] > queue.one("select dlq._now() + interval '14 minutes'")
    (attempt,) = queue.attempts(bad)
    assert (attempt["outcome"], attempt["attempt"], attempt["request_id"]) == ("not_sent", 1, None)
    assert "22023" in attempt["error"]


def test_dispatch_and_record_are_one_transaction(queue: Queue, database: str) -> None:
    entry_id = queue.store()
    queue.make_due()
    with psycopg.connect(database) as other:
        other.execute("select * from dlq.dispatch_due()")
        other.rollback()
    assert queue.entry(entry_id)["status"] == "pending"
    assert queue.one("select count(*) from net.http_request_queue") == 0
    assert queue.one("select count(*) from dlq.in_flight") == 0


@pytest.mark.parametrize("what", ["system_identifier = system_identifier + 1", "database_oid = 1"])
def test_a_copy_of_production_sends_nothing_and_says_so(queue: Queue, what: str) -> None:
    entry_id = queue.store()
    queue.make_due()
    queue.conn.execute(f"update dlq.settings set {what}".encode())
    run = queue.one("select process_dlq_entries()")
    assert run["status"] == "error"
    assert "dlqctl migrate --this-is-production" in run["error"]
    assert queue.entry(entry_id)["status"] == "pending"
    assert "copy" in queue.one("select detail from dlq.health where name = 'sender' and level = 'error'")


def test_what_was_sent_before_a_copy_was_made_is_not_sent_by_the_copy(queue: Queue) -> None:
    queue.send(queue.store())
    queue.conn.execute("update dlq.settings set database_oid = 1")
    queue.conn.execute("truncate dlq.in_flight")
    run = queue.one("select process_dlq_entries()")
    assert (run["unanswered"], run["dispatched"]) == (1, 0)


def test_entries_locked_by_somebody_are_left_and_the_next_ones_are_sent(queue: Queue, database: str) -> None:
    queue.endpoint(max_in_flight=1)
    locked, free = queue.store(payload=1), queue.store(payload=2)
    queue.make_due()
    with psycopg.connect(database) as other:
        other.execute("select from webhook_dlq where id = %s for update", (locked,))
        assert queue.dispatch() == 1
    assert queue.entry(free)["status"] == "processing"


def test_the_sender_is_woken_while_requests_of_ours_wait(queue: Queue, database: str) -> None:
    queue.send(queue.store())
    with psycopg.connect(database, autocommit=True) as listener:
        listener.execute("listen dlqctl_net_wake")
        assert queue.dispatch() == 0
        assert len(list(listener.notifies(timeout=5, stop_after=1))) == 1


def test_a_missing_right_uses_up_nobodys_retries(queue: Queue) -> None:
    entry_id, in_flight = queue.store(payload=1), queue.store(payload=2)
    queue.send(in_flight)
    queue.answer(in_flight, 200)
    queue.make_due()
    queue.conn.execute("alter table net._http_response owner to postgres")
    queue.conn.execute("revoke all on function net.http_post from dlq_owner")
    queue.conn.execute("alter function net.http_post owner to postgres")
    run = queue.one("select process_dlq_entries()")
    assert run["status"] == "error"
    assert run["error"].startswith("42501")
    assert queue.attempts(entry_id) == queue.attempts(in_flight) == []
    assert (queue.entry(entry_id)["status"], queue.entry(in_flight)["status"]) == ("pending", "processing")


@pytest.mark.parametrize("owner", ["postgres", "foreign_owner"])
def test_a_schema_net_that_may_not_be_used_is_said_to_be_one(queue: Queue, owner: str) -> None:
    queue.conn.execute(
        "do $$ begin if to_regrole('foreign_owner') is null then create role foreign_owner; end if; end $$;"
        f"alter schema net owner to {owner}; revoke usage on schema net from dlq_owner, public".encode()
    )
    with pytest.raises(psycopg.Error) as caught:
        queue.dispatch()
    assert caught.value.diag.sqlstate == "WD004"
