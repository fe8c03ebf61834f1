"""dlq.maintain(): what goes, what stays, and that nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Clock
from tests.db.conftest import Queue


def maintain(queue: Queue) -> dict[str, Any]:
    """Run it, and return the run's row."""
    queue.conn.execute("call dlq.maintain()")
    return last_run(queue)


def last_run(queue: Queue) -> dict[str, Any]:
    return queue.rows("select * from dlq.maintenance_log order by id desc limit 1")[0]


def stop_clock(queue: Queue) -> None:
    """From now on dlq._now() is noon of the 31st of January 2030."""
    queue.conn.execute(
        "create or replace function dlq._now() returns timestamptz language sql stable as"
        " 'select ''2030-01-31 12:00 UTC''::pg_catalog.timestamptz'"
    )


def insert(queue: Queue, status: str, settled: str, count: int = 1, created: str = "2029-12-01") -> list[str]:
    """Entries as they are when they were settled then, each with two attempts."""
    rows = queue.rows(
        "insert into webhook_dlq (service, payload, status, created_at, settled_at)"
        " select 'shop', to_jsonb(n), %s, %s::timestamptz, %s::timestamptz from generate_series(1, %s) as n"
        " returning id::text",
        status, created, settled, count,
    )  # fmt: skip
    ids = [row["id"] for row in rows]
    as_the_queue(
        queue,
        "insert into dlq.delivery_attempts (entry_id, attempt, dispatched_at, settled_at, outcome, service)"
        " select id, n, settled_at, settled_at, 'delivered', 'shop'"
        f" from webhook_dlq, generate_series(1, 2) as n where id = any ('{{{','.join(ids)}}}')",
    )
    return ids


def as_the_queue(queue: Queue, statement: str) -> None:
    """Run it without a row of the audit log for each row."""
    with queue.conn.transaction():
        queue.conn.execute("alter table dlq.delivery_attempts disable trigger audit")
        queue.conn.execute(statement.encode())
        queue.conn.execute("alter table dlq.delivery_attempts enable always trigger audit")


def left(queue: Queue) -> set[str]:
    return {row["id"] for row in queue.rows("select id::text from webhook_dlq")}


# What goes, and what stays.


def test_what_is_done_with_goes_after_thirty_days_to_the_second_and_nothing_else_does(queue: Queue) -> None:
    stop_clock(queue)
    gone = [
        *insert(queue, "reprocessed", "2030-01-01 12:00 UTC"),
        *insert(queue, "discarded", "2030-01-01 12:00 UTC"),
        # Long ago, and created the day before.
        *insert(queue, "reprocessed", "2020-01-01", created="2019-12-31"),
    ]
    stay = [
        *insert(queue, "reprocessed", "2030-01-01 12:00:00.000001 UTC"),
        *insert(queue, "discarded", "2030-01-01 12:00:00.000001 UTC"),
        *insert(queue, "failed", "2020-01-01", created="2019-12-31"),
        *insert(queue, "reprocessed", "2030-01-31", created="2020-01-01"),  # it waited for years
        queue.store(),
    ]
    as_the_queue(queue, "update webhook_dlq set created_at = '2020-01-01' where status = 'pending'")

    run = maintain(queue)

    assert left(queue) == set(stay)
    assert (run["status"], run["entries"], run["attempts"], run["left_over"]) == ("ok", 3, 6, None)
    assert [len(queue.attempts(entry)) for entry in gone] == [0, 0, 0]
    assert [len(queue.attempts(entry)) for entry in stay] == [2, 2, 2, 2, 0]
    assert maintain(queue)["entries"] == 0


def test_failed_entries_go_only_by_a_setting_of_their_own(queue: Queue) -> None:
    stop_clock(queue)
    insert(queue, "failed", "2030-01-01 12:00 UTC", 3)
    (young,) = insert(queue, "failed", "2030-01-20")
    assert maintain(queue)["entries"] == 0

    queue.conn.execute("update dlq.settings set retain_failed = '30 days', retain_settled = null")
    (kept,) = insert(queue, "reprocessed", "2020-01-01")
    run = maintain(queue)

    assert (run["status"], run["entries"], run["attempts"]) == ("ok", 3, 6)
    assert left(queue) == {young, kept}


