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
    "public.webhook_dlq": ["autovacuum_vacuum_scale_factor=0.02"],
    "dlq.delivery_attempts": ["autovacuum_vacuum_scale_factor=0.02"],
    "dlq.attempt_counts": ["fillfactor=50"],
}


@pytest.mark.parametrize("table", SET)
def test_a_table_has_the_settings_that_were_measured(queue: Queue, table: str) -> None:
    assert queue.one("select c.reloptions from pg_class as c where c.oid = %s::regclass", table) == SET[table]


def test_autovacuum_comes_when_a_fiftieth_is_dead() -> None:
    with start_cluster(pg_net=False, settings={"autovacuum_naptime": "1s"}) as cluster:
        migrate(cluster.dsn(), cron=False, net_worker=True)
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            conn.execute("set session authorization dlq_owner")
            conn.execute(
                """
                insert into public.webhook_dlq (service, payload, status, created_at, updated_at, settled_at)
                select 'shop', '1', 'reprocessed', now(), now(), now() from generate_series(1, 10000)
                """
            )
            conn.execute("reset session authorization")
            conn.execute("vacuum analyze public.webhook_dlq")
            conn.execute("set session authorization dlq_owner")
            conn.execute(
                """
                update public.webhook_dlq set settled_at = settled_at + interval '1 s'
                where id in (select e.id from public.webhook_dlq as e limit 400)
                """
            )
            conn.execute("select pg_stat_force_next_flush()")
            seen = "select autovacuum_count from pg_stat_user_tables where relid = 'public.webhook_dlq'::regclass"
            patience = time.monotonic() + 20
            while conn.execute(seen.encode()).fetchall() == [(0,)]:
                assert time.monotonic() < patience, "autovacuum has not come"
                time.sleep(0.1)
