"""Faults that need nobody: three webhooks are with a handler that has not answered yet, and then it happens.

Afterwards they are delivered by runs as they come anyway. What is on record of their attempts is the fault's trace:
`unanswered`, or nothing but the delivery.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from tests.faults.conftest import Place

Left = tuple[str, set[tuple[str, ...]]]
LOST: Left = ("unanswered, then delivered", {("unanswered", "delivered")})
KEPT: Left = ("delivered", {("delivered",)})
# The sender writes its answer or not, as the moment is; both end well.
EITHER: Left = ("unanswered or not, then delivered", {("unanswered", "delivered"), ("delivered",)})


@dataclass(frozen=True)
class Heal:
    """A fault, and what is left of it: in words, and how the attempts of an entry may have ended."""

    fault: str
    inflict: Callable[[Place], object]
    left: Left

    def __str__(self) -> str:
        return self.fault


def statement(text: str) -> Callable[[Place], object]:
    return lambda here: here.rows(text)


def _restart_the_server(here: Place) -> None:
    here.cluster.restart()


def _restart_the_sender(here: Place) -> None:
    """In good order, as systemctl does: it finishes what it has."""
    here.gate.open()
    worker = here.worker
    assert worker is not None
    worker.terminate()
    worker.wait(20)
    here.start_worker()


def _kill_the_sender(here: Place) -> None:
    """As systemd starts it again."""
    here.end_worker()
    here.start_worker()


def _beside(here: Place, *statements: str) -> None:
    """A pass beside somebody's open transaction, and the handler's answers too."""
    with psycopg.connect(here.cluster.dsn()) as conn:
        for one in statements:
            conn.execute(one.encode())
        here.gate.open()
        here.until(lambda: here.one("select count(*) from net._http_response") == 3)
        here.run()
        conn.rollback()


def _a_long_transaction(here: Place) -> None:
    _beside(
        here,
        "set transaction isolation level repeatable read",
        "select pg_current_xact_id(), count(*) from webhook_dlq",
    )


def _rows_are_locked(here: Place) -> None:
    _beside(here, "select from webhook_dlq for update")


def _end_a_cycle(how: str) -> Callable[[Place], None]:
    def inflict(here: Place) -> None:
        ended = threading.Event()

        def cycle() -> None:
            try:
                here.rows("call dlq.run_cycle()")
            except psycopg.Error:
                ended.set()

        thread = threading.Thread(target=cycle)
        thread.start()
        running = (
            f"select {how}(pid) from pg_stat_activity where query = 'call dlq.run_cycle()' and wait_event = 'PgSleep'"
        )
        here.until(lambda: here.rows(running))
        thread.join(10)
        assert ended.is_set()

    return inflict


def _a_pass_is_rolled_back(here: Place) -> None:
    here.gate.open()
    here.until(lambda: here.one("select count(*) from net._http_response") == 3)
    with psycopg.connect(here.cluster.dsn()) as conn:
        conn.execute("select process_dlq_entries()")
        conn.rollback()


def _answers_are_deleted(here: Place) -> None:
    here.gate.open()
    here.until(lambda: here.one("select count(*) from net._http_response") == 3)
    here.rows("delete from net._http_response")


HEALS = [
    Heal("a backend is killed", Place.kill_a_backend, LOST),
    Heal("the server is killed", Place.kill_the_server, LOST),
    Heal("the server is stopped immediately", Place.stop_immediately, LOST),
    Heal("the server is restarted", _restart_the_server, KEPT),
    Heal("the sender is restarted", _restart_the_sender, KEPT),
    Heal("the sender is killed, and started again", _kill_the_sender, KEPT),
    Heal(
        "the sender is cut off",
        statement(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'dlqctl net-worker'"
        ),
        KEPT,
    ),
    Heal("the clock jumps forward", lambda here: here.clock.advance("4 hours"), KEPT),
    Heal("the clock jumps back", lambda here: here.clock.advance("-1 hour"), KEPT),
    Heal("a long transaction", _a_long_transaction, KEPT),
    Heal("rows are locked", _rows_are_locked, KEPT),
    Heal("the engine is terminated", _end_a_cycle("pg_terminate_backend"), KEPT),
    Heal("the engine is cancelled", _end_a_cycle("pg_cancel_backend"), KEPT),
    Heal("a pass is rolled back", _a_pass_is_rolled_back, KEPT),
    Heal("ids start again", statement("select setval('net.http_request_queue_id_seq', 1, false)"), KEPT),
    Heal("ids jump", statement("select setval('net.http_request_queue_id_seq', 900000)"), KEPT),
    Heal("the sender's tables are emptied", statement("truncate net.http_request_queue, net._http_response"), EITHER),
    Heal("answers are deleted", _answers_are_deleted, LOST),
    Heal(
        "answers are forged",
        statement(
            "insert into net._http_response (id, status_code)"
            " select 1000000000 + n, 200 from generate_series(1, 9) as n"
        ),
        KEPT,
    ),
]
