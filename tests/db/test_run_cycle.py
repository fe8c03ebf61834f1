"""dlq.run_cycle() and process_dlq_entries(): runs, their rows, and what ends them."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import psycopg
import pytest

from tests.db.conftest import Queue


def _last_run(queue: Queue) -> dict[str, object]:
    return queue.rows("select * from dlq_processing_log order by id desc limit 1")[0]


def test_a_cycle_with_nothing_to_do_writes_one_row_and_ends_at_once(queue: Queue) -> None:
    began = time.monotonic()
    queue.conn.execute("call dlq.run_cycle()")
    assert time.monotonic() - began < 10, "it waited for its budget, which is four minutes"
    (run,) = queue.rows("select * from dlq_processing_log")
    assert (run["status"], run["dispatched"], run["entries_processed"]) == ("ok", 0, 0)
    assert run["duration"] is not None


def test_a_cycle_waits_for_answers_and_goes_on_until_nothing_is_due(queue: Queue, database: str) -> None:
    queue.endpoint(max_in_flight=3)
    queue.store_many(10)
    stop = threading.Event()

    def sender() -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            while not stop.is_set():
                conn.execute(
                    "with taken as (delete from net.http_request_queue returning id)"
                    " insert into net._http_response (id, status_code) select id, 200 from taken"
                )
                time.sleep(0.02)

    thread = threading.Thread(target=sender)
    thread.start()
    try:
        queue.conn.execute("call dlq.run_cycle()")
    finally:
        stop.set()
        thread.join()
    run = _last_run(queue)
    assert (run["status"], run["dispatched"], run["entries_processed"]) == ("ok", 10, 10)
    assert queue.one("select count(*) from webhook_dlq where status = 'reprocessed'") == 10


def test_a_cycle_ends_when_its_budget_is_spent(queue: Queue) -> None:
    queue.conn.execute("update dlq.settings set cycle_budget = '1 second'")
    queue.store_many(1)
    began = time.monotonic()
    queue.conn.execute("call dlq.run_cycle()")
    assert 1 <= time.monotonic() - began < 10
    assert _last_run(queue)["status"] == "ok"
    assert queue.one("select count(*) from webhook_dlq where status = 'processing'") == 1


def test_the_budget_is_the_smallest_of_its_bounds(queue: Queue) -> None:
    def budget() -> timedelta:
        value = queue.one("select dlq._cycle_budget()")
        assert isinstance(value, timedelta)
        return value

    assert budget() == timedelta(minutes=4)
    queue.conn.execute("set statement_timeout = '3s'")
    assert budget() == timedelta(seconds=2.4)
    queue.conn.execute("set statement_timeout = 0")
    queue.conn.execute("select dlq.set_alert_rule('processor', '2 minutes')")
    assert budget() == timedelta(minutes=1)
    queue.conn.execute("select dlq.set_alert_rule('processor', '10 minutes')")
    queue.conn.execute("update dlq.settings set cycle_minutes = 1")
    assert budget() == timedelta(seconds=48)
    queue.conn.execute("update dlq.settings set cycle_budget = '7 seconds'")
    assert budget() == timedelta(seconds=7)


def test_a_wait_does_not_go_beyond_the_budget(queue: Queue) -> None:
    queue.store_many(1)
    assert queue.dispatch() == 1
    queue.conn.execute("update dlq.in_flight set dispatched_at = clock_timestamp() - interval '10 s'")
    run = queue.one("select dlq._begin_run()")
    assert queue.one("select dlq._next_pass(%s, 1, '1 minute')", run) == 1
    nearly_over = "select dlq._next_pass(id, 0, clock_timestamp() - processed_at + '0.3 s') from dlq_processing_log"
    assert queue.one(nearly_over) <= 0.3


def test_a_statement_timeout_of_three_seconds_does_not_cancel_a_cycle(queue: Queue) -> None:
    queue.store_many(1)
    queue.conn.execute("set statement_timeout = '3s'")
    queue.conn.execute("call dlq.run_cycle()")
    assert _last_run(queue)["status"] == "ok"


def test_a_cycle_that_is_killed_leaves_a_row_that_the_next_one_closes(queue: Queue, database: str) -> None:
    queue.store_many(1)
    with psycopg.connect(database, autocommit=True) as killed:
        pid = killed.info.backend_pid

        def cycle() -> None:
            with pytest.raises(psycopg.OperationalError):
                killed.execute("call dlq.run_cycle()")

        thread = threading.Thread(target=cycle)
        thread.start()
        while queue.one("select count(*) from dlq.in_flight") == 0:
            time.sleep(0.01)
        queue.conn.execute("select pg_terminate_backend(%s, 5000)", (pid,))
        thread.join()
    assert _last_run(queue)["status"] == "running"
    queue.conn.execute("update dlq.settings set cycle_budget = '1 second'")
    queue.conn.execute("update dlq_processing_log set processed_at = processed_at - interval '2 minutes'")
    queue.conn.execute("call dlq.run_cycle()")
    assert [row["status"] for row in queue.rows("select status from dlq_processing_log order by id")] == [
        "interrupted", "ok",
    ]  # fmt: skip
    assert queue.one("select count(*) from webhook_dlq where status = 'processing'") == 1
    assert queue.one("select count(*) from dlq.in_flight") == 1


def test_a_cycle_looks_for_everything_once_and_the_next_one_again(queue: Queue) -> None:
    """What becomes due long ago while a cycle runs waits for the next one: see dlq._claim()."""
    queue.endpoint(max_in_flight=10)
    queue.conn.execute("update dlq.settings set cycle_budget = '1 second'")
    queue.conn.execute(
        """
        create function public.one_more() returns trigger language plpgsql as $$
        begin
          insert into public.webhook_dlq (service, payload, created_at, updated_at, next_retry_at)
          select 'shop', '"late"', now(), now(), now() - interval '2 minutes'
          where not exists (select from public.webhook_dlq where payload = '"late"');
          return null;
        end $$;
        create trigger one_more after update on public.dlq_processing_log
          for each row execute function public.one_more();
        """
    )
    queue.store_many(1)
    late = "select status from webhook_dlq where payload = '\"late\"'"
    queue.conn.execute("call dlq.run_cycle()")
    assert (queue.one("select count(*) from dlq.in_flight"), queue.one(late)) == (1, "pending")
    queue.conn.execute("call dlq.run_cycle()")
    assert (queue.one("select count(*) from dlq.in_flight"), queue.one(late)) == (2, "processing")


def test_an_error_in_a_step_is_recorded_with_its_sqlstate_and_undoes_only_the_step(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.answer(entry_id, 200)
    queue.conn.execute(
        "create or replace function dlq._room() returns integer language plpgsql as"
        " $$begin raise exception using errcode = '53100', message = 'disk full'; end$$"
    )
    queue.conn.execute("call dlq.run_cycle()")
    run = _last_run(queue)
    assert (run["status"], run["entries_processed"]) == ("error", 1)
    assert str(run["error_message"]).startswith("53100 dispatch_due: disk full")


def test_a_processor_that_cannot_see_the_queue_says_so_instead_of_running_blind(queue: Queue) -> None:
    queue.conn.execute("alter table webhook_dlq force row level security")
    with pytest.raises(psycopg.Error) as caught:
        queue.conn.execute("call dlq.run_cycle()")
    assert caught.value.diag.sqlstate == "WD003"
    queue.conn.execute("alter table webhook_dlq no force row level security")
    queue.conn.execute("alter table webhook_dlq owner to postgres")
    queue.conn.execute("grant all on webhook_dlq to dlq_owner")
    with pytest.raises(psycopg.Error) as caught:
        queue.conn.execute("select process_dlq_entries()")
    assert caught.value.diag.sqlstate == "WD003"


def test_one_pass_settles_what_is_answered_and_sends_what_is_due(queue: Queue) -> None:
    first, second = queue.store(payload=1), queue.store(payload=2)
    queue.send(first)
    queue.answer(first, 200)
    queue.make_due(second)
    run = queue.one("select process_dlq_entries()")
    run_id = run.pop("run")
    assert run == {"status": "ok", "processed": 1, "failed": 0, "dispatched": 1, "unanswered": 0}
    assert _last_run(queue)["id"] == run_id


def test_an_admin_may_run_it_and_nobody_else(queue: Queue, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("set role dlq_admin")
        other.execute("call dlq.run_cycle()")
        other.execute("select process_dlq_entries()")
        for role in ("dlq_reader", "dlq_writer"):
            other.execute(f"set role {role}".encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute("call dlq.run_cycle()")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute("select process_dlq_entries()")


def test_two_cycles_at_once_send_nothing_twice(queue: Queue, database: str) -> None:
    queue.conn.execute("update dlq.settings set cycle_budget = '2 seconds'")
    queue.endpoint(max_in_flight=5)
    queue.store_many(50)

    def cycle() -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("call dlq.run_cycle()")

    threads = [threading.Thread(target=cycle) for _ in range(4)]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, queue.one("select count(*) from dlq.in_flight"))
        queue.conn.execute(
            "with taken as (delete from net.http_request_queue where random() < 0.5 returning id)"
            " insert into net._http_response (id, status_code) select id, 200 from taken"
        )
    for thread in threads:
        thread.join()
    assert most <= 5
    assert queue.one("select max(attempt_count) from webhook_dlq") == 1
    assert queue.one("select sum(dispatched) from dlq_processing_log") == queue.one(
        "select count(*) from webhook_dlq where attempt_count = 1"
    )


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_pass_that_sees_the_queue_as_it_was_says_so_instead_of_passing_caps(
    queue: Queue, database: str, level: str
) -> None:
    """Its snapshot is older than the engine's lock: what another engine has sent meanwhile is not in it."""
    queue.store_many(40)
    with psycopg.connect(database) as person:
        person.execute(f"begin isolation level {level}".encode())
        person.execute("select from webhook_dlq limit 1")
        assert queue.dispatch() == 20
        with pytest.raises(psycopg.Error) as caught:
            person.execute("select process_dlq_entries()")
        assert caught.value.diag.sqlstate == "WD003"
        person.rollback()
    assert queue.one("select count(*) from dlq.in_flight") == 20


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_cycle_sees_the_queue_as_it_is_whatever_the_sessions_isolation_level(
    queue: Queue, database: str, level: str
) -> None:
    queue.conn.execute("update dlq.settings set cycle_budget = '1 second'")
    queue.conn.execute("create table levels (level text)")
    queue.conn.execute(
        "create function note() returns trigger language plpgsql security definer as"
        " $$begin insert into public.levels values (current_setting('transaction_isolation')); return null; end$$"
    )
    queue.conn.execute("create trigger note after insert on dlq.in_flight execute function note()")
    queue.store_many(40)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"set default_transaction_isolation = '{level}'".encode())
        conn.execute("call dlq.run_cycle()")
        assert conn.execute("show transaction_isolation").fetchone() == (level,)
    assert _last_run(queue)["status"] == "ok"
    assert queue.one("select distinct level from levels") == "read committed"


