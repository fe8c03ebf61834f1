"""What is set on the tables, so that autovacuum comes in time however much is stored."""

from __future__ import annotations

import time

import psycopg
import pytest

from dlqctl.cluster import start_cluster
from dlqctl.migrate import migrate
from tests.db.conftest import Queue

# Each with its reason in migrations/versions/0001_tables.sql.
SET = {
    "public.webhook_dlq": ["autovacuum_vacuum_scale_factor=0.02", "autovacuum_analyze_scale_factor=0.02"],
    "dlq.delivery_attempts": ["autovacuum_vacuum_scale_factor=0.02"],
    "dlq.attempt_counts": ["fillfactor=50"],
}

# With autovacuum off, so that it is not the load for which it comes.
LOAD = (
    "set session_replication_role = replica",
    "alter table public.webhook_dlq set (autovacuum_enabled = off)",
    """
    insert into public.webhook_dlq (service, payload, status, created_at, updated_at, settled_at)
    select 'shop', '1', 'reprocessed', now(), now(), now() from generate_series(1, 10000)
    """,
    "select pg_stat_force_next_flush()",
    "vacuum analyze public.webhook_dlq",
    "alter table public.webhook_dlq reset (autovacuum_enabled)",
    "set session authorization dlq_owner",
)
# 4 %: by PostgreSQL's own settings it would come for 2,050 dead rows, and for 1,050 changes.
CHANGE = """
    update public.webhook_dlq set settled_at = settled_at + interval '1 s'
    where id in (select e.id from public.webhook_dlq as e limit 400)
"""
COME = """
    select s.autovacuum_count > 0 and s.autoanalyze_count > 0
    from pg_stat_user_tables as s where s.relid = 'public.webhook_dlq'::regclass
"""


@pytest.mark.parametrize("table", SET)
def test_a_table_has_the_settings_that_were_measured(queue: Queue, table: str) -> None:
    assert queue.one("select c.reloptions from pg_class as c where c.oid = %s::regclass", table) == SET[table]


def test_autovacuum_vacuums_and_analyzes_when_a_fiftieth_has_changed() -> None:
    with start_cluster(pg_net=False, settings={"autovacuum_naptime": "1s"}) as cluster:
        migrate(cluster.dsn(), cron=False, net_worker=True)
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            for statement in (*LOAD, CHANGE, "select pg_stat_force_next_flush()"):
                conn.execute(statement.encode())
            assert conn.execute(COME.encode()).fetchall() == [(False,)], "for the load, not for the change"
            patience = time.monotonic() + 20
            while conn.execute(COME.encode()).fetchall() == [(False,)]:
                assert time.monotonic() < patience, "autovacuum has not come"
                time.sleep(0.1)
