"""A run that is killed wherever it stands leaves nothing half done, and a row at fault stops no other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dlqctl.receiver import Receiver
from tests.db.conftest import Queue
from tests.migration.migrating import wait_for

TABLES = (
    "public.webhook_dlq",
    "public.dlq_processing_log",
    "dlq.in_flight",
    "dlq.delivery_attempts",
    "dlq.endpoints",
    "dlq.endpoint_state",
    "dlq.settings",
    "net.http_request_queue",
    "net._http_response",
)
# A reader's lock stops only whoever writes: one statement later than where everybody is stopped.
MODES = ("access exclusive", "share")
END = ("pg_terminate_backend", "pg_cancel_backend")


@pytest.fixture
def busy(queue: Queue) -> Queue:
    """A queue in which each step has something to do: something lost, something answered, something due."""
    lost, answered, refused = (queue.store(payload={"n": n}) for n in range(3))
    for entry_id in (lost, answered, refused):
        queue.send(entry_id)
    queue.answer(answered, 200)
    queue.answer(refused, 500)
    queue.conn.execute("delete from net.http_request_queue")
    queue.conn.execute("delete from dlq.in_flight where entry_id = %s", (lost,))
    for n in range(3, 6):
        queue.make_due(queue.store(payload={"n": n}))
    queue.conn.execute("update dlq.settings set cycle_budget = '1 second'")
    return queue


def whole(queue: Queue) -> None:
    """Nothing is half done: each entry is where its attempts say, and in flight exactly if it is in processing."""
    wrong = queue.rows(
        """
        select e.id, e.status, e.attempt_count, e.retry_count, e.unanswered_count, f.request_id, a.*
        from webhook_dlq as e
          left join dlq.in_flight as f on f.entry_id = e.id
          left join net.http_request_queue as q on q.id = f.request_id
          left join net._http_response as r on r.id = f.request_id
          cross join lateral (
            select count(*) as attempts,
              count(*) filter (where outcome = 'unanswered') as unanswered,
              count(*) filter (where outcome in ('http_error', 'network_error')) as failed,
              count(*) filter (where outcome = 'delivered') as delivered
            from dlq.delivery_attempts as d where d.entry_id = e.id) as a
        where e.unanswered_count <> a.unanswered or e.retry_count <> a.failed
          or (e.status = 'reprocessed') <> (a.delivered = 1)
          or e.attempt_count <> a.attempts + (e.status = 'processing')::integer
          or f.entry_id is not null and (e.status <> 'processing' or q.id is null and r.id is null)
        """
    )
    assert wrong == []
    assert queue.one("select count(*) from net.http_request_queue") == queue.one(
        "select count(*) from dlq.in_flight as f join net.http_request_queue as q on q.id = f.request_id"
    ), "what is queued is in flight"


@contextmanager
def cycle(dsn: str) -> Iterator[tuple[threading.Thread, int]]:
    """Run a cycle in a session of its own, which is as patient as pg_cron's."""
    with psycopg.connect(dsn, autocommit=True) as conn:

        def call() -> None:
            try:
                conn.execute("call dlq.run_cycle()")
            except psycopg.Error:
                pass  # that is what it is for

        thread = threading.Thread(target=call)
        yield thread, conn.info.backend_pid
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("end", END)
@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_is_ended_at_whatever_it_waits_for_leaves_nothing_half_done(
    busy: Queue, database: str, mode: str, end: str
) -> None:
    """For each table, the run is held up at its first need of it, then at its second, and so on, and ended there."""
    held = 0
    for table in TABLES:
        for nth in range(1, 4):
            held += _end_at(busy, database, table, mode, nth, end)
            whole(busy)
    assert held >= 12, "most tables hold a run up"
    _finish(busy)


def _end_at(queue: Queue, dsn: str, table: str, mode: str, nth: int, end: str) -> bool:
    """Hold a cycle up at its nth wait for a table, and end it there. False if it does not come to it."""
    with cycle(dsn) as (thread, pid):
        with psycopg.connect(dsn) as locker, psycopg.connect(dsn) as second:
            lockers = [locker, second]
            lockers[0].execute(f"lock table {table} in {mode} mode".encode())
            thread.start()
            for step in range(nth):
                try:
                    wait_for(
                        dsn,
                        f"select pid from pg_stat_activity where pid = {pid} and wait_event_type = 'Lock'"
                        f" or not exists (select from pg_stat_activity where pid = {pid} and state = 'active')",
                    )
                except AssertionError:
                    return False
                if not queue.one(
                    "select count(*) from pg_stat_activity where pid = %s and wait_event_type = 'Lock'", pid
                ):
                    return False
                if step == nth - 1:
                    queue.conn.execute(f"select {end}(%s)".encode(), (pid,))
                    thread.join(30)
                    return True
                # The other waits behind the cycle: it gets the table as soon as the cycle's transaction lets go of it.
                waiting = lockers[(step + 1) % 2]
                waiter = threading.Thread(target=waiting.execute, args=(f"lock table {table} in {mode} mode".encode(),))
                waiter.start()
                wait_for(
                    dsn,
                    f"select pid from pg_stat_activity where pid = {waiting.info.backend_pid} and wait_event_type = 'Lock'",
                )
                lockers[step % 2].rollback()
                waiter.join(30)
    return False
