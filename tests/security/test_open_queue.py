"""pg_net's tables are open to PUBLIC, and whoever may store may name an entry: what that makes possible."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dlqctl.cluster import Cluster
from dlqctl.migrate import migrate
from tests.db.conftest import Queue
from tests.migration.migrating import do, wait_for

# As pg_net's own script grants them from 0.12 on.
OPEN = (
    "grant usage on schema net to public",
    "grant all on all sequences in schema net to public",
    "grant all on all tables in schema net to public",
)
# As docs/access.md and dlq.health say.
CLOSE = (
    "revoke all on all tables in schema net from public",
    "revoke all on all sequences in schema net from public",
)


@pytest.fixture
def opened(queue: Queue) -> Queue:
    """A queue whose sender's tables are as open as pg_net's."""
    for statement in OPEN:
        queue.conn.execute(statement.encode())
    return queue


def as_stranger(queue: Queue, *statements: str) -> list[Any]:
    """Run statements as a role that has nothing but what PUBLIC has in schema net. Returns the last one's rows."""
    with psycopg.connect(queue.conn.info.dsn) as conn:
        conn.execute("set local role dlq_writer")  # which has no right of its own there
        for statement in statements:
            cursor = conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


FORGE = "insert into net._http_response (id, status_code) values ({id}, 200)"
TAKE_OUT = "delete from net.http_request_queue where id = {id}"


def test_a_forged_answer_to_what_still_waits_is_not_believed(opened: Queue) -> None:
    entry_id = opened.store()
    as_stranger(opened, FORGE.format(id=opened.send(entry_id)))
    opened.collect()

    (attempt,) = opened.attempts(entry_id)
    assert (attempt["outcome"], opened.entry(entry_id)["status"]) == ("unanswered", "pending")
    assert opened.entry(entry_id)["retry_count"] == 0


def test_a_forged_answer_beside_the_real_one_is_not_believed(opened: Queue) -> None:
    entry_id = opened.store()
    request_id = opened.send(entry_id)
    opened.answer(entry_id, 500)
    as_stranger(opened, FORGE.format(id=request_id))
    opened.collect()

    assert [attempt["outcome"] for attempt in opened.attempts(entry_id)] == ["unanswered"]


