"""Every way in which an answer can fail to come, each by itself, with real parts.

Each is noticed, the entry is sent again once, the attempt is on record, and no retry is used up. Elsewhere: what SQL
alone can show, in tests/db/test_requeue_lost.py and test_collect_responses.py; a failover with the net-worker, in
tests/live/test_net_worker_cut_off.py, and one with pg_cron, in tests/live/test_standby.py; a net-worker that is killed
or cut off, in tests/live/test_net_worker.py; strangers in pg_net's tables, in tests/security/test_open_queue.py.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

import psycopg
import pytest

from dlqctl.cluster import Cluster
from dlqctl.migrate import migrate
from tests.faults.conftest import Place, place
from tests.migration.migrating import wait_for
from tests.standby import standby_of


@pytest.mark.parametrize("crash", ["kill_a_backend", "kill_the_server", "stop_immediately"])
def test_what_was_in_flight_in_a_crash_is_sent_again_once(here: Place, crash: str) -> None:
    entries = here.send()
    getattr(here, crash)()
    here.gate.open()
    assert here.run()["unanswered"] == len(entries)
    here.until_delivered()
    for entry_id in entries:
        assert here.story(entry_id) == ["unanswered", "delivered"]
        assert [request.attempt for request in here.receiver.by_entry(entry_id)] == [1, 2]


def test_an_entry_of_which_every_attempt_is_lost_ends_as_failed_and_its_last_attempt_says_why(here: Place) -> None:
    here.rows("update dlq.settings set max_unanswered = 3")
    (entry_id,) = here.send(1)
    for _ in range(3):
        here.stop_immediately()
        here.run()
        here.clock.advance("5 minutes")
        here.run()
    assert here.one("select status from webhook_dlq") == "failed"
    assert here.story(entry_id) == ["unanswered"] * 3
    first, *_, last = here.rows("select error from dlq.delivery_attempts order by attempt")
    assert last["error"].endswith("given up after 3 attempts without an answer")
    assert "max_unanswered" not in first["error"]
    here.run()
    assert here.one("select attempt_count from webhook_dlq") == 3


def test_a_restart_in_good_order_loses_nothing(here: Place) -> None:
    """The unlogged tables stay; the sender sends again what it was sending, under the same number."""
    (entry_id,) = here.send(1)
    here.cluster.restart()
    here.gate.open()
    here.until_delivered()
    assert here.story(entry_id) == ["delivered"]
    assert {request.attempt for request in here.receiver.by_entry(entry_id)} == {1}


def test_after_pg_net_was_dropped_and_created_what_was_in_flight_is_sent_again_once(here: Place) -> None:
    entries = here.send()
    here.rows("drop extension pg_net" if here.is_pg_net else "drop schema net cascade")
    run = here.run()
    assert (run["status"], run["unanswered"]) == ("error", len(entries))
    assert here.health("sender") == "error"
    if here.is_pg_net:
        here.rows("create extension pg_net")
    migrate(here.cluster.dsn(), cron=False, net_worker=not here.is_pg_net)
    here.gate.open()
    here.until_delivered()
    for entry_id in entries:
        assert here.story(entry_id) == ["unanswered", "delivered"]


def test_an_answer_that_expired_before_anybody_read_it(here: Place) -> None:
    """After six hours without a pass, or sooner where pg_net.ttl says so."""
    here.gate.open()
    entries = here.send()
    here.until(lambda: here.one("select count(*) from net._http_response") == len(entries))
    here.rows("update net._http_response set created = created - interval '7 hours'")
    if here.is_pg_net:  # it deletes at the start of a batch
        here.rows("select net.http_post('http://127.0.0.1:9/')")
    here.until(lambda: here.one("select count(*) from net._http_response where status_code = 200") == 0)
    assert here.run()["unanswered"] == 0, "it may be on its way"
    here.a_minute_goes_by()
    assert here.run()["unanswered"] == len(entries)
    here.until_delivered()
    for entry_id in entries:
        assert here.story(entry_id) == ["unanswered", "delivered"]


def test_ids_that_a_stranger_has_start_again_are_nobodys_answer(here: Place) -> None:
    """Those of the last minutes were answered with 200, and the handler now refuses."""
    here.gate.open()
    here.send()
    here.until_delivered()
    here.rows("select setval('net.http_request_queue_id_seq', (select min(id) from net._http_response), false)")
    here.gate.close()
    entries = here.store()
    here.run()
    assert {row["status"] for row in here.rows("select status from webhook_dlq where id = any (%s)", entries)} == {
        "processing"
    }
    run = here.run()
    assert (run["processed"], run["unanswered"]) == (0, len(entries))
    here.gate.open()
    here.until_delivered()
    for entry_id in entries:
        assert here.story(entry_id)[-1] == "delivered"
        assert set(here.story(entry_id)[:-1]) == {"unanswered"}


@pytest.mark.pg_net
def test_a_wake_up_that_was_lost_behind_a_lock_is_repeated_by_the_next_pass(real: Place) -> None:
    real.gate.open()
    (entry_id,) = real.store(1)
    dsn = real.cluster.dsn()
    with psycopg.connect(dsn) as locker, psycopg.connect(dsn) as engine:
        engine.execute("select dlq.dispatch_due()")
        lock = "lock table net._http_response, net.http_request_queue in access exclusive mode"
        thread = threading.Thread(target=locker.execute, args=(lock,))
        thread.start()
        wait_for(
            dsn, f"select 1 from pg_stat_activity where pid = {locker.info.backend_pid} and wait_event_type = 'Lock'"
        )
        engine.commit()  # pg_net wakes up, finds the lock, and goes back to sleep
        thread.join(10)
        time.sleep(1)
    time.sleep(1)
    print(f"{real.one('select count(*) from net.http_request_queue')} of 1 wake-ups lost")
    real.clock.advance("6 minutes")
    assert real.health("answers") == "error"
    real.until_delivered()
    assert real.story(entry_id) == ["delivered"]
    assert len(real.receiver.by_entry(entry_id)) == 1


@pytest.mark.pg_net
def test_a_restart_of_pg_net_in_mid_batch_has_the_batch_sent_again_under_the_same_numbers(real: Place) -> None:
    entries = real.send()
    real.rows("select net.worker_restart()")
    real.gate.open()
    real.until_delivered()
    for entry_id in entries:
        assert real.story(entry_id) == ["delivered"]
        attempts = [request.attempt for request in real.receiver.by_entry(entry_id)]
        assert attempts in ([1], [1, 1])


@pytest.mark.pg_net
def test_a_request_that_kills_pg_net_each_second_is_noticed_and_costs_no_retry(real: Place) -> None:
    """A stranger's: headers that are not an object. It is theirs to take out: what is behind it waits."""
    real.gate.open()
    real.rows(
        "insert into net.http_request_queue (method, url, headers, timeout_milliseconds)"
        " values ('POST', 'http://127.0.0.1:9/', '[1]', 1000)"
    )
    entries = real.store()
    real.run()
    time.sleep(3)
    assert real.run()["processed"] == 0
    again = Counter(request.entry_id for request in real.receiver.requests)
    print(f"while the worker died each second, so often were ours sent in 3 s: {[again[e] for e in entries]}")
    assert {row["status"] for row in real.rows("select status from webhook_dlq")} == {"processing"}
    real.clock.advance("6 minutes")
    assert real.health("answers") == "error"
    real.rows("delete from net.http_request_queue where headers = '[1]'")
    real.until_delivered()
    for entry_id in entries:
        assert real.story(entry_id) == ["delivered"]


