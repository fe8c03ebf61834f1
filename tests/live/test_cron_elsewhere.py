"""Real pg_cron in one database, the queue in another: its run arrives, and delivers."""

from __future__ import annotations

import time

import psycopg
import pytest

from dlqctl.cluster import start_cluster
from dlqctl.cron import checks
from dlqctl.migrate import migrate


def test_pg_cron_in_another_database_runs_the_cycle_of_ours() -> None:
    with start_cluster(pg_net=False, database="scheduler") as cluster:
        if not cluster.has_pg_cron:
            pytest.skip("pg_cron is not installed")
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            conn.execute("create database app")
        app = cluster.dsn("app")
        migrate(app, cron_dsn="dbname=scheduler", net_worker=True)
        with psycopg.connect(app, autocommit=True) as conn:
            conn.execute("update dlq.settings set cycle_minutes = 1")
            assert migrate(app, cron_dsn="dbname=scheduler").changed == ["cron job process-dlq-entries"]
            # A row of pg_cron's own over there, a row of ours over here.
            deadline = time.monotonic() + 90
            levels: dict[str, str] = {}
            while levels.get("last run") != "ok":
                assert time.monotonic() < deadline, levels
                time.sleep(0.5)
                levels = {name: level for name, level, *_ in checks(app, "dbname=scheduler")}
            assert set(levels.values()) == {"ok"}
            assert conn.execute("select status from dlq_processing_log").fetchone() == ("ok",)
