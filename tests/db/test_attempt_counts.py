"""dlq.attempt_counts: what history says, added up as it is written, and never less than it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tests.conftest import Clock
from tests.db.conftest import Queue

KINDS = "service, outcome, status_code"
COUNTED = f"""
    select {KINDS}, sum(attempts)::bigint as attempts, sum(timeouts)::bigint as timeouts,
      round(sum(seconds)::numeric, 3) as seconds, round(max(seconds_max)::numeric, 3) as seconds_max
    from dlq.attempt_counts group by {KINDS} order by {KINDS}
"""
# The same by reading all of history. What was not sent has no time that could be counted.
ORACLE = f"""
    select service, outcome, coalesce(status_code, 0) as status_code, count(*) as attempts,
      count(*) filter (where outcome = 'network_error' and error ~* 'timeout') as timeouts,
      round(sum(a.took)::numeric, 3) as seconds, round(max(a.took)::numeric, 3) as seconds_max
    from (
      select *, case when outcome = 'not_sent' then 0
        else greatest(extract(epoch from settled_at - dispatched_at), 0) end as took
      from dlq.delivery_attempts
    ) as a
    group by 1, 2, 3 order by {KINDS}
"""


def counted(queue: Queue) -> list[dict[str, Any]]:
    return queue.rows(COUNTED)


def mixed_run(queue: Queue, clock: Clock) -> None:
    """Everything that can become of an attempt, some of it several times and over several hours."""
    queue.conn.execute("alter table dlq.endpoints drop constraint url_is_http, drop constraint https_unless_allowed")
    queue.endpoint("broken", "gopher://old.example/")
    queue.endpoint("other")
    for n in range(3):
        for service, code in (("shop", 200), ("shop", 204), ("other", 500), ("shop", 410)):
            queue.attempt(queue.store(service, payload=[n, service, code]), code)
        queue.attempt(
            queue.store("other", payload=["timeout", n]), None, error_msg="Timeout was reached", timed_out=True
        )
        clock.advance("61 minutes")
    echoed = queue.store(payload="echoed")
    queue.send(echoed)
    queue.store(payload="stored again", headers=Jsonb({"webhook-id": echoed}))
    queue.answer(echoed, 200)
    queue.collect()
    queue.store("broken", payload="cannot be sent")
    queue.make_due()
    queue.dispatch()
    queue.conn.execute("truncate dlq.in_flight, net.http_request_queue, net._http_response")  # what a crash does
    queue.conn.execute("select from dlq.requeue_lost()")
    erased = queue.store(payload="erased", phone_number="+15550100123")
    queue.send(erased)
    queue.conn.execute("select dlq.erase('+15550100123', 'request of 3 March')")


def test_the_counts_are_what_history_says_whatever_became_of_the_attempts(queue: Queue, clock: Clock) -> None:
    mixed_run(queue, clock)
    queue.conn.execute("update dlq.delivery_attempts set settled_at = settled_at")  # nothing but writing is counted
    assert sum(row["timeouts"] for row in counted(queue)) == 3
    outcomes = {row["outcome"] for row in counted(queue)}
    assert outcomes == {"delivered", "http_error", "network_error", "echoed", "unanswered", "not_sent"}
    assert counted(queue) == queue.rows(ORACLE)


def test_an_attempt_is_counted_in_the_hour_in_which_it_was_recorded(queue: Queue, clock: Clock) -> None:
    queue.attempt(queue.store(payload=1))
    clock.advance("1 hour")
    queue.attempt(queue.store(payload=2))
    queue.conn.execute("set time zone 'Asia/Kolkata'")  # half an hour off: hours are those of UTC
    hours = [row["hour"] for row in queue.rows("select hour from dlq.attempt_counts order by hour")]
    assert len(hours) == 2
    assert hours[1] == queue.one("select date_trunc('hour', dlq._now(), 'UTC')")
    assert (hours[1] - hours[0]).total_seconds() == 3600


def test_an_attempt_that_history_has_already_is_not_counted_twice(queue: Queue) -> None:
    entry_id = queue.store()
    queue.attempt(entry_id, 500)
    queue.conn.execute("update webhook_dlq set attempt_count = 0 where id = %s", (entry_id,))  # edited by hand
    queue.attempt(entry_id, 500)
    assert len(queue.attempts(entry_id)) == 1
    assert counted(queue) == queue.rows(ORACLE)


def test_maintenance_folds_old_hours_and_no_sum_ever_decreases(queue: Queue, clock: Clock) -> None:
    mixed_run(queue, clock)
    clock.advance("29 days 22 hours")
    queue.attempt(queue.store(payload="later"), 200)
    hours = "select distinct hour from dlq.attempt_counts where hour > '-infinity'"
    young = queue.rows(f"{hours} and hour > dlq._now() - interval '30 days' order by hour")
    assert 2 <= len(young) < len(queue.rows(hours)), "the first hours are older than that, and the last ones are not"
    later = counted(queue)
    assert later == queue.rows(ORACLE)
    for _ in range(2):
        queue.conn.execute("call dlq.maintain()")
        assert counted(queue) == later
    assert queue.rows(f"{hours} order by hour") == young


def test_whoever_erases_holds_up_neither_the_engine_nor_the_counting(queue: Queue, database: str) -> None:
    """In a transaction that stays open: the hour's row of what is unanswered is the engine's."""
    lost = queue.store(payload="lost")
    queue.send(lost)
    queue.conn.execute("truncate dlq.in_flight, net.http_request_queue, net._http_response")
    queue.conn.execute("select from dlq.requeue_lost()")
    erased, lost = queue.store(payload="erased", phone_number="+15550100123"), queue.store(payload="lost too")
    queue.make_due()
    queue.dispatch()
    with psycopg.connect(database) as person:
        person.execute("select dlq.erase('+15550100123', 'request of 3 March')")
        queue.conn.execute("set lock_timeout = '2s'")
        queue.conn.execute("delete from dlq.in_flight where entry_id = %s", (lost,))
        assert queue.one("select unanswered from dlq.requeue_lost()") == 1
    assert queue.one("select outcome from dlq.delivery_attempts where entry_id = %s", erased) == "unanswered"
    assert counted(queue) == queue.rows(ORACLE)


def test_who_adds_up_while_hours_are_folded_reads_the_same_sum(queue: Queue, database: str) -> None:
    queue.conn.execute("set session_replication_role = replica")
    queue.conn.execute("alter table dlq.attempt_counts disable trigger audit")
    queue.conn.execute(
        "insert into dlq.attempt_counts (hour, service, outcome, attempts, seconds, seconds_max)"
        " select now() - n * interval '1 hour', 's' || m, 'delivered', 1, 1, 1"
        " from generate_series(720, 820) as n, generate_series(1, 100) as m"
    )
    seen: set[int] = set()

    def watch(done: Callable[[], bool]) -> None:
        with psycopg.connect(database, autocommit=True) as other:
            while True:
                last = done()
                row = other.execute("select sum(attempts) from dlq.attempt_counts").fetchone()
                assert row is not None
                seen.add(int(row[0]))
                if last:
                    return

    folded = threading.Event()
    watcher = threading.Thread(target=watch, args=(folded.is_set,))
    watcher.start()
    queue.conn.execute("select dlq._fold_attempt_counts()")
    folded.set()
    watcher.join()
    assert queue.one("select count(*) from dlq.attempt_counts where hour > '-infinity'") < 101
    assert seen == {10100}
