"""dlq.evaluate_alerts(): when an alert is raised, changed and resolved, and when nothing is done."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from dlqctl.bundle import ROOT
from tests.conftest import Clock
from tests.db.alerting import Alerts
from tests.db.conftest import Queue


@pytest.fixture
def alerts(queue: Queue, clock: Clock) -> Alerts:
    """The alerts of a queue whose processor and maintenance have just run."""
    queue.conn.execute("call dlq.run_cycle()")
    queue.conn.execute("call dlq.maintain()")
    return Alerts(queue, clock)


def alert(queue: Queue, rule: str) -> dict[str, Any]:
    (row,) = queue.rows("select * from dlq.alerts where rule = %s order by id desc limit 1", rule)
    return row


def wait_later(queue: Queue) -> None:
    """What waits is not due for a day: nothing is overdue."""
    queue.conn.execute("update webhook_dlq set next_retry_at = dlq._now() + interval '1 day' where status = 'pending'")


def fail(queue: Queue, count: int, ago: str = "1 minute") -> None:
    queue.conn.execute(
        """
        insert into public.webhook_dlq (service, payload, status, settled_at, created_at)
        select 'shop', jsonb_build_object('n', n), 'failed', dlq._now() - %s::interval, dlq._now() - interval '20 hours'
        from generate_series(1, %s) as n
        """,
        (ago, count),
    )


# Boundaries.


@pytest.mark.parametrize(("count", "raised"), [(100, set()), (101, {"pending"})])
def test_more_than_100_pending_raises_and_100_do_not(alerts: Alerts, count: int, raised: set[str]) -> None:
    alerts.queue.store_many(count)
    wait_later(alerts.queue)
    alerts.evaluate()
    assert alerts.raised() == raised


@pytest.mark.parametrize(("count", "raised"), [(10, set()), (11, {"failed"})])
def test_more_than_10_that_became_failed_within_the_hour_raise_and_10_do_not(
    alerts: Alerts, count: int, raised: set[str]
) -> None:
    fail(alerts.queue, count)
    fail(alerts.queue, 50, ago="61 minutes")
    alerts.evaluate()
    assert alerts.raised() == raised


@pytest.mark.parametrize(("ago", "raised"), [("590 s", set()), ("600 s", {"processor"})])
def test_a_processor_silent_for_600_seconds_raises(alerts: Alerts, ago: str, raised: set[str]) -> None:
    alerts.queue.conn.execute(
        "update dlq_processing_log set processed_at = clock_timestamp() - %s::interval, duration = '0'", (ago,)
    )
    alerts.evaluate()
    assert alerts.raised() == raised
    if raised:
        assert alert(alerts.queue, "processor")["severity"] == "critical"


def test_health_and_rules_have_one_threshold(alerts: Alerts) -> None:
    alerts.queue.store_many(6)
    wait_later(alerts.queue)
    fail(alerts.queue, 3)
    alerts.queue.conn.execute("update dlq.alert_rules set more_than = 5 where name = 'pending'")
    alerts.queue.conn.execute("select dlq.set_alert_rule('failed', '2')")
    alerts.queue.conn.execute("select dlq.set_alert_rule('processor', '5 minutes')")
    alerts.queue.conn.execute("update dlq_processing_log set processed_at = clock_timestamp() - interval '6 minutes'")
    alerts.evaluate()
    levels: dict[str, str] = dict(alerts.queue.conn.execute("select name, level from dlq.health").fetchall())
    assert alerts.raised() == {"pending", "failed", "processor"}
    assert (levels["pending"], levels["failed"], levels["processor"]) == ("warning", "error", "error")


# Each line.


def unroutable(queue: Queue) -> None:
    queue.store("nobody")


def silent_sender(queue: Queue) -> None:
    queue.beat("20 minutes")
    queue.conn.execute("update dlq.settings set installed_at = now() - interval '1 day'")


def stuck_sender(queue: Queue) -> None:
    queue.send(queue.store())
    queue.conn.execute("update webhook_dlq set last_retry_at = dlq._now() - interval '6 minutes'")


def overdue(queue: Queue) -> None:
    queue.store()
    queue.conn.execute("update webhook_dlq set next_retry_at = dlq._now() - interval '11 minutes'")


def without_a_secret(queue: Queue) -> None:
    queue.endpoint("signed", signing="x-hub-signature-256", secret_names=["GONE"])
    queue.store("signed")


def retention_behind(queue: Queue) -> None:
    queue.conn.execute("update dlq.maintenance_log set began_at = clock_timestamp() - interval '3 days'")


def long_outage(queue: Queue) -> None:
    queue.conn.execute(
        "insert into dlq.endpoint_state (service, cap, failing_since, probe_at, trouble)"
        " values ('shop', 0, dlq._now() - interval '61 minutes', dlq._now() + interval '1 minute', 'HTTP 503')"
    )


@pytest.mark.parametrize(
    ("misfortune", "rule", "severity", "minutes"),
    [
        (unroutable, "endpoints", "error", 0),
        (silent_sender, "sender", "critical", 0),
        (stuck_sender, "answers", "critical", 0),
        (overdue, "overdue", "error", 0),
        (without_a_secret, "secrets", "error", 0),
        (retention_behind, "retention", "warning", 0),
        (long_outage, "circuits", "error", 5),
    ],
)
def test_each_misfortune_raises_its_rule_and_no_other(
    alerts: Alerts, misfortune: Any, rule: str, severity: str, minutes: int
) -> None:
    alerts.evaluate()
    misfortune(alerts.queue)
    alerts.evaluate()
    assert alerts.raised() == (set() if minutes else {rule})
    alerts.clock.advance(f"{minutes} minutes")
    alerts.evaluate()
    assert alerts.raised() == {rule}
    assert alert(alerts.queue, rule)["severity"] == severity


def test_a_pause_raises_when_it_has_lasted_for_an_hour(alerts: Alerts) -> None:
    alerts.queue.conn.execute("select dlq.pause('a move', 'shop')")
    alerts.evaluate()
    alerts.clock.advance("59 minutes")
    alerts.evaluate()
    assert alerts.raised() == set()
    alerts.minute()
    assert alerts.raised() == {"paused"}
    assert alert(alerts.queue, "paused")["subjects"] == ["shop"]


# Edges.


def test_what_goes_up_and_down_each_minute_is_one_alert(alerts: Alerts) -> None:
    for _ in range(6):
        alerts.queue.store_many(101)
        wait_later(alerts.queue)
        alerts.minute()
        alerts.queue.conn.execute("delete from webhook_dlq")
        alerts.minute()
    assert alerts.raised() == {"pending"}
    assert alert(alerts.queue, "pending")["edge"] == 1
    alerts.minute(4)
    assert alerts.raised() == {"pending"}
    alerts.minute()
    assert alerts.raised() == set()
    assert alert(alerts.queue, "pending")["edge"] == 2
    assert alerts.queue.one("select count(*) from dlq.alerts") == 1


def test_what_ends_before_it_has_held_leaves_no_trace(alerts: Alerts) -> None:
    alerts.queue.conn.execute("select dlq.set_alert_rule('pending', hold => '3 minutes')")
    alerts.queue.store_many(101)
    wait_later(alerts.queue)
    alerts.minute(3)
    assert alerts.raised() == set()
    alerts.queue.conn.execute("delete from webhook_dlq")
    alerts.minute()
    assert alerts.queue.one("select count(*) from dlq.alerts") == 0
    alerts.queue.store_many(101)
    wait_later(alerts.queue)
    alerts.minute(4)
    assert alerts.raised() == {"pending"}


def test_an_alert_changes_when_it_becomes_more_severe_or_of_another_service_and_not_back(alerts: Alerts) -> None:
    def open_circuit(service: str, ago: str) -> None:
        alerts.queue.conn.execute(
            "insert into dlq.endpoint_state (service, cap, failing_since, probe_at, trouble)"
            " values (%s, 0, dlq._now() - %s::interval, dlq._now() + interval '1 day', 'HTTP 503')",
            (service, ago),
        )

    open_circuit("shop", "1 minute")
    alerts.minute(6)
    assert (alert(alerts.queue, "circuits")["severity"], alert(alerts.queue, "circuits")["edge"]) == ("warning", 1)
    open_circuit("till", "1 minute")
    alerts.minute(2)
    assert (alert(alerts.queue, "circuits")["subjects"], alert(alerts.queue, "circuits")["edge"]) == (
        ["shop", "till"],
        2,
    )
    alerts.queue.conn.execute("delete from dlq.endpoint_state where service = 'till'")
    alerts.minute()
    open_circuit("till", "1 minute")
    alerts.minute()
    assert alert(alerts.queue, "circuits")["edge"] == 2
    alerts.clock.advance("1 hour")
    alerts.evaluate()
    assert (alert(alerts.queue, "circuits")["severity"], alert(alerts.queue, "circuits")["edge"]) == ("error", 3)
    alerts.queue.conn.execute("update dlq.endpoint_state set failing_since = dlq._now()")
    alerts.minute()
    assert (alert(alerts.queue, "circuits")["severity"], alert(alerts.queue, "circuits")["edge"]) == ("error", 3)


def test_a_disabled_rule_raises_nothing_and_lets_go(alerts: Alerts) -> None:
    alerts.queue.store_many(101)
    wait_later(alerts.queue)
    alerts.evaluate()
    alerts.queue.conn.execute("select dlq.set_alert_rule('pending', enabled => false)")
    alerts.minute(6)
    assert alerts.raised() == set()
    assert alerts.queue.one("select level from dlq.health where name = 'pending'") == "warning"


def test_with_nothing_wrong_one_row_is_written(alerts: Alerts) -> None:
    alerts.channel()
    alerts.evaluate()
    tables = ("alerts", "alert_deliveries", "alert_requests", "alert_evaluation", "alert_silences")
    written = "select sum(n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_xact_user_tables where relname = any (%s)"
    with alerts.queue.conn.transaction():
        before = alerts.queue.one(written, list(tables))
        alerts.evaluate()
        assert alerts.queue.one(written, list(tables)) - before == 1


def test_a_copy_of_production_does_nothing(alerts: Alerts) -> None:
    alerts.channel()
    alerts.queue.store_many(101)
    alerts.queue.conn.execute("update dlq.settings set database_oid = 1")
    assert alerts.evaluate() == (None, None, None, None)
    assert alerts.queue.one("select count(*) from dlq.alerts") == 0
    assert alerts.queued() == []


def test_an_evaluation_beside_another_does_nothing(alerts: Alerts, database: str) -> None:
    alerts.queue.store_many(101)
    with psycopg.connect(database) as other:
        other.execute("select dlq.evaluate_alerts()")
        assert alerts.evaluate() == (None, None, None, None)


@pytest.mark.parametrize(
    "hidden", ["force row level security", "owner to postgres; grant all on webhook_dlq to dlq_owner"]
)
def test_a_queue_that_is_hidden_is_told_at_once_and_what_was_told_stays(alerts: Alerts, hidden: str) -> None:
    alerts.queue.store_many(101)
    wait_later(alerts.queue)
    alerts.evaluate()
    assert alerts.raised() == {"pending"}
    alerts.queue.conn.execute(f"alter table webhook_dlq {hidden}".encode())
    (line,) = alerts.queue.rows("select * from dlq.health where name = 'processor'")
    assert (line["level"], line["remediation"]) == ("error", "dlqctl migrate --check; then dlqctl migrate")
    assert "hides public.webhook_dlq" in line["detail"]
    alerts.minute(7)
    assert alerts.raised() == {"pending", "processor"}, "nobody says that none are pending"


@pytest.mark.parametrize("table", ["dlq.settings", "dlq.alert_rules", "dlq.alert_evaluation", "dlq.alerts"])
def test_whoever_cannot_see_a_table_of_its_own_says_so(alerts: Alerts, table: str) -> None:
    alerts.queue.conn.execute(f"alter table {table} force row level security".encode())
    (line,) = alerts.queue.rows("select level, detail from dlq.health where name = 'processor'")
    assert (line["level"], f"hides {table}" in line["detail"]) == ("error", True)
    with pytest.raises(psycopg.Error) as error:
        alerts.evaluate()
    assert error.value.sqlstate == "WD003"


def test_no_pager_is_told_what_a_trigger_of_somebodys_says(alerts: Alerts) -> None:
    alerts.queue.store(payload={"order": "secret-order"}, phone_number="+491701234567")
    alerts.queue.make_due()
    alerts.queue.conn.execute(
        """
        create function pg_temp.complain() returns trigger language plpgsql as $$
        begin
          raise exception using errcode = '23514', message = format('bad %s of %s', new.payload, new.phone_number);
        end $$;
        create trigger complain before update on webhook_dlq for each row execute function pg_temp.complain()
        """
    )
    alerts.queue.conn.execute("call dlq.run_cycle()")
    alerts.queue.conn.execute(
        "update dlq.maintenance_log set status = 'error', error_message = '23514 x: +491701234567'"
    )
    assert "+491701234567" in alerts.queue.one(
        "select error_message from dlq_processing_log order by id desc limit 1"
    ), "the log has it, for whoever may read that"
    lines = {row["name"]: row for row in alerts.queue.rows("select * from dlq.health")}
    assert lines["processor"]["detail"].endswith("error: 23514 dispatch_due")
    assert "23514 x" in lines["retention"]["detail"]
    told = str(lines) + str(alerts.queue.one("select dlq_health()"))
    assert "4917" not in told
    assert "secret-order" not in told


def test_our_own_errors_are_told_in_words(alerts: Alerts) -> None:
    told = "WD004 dispatch_due: there is no sender: nothing is sent"
    assert alerts.queue.one("select dlq._error_in_short(%s)", told) == told


def test_old_alerts_and_what_was_told_of_them_are_removed(alerts: Alerts) -> None:
    alerts.channel()
    alerts.queue.store_many(101)
    wait_later(alerts.queue)
    alerts.evaluate()
    alerts.answer()
    alerts.queue.conn.execute("delete from webhook_dlq")
    alerts.minute(6)
    alerts.answer()
    alerts.minute()
    assert len(alerts.deliveries()) == 2
    alerts.clock.advance("31 days")
    alerts.queue.conn.execute("select dlq.pause('for long', 'shop')")
    alerts.queue.conn.execute("select dlq.set_alert_rule('paused', hold => '0')")
    alerts.evaluate()
    alerts.queue.conn.execute("call dlq.maintain()")
    assert [row["rule"] for row in alerts.queue.rows("select rule from dlq.alerts")] == ["paused"]
    assert {rule for rule, *_ in alerts.deliveries()} == {"paused"}


# The line of health.


def health(queue: Queue) -> tuple[str, str]:
    (row,) = queue.rows("select level, detail from dlq.health where name = 'alerts'")
    return row["level"], row["detail"]


def test_health_says_whether_anybody_is_told(alerts: Alerts) -> None:
    assert health(alerts.queue) == ("ok", "nobody is told: there is no channel")
    alerts.channel()
    assert health(alerts.queue) == ("ok", "told: pager")
    alerts.queue.conn.execute("select dlq.remove_secret('PAGERDUTY_KEY')")
    assert health(alerts.queue) == ("error", "pager: there is no secret PAGERDUTY_KEY")
    alerts.channel()
    alerts.queue.conn.execute("update dlq.alert_channels set created_at = now() - interval '1 hour'")
    alerts.queue.conn.execute("update dlq.alert_evaluation set evaluated_at = now() - interval '11 minutes'")
    assert health(alerts.queue)[0] == "error"
    alerts.evaluate()
    assert health(alerts.queue)[0] == "ok"


def test_health_names_who_keeps_the_lock_of_alerts(alerts: Alerts, database: str) -> None:
    alerts.channel()
    alerts.queue.conn.execute("update dlq.alert_channels set created_at = now() - interval '1 hour'")
    with psycopg.connect(database, application_name="a forgotten psql") as other:
        other.execute("select dlq.evaluate_alerts()")
        assert health(alerts.queue)[0] == "ok", "as does every evaluation while it runs"
        other.rollback()
        alerts.queue.conn.execute("update dlq.alert_evaluation set evaluated_at = now() - interval '11 minutes'")
        other.execute("select dlq._alerts_lock()")
        assert alerts.evaluate() == (None, None, None, None)
        (line,) = alerts.queue.rows("select * from dlq.health where name = 'alerts'")
        assert line["level"] == "error"
        assert f"process {other.info.backend_pid} (postgres, a forgotten psql), in a transaction" in line["detail"]
        assert line["remediation"].endswith(f"select pg_terminate_backend({other.info.backend_pid})")
    alerts.evaluate()
    assert health(alerts.queue)[0] == "ok"


def test_a_channel_that_refuses_is_an_error_until_it_takes_one(alerts: Alerts) -> None:
    alerts.channel()
    alerts.channel("other", "webhook", url="https://other.example/hook", severities=["error"])
    alerts.queue.store_many(101)
    wait_later(alerts.queue)
    alerts.evaluate()
    alerts.answer(400, content="no such key")
    alerts.minute()
    assert health(alerts.queue)[0] == "error"
    assert alerts.raised() == {"pending", "alerts"}
    alerts.queue.conn.execute("select dlq.test_alert_channel('pager')")
    alerts.answer()
    alerts.minute()
    alerts.answer()
    alerts.minute()
    assert health(alerts.queue) == ("ok", "told: other, pager")


# Rules and silences are set by functions that say what is wrong.


@pytest.mark.parametrize(
    "arguments",
    [
        "'pending', 'many'", "'pending', '15 minutes'", "'pending', '10001'", "'processor', '200 apples'",
        "'processor', '2 days'", "'sender', '5 minutes'", "'no such rule', '1'",
        "'pending', severity_at_warning => 'bad'", "'pending', severity_at_warning => 'none'",
        "'pending', 'none'", "'processor', 'none'", "'pending', hold => '2 days'", "'pending', runbook => 'two words'",
    ],
)  # fmt: skip
def test_a_rule_is_not_set_to_nonsense(alerts: Alerts, arguments: str) -> None:
    before = alerts.queue.rows("select * from dlq.alert_rules order by name")
    with pytest.raises(psycopg.Error) as error:
        alerts.queue.conn.execute(f"select dlq.set_alert_rule({arguments})".encode())
    assert error.value.sqlstate == "WD002"
    assert error.value.diag.message_hint
    assert alerts.queue.rows("select * from dlq.alert_rules order by name") == before


def test_overdue_goes_back_to_two_cycles(alerts: Alerts) -> None:
    thresholds = "select longer_than::text from dlq.alert_rules where name = 'overdue'"
    alerts.queue.conn.execute("select dlq.set_alert_rule('overdue', '1 hour')")
    alerts.queue.conn.execute("select dlq.set_alert_rule('overdue', hold => '1 minute')")
    assert alerts.queue.one(thresholds) == "01:00:00"
    alerts.queue.conn.execute("select dlq.set_alert_rule('overdue', 'none')")
    assert alerts.queue.one(thresholds) is None
    assert alerts.queue.one("select overdue::text from dlq._thresholds") == "00:10:00"


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="not in a checkout")
def test_the_page_has_every_rule_as_it_is(alerts: Alerts) -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()
    told = {
        cells[0].strip("`"): (cells[2], cells[3], cells[4])
        for line in page.splitlines()
        if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5
    }
    rules = alerts.queue.rows("select * from dlq.alert_rules")
    assert set(told) == {rule["name"] for rule in rules}
    for rule in rules:
        threshold, severity, place = told[rule["name"]]
        levels = filter(None, [rule["severity_at_warning"], rule["severity_at_error"]])
        assert severity == ", then ".join(levels)
        assert place == f"[runbook](runbook.md#{rule['name']})"
        if rule["more_than"] is not None:
            assert threshold == str(rule["more_than"])
        elif rule["longer_than"] is not None:
            assert alerts.queue.one("select %s::interval", threshold) == rule["longer_than"]
        else:
            assert threshold in ("", "two cycles")


def test_every_rule_is_a_line_of_health_and_has_its_page(alerts: Alerts) -> None:
    rules = {row["name"]: row for row in alerts.queue.rows("select * from dlq.alert_rules")}
    lines = {row["name"] for row in alerts.queue.rows("select name from dlq.health")}
    assert set(rules) <= lines
    assert lines - set(rules) == {"server", "pg_net grants"}
    for name, rule in rules.items():
        assert rule["runbook"] == f"docs/runbook.md#{name}"
    assert rules["processor"]["longer_than"] == timedelta(minutes=10)
