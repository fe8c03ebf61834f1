"""The hot queries keep to their indexes, over a million settled and 100,000 waiting entries.

What is looked at is the plan of each statement inside the functions, by auto_explain: neither a sequential
scan of the queue nor one of its history.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from bench.plans import Plan, every_node, explain, plans
from dlqctl.cluster import Cluster
from tests.conftest import _database
from tests.db.conftest import Queue

SETTLED, WAITING = 1_000_000, 100_000
BIG = {"webhook_dlq", "delivery_attempts", "dlq_processing_log", "_http_response"}


@pytest.fixture(scope="module")
def big(cluster: Cluster, template: str) -> Iterator[Queue]:
    """A queue with a million settled entries, 100,000 that are not due, 40 that are, and long tables beside it."""
    with _database(cluster, template) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")  # no triggers: this is a load
        for table in ("dlq_processing_log", "dlq.delivery_attempts"):  # history by hand: a row of the audit for each
            conn.execute(f"alter table {table} disable trigger audit".encode())
        conn.execute(
            "update dlq.settings set database_oid = (select oid from pg_database where datname = current_database())"
        )
        conn.execute(
            """
            insert into webhook_dlq (service, payload, status, created_at, updated_at, settled_at, next_retry_at)
            select
              's' || n %% 20, '{"text": "hello"}',
              case when n > %(settled)s then 'pending' when n %% 100 = 0 then 'failed' else 'reprocessed' end,
              now() - n * interval '1 second', now(),
              case when n <= %(settled)s then now() - n * interval '1 second' end,
              case when n > %(settled)s then now() + interval '1 hour' + n * interval '1 second' end
            from generate_series(1, %(settled)s + %(waiting)s) as n
            """,
            {"settled": SETTLED, "waiting": WAITING},
        )
        conn.execute(
            "insert into dlq_processing_log (processed_at, status)"
            " select now() - n * interval '5 minutes', 'ok' from generate_series(1, 100000) as n"
        )
        conn.execute(
            "insert into dlq.delivery_attempts (entry_id, attempt, dispatched_at, settled_at, outcome, service)"
            " select id, 1, now(), now(), 'delivered', service from webhook_dlq limit 200000"
        )
        conn.execute(
            "insert into net._http_response (id, status_code, created)"
            " select -n, 200, now() - interval '1 hour' from generate_series(1, 200000) as n"
        )
        conn.execute("set session_replication_role = origin")
        conn.execute("vacuum analyze")
        queue = Queue(conn)
        queue.endpoint("*", "https://hooks.example/{service}")
        explain(conn)
        yield queue


def _plans(conn: psycopg.Connection, statement: str) -> list[Plan]:
    """The nodes of every plan that a statement and the functions in it have run."""
    found = list(every_node(plans(conn, lambda: conn.execute(statement.encode()))))
    assert found
    return found


def _assert_no_scan(found: list[Plan], *, rows: int = 2000) -> None:
    for node in found:
        if node.get("Relation Name") in BIG and node["Actual Loops"] > 0:
            assert node["Node Type"] != "Seq Scan", node
            read = node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
            assert read <= rows, node


def _make_due(queue: Queue, count: int = 40) -> None:
    queue.conn.execute(
        "update webhook_dlq set next_retry_at = now() - interval '1 minute' where id in"
        " (select id from webhook_dlq where status = 'pending' limit %s)",
        (count,),
    )


@pytest.mark.parametrize(
    "statement",
    [
        "select * from dlq.requeue_lost()",
        "select * from dlq.collect_responses()",
        "select * from dlq.dispatch_due()",
        "select process_dlq_entries()",
        "call dlq.run_cycle()",
    ],
)
def test_an_idle_step_reads_next_to_nothing(big: Queue, statement: str) -> None:
    big.conn.execute("update dlq.settings set cycle_budget = '1 second'")
    _assert_no_scan(_plans(big.conn, statement), rows=50)


def test_dispatching_reads_what_is_due(big: Queue) -> None:
    _make_due(big)
    nodes = _plans(big.conn, "select * from dlq.dispatch_due()")
    assert big.one("select count(*) from dlq.in_flight") >= 40
    claims = [n for n in nodes if n.get("Index Name") == "idx_webhook_dlq_next_retry"]
    assert claims
    _assert_no_scan(nodes)


def test_a_claim_reads_what_it_sends_also_when_statistics_know_of_nothing_that_waits(queue: Queue) -> None:
    """An outage begins when all was delivered as autovacuum last looked: each index of services seems as good."""
    queue.endpoint("*", "https://hooks.example/{service}")
    queue.conn.execute("set session_replication_role = replica")
    queue.conn.execute(
        """
        insert into webhook_dlq (service, payload, status, created_at, updated_at, settled_at)
        select 's1', '1', 'reprocessed', now(), now(), now() from generate_series(1, 3000)
        """
    )
    queue.conn.execute("set session_replication_role = origin")
    queue.store_many(1, "s1")
    queue.conn.execute("vacuum analyze webhook_dlq")
    # Of one statement, so that the index by created_at is lower than that by next_retry_at, and seems cheaper.
    queue.conn.execute(
        """
        insert into webhook_dlq (service, payload, next_retry_at)
        select 's1', '1', dlq._now() - n * interval '1 ms' from generate_series(1, 1000) as n
        """
    )
    explain(queue.conn)
    nodes = _plans(queue.conn, "select * from dlq.dispatch_due()")
    assert queue.one("select count(*) from dlq.in_flight") == 20
    _assert_no_scan(nodes, rows=200)


def test_settling_reads_what_is_answered(big: Queue) -> None:
    _make_due(big)
    big.dispatch()
    big.conn.execute("set auto_explain.log_min_duration = -1")
    big.conn.execute(
        "with taken as (delete from net.http_request_queue returning id)"
        " insert into net._http_response (id, status_code) select id, 500 from taken"
    )
    big.conn.execute("set auto_explain.log_min_duration = 0")
    _assert_no_scan(_plans(big.conn, "select * from dlq.requeue_lost()"))
    _assert_no_scan(_plans(big.conn, "select * from dlq.collect_responses()"))
    assert big.one("select count(*) from dlq.in_flight") == 0


def test_losing_reads_what_is_lost(big: Queue) -> None:
    _make_due(big)
    big.dispatch()
    big.conn.execute("truncate dlq.in_flight, net.http_request_queue")
    _assert_no_scan(_plans(big.conn, "select * from dlq.requeue_lost()"))
    assert big.one("select count(*) from webhook_dlq where status = 'processing'") == 0


def test_maintenance_reads_what_is_to_go_and_a_page_of_attempts(big: Queue) -> None:
    _assert_no_scan(_plans(big.conn, "call dlq.maintain()"), rows=10_000)
    for status in ("reprocessed", "failed"):
        big.conn.execute(
            "update webhook_dlq set settled_at = now() - interval '31 days' where id in"
            " (select id from webhook_dlq where status = %s limit 300)",
            (status,),
        )
    big.conn.execute("update dlq.settings set retain_failed = '30 days'")
    nodes = _plans(big.conn, "call dlq.maintain()")
    big.conn.execute("update dlq.settings set retain_failed = null")
    assert big.one("select entries from dlq.maintenance_log order by id desc limit 1") == 600
    assert {"idx_webhook_dlq_settled_at", "idx_webhook_dlq_status", "delivery_attempts_pkey"} <= {
        node.get("Index Name") for node in nodes
    }
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan" and node.get("Relation Name") in BIG]
    lookups = [n for n in nodes if n.get("Index Name") in ("idx_webhook_dlq_settled_at", "idx_webhook_dlq_status")]
    _assert_no_scan(lookups, rows=1000)
    _assert_no_scan(nodes, rows=10_000)


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        ("service => 's0'", 10_000),
        ("status_code => 500", 10_000),
        ("service => 's0', error_text => 'x', phone_number => '1'", 10_000),
        ("created_after => now() - interval '1 hour'", 3_601),
        ("status => 'pending'", WAITING),
        ("status => 'pending', service => 's1', error_text => 'x'", WAITING // 20),
    ],
)
def test_a_replay_reads_what_has_failed_or_waits_and_the_last_attempt_of_each(
    big: Queue, filters: str, rows: int
) -> None:
    for statement in (f"dlq.preview_replay({filters})", f"dlq.replay('x', {filters})"):
        with big.conn.transaction(force_rollback=True):
            _assert_no_scan(_plans(big.conn, f"select * from {statement}"), rows=rows)


@pytest.mark.parametrize(("status", "left"), [("failed", 9_000), ("pending", WAITING), ("reprocessed", 2_000)])
def test_a_part_of_a_replay_reads_no_more_than_is_left_of_it(big: Queue, status: str, left: int) -> None:
    """Of what was delivered, of which there is most, no more than the part."""
    with big.conn.transaction(force_rollback=True):
        big.conn.execute("select dlq.replay('x', status => %s, max_entries => 100000, at_once => 1000)", (status,))
        part = "select * from dlq.continue_replay((select max(id) from dlq.replays), 1000)"
        _assert_no_scan(_plans(big.conn, part), rows=left)


@pytest.mark.parametrize(
    "statement",
    [
        "select store_dlq_entry('s1', '1', idempotency_key => 'k')",
        "insert into webhook_dlq (service, payload, headers)"
        " values ('s1', '1', '{\"webhook-id\": \"00000000-0000-7000-8000-000000000000\"}')",
    ],
)
def test_storing_reads_next_to_nothing(big: Queue, statement: str) -> None:
    _assert_no_scan(_plans(big.conn, statement), rows=10)


def test_health_reads_no_more_than_it_counts(big: Queue) -> None:
    _assert_no_scan(_plans(big.conn, "select * from dlq.health"), rows=10_001)
    _assert_no_scan(_plans(big.conn, "select dlq_health()"), rows=10_001)
    _assert_no_scan(_plans(big.conn, "select * from dlq.activity"), rows=100_000)


def test_health_is_not_compiled_for_counts_that_it_never_takes(big: Queue) -> None:
    config = big.one("select proconfig from pg_proc where oid = 'public.dlq_health()'::regprocedure")
    assert "jit=off" in config


@pytest.mark.parametrize(
    "view",
    [
        "backlog", "upcoming", "circuits", "success_rate", "top_failures", "slowest_endpoints",
        "cron_status", "net_status", "net_queue", "table_sizes", "index_sizes", "metrics",
    ],
)  # fmt: skip
def test_a_view_reads_what_waits_at_most_and_nothing_that_is_stored(big: Queue, view: str) -> None:
    """Of each service 10,000 that wait, or 1,000 an hour; of attempts their counts."""
    _assert_no_scan(_plans(big.conn, f"select * from dlq.{view}"), rows=WAITING + 2000)


def test_the_backlog_of_a_flood_is_read_to_its_limit(big: Queue) -> None:
    big.conn.execute("begin")
    big.conn.execute(
        "update webhook_dlq set service = 's1' where id in ("
        " select id from webhook_dlq where status = 'pending' limit 15000)"
    )
    try:
        assert big.one("select pending from dlq.backlog where service = 's1'") == 10_000
        _assert_no_scan(_plans(big.conn, "select * from dlq.backlog"), rows=WAITING - 4000)
    finally:
        big.conn.execute("rollback")


@pytest.mark.parametrize("status", ["pending", "failed", "reprocessed"])
def test_one_entry_is_found_and_told_of_by_its_id(big: Queue, status: str) -> None:
    entry_id = str(big.one(f"select id from webhook_dlq where status = '{status}' limit 1"))
    for call in (f"dlq.find_entry('{entry_id}')", f"dlq.story('{entry_id}')", f"dlq.what_next('{entry_id}')"):
        _assert_no_scan(_plans(big.conn, f"select * from {call}"))


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("select count(*) from webhook_dlq where status = 'pending'", "idx_webhook_dlq_next_retry"),
        (
            "select count(*) from webhook_dlq where status = 'failed' and created_at > now() - interval '1 hour'",
            "idx_webhook_dlq_created_at",
        ),
        ("select * from webhook_dlq order by created_at desc limit 1", "idx_webhook_dlq_created_at"),
        (
            "select * from webhook_dlq where service = 's1' and status = 'failed' order by created_at desc limit 20",
            "idx_webhook_dlq_service",
        ),
        (
            "select id from webhook_dlq where status = 'failed' order by settled_at desc limit 20",
            "idx_webhook_dlq_status",
        ),
        ("select max(processed_at) from dlq_processing_log", "idx_dlq_processing_log_processed_at"),
        (
            "select * from dlq_processing_log order by processed_at desc limit 20",
            "idx_dlq_processing_log_processed_at",
        ),
    ],
)
def test_what_people_ask_has_an_index(big: Queue, statement: str, index: str) -> None:
    nodes = _plans(big.conn, statement)
    assert index in {node.get("Index Name") for node in nodes}
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]


@pytest.fixture
def explained(queue: Queue) -> Queue:
    """An empty queue with an endpoint, whose session explains what it runs."""
    queue.endpoint(max_in_flight=200)
    queue.conn.execute("update dlq.settings set max_in_flight = 400")
    explain(queue.conn)
    queue.conn.execute("set auto_explain.log_min_duration = -1")
    return queue


def _answer_all(queue: Queue) -> None:
    queue.conn.execute(
        "with taken as (delete from net.http_request_queue returning id)"
        " insert into net._http_response (id, status_code) select id, 200 from taken"
    )


def test_a_session_that_has_planned_over_an_empty_queue_reads_a_full_one_by_ids(explained: Queue) -> None:
    for _ in range(2):
        explained.store_many(3)
        explained.dispatch()
        _answer_all(explained)
        explained.collect()
    explained.conn.execute("set session_replication_role = replica")
    explained.conn.execute(
        "insert into webhook_dlq (service, payload, created_at, updated_at, status, next_retry_at, settled_at)"
        " select 'shop', '1', now(), now(), case n % 2 when 0 then 'pending' else 'reprocessed' end,"
        " case n % 2 when 0 then now() + interval '1 day' end, case n % 2 when 1 then now() end"
        " from generate_series(1, 10000) as n"
    )
    explained.conn.execute("set session_replication_role = origin")
    explained.store_many(100)
    explained.conn.execute("set auto_explain.log_min_duration = 0")
    nodes = _plans(explained.conn, "select dlq._step(1, 'dispatch_due')")
    assert explained.one("select count(*) from dlq.in_flight") == 100
    _answer_all(explained)
    nodes += _plans(explained.conn, "select dlq._step(1, 'collect_responses')")
    assert explained.one("select count(*) from dlq.in_flight") == 0
    _assert_no_scan(nodes, rows=200)


def test_a_session_that_has_planned_when_nothing_was_in_flight_looks_each_request_up(explained: Queue) -> None:
    for n in range(2):
        explained.conn.execute(
            "insert into webhook_dlq (service, payload, next_retry_at)"
            " select 'shop', jsonb_build_array(%s::int, n), now() from generate_series(1, 200) as n",
            (n,),
        )
        assert explained.dispatch() == 200
        _answer_all(explained)
        if n == 0:
            explained.collect()
            explained.conn.execute("analyze dlq.in_flight, net._http_response")
    explained.conn.execute("set auto_explain.log_min_duration = 0")
    found = _plans(explained.conn, "select dlq._step(1, 'requeue_lost')")
    found += _plans(explained.conn, "select dlq._step(1, 'collect_responses')")
    assert explained.one("select count(*) from dlq.in_flight") == 0
    for node in found:
        assert node.get("Rows Removed by Join Filter", 0) < 2000, node
        if node.get("Relation Name") == "in_flight":
            assert node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) < 2000, node


@pytest.mark.parametrize("at_once", ["null", "500"])
def test_to_put_back_what_was_just_replayed_looks_each_entry_up(explained: Queue, at_once: str) -> None:
    """By statistics of a time when nothing waited, by which the index of what is due would be read for each entry."""
    explained.conn.execute(
        "insert into webhook_dlq (service, payload, status) select 'shop', '1', 'failed' from generate_series(1, 2000)"
    )
    explained.conn.execute("vacuum analyze webhook_dlq")
    explained.conn.execute("select dlq.replay('x', max_entries => 2000)")
    explained.conn.execute("set auto_explain.log_min_duration = 0")
    found = _plans(explained.conn, f"select dlq.cancel_replay(1, 'x', {at_once})")
    assert explained.one("select count(*) from webhook_dlq where status = 'failed'") == (
        500 if at_once == "500" else 2000
    )
    _assert_no_scan(found, rows=500 if at_once == "500" else 2000)


def test_what_a_transaction_held_open_keeps_is_not_read_by_every_pass(explained: Queue, database: str) -> None:
    claimed = None
    with psycopg.connect(database) as holder:
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select from webhook_dlq")
        for minutes in range(40, 0, -2):
            explained.conn.execute(
                "insert into webhook_dlq (service, payload, next_retry_at)"
                " select 'shop', jsonb_build_array(n, repeat('x', 1500)), now() - %s * interval '1 minute'"
                " from generate_series(1, %s) as n",
                (minutes, 50 if minutes > 2 else 5),
            )
            if minutes > 2:
                claimed = explained.one("select claimed::text from dlq.dispatch_due(%s)", claimed)
                _answer_all(explained)
                explained.collect()
        explained.conn.execute("set auto_explain.log_min_duration = 0")
        read = {}
        for past in ("null", f"'{claimed}'"):
            with explained.conn.transaction(force_rollback=True):
                nodes = _plans(explained.conn, f"select * from dlq.dispatch_due({past})")
            looks = [n for n in nodes if n.get("Index Name") == "idx_webhook_dlq_next_retry"]
            read[past] = sum(n["Shared Hit Blocks"] for n in looks)
        assert read[f"'{claimed}'"] * 4 < read["null"], read
