"""What DBAs read: each view says what a slow query over everything says, has the columns that are written down, and
is open to readers. How much they read: test_plans.py. On a standby: tests/live/test_standby.py.
"""

from __future__ import annotations

import re
from decimal import Decimal

import psycopg
import pytest

from dlqctl.bundle import ROOT
from tests.conftest import Clock
from tests.db.conftest import Queue
from tests.db.test_attempt_counts import mixed_run

COLUMNS = {
    "activity": "at pending due in_flight stored delivered failed",
    "health": "name level detail remediation",
    "backlog": "service pending due next_retry_at due_5_minutes due_1_hour due_1_day",
    "upcoming": "service starts_at retries",
    "circuits": "service state cap max_in_flight in_flight failing_since trouble trips probe_at is_slow"
    " paused_at paused_until paused_by pause_reason",
    "success_rate": "hour service attempts delivered unanswered ratio",
    "top_failures": "service outcome status_code attempts last_hour",
    "slowest_endpoints": "service attempts mean_seconds max_seconds timeouts",
    "cron_status": "job schedule command is_scheduled is_active username last_status last_started_at last_run_at",
    "net_status": "sender version database is_here batch_size ttl is_running workers seen_at",
    "net_queue": "waiting waiting_ours in_flight",
    "table_sizes": "table_name rows_estimated dead_rows table_bytes index_bytes toast_bytes total_bytes"
    " vacuumed_at analyzed_at",
    "index_sizes": "table_name index_name bytes scans",
}


@pytest.mark.parametrize("view", COLUMNS)
def test_a_view_has_its_columns_and_readers_may_read_it(queue: Queue, database: str, view: str) -> None:
    queue.attempt(queue.store(), 500)
    with psycopg.connect(database, autocommit=True) as reader:
        reader.execute("set role dlq_reader")
        cursor = reader.execute(f"select * from dlq.{view}".encode())
        assert cursor.description is not None
        assert [column.name for column in cursor.description] == COLUMNS[view].split()


def test_the_backlog_is_what_waits_and_for_how_long(queue: Queue) -> None:
    for service, waits in (
        ("one", ["-2 days", "-2 hours", "-6 minutes", "-1 second", "5 minutes"]),
        ("two", ["1 hour"]),
    ):
        for wait in waits:
            queue.conn.execute(
                "insert into webhook_dlq (service, payload, next_retry_at) values (%s, '1', dlq._now() + %s::interval)",
                (service, wait),
            )
    queue.attempt(queue.store("shop"), 410)
    oracle = """
        select service, count(*) as pending, count(*) filter (where next_retry_at <= dlq._now()) as due,
          min(next_retry_at) as next_retry_at,
          count(*) filter (where dlq._now() - next_retry_at >= interval '5 minutes') as due_5_minutes,
          count(*) filter (where dlq._now() - next_retry_at >= interval '1 hour') as due_1_hour,
          count(*) filter (where dlq._now() - next_retry_at >= interval '1 day') as due_1_day
        from webhook_dlq where status = 'pending' group by service order by service
    """
    rows = queue.rows("select * from dlq.backlog order by service")
    assert rows == queue.rows(oracle)
    assert [list(row.values())[1:3] + list(row.values())[4:] for row in rows] == [[5, 4, 3, 2, 1], [1, 0, 0, 0, 0]]


def test_counts_of_what_waits_stop_and_begin_with_what_has_waited_longest(queue: Queue) -> None:
    queue.conn.execute("set session_replication_role = replica")
    queue.conn.execute(
        "insert into webhook_dlq (service, payload, created_at, updated_at, next_retry_at)"
        " select 'flood', '1', now(), now(), now() + case when n <= 9000 then 1 else -1 end * interval '1 hour'"
        " from generate_series(1, 12000) as n"
    )
    (row,) = queue.rows("select pending, due from dlq.backlog where service = 'flood'")
    assert row == {"pending": 10000, "due": 3000}
    assert queue.one("select max(retries) from dlq.upcoming where service = 'flood'") == 1000


