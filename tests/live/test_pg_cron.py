"""The main job with nothing replaced: real pg_cron calls the processor, and it retries real HTTP calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from dlqctl import receiver as handlers
from dlqctl.receiver import Receiver
from dlqctl.sandbox import Sandbox


@pytest.fixture
def conn(live: Sandbox) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    if not live.has_cron:
        pytest.skip("pg_cron is not installed")
    with psycopg.connect(live.dsn, autocommit=True, row_factory=dict_row) as conn:
        yield conn


@pytest.fixture(scope="module", autouse=True)
def every_minute(live: Sandbox) -> Iterator[None]:
    """Beside everything here, maintenance runs each minute. There is something for it to do."""
    if not live.has_cron:
        pytest.skip("pg_cron is not installed")
    with psycopg.connect(live.dsn, autocommit=True) as conn:
        conn.execute(
            "insert into webhook_dlq (service, payload, status, settled_at)"
            " select 'old', '1', 'discarded', now() - n * interval '1 day' from generate_series(21, 40) as n"
        )
        assert conn.execute("select schedule, username from cron.job where jobname = 'dlq-maintain'").fetchall() == [
            ("17 3 * * *", conn.info.user)
        ]
        conn.execute("select cron.schedule('dlq-maintain', '* * * * *', 'call dlq.maintain()')")
        yield
        conn.execute("select dlq.schedule_jobs()")
        conn.execute("delete from webhook_dlq where service = 'old'")


def _await(conn: psycopg.Connection[dict[str, Any]], query: str, timeout: float, *parameters: Any) -> None:
    deadline = time.monotonic() + timeout
    while not conn.execute(query.encode(), parameters).fetchall():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for: {query}"
        time.sleep(0.2)


def test_a_failed_webhook_comes_in_pg_cron_retries_it_and_it_is_reprocessed(
    live: Sandbox, conn: psycopg.Connection[dict[str, Any]], receiver: Receiver
) -> None:
    receiver.behave("shaky", handlers.fail_first(2))
    receiver.behave("broken", handlers.always(500))
    receiver.behave("gone", handlers.always(410))
    receiver.behave("slow", handlers.hang(3))
    receiver.behave("echo", handlers.store_again(live.dsn, "function"))
    receiver.behave("insert", handlers.store_again(live.dsn, "insert"))
    receiver.behave("moved", handlers.reply(302, b"", {"Location": receiver.url("fine")}))
    services = ("fine", "shaky", "broken", "gone", "slow", "down", "echo", "insert", "moved")
    for service in services:
        conn.execute(
            "select dlq.set_endpoint(%s, %s, true, true, timeout_ms => %s, retry_schedule => '{1 ms,1 ms,1 ms}')",
            (
                service,
                receiver.down("down") if service == "down" else receiver.url(service),
                500 if service == "slow" else 5000,
            ),
        )
        conn.execute(
            "select store_dlq_entry(%s, %s, 'boom') from generate_series(1, 5) as n",
            (service, Jsonb({"service": service})),
        )
    # Entries with the same body differ by a number, or the handlers that store again would hide each other.
    conn.execute("update webhook_dlq set payload = payload || jsonb_build_object('n', id) where status = 'pending'")
    _await(conn, "select where not exists (select from webhook_dlq where status in ('pending', 'processing'))", 90)

    rows = conn.execute(
        "select service, status, min(retry_count), max(retry_count), count(*) from webhook_dlq"
        " where status <> 'discarded' group by service, status"
    ).fetchall()
    assert {(row["service"], row["status"], row["min"], row["max"], row["count"]) for row in rows} == {
        ("fine", "reprocessed", 0, 0, 5),
        ("shaky", "reprocessed", 2, 2, 5),
        ("broken", "failed", 3, 3, 5),
        ("gone", "failed", 1, 1, 5),
        ("slow", "failed", 3, 3, 5),
        ("down", "failed", 3, 3, 5),
        ("echo", "failed", 3, 3, 5),
        ("insert", "failed", 3, 3, 5),
        ("moved", "failed", 3, 3, 5),
    }
    delivered = {str(r["id"]) for r in conn.execute("select id from webhook_dlq where status = 'reprocessed'")}
    assert delivered <= receiver.accepted
    assert receiver.errors == []
    entry_id = delivered.pop()
    (first, *_) = receiver.by_entry(entry_id)
    assert first.headers["Idempotency-Key"] == entry_id
    assert first.attempt == 1
    outcomes = conn.execute(
        "select service, array_agg(distinct outcome) as outcomes from dlq.delivery_attempts group by service"
    )
    assert {row["service"]: row["outcomes"] for row in outcomes} == {
        "fine": ["delivered"],
        "shaky": ["delivered", "http_error"],
        "broken": ["http_error"],
        "gone": ["http_error"],
        "slow": ["network_error"],
        "down": ["network_error"],
        "echo": ["echoed"],
        "insert": ["echoed"],
        "moved": ["http_error"],
    }
    runs = conn.execute("select * from cron.job_run_details where status = 'succeeded'").fetchall()
    assert runs
    assert "call dlq.run_cycle()" in {run["command"] for run in runs}


def test_the_missions_own_sql_answers(
    live: Sandbox, conn: psycopg.Connection[dict[str, Any]], receiver: Receiver
) -> None:
    conn.execute(
        "select dlq.set_endpoint('mission', %s, allow_http => true, allow_private => true)", (receiver.url("mission"),)
    )
    conn.execute("select store_dlq_entry('mission', '{\"n\": 1}', 'boom', '+31612345678')")
    conn.execute("update webhook_dlq set next_retry_at = now() where service = 'mission'")

    (row,) = conn.execute("SELECT * FROM webhook_dlq ORDER BY created_at DESC LIMIT 1;").fetchall()
    assert row["service"] == "mission"
    entry_id = row["id"]
    rows = conn.execute(
        "SELECT status, COUNT(*) as count, AVG(retry_count) as avg_retries FROM webhook_dlq GROUP BY status;"
    ).fetchall()
    assert {"count", "avg_retries"} <= set(rows[0])
    (job,) = conn.execute("SELECT * FROM cron.job WHERE jobname = 'process-dlq-entries';").fetchall()
    assert (job["schedule"], job["active"]) == ("* * * * *", True)
    assert conn.execute("SELECT COUNT(*) FROM webhook_dlq WHERE status = 'pending';").fetchone() is not None
    (answer,) = conn.execute("SELECT process_dlq_entries();").fetchall()
    assert answer["process_dlq_entries"]["status"] in ("ok", "busy")
    receiver.wait_for(lambda: str(entry_id) in receiver.accepted, 70)
    _await(
        conn,
        "SELECT process_dlq_entries() WHERE EXISTS (SELECT FROM webhook_dlq WHERE id = %s AND status = 'reprocessed')",
        70,
        entry_id,
    )
    (row,) = conn.execute("SELECT status, retry_count FROM webhook_dlq WHERE id = %s;", (entry_id,)).fetchall()
    assert row == {"status": "reprocessed", "retry_count": 0}
    failed = "SELECT COUNT(*) FROM webhook_dlq WHERE status = 'failed' AND created_at > NOW() - INTERVAL '1 hour';"
    assert conn.execute(failed).fetchone() is not None
    assert conn.execute("SELECT * FROM dlq_processing_log ORDER BY processed_at DESC LIMIT 20;").fetchall()
    (row,) = conn.execute("SELECT MAX(processed_at) FROM dlq_processing_log;").fetchall()
    assert row["max"] is not None
    _await(
        conn,
        "SELECT * FROM cron.job_run_details"
        " WHERE jobid = (SELECT jobid FROM cron.job WHERE jobname = 'process-dlq-entries')"
        " ORDER BY start_time DESC LIMIT 10;",
        70,
    )


def test_pg_cron_removes_what_is_old(conn: psycopg.Connection[dict[str, Any]]) -> None:
    _await(conn, "select from dlq.maintenance_log where status = 'ok' and entries = 11", 70)

    (row,) = conn.execute("select count(*) as n from webhook_dlq where service = 'old'").fetchall()
    assert row["n"] == 9
    done = "select from cron.job_run_details where command = 'call dlq.maintain()' and status = 'succeeded'"
    _await(conn, done, 10)
