"""Every table of ours is watched, the queue's own work is not on record, and costs nothing to leave out."""

from __future__ import annotations

import psycopg
import pytest

from tests.db.auditing import last, since
from tests.db.conftest import Queue

OTHER_TABLES = {
    "dlq.endpoints": "insert into dlq.endpoints (service, url) values ('mine', 'https://mine.example/')",
    "dlq.pauses": "insert into dlq.pauses (service, paused_at, paused_by, reason) values ('mine', now(), 'x', 'y')",
    "dlq.endpoint_state": "insert into dlq.endpoint_state (service, cap) values ('mine', 1)",
    "dlq.settings": "update dlq.settings set jitter = 0.2",
    "dlq.alert_rules": "update dlq.alert_rules set quiet = '1 minute' where name = 'pending'",
    "dlq.alert_channels": (
        "insert into dlq.alert_channels (name, kind, url) values ('mine', 'webhook', 'https://mine.example/')"
    ),
    "dlq.alert_silences": "insert into dlq.alert_silences values (now(), now(), 'pending', 'me', 'why')",
    "dlq.alerts": "insert into dlq.alerts (since, rule, severity, detail) values (now(), 'mine', 'info', 'what')",
    "dlq.alert_deliveries": (
        "insert into dlq.alert_deliveries (created_at, next_try_at, alert_id, edge, rule, channel, event)"
        " values (now(), now(), 1, 1, 'mine', 'mine', 'raised')"
    ),
    "dlq.alert_requests": "insert into dlq.alert_requests values (1, 1, now(), null, 1, 1, 1, 'mine', 'mine')",
    "dlq.secrets": "insert into dlq.secrets (name, value) values ('mine', 'v')",
    "dlq.audit_key": "update dlq.audit_key set value = value",
    "dlq.attempt_counts": (
        "insert into dlq.attempt_counts (hour, service, outcome, attempts, seconds, seconds_max)"
        " values (now(), 'mine', 'delivered', 1, 0, 0)"
    ),
    "dlq.amendments": (
        "insert into dlq.amendments (entry_id, amended_at, amended_by, reason)"
        " values (gen_random_uuid(), now(), 'me', 'why')"
    ),
    "dlq.replays": (
        "insert into dlq.replays (replayed_at, replayed_by, reason, matched, entries, filters)"
        " values (now(), 'me', 'why', 1, 1, '{}')"
    ),
    "dlq.replayed_entries": (
        "insert into dlq.replayed_entries"
        " (entry_id, replay_id, due_at, retry_count, unanswered_count, attempt_count, status)"
        " values (gen_random_uuid(), 1, now(), 0, 0, 0, 'failed')"
    ),
    "dlq.in_flight": (
        "insert into dlq.in_flight (entry_id, request_id, dispatched_at, net_oid, attempt, timeout_ms, service, digest)"
        " values (gen_random_uuid(), 1, now(), 1, 1, 1, 'mine', 'd')"
    ),
    "dlq.delivery_attempts": (
        "insert into dlq.delivery_attempts (entry_id, attempt, dispatched_at, settled_at, outcome, service)"
        " values (gen_random_uuid(), 1, now(), now(), 'delivered', 'mine')"
    ),
    "public.dlq_processing_log": "insert into dlq_processing_log (processed_at) values (now())",
    "dlq.maintenance_log": "insert into dlq.maintenance_log (began_at) values (now())",
    "public.webhook_dlq": "update webhook_dlq set retry_count = 1",
}


@pytest.mark.parametrize("replica", [False, True])
def test_every_table_of_ours_is_watched(queue: Queue, replica: bool) -> None:
    tables = queue.rows(
        "select c.oid::regclass::text as name, n.nspname || '.' || c.relname as qualified"
        " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
        " where c.relowner = 'dlq_owner'::regrole and n.nspname in ('dlq', 'public') and c.relkind in ('r', 'p')"
        # net_workers and alert_evaluation hold heartbeats, and nothing happened that they would be the record of
        "  and c.oid <> all ('{dlq.alembic_version,dlq.audit_log,dlq.net_workers,dlq.alert_evaluation}'::regclass[])"
    )
    assert {table["qualified"] for table in tables} == set(OTHER_TABLES)
    queue.store()
    if replica:
        queue.conn.execute("set session_replication_role = replica")
    for table, statement in OTHER_TABLES.items():
        for act in (statement, f"delete from {table}", f"truncate {table}"):
            before = last(queue)
            queue.conn.execute(act.encode())
            recorded = {(row["object"], row["action"]) for row in since(queue, before)}
            assert recorded == {(table, act.split()[0])}