def test_what_is_ahead_is_told_by_the_hour_for_a_day(queue: Queue) -> None:
    queue.conn.execute(
        """
        insert into webhook_dlq (service, payload, next_retry_at)
        select 's' || n % 3, to_jsonb(n), dlq._now() + n * interval '10 minutes' from generate_series(-10, 200) as n
        """
    )
    oracle = """
        select service, starts_at, count(*) as retries
        from (
          select service, base + floor(extract(epoch from next_retry_at - base - interval '1 microsecond') / 3600)
              * interval '1 hour' as starts_at, base
          from webhook_dlq, date_trunc('minute', dlq._now()) as base
          where status = 'pending' and next_retry_at > dlq._now()
        ) as e
        where starts_at < base + interval '24 hours'
        group by service, starts_at order by service, starts_at
    """
    with queue.conn.transaction():  # so that it is the same minute
        told = queue.rows("select * from dlq.upcoming order by service, starts_at")
        assert told == queue.rows(oracle)
    assert sum(row["retries"] for row in told) > 140


# What a view says, and the same by reading all of history; hours apart, which are those of a clock that is set.
ORACLES = {
    "success_rate": (
        "select service, sum(attempts)::bigint as attempts, sum(delivered)::bigint as delivered,"
        " sum(unanswered)::bigint as unanswered from dlq.success_rate group by service order by service",
        """
        select service, count(*) as attempts, count(*) filter (where outcome = 'delivered') as delivered,
          count(*) filter (where outcome = 'unanswered') as unanswered
        from attempts group by service order by service
        """,
    ),
    "top_failures": (
        "select service, outcome, status_code, attempts from dlq.top_failures",
        """
        select service, outcome, status_code, count(*) as attempts
        from attempts where outcome <> 'delivered'
        group by service, outcome, status_code order by attempts desc, service, outcome, status_code
        """,
    ),
    "slowest_endpoints": (
        "select * from dlq.slowest_endpoints",
        """
        select service, count(*) as attempts,
          round(avg(extract(epoch from settled_at - dispatched_at)), 3) as mean_seconds,
          round(max(extract(epoch from settled_at - dispatched_at)), 3) as max_seconds,
          count(*) filter (where error ~* 'timeout') as timeouts
        from attempts where outcome not in ('unanswered', 'not_sent')
        group by service order by mean_seconds desc, service
        """,
    ),
}


@pytest.mark.parametrize("view", ORACLES)
def test_rates_failures_and_times_are_what_history_says(queue: Queue, clock: Clock, view: str) -> None:
    mixed_run(queue, clock)
    # But for what dlq.erase() cut off, which has no error and is counted among the old ones: no window shows those.
    attempts = "select * from dlq.delivery_attempts where error is not null or outcome = 'delivered'"
    told, oracle = ORACLES[view]
    rows = queue.rows(told)
    assert len(rows) >= 2
    assert rows == queue.rows(f"with attempts as ({attempts}) {oracle}")


def test_rates_are_by_the_hour_and_by_what_is_known(queue: Queue, clock: Clock) -> None:
    for code in (200, 200, 500):
        queue.attempt(queue.store(payload=code + queue.one("select count(*) from webhook_dlq")), code)
    lost = queue.store(payload="lost")
    queue.send(lost)
    queue.conn.execute("truncate dlq.in_flight, net.http_request_queue, net._http_response")
    queue.conn.execute("select from dlq.requeue_lost()")
    clock.advance("1 hour")
    queue.attempt(queue.store(payload="later"), 500)
    rows = queue.rows("select attempts, delivered, unanswered, ratio from dlq.success_rate order by hour")
    assert [tuple(row.values()) for row in rows] == [(4, 2, 1, Decimal("0.6667")), (1, 0, 0, Decimal(0))]


@pytest.mark.parametrize(
    ("view", "inside"),
    [("success_rate", "6 days 23 hours"), ("top_failures", "24 hours"), ("slowest_endpoints", "24 hours")],
)
def test_a_window_moves_on(queue: Queue, clock: Clock, view: str, inside: str) -> None:
    queue.attempt(queue.store(), 500)
    clock.advance(inside)
    assert len(queue.rows(f"select * from dlq.{view}")) == 1
    clock.advance("61 minutes")
    assert queue.rows(f"select * from dlq.{view}") == []