@pytest.mark.pg_net
def test_pg_net_in_another_database_is_noticed_and_costs_no_retry() -> None:
    """migrate refuses to install it so; here it was set later."""
    with place("pg_net") as there:
        there.rows("alter system set pg_net.database_name = 'postgres'")
        there.cluster.restart()
        there.fresh()
        there.gate.open()
        (entry_id,) = there.store(1)
        for _ in range(3):
            there.run()
            time.sleep(0.5)
        assert there.receiver.requests == []
        there.clock.advance("6 minutes")
        assert there.health("answers") == "error"
        assert there.one("select status from webhook_dlq") == "processing"
        there.rows("alter system set pg_net.database_name = 'dlq'")
        there.cluster.restart()
        there.until_delivered()
        assert there.story(entry_id) == ["delivered"]
        assert len(there.receiver.by_entry(entry_id)) == 1


@pytest.mark.pg_net
def test_after_a_failover_with_pg_net_what_was_in_flight_is_sent_again_once() -> None:
    with place("pg_net") as old:
        old.fresh()
        entries = old.send(20)
        written = old.one("select pg_current_wal_lsn()::text")
        with standby_of(old.cluster) as replica:
            new = _at(replica, old)
            new.until(lambda: new.one("select pg_last_wal_replay_lsn() >= %s::pg_lsn", written))
            old.cluster.stop("immediate")
            new.one("select pg_promote()")
            old.gate.open()
            assert new.run()["unanswered"] == len(entries)
            new.until_delivered()
            for entry_id in entries:
                assert new.story(entry_id) == ["unanswered", "delivered"]
                assert [request.attempt for request in old.receiver.by_entry(entry_id)] == [1, 2]
            assert new.health("answers") == "ok"


def _at(cluster: Cluster, old: Place) -> Place:
    """The same place on another server."""
    new = Place(cluster, old.receiver, "pg_net")
    new.gate = old.gate
    return new