def test_runs_go_after_thirty_days_but_for_the_last(queue: Queue, clock: Clock) -> None:
    queue.conn.execute("alter table dlq_processing_log disable trigger audit")
    queue.conn.execute(
        "insert into dlq_processing_log (processed_at, status) select now() - n * interval '1 hour', 'ok'"
        " from generate_series(1, 24 * 40) as n"
    )
    queue.conn.execute("alter table dlq_processing_log enable always trigger audit")
    first = maintain(queue)
    assert first["runs"] == 24 * 10 + 1
    assert queue.one("select min(processed_at) > now() - interval '30 days' from dlq_processing_log") is True

    clock.set_forward("1 year")
    second = maintain(queue)
    assert second["runs"] == 24 * 30 - 2
    assert queue.one("select count(*) from dlq_processing_log") == 1
    assert queue.one("select processed_at > now() - interval '2 hours' from dlq_processing_log") is True
    maintain(queue)
    assert queue.one("select min(id) from dlq.maintenance_log") == second["id"]

    queue.conn.execute("update dlq.settings set retain_runs = null")
    assert maintain(queue)["runs"] == 0


def test_acts_stay_for_ever_unless_a_setting_says_how_long_and_their_removal_is_on_record(
    queue: Queue, clock: Clock
) -> None:
    queue.conn.execute("select dlq.pause('one')")
    acts = queue.one("select count(*) from dlq.audit_log")
    clock.set_forward("10 years")
    assert maintain(queue)["acts"] == 0
    assert queue.one("select count(*) from dlq.audit_log") == acts

    queue.conn.execute("update dlq.settings set retain_audit = '1 year'")
    clock.set_forward("364 days")
    assert maintain(queue)["acts"] == 0
    clock.set_forward("366 days")
    run = maintain(queue)

    assert run["acts"] == acts + 1
    (act,) = queue.rows("select * from dlq.audit_log")
    assert (act["action"], act["object"], act["login"]) == ("expire", "dlq.audit_log", "postgres")
    assert act["after"]["rows"] == acts + 1
    assert act["before"] is None
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        queue.conn.execute("delete from dlq.audit_log")