def test_the_queue_of_the_sender_is_told_to_readers_and_told_apart(queue: Queue, database: str) -> None:
    queue.store_many(3)
    queue.dispatch()
    queue.conn.execute("select net.http_post('https://theirs.example/')")
    answered = str(queue.one("select entry_id from dlq.in_flight order by request_id limit 1"))
    queue.answer(answered)
    with psycopg.connect(database, autocommit=True) as reader:
        reader.execute("set role dlq_reader")
        assert reader.execute("select * from dlq.net_queue").fetchall() == [(3, 2, 3)]
        row = reader.execute("select sender, version, is_running, workers from dlq.net_status").fetchone()
        assert row == ("net-worker", None, True, 1)
    queue.conn.execute("drop schema net cascade")
    assert queue.rows("select * from dlq.net_queue") == [{"waiting": None, "waiting_ours": None, "in_flight": 3}]
    assert queue.one("select sender from dlq.net_status") is None


def test_sizes_are_those_of_every_table_of_ours(queue: Queue) -> None:
    queue.store_many(10)
    queue.conn.execute("analyze webhook_dlq")
    tables = {row["table_name"] for row in queue.rows("select table_name from dlq.table_sizes")}
    ours = "select format('%I.%I', schemaname, tablename) as name from pg_tables where tableowner = 'dlq_owner'"
    assert tables == {row["name"] for row in queue.rows(ours)}
    (row,) = queue.rows("select * from dlq.table_sizes where table_name = 'public.webhook_dlq'")
    assert row["rows_estimated"] == 10
    assert row["analyzed_at"] is not None
    assert row["total_bytes"] == queue.one("select pg_total_relation_size('webhook_dlq')")
    assert row["total_bytes"] >= row["table_bytes"] + row["index_bytes"] + row["toast_bytes"]
    index = queue.one("select bytes from dlq.index_sizes where index_name = 'idx_webhook_dlq_next_retry'")
    assert index == queue.one("select pg_relation_size('idx_webhook_dlq_next_retry')")


def test_without_pg_cron_the_jobs_are_told_by_our_own_log(queue: Queue) -> None:
    queue.conn.execute("call dlq.run_cycle()")
    rows = queue.rows("select job, schedule, is_scheduled, last_run_at from dlq.cron_status order by job desc")
    assert [(row["job"], row["schedule"], row["is_scheduled"]) for row in rows] == [
        ("process-dlq-entries", "*/5 * * * *", None),
        ("dlq-maintain", "17 3 * * *", None),
        ("dlq-alerts", "* * * * *", None),
    ]
    assert rows[0]["last_run_at"] == queue.one("select max(processed_at) from dlq_processing_log")
    assert rows[1]["last_run_at"] is None


PAGE = (ROOT / "docs/views.md").read_text()


def test_the_page_names_every_check_and_every_view_and_what_it_tells_to_type_runs(queue: Queue, database: str) -> None:
    checks = PAGE.partition("## The checks")[2].partition("## ")[0]
    assert re.findall(r"^\| `([a-z_ ]+)` \|", checks, re.M) == [row["name"] for row in queue.rows("table dlq.health")]
    readable = queue.rows(
        "select table_name as name from information_schema.role_table_grants as g join information_schema.views"
        " using (table_schema, table_name) where table_schema = 'dlq' and grantee = 'dlq_reader'"
    )
    questions = PAGE.partition("| question |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`dlq\.(\w+)`", questions)) == {row["name"] for row in readable}
    statements = "".join(re.findall(r"```sql\n(.*?)```", PAGE, re.S)).split(";\n")
    assert len(statements) >= 9
    with psycopg.connect(database, autocommit=True) as reader:
        reader.execute("set role dlq_reader")
        for statement in filter(None, statements):
            reader.execute(statement.encode())


def test_each_check_of_health_is_a_view_with_the_same_columns(queue: Queue) -> None:
    views = queue.rows(
        "select c.oid::regclass::text as name from pg_class as c"
        " where c.relkind = 'v' and c.relnamespace = 'dlq'::regnamespace and c.relname like '\\_health\\_%'"
    )
    checks = [row["name"] for row in queue.rows("select name from dlq.health")]
    assert sorted(view["name"] for view in views) == sorted(
        "dlq._health_" + re.sub(r"\W", "_", name) for name in checks
    )
    for view in views:
        assert [list(row) for row in queue.rows(f"select * from {view['name']}")] == [COLUMNS["health"].split()]
