"""Two of everything at once, and what a DBA may do to the queue without knowing it."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter

import psycopg
import pytest

from dlqctl.cluster import start_cluster
from dlqctl.migrate import migrate
from dlqctl.receiver import Receiver, Reply
from tests.conftest import _require_pg_net
from tests.db.conftest import Queue
from tests.db.conftest import queue as queue
from tests.faults.crowd import LOCK_WAIT_MS, SETTINGS, VERBS, Crowd
from tests.faults.crowd_verdict import judge, lock_waits
from tests.net_worker import net_worker

IS_LONG = os.environ.get("DLQCTL_FAULTS") == "long"
ROUNDS, SECONDS = (10_000, 900) if IS_LONG else (1000, 100)
LONGEST = 5.0  # seconds, for a store or a verb, on a machine that others use too
STORES = ("store", "echo", "echo by key", "echo by insert", "echo late")
ACTS = ("pause", "resume", "set_endpoint", "reset_endpoint", "update by hand", "delete by hand", "erase", *VERBS)


@pytest.mark.parametrize("sender", ["net-worker", pytest.param("pg_net", marks=pytest.mark.pg_net)])
def test_all_at_once_nothing_is_in_flight_twice_no_cap_is_passed_and_nobody_waits(sender: str) -> None:
    if sender == "pg_net":
        _require_pg_net()
    seed = int(os.environ.get("DLQCTL_FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"\ntwo of everything with {sender}, seed {seed}")
    began = time.monotonic()
    with start_cluster(pg_net=sender == "pg_net", settings=SETTINGS) as cluster, Receiver() as receiver:
        migrate(cluster.dsn(), cron=False, net_worker=sender == "net-worker")
        crowd = Crowd(cluster, receiver, is_pg_net=sender == "pg_net", seed=seed, rounds=ROUNDS)
        crowd.set_up()
        for service in ["*", *(f"s{n}" for n in range(6))]:
            receiver.behave(service, crowd.handle)
        with crowd.senders():
            crowd.work(SECONDS)
            worked = time.monotonic() - began
            crowd.settle(SECONDS / 4 if IS_LONG else SECONDS)
        judge(cluster.dsn(), crowd.figures, crowd.calls)
        waits = lock_waits(cluster.log_path)
    _report(crowd, waits, worked, time.monotonic() - began)

    figures = crowd.figures
    if figures.wrong:
        pytest.fail("\n".join(["", *figures.wrong[:20], f"{len(figures.wrong)} in all"]), pytrace=False)
    assert not figures.errors
    assert not receiver.errors
    assert max(figures.longest[act] for act in (*STORES, *ACTS)) < LONGEST
    # That something happened at all.
    assert min(figures.snapshots, figures.said["ok"], figures.acts["cycle"]) >= ROUNDS / 100
    assert figures.ends["reprocessed"] >= ROUNDS / 20


def _report(crowd: Crowd, waits: Counter[str], worked: float, took: float) -> None:
    def line(title: str, counts: Counter[str]) -> None:
        print(f"{title} ({counts.total()}): {', '.join(f'{n} {what}' for what, n in counts.most_common()) or 'none'}")

    figures = crowd.figures
    line("acts", figures.acts)
    longest = Counter({what: round(1000 * seconds) for what, seconds in figures.longest.items()})
    print("longest, ms: " + ", ".join(f"{what} {ms}" for what, ms in longest.most_common()))
    line("passes said", figures.said)
    line(f"waits for a lock of more than {LOCK_WAIT_MS} ms", waits)
    line("handlers", Counter(call.kind for call in crowd.calls))
    line("entries at the end", figures.ends)
    line("taken again", figures.duplicates)
    line("at a handler twice at the same moment", figures.overlaps)
    line("errors", figures.errors)
    print(
        f"{figures.sent} transactions sent something, {figures.just_lowered} beside a limit being lowered;"
        f" {figures.snapshots} snapshots; {figures.own_echoes} echoes that are entries of their own"
    )
    print(f"{worked:.0f} s of work, {took:.0f} s in all")


@pytest.mark.parametrize("how", ["call dlq.run_cycle()", "select process_dlq_entries()"])
def test_a_session_that_is_killed_between_two_steps_leaves_each_entry_where_its_attempts_say(
    queue: Queue, database: str, how: str
) -> None:
    """Killed as it comes for the engine's lock: the step before is done, the next has not begun."""
    # From the nth time on that somebody comes for the lock, whoever does waits at this trap.
    queue.conn.execute("create schema trap")
    queue.conn.execute("create sequence trap.times")
    queue.conn.execute("grant usage on schema trap to public")
    queue.conn.execute("grant all on sequence trap.times to public")
    (code,) = queue.rows("select pg_get_functiondef('dlq._engine_lock()'::regprocedure) as text")
    wait = "begin\n  if nextval('trap.times') = %s then perform pg_advisory_xact_lock(1, 1); end if;\n"
    queue.conn.execute("update dlq.settings set cycle_budget = '1 s'")
    killed = 0
    for nth in range(1, 9):
        lost, answered, due = (queue.store(payload={"nth": nth, "n": n}) for n in range(3))
        for entry_id in (lost, answered):
            queue.send(entry_id)
        queue.answer(answered, 200)
        queue.conn.execute("delete from net.http_request_queue where id in (select request_id from dlq.in_flight)")
        queue.conn.execute("delete from dlq.in_flight where entry_id = %s", (lost,))
        queue.make_due(due)
        with psycopg.connect(database) as trapper, psycopg.connect(database, autocommit=True) as victim:
            trapper.execute("select pg_advisory_xact_lock(1, 1)")
            queue.conn.execute("select setval('trap.times', 1, false)")
            queue.conn.execute(code["text"].replace("begin\n", wait % nth, 1))
            thread = threading.Thread(target=_try, args=(victim, how))
            thread.start()
            pid = victim.info.backend_pid
            trapped = f"select 1 from pg_stat_activity where pid = {pid} and wait_event = 'advisory'"
            while thread.is_alive() and not queue.rows(trapped):
                time.sleep(0.01)
            if thread.is_alive():
                killed += 1
                queue.conn.execute("select pg_terminate_backend(%s, 5000)", (pid,))
            thread.join()
        queue.conn.execute(code["text"])
        assert _half_done(queue) == []
        # Another goes on where it was.
        queue.one("select process_dlq_entries()")
        assert _half_done(queue) == []
        assert [len(queue.attempts(entry_id)) for entry_id in (lost, answered)] == [1, 1]
        assert queue.entry(answered)["status"] == "reprocessed"
        assert queue.entry(due)["attempt_count"] == 1
        queue.conn.execute(
            "with sent as (delete from net.http_request_queue returning id)"
            " insert into net._http_response (id, status_code) select id, 200 from sent"
        )
        queue.collect()
        assert queue.one("select count(*) from webhook_dlq where status <> 'reprocessed'") == 0
    assert killed >= 4


