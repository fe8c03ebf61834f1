"""What a standby says, and that a promoted one goes on by itself."""

from __future__ import annotations

import subprocess
import time

import psycopg
import pytest

from dlqctl.cluster import start_cluster
from dlqctl.cron import checks
from dlqctl.migrate import migrate
from dlqctl.receiver import Receiver
from tests.command import dlqctl
from tests.net_worker import net_worker
from tests.standby import standby_of

VIEWS = (
    "entries", "activity", "health", "backlog", "upcoming", "circuits", "success_rate", "top_failures",
    "slowest_endpoints", "cron_status", "net_status", "net_queue", "table_sizes", "index_sizes",
)  # fmt: skip


def _run(dsn: str, *words: str) -> subprocess.CompletedProcess[str]:
    return dlqctl("--dsn", dsn, *words)


def test_a_standby_tells_its_health_sends_nothing_and_goes_on_when_it_is_promoted() -> None:
    with start_cluster(pg_net=False) as primary:
        migrate(primary.dsn(), cron=False, net_worker=True)
        with psycopg.connect(primary.dsn(), autocommit=True) as conn:
            conn.execute("select dlq.set_endpoint('shop', 'https://handler.example/')")
            conn.execute("insert into webhook_dlq (service, payload, next_retry_at) values ('shop', '1', now())")
            conn.execute("select process_dlq_entries()")
            assert conn.execute("select status from webhook_dlq").fetchone() == ("processing",)
            conn.execute(
                "insert into dlq.attempt_counts (hour, service, outcome, status_code, attempts, seconds, seconds_max)"
                " values (date_trunc('hour', now(), 'UTC'), 'shop', 'http_error', 500, 1, 1, 1)"
            )
            written = conn.execute("select pg_current_wal_lsn()").fetchone()
        with standby_of(primary) as replica, psycopg.connect(replica.dsn(), autocommit=True) as conn:
            while conn.execute("select where pg_last_wal_replay_lsn() >= %s", written).fetchone() is None:
                time.sleep(0.05)
            done = _run(replica.dsn(), "health")
            assert done.returncode == 0, done.stdout + done.stderr
            assert "standby" in done.stdout
            conn.execute("select dlq_health()")
            entry = str(conn.execute("select id from webhook_dlq").fetchall()[0][0])
            for look in ("list --payload", f"show {entry}", "replay list", "endpoints list"):
                done = _run(replica.dsn(), *look.split())
                assert (done.returncode, done.stderr) == (0, ""), look
            done = _run(replica.dsn(), "metrics")
            assert done.returncode == 0, done.stderr
            assert "\ndlq_in_recovery{" in done.stdout
            assert 'dlq_entries_in_flight{database="dlq",service="shop"} 1\n' in done.stdout
            for view in VIEWS:
                conn.execute("set role dlq_reader")
                rows = conn.execute(f"select * from dlq.{view}".encode()).fetchall()
                conn.execute("reset role")
                assert view in ("backlog", "upcoming") or rows, view
            assert conn.execute("select * from dlq.net_queue").fetchall() == [(None,) * 3]
            for act in ("process", "pause --reason x", f"retry {entry} --reason x"):
                done = _run(replica.dsn(), *act.split())
                assert done.returncode == 1
                assert "connect to the primary" in done.stderr

            primary.stop("immediate")
            conn.execute("select pg_promote()")
            conn.execute("update webhook_dlq set next_retry_at = now() where status = 'pending'")
            run = conn.execute("select process_dlq_entries()").fetchone()
            assert run is not None
            # The request was in the old primary's memory: it is unanswered, and sent again once.
            assert (run[0]["status"], run[0]["unanswered"], run[0]["dispatched"]) == ("ok", 1, 1)
            assert conn.execute("select retry_count, unanswered_count from webhook_dlq").fetchone() == (0, 1)


def test_pg_cron_in_another_database_runs_our_cycle_and_goes_on_where_the_standby_is_promoted(
    receiver: Receiver,
) -> None:
    with start_cluster(pg_net=False, database="scheduler") as primary:
        if not primary.has_pg_cron:
            pytest.skip("pg_cron is not installed")
        with psycopg.connect(primary.dsn(), autocommit=True) as conn:
            conn.execute("create database app")
        app = primary.dsn("app")
        migrate(app, cron_dsn="dbname=scheduler", net_worker=True)
        with psycopg.connect(app, autocommit=True) as conn:
            conn.execute("update dlq.settings set cycle_minutes = 1")
            assert migrate(app, cron_dsn="dbname=scheduler").changed == ["cron job process-dlq-entries"]
            conn.execute(
                "select dlq.set_endpoint('shop', %s, allow_http => true, allow_private => true)",
                (receiver.url("shop"),),
            )
            insert = "insert into webhook_dlq (service, payload, next_retry_at) values ('shop', to_jsonb(%s), now())"
            for n in range(3):
                conn.execute(insert, (n,))
            conn.execute("select process_dlq_entries()")
            assert conn.execute("select distinct status from webhook_dlq").fetchall() == [("processing",)]
            for n in range(3, 5):
                conn.execute(insert, (n,))
            written = conn.execute("select pg_current_wal_lsn()").fetchone()
        with standby_of(primary) as replica, psycopg.connect(replica.dsn("app"), autocommit=True) as conn:
            while conn.execute("select where pg_last_wal_replay_lsn() >= %s", written).fetchone() is None:
                time.sleep(0.05)
            primary.stop("immediate")
            assert receiver.requests == []
            conn.execute("select pg_promote()")
            with net_worker(replica.dsn("app")):
                deadline = time.monotonic() + 90
                levels: dict[str, str] = {}
                while levels.get("last run of process-dlq-entries") != "ok":
                    assert time.monotonic() < deadline, levels
                    time.sleep(0.5)
                    levels = {name: level for name, level, *_ in checks(replica.dsn("app"), "dbname=scheduler")}

            assert set(levels.values()) == {"ok"}
            # What was under way when the primary died had no answer, used up no retry, and was sent once more.
            rows = conn.execute(
                "select payload::int, status, retry_count, unanswered_count from webhook_dlq order by payload"
            ).fetchall()
            assert [row[:3] for row in rows] == [(n, "reprocessed", 0) for n in range(5)]
            # The rest too, if the primary's own cron came round just before.
            assert all(unanswered == 1 if n < 3 else unanswered <= 1 for n, _, _, unanswered in rows)
            assert sorted(request.body for request in receiver.requests) == [b"0", b"1", b"2", b"3", b"4"]