def test_whoever_takes_the_request_out_as_well_is_believed_until_the_revoke(opened: Queue) -> None:
    """What docs/access.md says is possible; it is not to be found out from the data."""
    entry_id = opened.store()
    request_id = opened.send(entry_id)
    as_stranger(opened, TAKE_OUT.format(id=request_id), FORGE.format(id=request_id))
    opened.collect()
    assert opened.entry(entry_id)["status"] == "reprocessed"

    for statement in CLOSE:
        opened.conn.execute(statement.encode())
    for statement in (TAKE_OUT, FORGE, "select from net.http_request_queue", "truncate net._http_response",
                      "select setval('net.http_request_queue_id_seq', 1)"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            as_stranger(opened, statement.format(id=request_id))


def test_what_is_changed_on_its_way_goes_right_at_the_next_attempt(opened: Queue) -> None:
    entry_id = opened.store()
    opened.send(entry_id)
    as_stranger(opened, "update net.http_request_queue set url = 'https://evil.example/'")
    opened.answer(entry_id, 500)
    opened.collect()
    opened.send(entry_id)

    assert opened.one("select url from net.http_request_queue") == "https://handler.example/hook"


def test_a_queue_that_somebody_emptied_or_counted_back_loses_nothing(opened: Queue) -> None:
    entries = [opened.store(payload=n) for n in range(3)]
    opened.make_due()
    opened.dispatch()
    as_stranger(opened, "truncate net.http_request_queue", "select setval('net.http_request_queue_id_seq', 1, false)")
    opened.conn.execute("select dlq.requeue_lost()")
    opened.conn.execute("update dlq.in_flight set missing_since = now() - interval '2 minutes'")
    opened.conn.execute("select dlq.requeue_lost()")

    assert {opened.entry(entry_id)["status"] for entry_id in entries} == {"pending"}


def test_headers_with_a_secret_can_be_read_and_health_says_so(opened: Queue) -> None:
    def grants() -> dict[str, Any]:
        (row,) = opened.rows("select * from dlq.health where name = 'pg_net grants'")
        return row

    assert grants()["level"] == "ok"  # nothing lies there that a signature could replace
    opened.conn.execute("select dlq.set_secret('TOKEN', 'open-to-all')")
    opened.endpoint(auth="bearer", auth_secret="TOKEN")
    opened.send(opened.store())
    assert "open-to-all" in str(as_stranger(opened, "select headers from net.http_request_queue"))

    row = grants()
    assert (row["level"], "select" in row["detail"]) == ("warning", True)
    for statement in CLOSE:
        assert statement in row["remediation"]
        opened.conn.execute(statement.encode())
    assert (grants()["level"], grants()["remediation"]) == ("ok", None)


_ATTACH = (
    "create function pg_temp.own() returns trigger language plpgsql as"
    " $$ begin raise exception 'this runs as %', current_user; end $$",
    "create trigger own before insert on net.http_request_queue for each row execute function pg_temp.own()",
)


def test_a_trigger_on_the_queue_never_runs_with_the_owners_rights(opened: Queue) -> None:
    """PUBLIC may attach one, and it would run as whoever inserts, which is dlq_owner."""
    entry_id = opened.store()
    opened.make_due()
    with psycopg.connect(opened.conn.info.dsn, autocommit=True) as attacker:
        attacker.execute("set role dlq_writer")
        for statement in _ATTACH:
            attacker.execute(statement.encode())

        with pytest.raises(psycopg.DatabaseError) as caught:
            opened.dispatch()
        run = opened.one("select process_dlq_entries()")
        (sender,) = opened.rows("select level, detail from dlq.health where name = 'sender'")

    assert caught.value.sqlstate == "WD004"
    assert run["error"].startswith("WD004")
    assert (sender["level"], "drop trigger own on net.http_request_queue" in sender["detail"]) == ("error", True)
    assert opened.entry(entry_id)["status"] == "pending"
    opened.conn.execute("drop trigger if exists own on net.http_request_queue")  # gone with pg_temp, perhaps
    assert opened.dispatch() == 1


def test_nor_one_that_is_attached_while_we_send(opened: Queue) -> None:
    """It waits until the pass is committed, even one that sends nothing, and the next one finds it."""
    attached = threading.Event()

    def attach() -> None:
        with psycopg.connect(opened.conn.info.dsn, autocommit=True, application_name="attacker") as conn:
            conn.execute("set role dlq_writer")
            for statement in _ATTACH:
                conn.execute(statement.encode())
            attached.set()

    attacker = threading.Thread(target=attach)
    with opened.conn.transaction():
        assert opened.dispatch() == 0
        attacker.start()
        wait_for(
            opened.conn.info.dsn,
            "select pid from pg_stat_activity where application_name = 'attacker' and wait_event_type = 'Lock'"
            " and datname = current_database()",
        )
        assert not attached.is_set()
    attacker.join()
    assert attached.is_set()


@pytest.mark.parametrize("header", ["webhook-id", "dlq-entry", "Webhook-Id"])
def test_a_forged_echo_costs_retries_and_nothing_else(queue: Queue, database: str, header: str) -> None:
    """Whoever may store and has seen an entry's id may say that it failed. Five times, and it is failed."""
    entry_id = queue.store(payload={"real": True})
    queue.attempt(entry_id, 200)
    before = queue.entry(entry_id)
    with psycopg.connect(database, autocommit=True) as forger:
        forger.execute("set role dlq_writer")
        for n in range(1, 7):
            forger.execute("select store_dlq_entry('other', %s, headers => %s)", (Jsonb(n), Jsonb({header: entry_id})))
            after = queue.entry(entry_id)
            assert after["status"] == ("failed" if n >= 5 else "pending")
            assert after["retry_count"] == min(n, 5)
            if n < 5:  # it counts only what was taken for delivered
                queue.attempt(entry_id, 200)

    kept = (
        "payload",
        "headers",
        "raw_body",
        "service",
        "phone_number",
        "error_message",
        "created_at",
        "idempotency_key",
    )
    assert {column: after[column] for column in kept} == {column: before[column] for column in kept}
    forged = queue.rows("select status, duplicate_of::text from webhook_dlq where service = 'other'")
    assert [(row["status"], row["duplicate_of"]) for row in forged] == [("discarded", entry_id)] * 6


@pytest.fixture
def real(pg_net_cluster: Cluster) -> Callable[..., list[Any]]:
    """A database with the real pg_net and dlqctl; runs statements there as a role of nobody's."""
    dsn = pg_net_cluster.dsn()
    migrate(dsn, cron=pg_net_cluster.has_pg_cron)

    def run(*statements: str) -> list[Any]:
        with psycopg.connect(dsn) as conn:
            conn.execute("set local role dlq_writer")
            for statement in statements:
                cursor = conn.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
            conn.rollback()
            return rows

    return run


@pytest.mark.pg_net
def test_the_real_pg_net_is_as_open_as_that_until_the_revoke(
    pg_net_cluster: Cluster, real: Callable[..., list[Any]]
) -> None:
    dsn = pg_net_cluster.dsn()
    grants = "select detail from dlq.health where name = 'pg_net grants'"
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert "trigger" in str(conn.execute(grants.encode()).fetchone())
        attempts = (FORGE.format(id=1), TAKE_OUT.format(id=1), "select from net.http_request_queue", *_ATTACH)
        real(*attempts)
        try:
            do(dsn, *CLOSE)
            assert "has no right" in str(conn.execute(grants.encode()).fetchone())
            for attempt in attempts[:3]:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    real(attempt)
            migrate(dsn, cron=pg_net_cluster.has_pg_cron)
            # dlq_owner still may send: nothing listens there, and it is asked all the same.
            conn.execute("select dlq.set_endpoint('closed', 'http://127.0.0.1:9/', true, true)")
            conn.execute("insert into webhook_dlq (service, payload, next_retry_at) values ('closed', '{}', now())")
            (run,) = conn.execute("select process_dlq_entries()").fetchone() or ({},)
            assert (run["status"], run["dispatched"]) == ("ok", 1)
        finally:
            do(dsn, *OPEN, "delete from webhook_dlq", "delete from dlq.in_flight", "delete from dlq.endpoints")
