"""dlq._compact_in_flight: dead rows that an open transaction keeps do not make every store and every pass slower."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.db.conftest import Queue


def _bloat(queue: Queue) -> None:
    """Two requests in flight, among 20,000 that are settled and cannot be vacuumed yet."""
    queue.conn.execute("alter table dlq.in_flight disable trigger audit")  # it takes longer than all the rest
    queue.conn.execute(
        """
        insert into dlq.in_flight (entry_id, request_id, dispatched_at, net_oid, attempt, timeout_ms, service, digest)
        select gen_random_uuid(), -n, clock_timestamp(), 0, 1, 5000, 'gone', '' from generate_series(1, 20000) as n
        """
    )
    queue.conn.execute("delete from dlq.in_flight where service = 'gone'")
    queue.conn.execute("alter table dlq.in_flight enable always trigger audit")


def _in_flight(queue: Queue) -> list[object]:
    return [tuple(row.values()) for row in queue.rows("select * from dlq.in_flight order by entry_id")]


def _size(queue: Queue) -> int:
    return int(queue.one("select pg_relation_size('dlq.in_flight')"))


def test_what_is_in_flight_stays_and_what_is_dead_goes(queue: Queue, database: str) -> None:
    with psycopg.connect(database) as holder:
        holder.execute("select txid_current(), (select count(*) from dlq.settings)")
        queue.store_many(2)
        assert queue.dispatch() == 2
        before = _in_flight(queue)
        _bloat(queue)
        queue.conn.execute("vacuum dlq.in_flight")
        assert _size(queue) > 1 << 20
        queue.conn.execute("update dlq.settings set cycle_budget = '1 s'")
        queue.conn.execute("call dlq.run_cycle()")
        assert _size(queue) < 1 << 16
        assert _in_flight(queue) == before
    for row in queue.rows("select entry_id from dlq.in_flight"):
        queue.answer(str(row["entry_id"]))
    assert queue.collect() == (2, 0, 0)


def test_a_small_one_is_left_alone(queue: Queue) -> None:
    queue.store_many(2)
    queue.dispatch()
    assert queue.one("select dlq._compact_in_flight()") is False


def test_a_large_one_that_is_alive_is_left_alone(queue: Queue) -> None:
    _bloat(queue)
    queue.conn.execute("vacuum dlq.in_flight")
    queue.conn.execute(
        """
        insert into dlq.in_flight (entry_id, request_id, dispatched_at, net_oid, attempt, timeout_ms, service, digest)
        select gen_random_uuid(), -n, clock_timestamp(), 0, 1, 5000, 'shop', '' from generate_series(1, 20000) as n
        """
    )
    assert queue.one("select dlq._compact_in_flight()") is False


def test_it_waits_for_nobody(queue: Queue, database: str) -> None:
    queue.store_many(1)
    queue.dispatch()
    _bloat(queue)
    with psycopg.connect(database) as storing:
        storing.execute("select from dlq.in_flight where service = 'shop' for update")
        assert queue.one("select dlq._compact_in_flight()") is False
    assert queue.one("select dlq._compact_in_flight()") is True
    assert queue.one("select count(*) from dlq.in_flight") == 1


@pytest.mark.parametrize("named_by", ["webhook-id", "key"])
def test_an_echo_in_a_repeatable_read_transaction_that_no_longer_sees_its_request_is_refused(
    queue: Queue, database: str, named_by: str
) -> None:
    """It would be filed away, its attempt be believed, and the webhook be lost."""
    entry_id = queue.store(idempotency_key="k")
    queue.send(entry_id)
    _bloat(queue)
    given = {"webhook-id": ("headers", Jsonb({"webhook-id": entry_id})), "key": ("idempotency_key", "k")}
    name, value = given[named_by]
    with psycopg.connect(database) as handler:
        handler.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        handler.execute("select count(*) from dlq.settings")
        assert queue.one("select dlq._compact_in_flight()") is True
        with pytest.raises(psycopg.errors.SerializationFailure):
            handler.execute(f"select public.store_dlq_entry('shop', '{{\"n\": 1}}', {name} => %s)".encode(), (value,))
        handler.rollback()
        handler.execute(f"select public.store_dlq_entry('shop', '{{\"n\": 1}}', {name} => %s)".encode(), (value,))
    queue.answer(entry_id, 200)
    assert queue.collect() == (0, 1, 0)
    assert queue.entry(entry_id)["status"] == "pending"
