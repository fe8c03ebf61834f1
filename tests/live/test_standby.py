"""What a standby says, and that a promoted one goes on by itself."""

from __future__ import annotations

import subprocess
import sys
import time

import psycopg

from dlqctl.cluster import start_cluster
from dlqctl.migrate import migrate
from tests.standby import standby_of


def _run(dsn: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dlqctl", "--dsn", dsn, *words], capture_output=True, text=True, check=False
    )


def test_a_standby_tells_its_health_sends_nothing_and_goes_on_when_it_is_promoted() -> None:
    with start_cluster(pg_net=False) as primary:
        migrate(primary.dsn(), cron=False, net_worker=True)
        with psycopg.connect(primary.dsn(), autocommit=True) as conn:
            conn.execute("select dlq.set_endpoint('shop', 'https://handler.example/')")
            conn.execute("insert into webhook_dlq (service, payload, next_retry_at) values ('shop', '1', now())")
            conn.execute("select process_dlq_entries()")
            assert conn.execute("select status from webhook_dlq").fetchone() == ("processing",)
            written = conn.execute("select pg_current_wal_lsn()").fetchone()
        with standby_of(primary) as replica, psycopg.connect(replica.dsn(), autocommit=True) as conn:
            while conn.execute("select where pg_last_wal_replay_lsn() >= %s", written).fetchone() is None:
                time.sleep(0.05)
            done = _run(replica.dsn(), "health")
            assert done.returncode == 0, done.stdout + done.stderr
            assert "standby" in done.stdout
            conn.execute("select dlq_health()")
            for words in (("process",), ("pause", "--reason", "x")):
                done = _run(replica.dsn(), *words)
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