def test_a_run_that_is_closed_is_history_and_stays_as_it_is(queue: Queue) -> None:
    run = queue.one("select dlq._begin_run()")
    assert queue.one("select (dlq._end_run(%s)).status", run) == "ok"
    closed = queue.rows("select * from dlq_processing_log")
    queue.store_many(1)
    assert queue.one("select (dlq._step(%s, 'dispatch_due')).moved", run) == 1
    assert queue.one("select dlq._end_run(%s) is null", run)
    assert queue.rows("select * from dlq_processing_log") == closed


def test_a_run_waits_for_nobody_to_close_one_that_was_interrupted(queue: Queue, database: str) -> None:
    queue.conn.execute("insert into dlq_processing_log (processed_at) values (now() - interval '1 hour')")
    with psycopg.connect(database) as person:
        person.execute("select process_dlq_entries()")
        queue.conn.execute("set statement_timeout = '3s'")
        queue.conn.execute("call dlq.run_cycle()")
    assert _last_run(queue)["status"] == "ok"
    assert queue.one("select count(*) from dlq_processing_log where status = 'interrupted'") == 1


def test_a_pass_that_is_rolled_back_sends_nothing_and_loses_nothing(queue: Queue, database: str) -> None:
    queue.conn.execute("update dlq.settings set cycle_budget = '1 second'")
    answered, due = queue.store(payload=1), queue.store(payload=2)
    queue.send(answered)
    queue.answer(answered, 200)
    queue.make_due(due)
    with psycopg.connect(database) as person:
        row = person.execute("select process_dlq_entries()").fetchone()
        assert row is not None
        assert (row[0]["processed"], row[0]["dispatched"]) == (1, 1)
        # Beside it others find the engine busy, and webhooks come in.
        assert queue.one("select process_dlq_entries()")["status"] == "busy"
        queue.conn.execute("call dlq.run_cycle()")
        queue.store(payload=3)
        person.rollback()
    assert queue.one("select count(*) from net.http_request_queue") == 0
    assert queue.entry(answered)["status"] == "processing"
    assert queue.entry(due)["attempt_count"] == 0
    run = queue.one("select process_dlq_entries()")
    assert (run["processed"], run["dispatched"]) == (1, 1)
