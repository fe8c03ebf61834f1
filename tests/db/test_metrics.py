"""dlq.metrics: the numbers are those of the views, the names as Prometheus wants them."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from dlqctl.bundle import ROOT
from dlqctl.metrics import exposition, read
from tests.conftest import Clock
from tests.db.conftest import Queue
from tests.monitoring import promtool

PAGE = ROOT / "docs" / "monitoring.md"
UNITS = ("_seconds", "_bytes", "_seconds_total")


def metric(queue: Queue, name: str, **labels: str) -> float | None:
    """The value of the one sample with this name and these labels; None if there is none."""
    rows = queue.rows(
        "select value from dlq.metrics"
        " where name = %s and labels = %s || jsonb_build_object('database', current_database())",
        name,
        Jsonb(labels),
    )
    assert len(rows) <= 1
    return rows[0]["value"] if rows else None


def busy(queue: Queue) -> None:
    """Something of everything: pending, due, in flight, delivered, failed, paused, open, without an endpoint."""
    queue.attempt(queue.store())
    queue.attempt(queue.store(), 410)
    queue.attempt(queue.store(), 500)
    queue.endpoint("till")
    queue.send(queue.store("till"))
    queue.store("nowhere")
    queue.store_many(3, "late")
    queue.endpoint("late")
    queue.conn.execute("select dlq.pause('x', 'late')")
    queue.conn.execute("select process_dlq_entries()")


def test_services_are_told_as_the_views_tell_them(queue: Queue, clock: Clock) -> None:
    busy(queue)
    clock.set_forward("2 minutes")
    for row in queue.rows("select * from dlq.backlog"):
        service = row["service"]
        assert metric(queue, "dlq_entries_pending", service=service) == row["pending"]
        assert metric(queue, "dlq_entries_due", service=service) == row["due"]
    for row in queue.rows("select * from dlq.circuits"):
        service = row["service"]
        assert metric(queue, "dlq_entries_in_flight", service=service) == row["in_flight"]
        assert metric(queue, "dlq_endpoint_state", service=service, state=row["state"]) == 1
        assert metric(queue, "dlq_endpoint_cap", service=service) == row["max_in_flight"]
    assert metric(queue, "dlq_entries_failed_last_hour", service="shop") == 1
    assert metric(queue, "dlq_entries_failed") == 1
    assert metric(queue, "dlq_oldest_due_age_seconds", service="late") == pytest.approx(120, abs=30)
    assert metric(queue, "dlq_oldest_due_age_seconds", service="shop") == 0
    assert metric(queue, "dlq_oldest_in_flight_age_seconds", service="till") == pytest.approx(120, abs=30)
    states = queue.rows(
        "select labels ->> 'service' as service, sum(value) from dlq.metrics"
        " where name = 'dlq_endpoint_state' group by 1"
    )
    assert {row["service"]: row["sum"] for row in states} == {"shop": 1, "till": 1, "nowhere": 1, "late": 1}
    clock.set_forward("2 hours")
    assert metric(queue, "dlq_entries_failed_last_hour", service="shop") in (0, None)
    assert metric(queue, "dlq_entries_failed") == 1


def test_an_open_circuit_has_a_cap_of_nothing_and_a_beginning(queue: Queue) -> None:
    assert metric(queue, "dlq_endpoint_failing_since_timestamp_seconds", service="shop") is None
    queue.conn.execute(
        "insert into dlq.endpoint_state (service, cap, failing_since, probe_at, trips)"
        " values ('shop', 0, '2026-01-01 00:00Z', now() + interval '1 minute', 1)"
    )
    assert metric(queue, "dlq_endpoint_cap", service="shop") == 0
    assert metric(queue, "dlq_endpoint_state", service="shop", state="open") == 1
    assert metric(queue, "dlq_endpoint_failing_since_timestamp_seconds", service="shop") == 1767225600


def test_attempts_are_told_as_history_has_them_and_never_decrease(queue: Queue, clock: Clock) -> None:
    busy(queue)
    told = {}
    for row in queue.rows("select service, outcome, count(*) as n from dlq.delivery_attempts group by 1, 2"):
        labels = {"service": row["service"], "outcome": row["outcome"]}
        assert metric(queue, "dlq_attempts_total", **labels) == row["n"]
        told[row["service"], row["outcome"]] = row["n"]
    assert {outcome for _, outcome in told} >= {"delivered", "http_error"}
    clock.set_forward("60 days")
    queue.conn.execute("call dlq.maintain()")
    assert queue.one("select count(*) from dlq.delivery_attempts where outcome = 'delivered'") == 0
    for (service, outcome), n in told.items():
        value = metric(queue, "dlq_attempts_total", service=service, outcome=outcome)
        assert value is not None
        assert value >= n


def test_health_is_a_level_for_each_line(queue: Queue) -> None:
    busy(queue)
    levels = {row["name"]: row["level"] for row in queue.rows("select name, level from dlq.health")}
    assert "error" in levels.values()
    for name, level in levels.items():
        assert metric(queue, "dlq_health_level", check=name) == ["ok", "warning", "error"].index(level)
    assert metric(queue, "dlq_sender_up") == 1
    assert metric(queue, "dlq_net_workers") == 1
    queue.beat("2 minutes")
    queue.conn.execute("update dlq.settings set installed_at = now() - interval '1 hour'")
    assert metric(queue, "dlq_sender_up") == 0
    assert metric(queue, "dlq_net_workers") == 0


def test_an_alert_is_raised_until_it_is_resolved(queue: Queue) -> None:
    rules = [row["name"] for row in queue.rows("select name from dlq.alert_rules")]
    assert {rule: metric(queue, "dlq_alert_raised", rule=rule) for rule in rules} == dict.fromkeys(rules, 0)
    queue.conn.execute(
        "insert into dlq.alerts (rule, severity, detail, since, raised_at, edge)"
        " values ('paused', 'warning', '', now(), null, 0), ('failed', 'error', '', now(), now(), 1)"
    )
    assert metric(queue, "dlq_alert_raised", rule="failed") == 1
    assert metric(queue, "dlq_alert_raised", rule="paused") == 0
    queue.conn.execute("update dlq.alerts set resolved_at = now() where rule = 'failed'")
    assert metric(queue, "dlq_alert_raised", rule="failed") == 0
    evaluated = queue.one("select extract(epoch from evaluated_at)::float from dlq.alert_evaluation")
    assert metric(queue, "dlq_alerts_evaluated_timestamp_seconds") == evaluated


def test_the_processor_and_retention_are_seen_when_they_ran(queue: Queue) -> None:
    for name in ("processor", "retention"):
        installed = queue.one("select extract(epoch from installed_at)::float from dlq.settings")
        assert metric(queue, f"dlq_{name}_seen_timestamp_seconds") == installed
        assert metric(queue, f"dlq_{name}_last_success_timestamp_seconds") is None
    queue.conn.execute("call dlq.run_cycle()")
    queue.conn.execute("call dlq.maintain()")
    ran, seen, took = queue.conn.execute(
        "select extract(epoch from processed_at)::float, extract(epoch from processed_at + duration)::float,"
        " extract(epoch from duration)::float from dlq_processing_log"
    ).fetchone() or (0, 0, 0)
    queue.conn.execute(
        "insert into dlq_processing_log (processed_at, status, duration)"
        " values (to_timestamp(%s) + interval '1 hour', 'error', '3 seconds')",
        (ran,),
    )
    assert metric(queue, "dlq_processor_last_success_timestamp_seconds") == pytest.approx(ran, abs=1e-3)
    assert metric(queue, "dlq_processor_last_run_timestamp_seconds") == pytest.approx(ran + 3600, abs=1e-3)
    assert metric(queue, "dlq_processor_seen_timestamp_seconds") == pytest.approx(ran + 3603, abs=1e-3)
    assert metric(queue, "dlq_processor_last_run_duration_seconds") == 3
    assert seen >= ran + took - 1e-3
    began = queue.one("select extract(epoch from began_at)::float from dlq.maintenance_log")
    assert metric(queue, "dlq_retention_last_success_timestamp_seconds") == pytest.approx(began, abs=1e-3)


def test_names_units_and_labels_are_prometheus_own(queue: Queue) -> None:
    busy(queue)
    queue.conn.execute("call dlq.maintain()")
    rows = queue.rows("select * from dlq.metrics")
    for row in rows:
        assert re.fullmatch(r"dlq_[a-z_]+", row["name"]), row
        assert (row["type"] == "counter") == row["name"].endswith("_total"), row
        assert row["type"] in ("gauge", "counter")
        assert row["help"].endswith(".")
        assert row["labels"].keys() <= {
            "database", "service", "outcome", "state", "check", "table", "revision", "postgresql", "sender", "rule",
        }, row  # fmt: skip
        assert all(isinstance(value, str) for value in row["labels"].values())
        if re.search(r"seconds|bytes|timestamp|duration|age", row["name"]):
            assert row["name"].endswith(UNITS), row
        assert not re.search("[0-9a-f]{8}-", str(row)), "an id"
    assert len({(row["name"], str(row["labels"])) for row in rows}) == len(rows)


def test_promtool_finds_nothing_to_say_of_what_is_printed(queue: Queue) -> None:
    busy(queue)
    text = exposition(read(queue.conn))
    done = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_reader_reads_all_of_them(queue: Queue) -> None:
    busy(queue)
    names = "select array_agg(distinct name order by name) from dlq.metrics"
    all_names: Any = queue.one(names)
    queue.conn.execute("set role dlq_reader")
    assert queue.one(names) == all_names


@pytest.mark.skipif(not PAGE.exists(), reason="not in a checkout")
def test_the_page_names_each_of_them_and_no_other(queue: Queue) -> None:
    documented = dict(re.findall(r"^\| `(dlq_\w+)` \| (gauge|counter) ", PAGE.read_text(), re.M))
    source = (ROOT / "sql" / "metrics" / "_metrics.sql").read_text()
    defined = dict(re.findall(r"^    \('(dlq_\w+)', '(gauge|counter)', ", source, re.M))
    assert documented == defined
    busy(queue)
    queue.conn.execute("call dlq.maintain()")
    queue.conn.execute("analyze webhook_dlq")
    queue.conn.execute("update dlq.endpoint_state set failing_since = now()")
    queue.conn.execute("insert into dlq.endpoint_state (service, failing_since) values ('z', now())")
    assert {row["name"] for row in queue.rows("select name from dlq.metrics")} == set(defined)
