"""dlq.requeue_lost(): every way in which an answer can fail to come, as far as SQL alone can show it."""

from __future__ import annotations

import psycopg
import pytest

from tests.conftest import Clock
from tests.db.conftest import Queue


def _requeue(queue: Queue) -> int:
    return int(queue.one("select unanswered from dlq.requeue_lost()"))


def test_after_a_crash_each_entry_in_processing_goes_back_once_and_no_retry_is_used(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.conn.execute("truncate dlq.in_flight, net.http_request_queue, net._http_response")  # what a crash does
    assert _requeue(queue) == 1
    assert _requeue(queue) == 0
    entry = queue.entry(entry_id)
    assert (entry["status"], entry["retry_count"], entry["unanswered_count"]) == ("pending", 0, 1)
    (attempt,) = queue.attempts(entry_id)
    assert (attempt["outcome"], attempt["attempt"]) == ("unanswered", 1)
    assert queue.dispatch() == 1, "the first time it is sent again at once"


def test_a_request_that_is_queued_or_answered_is_not_lost(queue: Queue) -> None:
    queued, answered = queue.store(payload=1), queue.store(payload=2)
    queue.send(queued)
    queue.send(answered)
    queue.answer(answered, 200)
    queue.conn.execute("update dlq.in_flight set dispatched_at = now() - interval '4 minutes'")
    assert _requeue(queue) == 0
    assert queue.one("select count(*) from dlq.in_flight where missing_since is not null") == 0


def test_a_request_that_is_neither_is_lost_after_its_timeout_and_a_minute_and_not_before(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.conn.execute("delete from net.http_request_queue")  # as pg_net 0.11 to 0.17 does while it sends
    assert _requeue(queue) == 0
    assert queue.one("select missing_since is not null from dlq.in_flight")
    queue.conn.execute("update dlq.in_flight set missing_since = clock_timestamp() - interval '64 seconds'")
    assert _requeue(queue) == 0
    queue.conn.execute("update dlq.in_flight set missing_since = clock_timestamp() - interval '66 seconds'")
    assert _requeue(queue) == 1
    assert queue.one("select count(*) from dlq.in_flight") == 0


def test_a_request_that_turns_up_again_is_not_missing_any_more(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.conn.execute("create temporary table away as select * from net.http_request_queue")
    queue.conn.execute("delete from net.http_request_queue")
    _requeue(queue)
    queue.conn.execute("insert into net.http_request_queue select * from away")
    _requeue(queue)
    assert queue.one("select missing_since is null from dlq.in_flight")


def test_a_clock_that_is_set_back_delays_nothing_by_more_than_a_look(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.conn.execute("delete from net.http_request_queue")
    queue.conn.execute("update dlq.in_flight set missing_since = clock_timestamp() + interval '1 hour'")
    assert _requeue(queue) == 0
    assert queue.one("select missing_since <= clock_timestamp() from dlq.in_flight")


def test_requests_of_a_dropped_and_created_net_schema_are_lost_at_once(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    # pg_net dropped and created: its table has another oid, its ids begin again, and somebody else has ours.
    queue.conn.execute("create table net.other (like net._http_response including all)")
    queue.conn.execute("drop table net._http_response")
    queue.conn.execute("alter table net.other rename to _http_response")
    queue.conn.execute("alter table net._http_response owner to dlq_owner")
    queue.conn.execute("insert into net._http_response (id, status_code) select request_id, 200 from dlq.in_flight")
    assert queue.collect() == (0, 0, 0)
    assert _requeue(queue) == 1


def test_without_any_net_schema_entries_go_back_and_the_run_says_why_nothing_is_sent(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.conn.execute("drop schema net cascade")
    run = queue.one("select process_dlq_entries()")
    assert (run["status"], run["unanswered"]) == ("error", 1)
    assert run["error"].startswith("WD004")
    assert queue.entry(entry_id)["status"] == "pending"
    assert queue.one("select level from dlq.health where name = 'sender'") == "error"


def test_a_stranger_who_empties_the_queue_costs_one_more_attempt(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.conn.execute("truncate net.http_request_queue restart identity")
    _requeue(queue)
    queue.conn.execute("update dlq.in_flight set missing_since = missing_since - interval '2 minutes'")
    assert _requeue(queue) == 1
    queue.attempt(entry_id, 200)
    assert queue.entry(entry_id)["status"] == "reprocessed"
    assert [a["outcome"] for a in queue.attempts(entry_id)] == ["unanswered", "delivered"]


def test_an_entry_that_is_never_answered_ends_as_failed_and_says_so(queue: Queue, clock: Clock) -> None:
    entry_id = queue.store()
    for _ in range(10):
        queue.send(entry_id)
        queue.conn.execute("truncate dlq.in_flight, net.http_request_queue")
        assert _requeue(queue) == 1
    entry = queue.entry(entry_id)
    assert (entry["status"], entry["retry_count"], entry["unanswered_count"]) == ("failed", 0, 10)
    assert [a["outcome"] for a in queue.attempts(entry_id)] == ["unanswered"] * 10
    assert queue.attempts(entry_id)[-1]["error"].endswith("given up after 10 attempts without an answer")


def test_unanswered_attempts_come_slower_and_slower(queue: Queue) -> None:
    entry_id = queue.store()
    waits = []
    for _ in range(8):
        queue.send(entry_id)
        queue.conn.execute("truncate dlq.in_flight, net.http_request_queue")
        _requeue(queue)
        wait = queue.entry(entry_id)["next_retry_at"] - queue.one("select dlq._now()")
        waits.append(round(wait.total_seconds() / 60))
    assert waits == [0, 1, 2, 4, 8, 16, 32, 32]


@pytest.mark.parametrize("held", ["entry", "request"])
def test_what_somebody_has_locked_is_left_for_the_next_pass(queue: Queue, database: str, held: str) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.conn.execute("delete from net.http_request_queue")
    _requeue(queue)
    queue.conn.execute("update dlq.in_flight set missing_since = missing_since - interval '2 minutes'")
    table = {"entry": "public.webhook_dlq", "request": "dlq.in_flight"}[held]
    with psycopg.connect(database) as other:
        other.execute(f"select from {table} for update".encode())
        assert _requeue(queue) == 0
    assert _requeue(queue) == 1


def test_a_request_whose_entry_is_deleted_waits_for_nobody(queue: Queue, database: str) -> None:
    """A handler that stores an echo keeps the request locked for as long as its transaction lasts."""
    deleted, lost = queue.store(payload=1), queue.store(payload=2)
    queue.send(deleted)
    queue.send(lost)
    queue.conn.execute("delete from dlq.in_flight where entry_id = %s", (lost,))
    with psycopg.connect(database) as handler:
        handler.execute("insert into webhook_dlq (service, payload) values ('shop', '1')")
        queue.conn.execute("delete from webhook_dlq where id = %s", (deleted,))
        queue.conn.execute("set statement_timeout = '3s'")
        assert queue.one("select dlq.requeue_lost()") == 1
        assert queue.one("select count(*) from dlq.in_flight") == 1
    queue.conn.execute("select dlq.requeue_lost()")
    assert queue.one("select count(*) from dlq.in_flight") == 0
