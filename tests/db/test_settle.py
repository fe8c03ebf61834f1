"""dlq._settle(): how an entry moves on after an attempt."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.conftest import Clock
from tests.db.conftest import Queue

SCHEDULE = [timedelta(minutes=5), timedelta(minutes=15), timedelta(hours=1), timedelta(hours=4), timedelta(hours=12)]


def test_an_endpoint_that_always_fails_is_tried_five_times_over_the_schedule_and_then_the_entry_has_failed(
    queue: Queue, clock: Clock
) -> None:
    entry_id = queue.store()
    waits = []
    for attempt in range(1, 6):
        entry = queue.entry(entry_id)
        wait = entry["next_retry_at"] - queue.one("select dlq._now()")
        waits.append(wait)
        assert entry["retry_count"] == attempt - 1
        assert queue.dispatch() == 0, "sent before its time"
        clock.advance(f"{wait.total_seconds() + 1} seconds")
        assert queue.dispatch() == 1
        queue.answer(entry_id, 500)
        assert queue.collect() == (0, 1, 0)
    entry = queue.entry(entry_id)
    assert (entry["status"], entry["retry_count"], entry["next_retry_at"]) == ("failed", 5, None)
    assert entry["settled_at"] is not None
    for wait, scheduled in zip(waits, SCHEDULE, strict=True):
        assert scheduled - timedelta(seconds=5) <= wait <= scheduled * 1.1
    clock.advance("2 days")
    assert queue.dispatch() == 0
    assert [a["outcome"] for a in queue.attempts(entry_id)] == ["http_error"] * 5


def test_success_is_2xx_without_an_error_and_nothing_else(queue: Queue) -> None:
    for status_code, error_msg, status in [
        (200, None, "reprocessed"),
        (299, None, "reprocessed"),
        (199, None, "pending"),
        (300, None, "pending"),
        (404, None, "pending"),
        (None, "Couldn't connect to server", "pending"),
        (200, "Failure when receiving data from the peer", "pending"),
        (None, None, "pending"),
    ]:
        entry_id = queue.store(payload={"case": [status_code, error_msg]})
        queue.attempt(entry_id, status_code, error_msg=error_msg)
        entry = queue.entry(entry_id)
        assert entry["status"] == status, (status_code, error_msg)
        assert (entry["settled_at"] is not None) == (status == "reprocessed")


def test_gone_fails_at_once(queue: Queue) -> None:
    entry_id = queue.store()
    queue.attempt(entry_id, 410)
    entry = queue.entry(entry_id)
    assert (entry["status"], entry["retry_count"]) == ("failed", 1)


@pytest.mark.parametrize("status_code", [429, 503])
def test_retry_after_postpones_up_to_the_longest_wait(queue: Queue, status_code: int) -> None:
    for header, at_least, at_most in [
        ("3600", 3600, 3600),
        ("1", 900, 990),
        ("9999999", 43200, 43200),
        ("soon", 900, 990),
    ]:
        entry_id = queue.store(payload={"retry-after": header})
        queue.attempt(entry_id, status_code, headers={"ReTry-aFter": header})
        wait = (queue.entry(entry_id)["next_retry_at"] - queue.one("select dlq._now()")).total_seconds()
        assert at_least - 2 <= wait <= at_most, header


def test_retry_after_may_be_a_date(queue: Queue) -> None:
    entry_id = queue.store()
    date = queue.one(
        "select to_char(now() at time zone 'UTC' + interval '2 hours', 'Dy, DD Mon YYYY HH24:MI:SS') || ' GMT'"
    )
    queue.attempt(entry_id, 503, headers={"Retry-After": date})
    wait = queue.entry(entry_id)["next_retry_at"] - queue.one("select dlq._now()")
    assert timedelta(minutes=119) < wait <= timedelta(hours=2)
    for nonsense in ("Fri, 31 Feb 2031 00:00:00 GMT", "Xyz, 99 Foo 2031 77:00:00 GMT"):
        assert queue.one("select dlq._retry_after(jsonb_build_object('Retry-After', %s::text))", nonsense) is None


def test_retry_after_counts_with_429_and_503_only(queue: Queue) -> None:
    entry_id = queue.store()
    queue.attempt(entry_id, 500, headers={"Retry-After": "36000"})
    assert queue.entry(entry_id)["next_retry_at"] - queue.one("select dlq._now()") < timedelta(minutes=17)


def test_an_endpoint_may_have_its_own_schedule(queue: Queue, clock: Clock) -> None:
    queue.endpoint("fast", retry_schedule=[timedelta(seconds=10), timedelta(seconds=20)])
    entry_id = queue.store("fast")
    assert queue.entry(entry_id)["next_retry_at"] - queue.one("select dlq._now()") <= timedelta(seconds=11)
    queue.attempt(entry_id, 500)
    assert queue.entry(entry_id)["status"] == "pending"
    queue.attempt(entry_id, 500)
    assert (queue.entry(entry_id)["status"], queue.entry(entry_id)["retry_count"]) == ("failed", 2)


def test_jitter_spreads_what_failed_together(queue: Queue) -> None:
    queue.store_many(50)
    waits = {row["next_retry_at"] for row in queue.rows("select next_retry_at from webhook_dlq")}
    assert len(waits) == 1
    queue.conn.execute("update dlq.endpoints set max_in_flight = 100")
    assert queue.dispatch() == 50
    queue.conn.execute(
        "with gone as (delete from net.http_request_queue returning id)"
        " insert into net._http_response (id, status_code) select id, 500 from gone"
    )
    assert queue.collect() == (0, 50, 0)
    assert len({row["next_retry_at"] for row in queue.rows("select next_retry_at from webhook_dlq")}) > 40


def test_a_redirect_that_was_followed_is_no_delivery(queue: Queue) -> None:
    for status_code, status in [(200, "pending"), (204, "pending"), (201, "reprocessed"), (202, "reprocessed")]:
        entry_id = queue.store(payload={"status": status_code})
        queue.attempt(entry_id, status_code, headers={"location": "https://elsewhere.example/"})
        assert queue.entry(entry_id)["status"] == status


def test_what_a_person_has_settled_while_it_was_in_flight_stays_so(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.conn.execute("update webhook_dlq set status = 'discarded' where id = %s", (entry_id,))
    queue.answer(entry_id, 200)
    queue.collect()
    assert queue.entry(entry_id)["status"] == "discarded"
    assert [a["outcome"] for a in queue.attempts(entry_id)] == ["delivered"]
    assert queue.one("select count(*) from dlq.in_flight") == 0


def test_what_a_person_has_made_due_while_it_was_in_flight_waits_for_the_answer_and_stays_due(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.conn.execute("update webhook_dlq set status = 'pending' where id = %s", (entry_id,))
    assert queue.dispatch() == 0
    queue.answer(entry_id, 500)
    queue.collect()
    entry = queue.entry(entry_id)
    assert entry["status"] == "pending"
    assert queue.dispatch() == 1


def test_an_entry_locked_by_somebody_is_left_for_the_next_pass(queue: Queue, database: str) -> None:
    import psycopg

    entry_id = queue.store()
    queue.send(entry_id)
    queue.answer(entry_id, 200)
    with psycopg.connect(database) as other:
        other.execute("select from webhook_dlq where id = %s for update", (entry_id,))
        assert queue.collect() == (0, 0, 0)
    assert queue.collect() == (1, 0, 0)
