"""The cap is the circuit breaker: what is sent to an endpoint in trouble, and what its entries pay for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Clock
from tests.db.conftest import Queue

MOST = 20


def circuit(queue: Queue, service: str = "shop") -> dict[str, Any]:
    (row,) = queue.rows("select * from dlq.circuits where service = %s", service)
    return row


def in_flight(queue: Queue, service: str = "shop") -> list[str]:
    rows = queue.rows("select entry_id from dlq.in_flight where service = %s order by request_id", service)
    return [str(row["entry_id"]) for row in rows]


def answer_all(
    queue: Queue,
    status_code: int | None,
    service: str = "shop",
    *,
    headers: dict[str, str] | None = None,
    error_msg: str | None = None,
) -> None:
    """Answer all that is in flight of a service alike."""
    queue.conn.execute(
        """
        with sent as (
          delete from net.http_request_queue as q using dlq.in_flight as f
          where q.id = f.request_id and f.service = %s returning q.id)
        insert into net._http_response (id, status_code, headers, error_msg) select id, %s, %s, %s from sent
        """,
        (service, status_code, Jsonb(headers or {}), error_msg),
    )


def turn(queue: Queue, status_code: int | None = 500, service: str = "shop", **answer: Any) -> int:
    """Send what may be sent, answer all of it alike, collect. Returns how many were sent."""
    sent = queue.dispatch()
    answer_all(queue, status_code, service, **answer)
    queue.collect()
    return sent


def open_it(queue: Queue) -> None:
    queue.store_many(100)
    while turn(queue):
        pass
    assert circuit(queue)["state"] == "open"


def test_an_outage_halves_the_cap_down_to_nothing(queue: Queue) -> None:
    queue.store_many(100)
    sent = []
    while count := turn(queue):
        sent.append(count)
    # At 2 and at 1 it takes two and three rounds to see three different entries fail.
    assert sent == [20, 10, 5, 2, 2, 1, 1, 1]
    state = circuit(queue)
    assert (state["state"], state["cap"], state["trips"], state["trouble"]) == ("open", 0, 1, "HTTP 500")
    assert queue.one("select max(retry_count) from webhook_dlq") == 1


@pytest.mark.parametrize(
    ("answer", "opens"),
    [
        ({"status_code": 401}, True),
        ({"status_code": 403}, True),
        ({"status_code": 404}, True),
        ({"status_code": 408}, True),
        ({"status_code": 429}, True),
        ({"status_code": 503}, True),
        ({"status_code": 302}, True),
        ({"status_code": None, "error_msg": "Couldn't connect to server"}, True),
        ({"status_code": None, "error_msg": "Timeout of 5000 ms reached"}, True),
        ({"status_code": 400}, False),
        ({"status_code": 409}, False),
        ({"status_code": 410}, False),
        ({"status_code": 422}, False),
        ({"status_code": 200}, False),
    ],
)
def test_which_answers_speak_against_the_endpoint(queue: Queue, answer: dict[str, Any], opens: bool) -> None:
    queue.store_many(MOST)
    turn(queue, **answer)
    assert (circuit(queue)["state"] == "half open") is opens


def test_handlers_that_store_the_failure_again_are_in_trouble_too(queue: Queue) -> None:
    queue.store_many(3)
    queue.dispatch()
    for entry_id in in_flight(queue):
        queue.conn.execute(
            "insert into webhook_dlq (service, payload) select service, payload from webhook_dlq where id = %s",
            (entry_id,),
        )
        queue.answer(entry_id, 200)
    queue.collect()
    assert circuit(queue)["state"] == "half open"
    assert circuit(queue)["trouble"] == "echoed"


def test_a_poison_entry_says_nothing_of_its_endpoint(queue: Queue) -> None:
    poison = queue.store()
    for _ in range(5):
        queue.attempt(poison, 500)
    assert queue.entry(poison)["status"] == "failed"
    assert circuit(queue)["state"] == "closed"


def test_most_decide(queue: Queue) -> None:
    queue.store_many(MOST)
    queue.dispatch()
    for n, entry_id in enumerate(in_flight(queue)):
        queue.answer(entry_id, 500 if n < 10 else 200)
    queue.collect()
    assert queue.rows("select * from dlq.endpoint_state") == []


def test_the_cap_moves_once_a_round_trip(queue: Queue) -> None:
    """What was sent before it moved says nothing new: a handler that restarts does not open the circuit."""
    queue.store_many(100)
    queue.dispatch()
    sent = in_flight(queue)
    for n in range(0, 18, 3):
        for entry_id in sent[n : n + 3]:
            queue.answer(entry_id, 500)
        queue.collect()
    assert circuit(queue)["cap"] == 10
    for entry_id in sent[18:]:
        queue.answer(entry_id, 200)
    queue.collect()
    assert circuit(queue)["cap"] == 10


def test_a_probe_uses_up_no_retry_and_the_next_one_is_another_entry(queue: Queue, clock: Clock) -> None:
    open_it(queue)
    probed = []
    for wait in ("1 minute", "2 minutes", "4 minutes", "8 minutes", "15 minutes", "15 minutes"):
        clock.advance(wait)
        assert queue.dispatch() == 1
        (entry_id,) = in_flight(queue)
        before = queue.entry(entry_id)
        queue.answer(entry_id, 500)
        queue.collect()
        after = queue.entry(entry_id)
        assert (after["status"], after["retry_count"]) == ("pending", before["retry_count"])
        assert queue.attempts(entry_id)[-1]["is_probe"]
        assert queue.dispatch() == 0
        probed.append(entry_id)
    assert len(set(probed)) == len(probed)
    assert circuit(queue)["trips"] == 7


def test_a_probe_that_is_refused_for_its_own_sake_closes_the_circuit_and_counts(queue: Queue, clock: Clock) -> None:
    open_it(queue)
    clock.advance("1 minute")
    queue.dispatch()
    (entry_id,) = in_flight(queue)
    used = queue.entry(entry_id)["retry_count"]
    queue.answer(entry_id, 422)
    queue.collect()
    assert queue.entry(entry_id)["retry_count"] == used + 1
    assert (circuit(queue)["state"], circuit(queue)["cap"]) == ("half open", 1)


def test_a_probe_of_which_nobody_knows_says_nothing(queue: Queue, clock: Clock) -> None:
    open_it(queue)
    clock.advance("1 minute")
    queue.dispatch()
    before = circuit(queue)["trips"]
    queue.conn.execute("truncate dlq.in_flight")
    assert queue.one("select dlq.requeue_lost()") == 1
    assert (circuit(queue)["state"], circuit(queue)["trips"]) == ("open", before)
    assert queue.dispatch() == 1


def test_after_an_outage_it_starts_at_one_and_doubles(queue: Queue, clock: Clock) -> None:
    open_it(queue)
    clock.advance("1 minute")
    assert [turn(queue, 200) for _ in range(7)] == [1, 1, 2, 4, 8, 16, 20]
    assert queue.rows("select * from dlq.endpoint_state") == []
    assert circuit(queue)["state"] == "closed"


def test_pauses_go_on_growing_until_the_endpoint_is_well(queue: Queue, clock: Clock) -> None:
    open_it(queue)
    clock.advance("1 minute")
    assert turn(queue, 200) == 1
    while turn(queue, 500):
        pass
    assert queue.one("select probe_at - dlq._now() from dlq.endpoint_state").total_seconds() == pytest.approx(
        120, abs=2
    )


def test_a_retry_after_is_a_pause_for_all(queue: Queue, clock: Clock) -> None:
    queue.endpoint(max_in_flight=3)
    queue.store_many(30)
    while turn(queue, 429, headers={"Retry-After": "1800"}):
        pass
    assert queue.one("select probe_at - dlq._now() from dlq.endpoint_state").total_seconds() == pytest.approx(
        1800, abs=2
    )
    clock.advance("29 minutes")
    assert queue.dispatch() == 0
    clock.advance("2 minutes")
    assert queue.dispatch() == 1


def test_six_hours_use_up_one_retry(queue: Queue, clock: Clock) -> None:
    queue.conn.execute("update dlq.settings set retry_schedule = '{1 min,1 min,1 min}'")
    queue.store_many(100)
    for _ in range(72):
        while turn(queue, 503):
            pass
        clock.advance("5 minutes")
    assert queue.one("select count(*) from webhook_dlq where status = 'pending' and retry_count <= 1") == 100
    assert queue.one("select count(*) from dlq.delivery_attempts where is_probe") < 40


def test_what_never_comes_back_comes_to_an_end(queue: Queue, clock: Clock) -> None:
    queue.conn.execute("update dlq.settings set retry_schedule = '{1 min,1 min,1 min}', outage_patience = '1 day'")
    queue.store_many(6)
    for _ in range(2):
        for _ in range(20):
            while turn(queue, 503):
                pass
            clock.advance("20 minutes")
        if queue.one("select count(*) from webhook_dlq where status = 'failed'") == 0:
            clock.advance("1 day")
    assert queue.one("select count(*) from webhook_dlq where status = 'failed' and retry_count = 3") == 6


def test_one_open_circuit_holds_nobody_else_back(queue: Queue) -> None:
    open_it(queue)
    queue.endpoint("brook")
    queue.store_many(50, "brook")
    assert turn(queue, 200, "brook") == MOST


def test_services_of_the_template_have_circuits_of_their_own(queue: Queue) -> None:
    queue.endpoint("*", "https://hooks.example/{service}")
    for service in ("one", "two"):
        queue.store_many(5, service)
    queue.dispatch()
    for service, status_code in (("one", 500), ("two", 200)):
        answer_all(queue, status_code, service)
    queue.collect()
    assert circuit(queue, "one")["state"] == "half open"
    assert queue.rows("select service from dlq.endpoint_state") == [{"service": "one"}]


def test_a_lower_max_in_flight_holds_at_once(queue: Queue) -> None:
    queue.store_many(100)
    turn(queue)
    queue.endpoint(max_in_flight=4)
    assert queue.dispatch() == 4


def test_a_reset_sends_at_full_rate_and_is_on_record(queue: Queue) -> None:
    open_it(queue)
    assert queue.one("select dlq.reset_endpoint('shop', 'the key is renewed')") is True
    queue.make_due()
    assert queue.dispatch() == MOST
    (act,) = queue.rows("select * from dlq.audit_log where action = 'reset_endpoint'")
    assert (act["reason"], act["key"], act["before"]["trouble"]) == ("the key is renewed", "shop", "HTTP 500")
    assert queue.one("select dlq.reset_endpoint('shop', 'again')") is False


def test_somebody_who_holds_the_row_does_not_hold_up_the_engine(queue: Queue, database: str) -> None:
    import psycopg

    queue.store_many(100)
    turn(queue)
    with psycopg.connect(database) as person:
        person.execute("select dlq.reset_endpoint('shop', 'thinking about it')")
        queue.conn.execute("set statement_timeout = '5s'")
        assert turn(queue) == 10
        person.rollback()
    assert circuit(queue)["cap"] == 10


def test_health_says_what_is_open_and_since_when(queue: Queue, clock: Clock) -> None:
    open_it(queue)
    health: Callable[[], dict[str, Any]] = lambda: queue.rows("select * from dlq.health where name = 'circuits'")[0]  # noqa: E731
    assert health()["level"] == "warning"
    assert "shop fails since" in health()["detail"]
    assert "HTTP 500" in health()["detail"]
    assert health()["remediation"].endswith("dlqctl endpoints reset shop --reason WHY")
    clock.advance("2 hours")
    assert health()["level"] == "error"
    assert queue.rows("select * from dlq.health where name = 'overdue'")[0]["level"] == "ok"


# pg_net sends batches, and a batch is as slow as its slowest request.


@pytest.fixture
def batches(queue: Queue) -> Queue:
    queue.conn.execute("set pg_net.batch_size = 200")
    for service in ("slow", "fast"):
        queue.endpoint(service)
        queue.store_many(100, service)
    queue.dispatch()
    answer_all(queue, None, "slow", error_msg="Timeout of 5000 ms reached. Total time: 5001 ms")
    answer_all(queue, 200, "fast")
    queue.collect()
    return queue


def test_what_timed_out_waits_while_anything_else_is_due_or_under_way(batches: Queue) -> None:
    assert batches.dispatch() == MOST
    assert len(in_flight(batches, "fast")) == MOST
    batches.conn.execute(
        "update webhook_dlq set next_retry_at = 'infinity' where service = 'fast' and status = 'pending'"
    )
    assert batches.dispatch() == 0
    answer_all(batches, 200, "fast")
    batches.collect()
    assert batches.dispatch() == 10
    assert len(in_flight(batches, "slow")) == 10


def test_the_slow_lane_opens_once_in_twelve_timeouts_whatever_is_due(batches: Queue) -> None:
    batches.conn.execute("update dlq.endpoint_state set timed_out_at = timed_out_at - interval '61 seconds'")
    assert batches.dispatch() == MOST + 10


def test_the_longer_the_timeout_the_rarer_the_slow_lane_opens(batches: Queue) -> None:
    batches.endpoint("slow", timeout_ms=30_000)
    batches.conn.execute("update dlq.endpoint_state set timed_out_at = timed_out_at - interval '5 minutes'")
    assert batches.dispatch() == MOST
    batches.conn.execute("update dlq.endpoint_state set timed_out_at = timed_out_at - interval '61 seconds'")
    assert batches.dispatch() == 10


def test_what_is_answered_in_time_leaves_the_slow_lane(batches: Queue) -> None:
    batches.conn.execute("update dlq.endpoint_state set timed_out_at = timed_out_at - interval '61 seconds'")
    batches.dispatch()
    answer_all(batches, 200, "slow")
    batches.collect()
    assert circuit(batches, "slow")["is_slow"] is not True


def test_a_sender_that_sends_one_by_one_needs_no_lanes(batches: Queue) -> None:
    batches.conn.execute("reset pg_net.batch_size")
    assert batches.dispatch() == MOST + 10


def test_ours_are_half_a_batch_while_others_wait_there(queue: Queue) -> None:
    queue.conn.execute("set pg_net.batch_size = 20")
    queue.endpoint(max_in_flight=1000)
    queue.store_many(100)
    queue.conn.execute("select net.http_post('https://theirs.example/')")
    assert queue.dispatch() == 10
    queue.conn.execute("delete from net.http_request_queue where url like '%theirs%'")
    assert queue.dispatch() == 10