@pytest.mark.parametrize(
    "setting",
    [
        "retain_audit = '89 days'",  # whoever shortens it stays on record for a quarter
        "retain_settled = '23 hours'",
        "retain_runs = '0'",
        "retain_settled = '6 days'",  # and replay_window is 7
        "retain_failed = '6 days'",
        "replay_window = '31 days'",
        "maintain_budget = '0'",
    ],
)
def test_settings_that_would_harm_are_refused(queue: Queue, setting: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        queue.conn.execute(f"update dlq.settings set {setting}".encode())


def test_a_key_is_forgotten_with_its_entry_and_a_replay_is_not_before_its_window_ends(
    queue: Queue, clock: Clock
) -> None:
    queue.conn.execute("update dlq.settings set replay_window = '7 days', retain_settled = '7 days'")
    queue.conn.execute("select dlq.set_secret('DOOR', 'sesame')")
    queue.endpoint(signing="x-hub-signature-256", secret_names=["DOOR"])

    def receive() -> str:
        row = queue.one(
            "select dlq.receive_webhook('shop', '{}', jsonb_build_object('x-hub-signature-256',"
            " 'sha256=' || encode(dlq._hmac_sha256(dlq._hmac_pads('sesame'), '{}'), 'hex')))"
        )
        return str(row["status"])

    assert receive() == "accepted"
    entry = queue.store(idempotency_key="k")
    queue.conn.execute("update webhook_dlq set status = 'reprocessed'")

    clock.set_forward("6 days 23 hours")
    maintain(queue)
    assert (receive(), queue.store(idempotency_key="k")) == ("duplicate", entry)
    clock.set_forward("7 days 1 hour")
    assert maintain(queue)["entries"] == 2
    assert (receive(), queue.store(idempotency_key="k") == entry) == ("accepted", False)


def test_an_echo_may_go_before_its_original_or_stay_after_it(queue: Queue, clock: Clock) -> None:
    original = queue.store()
    queue.send(original)
    echo = queue.store(payload={"again": 1}, headers=Jsonb({"webhook-id": original}))
    assert echo == original
    queue.answer(original, 200)
    queue.collect()
    (early,) = queue.rows("select id from webhook_dlq where duplicate_of = %s", original)
    clock.set_forward("31 days")
    assert maintain(queue)["entries"] == 1
    assert left(queue) == {original}
    assert [row["outcome"] for row in queue.attempts(original)] == ["echoed"]

    queue.attempt(original, 200)
    assert queue.entry(original)["status"] == "reprocessed"
    queue.conn.execute(
        "insert into webhook_dlq (service, payload, status, duplicate_of, settled_at)"
        " values ('shop', '1', 'discarded', %s, dlq._now() + interval '1 day')",
        (original,),
    )
    clock.set_forward("61 days 1 hour")
    maintain(queue)
    (late,) = queue.rows("select id, duplicate_of from webhook_dlq")
    assert (late["id"] != early["id"], str(late["duplicate_of"])) == (True, original)
    # Its original is unknown now: what names it is a failure of its own.
    new = queue.store(payload={"third": 1}, headers=Jsonb({"webhook-id": original}))
    assert queue.entry(new)["status"] == "pending"


def test_attempts_whose_entry_a_person_deleted_go_thirty_days_after_they_were_made(queue: Queue, clock: Clock) -> None:
    deleted, kept = queue.store(payload=1), queue.store(payload=2)
    for entry in (deleted, kept):
        queue.attempt(entry, 500)
    queue.conn.execute("delete from webhook_dlq where id = %s", (deleted,))
    assert maintain(queue)["attempts"] == 0
    assert len(queue.attempts(deleted)) == 1

    clock.set_forward("31 days")
    run = maintain(queue)
    assert (run["attempts"], run["attempts_seen"], run["seen_up_to"]) == (1, 2, None)
    assert (queue.attempts(deleted), len(queue.attempts(kept))) == ([], 1)


def test_the_search_for_such_attempts_goes_on_where_it_stopped_and_begins_again(queue: Queue) -> None:
    as_the_queue(
        queue,
        "insert into dlq.delivery_attempts (entry_id, attempt, dispatched_at, settled_at, outcome, service)"
        " select lpad(to_hex(n), 32, '0')::uuid, 1, '2020-01-01', '2020-01-01', 'delivered', 'shop'"
        " from generate_series(1, 25000) as n",
    )
    runs = [maintain(queue) for _ in range(4)]  # each looks at a page, for a table that was never analyzed
    assert [(run["attempts_seen"], run["attempts"], run["seen_up_to"] is None) for run in runs] == [
        (10_000, 10_000, False), (10_000, 10_000, False), (5_000, 5_000, True), (0, 0, True),
    ]  # fmt: skip


# Who may, and what it refuses.


def test_an_admin_may_run_it_and_nobody_else(queue: Queue, database: str) -> None:
    stop_clock(queue)
    insert(queue, "reprocessed", "2020-01-01")
    with psycopg.connect(database, autocommit=True) as other:
        for role in ("dlq_reader", "dlq_writer", "dlq_net_worker"):
            other.execute(f"set role {role}".encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute("call dlq.maintain()")
        other.execute("set role dlq_admin")
        other.execute("call dlq.maintain()")
    assert left(queue) == set()
    assert queue.one("select count(*) from dlq.audit_log where object like '%delivery%' or action = 'delete'") == 0


def test_a_copy_of_production_loses_nothing(queue: Queue) -> None:
    stop_clock(queue)
    entry = insert(queue, "reprocessed", "2020-01-01")
    queue.conn.execute("update dlq.settings set database_oid = 1")
    with pytest.raises(psycopg.Error) as caught:
        queue.conn.execute("call dlq.maintain()")
    assert caught.value.diag.sqlstate == "WD004"
    assert left(queue) == set(entry)


def test_maintenance_that_cannot_see_the_queue_says_so(queue: Queue) -> None:
    queue.conn.execute("alter table webhook_dlq force row level security")
    with pytest.raises(psycopg.Error) as caught:
        queue.conn.execute("call dlq.maintain()")
    assert caught.value.diag.sqlstate == "WD003"


# What it does under difficulties.


def test_what_cannot_go_stays_the_rest_goes_and_the_reason_is_told(queue: Queue) -> None:
    stop_clock(queue)
    ids = insert(queue, "reprocessed", "2020-01-01", 1500)
    queue.conn.execute("create table theirs (entry uuid references webhook_dlq)")
    queue.conn.execute("insert into theirs select id from webhook_dlq where payload::int <= 2")

    run = maintain(queue)

    assert (run["status"], run["entries"], run["attempts"]) == ("error", 1498, 2996)
    assert run["error_message"].startswith("23503 ")
    assert left(queue) == set(ids[:2])
    assert len(queue.attempts(ids[0])) == 2
    (health,) = queue.rows("select * from dlq.health where name = 'retention'")
    assert (health["level"], "23503" in health["detail"]) == ("warning", True)


def test_a_thousand_of_one_moment_that_cannot_go_do_not_hold_up_the_others(queue: Queue) -> None:
    stop_clock(queue)
    insert(queue, "discarded", "2020-01-01", 1100)
    queue.conn.execute("create table theirs (entry uuid references webhook_dlq)")
    queue.conn.execute("insert into theirs select id from webhook_dlq")
    insert(queue, "discarded", "2020-01-02", 10)
    began = time.monotonic()

    assert maintain(queue)["entries"] == 10
    assert time.monotonic() - began < 30


def test_an_error_in_one_step_does_not_stop_the_others(queue: Queue) -> None:
    stop_clock(queue)
    insert(queue, "reprocessed", "2020-01-01")
    queue.conn.execute(
        "create or replace function dlq._remove_runs() returns integer language plpgsql as"
        " $$begin raise exception using errcode = '53100', message = 'disk full'; end$$"
    )
    run = maintain(queue)
    assert (run["status"], run["entries"]) == ("error", 1)
    assert run["error_message"] == "53100 runs: disk full"


def test_what_somebody_holds_is_left_for_the_next_run_and_nobody_waits(queue: Queue, database: str) -> None:
    stop_clock(queue)
    first, second, third, *_ = insert(queue, "reprocessed", "2020-01-01", 10)
    with psycopg.connect(database) as person:
        person.execute("select from webhook_dlq where id = %s for update", (first,))
        person.execute("select from dlq.delivery_attempts where entry_id = %s for update", (second,))
        person.execute("select from webhook_dlq where id = %s for key share", (third,))
        queue.conn.execute("set lock_timeout = '1s'")

        run = maintain(queue)

        assert (run["status"], run["entries"], run["attempts"]) == ("ok", 8, 14)
        assert left(queue) == {first, third}
        assert len(queue.attempts(second)) == 2
    assert maintain(queue)["entries"] == 2
    assert queue.one("select count(*) from dlq.delivery_attempts") == 0


def test_a_table_that_goes_along_and_is_held_delays_it_by_no_more_than_seconds(queue: Queue, database: str) -> None:
    stop_clock(queue)
    first, second = insert(queue, "reprocessed", "2020-01-01", 2)
    queue.conn.execute("create table theirs (entry uuid references webhook_dlq on delete cascade)")
    queue.conn.execute("insert into theirs values (%s), (%s)", (first, second))
    with psycopg.connect(database) as person:
        person.execute("select from theirs where entry = %s for update", (first,))
        run = maintain(queue)
    assert (run["status"], run["entries"], left(queue)) == ("error", 1, {first})
    assert run["error_message"].startswith("55P03 ")
    assert run["duration"] < timedelta(seconds=10)
    assert maintain(queue)["entries"] == 1


def test_the_budget_is_the_smaller_of_its_bounds(queue: Queue) -> None:
    assert queue.one("select dlq._maintenance_budget()") == timedelta(minutes=10)
    queue.conn.execute("set statement_timeout = '3s'")
    assert queue.one("select dlq._maintenance_budget()") == timedelta(seconds=2.4)


def slowly(queue: Queue, seconds: float) -> None:
    """Make each batch take so long."""
    queue.conn.execute(
        "create function slow() returns trigger language plpgsql"
        f" as 'begin perform pg_sleep({seconds}); return null; end';"
        "create trigger slow after delete on webhook_dlq for each statement execute function slow()".encode()
    )


def test_when_the_time_is_up_it_ends_says_what_is_left_and_the_next_run_goes_on(queue: Queue) -> None:
    stop_clock(queue)
    insert(queue, "reprocessed", "2020-01-01", 4000)
    slowly(queue, 0.6)
    queue.conn.execute("update dlq.settings set maintain_budget = '1 second'")

    run = maintain(queue)

    assert (run["status"], run["entries"], run["left_over"]) == ("partial", 2000, 2000)
    queue.conn.execute("update dlq.settings set maintain_budget = '1 minute'")
    queue.conn.execute("drop trigger slow on webhook_dlq")
    (health,) = queue.rows("select * from dlq.health where name = 'retention'")
    assert (health["level"], "2000 left over" in health["detail"]) == ("warning", True)
    assert (maintain(queue)["entries"], left(queue)) == (2000, set())
    assert queue.one("select level from dlq.health where name = 'retention'") == "ok"


@contextmanager
def maintaining(queue: Queue, database: str) -> Iterator[psycopg.Connection]:
    """A run in another connection that has come as far as its second batch; it may end as it likes."""
    with psycopg.connect(database, autocommit=True) as conn:

        def run() -> None:
            with suppress(psycopg.OperationalError):
                conn.execute("call dlq.maintain()")

        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + 20
        while not queue.rows("select from dlq.maintenance_log where status = 'running' and entries >= 1000"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield conn
        thread.join()


def test_a_run_that_is_killed_leaves_nothing_half_done_and_the_next_one_goes_on(queue: Queue, database: str) -> None:
    stop_clock(queue)
    insert(queue, "reprocessed", "2020-01-01", 5000)
    slowly(queue, 0.2)
    with maintaining(queue, database) as killed:
        queue.conn.execute("select pg_terminate_backend(%s, 5000)", (killed.info.backend_pid,))
    run = last_run(queue)
    assert run["status"] == "running"
    assert 1000 <= run["entries"] < 5000
    assert len(left(queue)) == 5000 - run["entries"]
    assert queue.one("select count(*) from dlq.delivery_attempts") == 2 * len(left(queue))

    assert maintain(queue)["entries"] == 5000 - run["entries"]
    assert [row["status"] for row in queue.rows("select status from dlq.maintenance_log order by id")] == [
        "interrupted", "ok",
    ]  # fmt: skip


def test_of_two_at_once_the_later_takes_over(queue: Queue, database: str) -> None:
    stop_clock(queue)
    insert(queue, "reprocessed", "2020-01-01", 5000)
    slowly(queue, 0.2)
    with maintaining(queue, database):
        second = maintain(queue)
    first, _ = runs = queue.rows("select id, status, entries from dlq.maintenance_log order by id")
    assert [run["status"] for run in runs] == ["interrupted", "ok"]
    assert (first["entries"] + second["entries"], left(queue)) == (5000, set())


def test_beside_a_running_cycle_both_do_their_work(queue: Queue, database: str) -> None:
    stop_clock(queue)
    insert(queue, "reprocessed", "2020-01-01", 6000)
    queue.store_many(30)
    slowly(queue, 0.3)
    with maintaining(queue, database):
        assert queue.dispatch() == 20
        for row in queue.rows("select entry_id from dlq.in_flight"):
            queue.answer(row["entry_id"])
        began = time.monotonic()
        assert queue.collect() == (20, 0, 0)
        assert time.monotonic() - began < 1
        assert queue.one("select status from dlq.maintenance_log") == "running"
    assert queue.one("select count(*) from webhook_dlq where status = 'reprocessed'") == 20
    assert last_run(queue)["status"] == "ok"


def test_health_warns_of_two_days_without_a_run(queue: Queue) -> None:
    def health() -> tuple[str, str]:
        (row,) = queue.rows("select level, detail from dlq.health where name = 'retention'")
        return row["level"], row["detail"]

    assert health() == ("ok", "what is old has not been removed yet")
    queue.conn.execute("update dlq.settings set installed_at = now() - interval '49 hours'")
    assert health()[0] == "warning"
    maintain(queue)
    assert health()[0] == "ok"
    queue.conn.execute("update dlq.maintenance_log set began_at = now() - interval '49 hours'")
    queue.conn.execute("insert into dlq.maintenance_log (began_at) values (now())")  # began, and was killed
    assert health()[0] == "warning"


def test_earlier_payloads_go_with_their_entry(queue: Queue) -> None:
    stop_clock(queue)
    gone, stays = (queue.store(payload={"n": n}) for n in range(2))
    queue.conn.execute("select dlq.amend(id, '{}', 'x'), dlq.discard(id, 'x') from webhook_dlq")
    with queue.conn.transaction():
        queue.conn.execute("update webhook_dlq set settled_at = '2029-12-01' where id = %s", (gone,))
    maintain(queue)
    assert left(queue) == {stays}
    assert queue.rows("select entry_id::text as id from dlq.amendments") == [{"id": stays}]