def test_rows_that_are_copied_in_are_on_record(queue: Queue) -> None:
    before = last(queue)
    queue.conn.execute("set session_replication_role = replica")
    with queue.conn.cursor().copy("copy dlq.endpoints (service, url) from stdin") as copy:
        copy.write("one\thttps://one.example/\ntwo\thttps://two.example/\n")

    assert [(act["action"], act["key"]) for act in since(queue, before)] == [("insert", "one"), ("insert", "two")]


# What the queue does itself.


def test_the_queue_s_own_work_is_not_on_record(queue: Queue) -> None:
    queue.store_many(4)
    before = last(queue)

    queue.store_many(3)
    with queue.conn.cursor().copy("copy webhook_dlq (service, payload, next_retry_at) from stdin") as copy:
        copy.write("shop\t1\t2020-01-01\n")
    assert queue.dispatch() == 8
    good, bad, echoed, *_ = (row["entry_id"] for row in queue.rows("select entry_id from dlq.in_flight"))
    queue.answer(good, 200)
    queue.answer(bad, 500)
    queue.store(payload={"again": 1}, headers=psycopg.types.json.Jsonb({"webhook-id": str(echoed)}))
    queue.answer(echoed, 200)
    assert queue.collect() == (1, 2, 0)
    queue.store(payload={"late": 1}, headers=psycopg.types.json.Jsonb({"webhook-id": str(good)}))
    assert queue.entry(good)["status"] == "pending"
    assert queue.one("select process_dlq_entries()")["status"] == "ok"
    queue.conn.execute("update dlq.settings set cycle_budget = '1 second'")
    queue.conn.execute("call dlq.run_cycle()")
    assert queue.one("select dlq_health() ->> 'service'") == "dlq-processor"

    queue.conn.execute("truncate dlq.in_flight")
    assert queue.one("select unanswered from dlq.requeue_lost()") > 0

    assert [(act["object"], act["action"]) for act in since(queue, before)] == [
        ("dlq.settings", "update"),
        ("dlq.in_flight", "truncate"),
    ]


# What the triggers say of themselves.

SHOWN = """
    select c.oid::regclass::text as "table", n.nspname || '.' || c.relname as qualified,
      string_to_array(regexp_replace(encode(t.tgargs, 'escape'), '\\\\000$', ''), '\\000') as shown
    from pg_trigger as t
      join pg_class as c on c.oid = t.tgrelid
      join pg_namespace as n on n.oid = c.relnamespace
    where t.tgfoid = 'dlq._audit_change()'::regprocedure and t.tgname = 'audit'
"""


# Of which a reader sees nothing at all, and which hold nothing personal but a secret's value and a replay's filters.
NOT_READERS = ("dlq.secrets", "dlq.replays", "dlq.replayed_entries")


def test_nothing_is_shown_that_a_reader_may_not_see(queue: Queue) -> None:
    for table in queue.rows(SHOWN):
        for column in filter(None, table["shown"]):
            readable = queue.one(
                "select has_column_privilege('dlq_reader', %s, %s, 'select')", table["qualified"], column
            )
            assert readable or (table["qualified"] in NOT_READERS and column != "filters"), (table["qualified"], column)


def test_what_a_reader_sees_of_the_configuration_is_shown(queue: Queue) -> None:
    """A column that is new here is named in sql/audit/triggers.sql too, else it is shown as a digest."""
    shown = {table["qualified"]: set(table["shown"]) for table in queue.rows(SHOWN)}
    for table in ("dlq.endpoints", "dlq.settings", "dlq.pauses", "dlq.endpoint_state"):
        columns = queue.rows(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
            " and has_column_privilege('dlq_reader', attrelid, attnum, 'select')",
            table,
        )
        assert {str(column["attname"]) for column in columns} - {"updated_at", "host", "singleton"} == shown[table] - {
            ""
        }


def test_they_fire_always(queue: Queue) -> None:
    fire = queue.rows(
        "select tgrelid::regclass::text, tgname, tgenabled from pg_trigger"
        " where tgfoid = any ('{dlq._audit_change(),dlq._refuse()}'::regprocedure[])"
    )
    assert len(fire) == 2 * len(OTHER_TABLES) + 2
    assert {trigger["tgenabled"] for trigger in fire} == {"A"}


def test_the_engine_is_spared_the_call(queue: Queue) -> None:
    """The condition is looked at where the row is changed: nothing is queued for what the queue does itself."""
    queue.conn.execute("""
        create or replace function dlq._audit_change() returns trigger language plpgsql
          as 'begin raise exception ''called''; end'
    """)
    queue.store_many(2)
    assert queue.dispatch() == 2
    for entry in [row["entry_id"] for row in queue.rows("select entry_id from dlq.in_flight")]:
        queue.answer(entry)
    assert queue.collect() == (2, 0, 0)
    with pytest.raises(psycopg.errors.RaiseException):
        queue.conn.execute("delete from webhook_dlq")