def _try(conn: psycopg.Connection, statement: str) -> None:
    with contextlib.suppress(psycopg.OperationalError):
        conn.execute(statement.encode())


def _half_done(queue: Queue) -> list[dict[str, object]]:
    """Entries in processing or in flight, and not both; requests of nobody; attempts that are not on record."""
    return queue.rows(
        """
        select e.id, e.status, e.attempt_count, f.request_id, q.id as queued
        from webhook_dlq as e
          full join dlq.in_flight as f on f.entry_id = e.id
          full join net.http_request_queue as q on q.id = f.request_id
        where e.id is null
          or e.status = 'processing' and f.entry_id is null and e.attempt_count <> 1
          or e.status <> 'processing' and f.entry_id is not null
          or e.attempt_count <> (e.status = 'processing')::integer
            + (select count(*) from dlq.delivery_attempts as a where a.entry_id = e.id)
        """
    )


@pytest.mark.skipif(not IS_LONG, reason="pg_cron runs a job no sooner than at the next full minute: DLQCTL_FAULTS=long")
def test_two_cron_jobs_of_one_name_by_two_users_send_nothing_twice_and_are_told_of() -> None:
    with start_cluster(pg_net=False) as cluster, Receiver() as receiver:
        if not cluster.has_pg_cron:
            pytest.skip("pg_cron is not installed")
        migrate(cluster.dsn(), cron=True, net_worker=True)
        receiver.behave("shop", lambda request, nth: Reply(200, delay=0.05))
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn, net_worker(cluster.dsn()):
            conn.execute("create role second login in role dlq_admin")
            conn.execute("grant usage on schema cron to second")
            conn.execute("update cron.job set schedule = '* * * * *' where jobname = 'process-dlq-entries'")
            conn.execute("set session authorization second")
            conn.execute("select cron.schedule('process-dlq-entries', '* * * * *', 'call dlq.run_cycle()')")
            conn.execute("reset session authorization")
            conn.execute("update cron.job set nodename = %s", (str(cluster.socket_dir),))
            told = conn.execute("select detail from dlq.cron_checks() where level = 'error'").fetchall()
            assert sum("is scheduled 2 times" in detail for (detail,) in told) == 2
            conn.execute("select dlq.set_endpoint('shop', %s, true, true, max_in_flight => 5)", (receiver.url("shop"),))
            conn.execute(
                "insert into webhook_dlq (service, payload, next_retry_at)"
                " select 'shop', to_jsonb(n), dlq._now() from generate_series(1, 200) as n"
            )
            most = 0
            deadline = time.monotonic() + 100
            while conn.execute("select 1 from webhook_dlq where status <> 'reprocessed' limit 1").fetchone():
                row = conn.execute("select count(*) from dlq.in_flight").fetchone()
                assert row is not None
                most = max(most, row[0])
                assert time.monotonic() < deadline
                time.sleep(0.01)
            runs = conn.execute(
                "select username, status from cron.job_run_details where command like '%run_cycle%' order by username"
            ).fetchall()
    assert {username for username, _ in runs} == {"postgres", "second"}
    assert most <= 5
    assert len(receiver.requests) == len(receiver.accepted) == 200
