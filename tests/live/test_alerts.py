"""Alerts over the wire, to a PagerDuty that is busy or broken at times, through whichever sender there is."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from dlqctl import receiver as handlers
from dlqctl.receiver import Receiver
from dlqctl.sandbox import Sandbox, command_env
from dlqctl.signatures import verify_standard
from tests import command
from tests.pagerduty import ROUTING_KEY, PagerDuty

WEBHOOK_SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture
def pagerduty(receiver: Receiver) -> PagerDuty:
    pagerduty = PagerDuty()
    receiver.behave("pagerduty", pagerduty.behaviour)
    return pagerduty


@pytest.fixture
def conn(live: Sandbox, receiver: Receiver, pagerduty: PagerDuty) -> Iterator[psycopg.Connection]:
    """A connection to a sandbox where `pending` alone raises alerts, at the first entry and without waiting."""
    with psycopg.connect(live.dsn, autocommit=True) as conn:
        conn.execute("select dlq.set_secret('PAGERDUTY_KEY', %s)", (ROUTING_KEY,))
        conn.execute("update dlq.alert_rules set enabled = name = 'pending'")
        conn.execute("select dlq.set_alert_rule('pending', '0', quiet => '0')")
        conn.execute(
            "select dlq.set_alert_channel('pager', 'pagerduty', %s, 'PAGERDUTY_KEY',"
            " allow_http => true, allow_private => true)",
            (receiver.url("pagerduty"),),
        )
        yield conn
        conn.execute("select dlq.remove_alert_channel(name) from dlq.alert_channels")
        conn.execute("delete from webhook_dlq where service = 'alarming'")
        conn.execute("select dlq.set_alert_rule(name, enabled => true) from dlq.alert_rules")
        conn.execute("select dlq.set_alert_rule('pending', '100', quiet => '5 minutes')")
        conn.execute("select dlq.evaluate_alerts()")


def evaluate_until(conn: psycopg.Connection, condition: Callable[[], bool]) -> None:
    """Evaluate again and again, and let nothing wait for its time, until something holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, conn.execute("select * from dlq.alert_deliveries").fetchall()
        conn.execute("select dlq.evaluate_alerts()")
        with psycopg.connect(conn.info.dsn, autocommit=True, user="postgres") as superuser:
            superuser.execute("update dlq.alert_deliveries set next_try_at = now() where status = 'waiting'")
        time.sleep(0.05)


def settled(conn: psycopg.Connection) -> bool:
    row = conn.execute("select count(*) from dlq.alert_deliveries where status in ('waiting', 'sent')").fetchone()
    return row == (0,)


def test_triggers_once_and_resolves_in_order_whatever_pagerduty_answers(
    conn: psycopg.Connection, pagerduty: PagerDuty
) -> None:
    pagerduty.trouble = [429, 500]
    conn.execute(
        "insert into webhook_dlq (service, payload, next_retry_at) values ('alarming', '1', now() + interval '1 day')"
    )
    evaluate_until(conn, lambda: pagerduty.actions == ["trigger"] and settled(conn))
    assert pagerduty.answers == [429, 500, 202]
    for _ in range(5):
        conn.execute("select dlq.evaluate_alerts()")
    assert settled(conn)

    pagerduty.trouble = [500, 429, 503]
    conn.execute("delete from webhook_dlq where service = 'alarming'")
    conn.execute("select dlq.evaluate_alerts()")
    conn.execute(
        "insert into webhook_dlq (service, payload, next_retry_at) values ('alarming', '1', now() + interval '1 day')"
    )
    evaluate_until(conn, lambda: len(pagerduty.events) == 3 and settled(conn))
    assert pagerduty.actions == ["trigger", "resolve", "trigger"]
    assert pagerduty.answers == [429, 500, 202, 500, 429, 503, 202, 202]
    assert len({event["dedup_key"] for event in pagerduty.events}) == 1
    assert len(pagerduty.open) == 1


def dlqctl(live: Sandbox, *words: str) -> subprocess.CompletedProcess[str]:
    return command.dlqctl("--dsn", live.dsn, *words, env=command_env(live))


def test_a_test_says_what_was_answered(
    live: Sandbox, conn: psycopg.Connection, receiver: Receiver, pagerduty: PagerDuty
) -> None:
    done = dlqctl(live, "alerts", "test", "pager", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    answers = json.loads(done.stdout)
    assert [(a["event"], a["status"], a["status_code"]) for a in answers] == [
        ("raised", "delivered", 202), ("resolved", "delivered", 202),
    ]  # fmt: skip
    assert json.loads(answers[0]["reply"])["status"] == "success"
    assert pagerduty.actions == ["trigger", "resolve"]
    assert pagerduty.open == set()

    conn.execute("select dlq.set_secret('PAGERDUTY_KEY', 'too short')")
    done = dlqctl(live, "alerts", "test", "pager")
    assert done.returncode == 1
    assert "refused" in done.stdout
    assert "is too short" in done.stdout
    assert done.stderr.startswith("dlqctl: not all of it was taken -> ")


def test_a_webhook_verifies_and_slack_is_told_at_its_secret_url(
    live: Sandbox, conn: psycopg.Connection, receiver: Receiver
) -> None:
    receiver.behave("T0/B0/xyz", handlers.reply(200, b"ok"))
    conn.execute("select dlq.set_secret('HOOK', %s), dlq.set_secret('SLACK', 'T0/B0/xyz')", (WEBHOOK_SECRET,))
    private = ("--allow-http", "--allow-private")
    for words in (
        ("hook", "--kind", "webhook", "--url", receiver.url("hook"), "--secret", "HOOK"),
        ("team", "--kind", "slack", "--url", receiver.url("{secret}"), "--secret", "SLACK", "--severity", "critical"),
    ):
        assert dlqctl(live, "alerts", "channel", "set", *words, *private).returncode == 0
    assert dlqctl(live, "alerts", "test").returncode == 0
    hooks = [request for request in receiver.requests if request.service == "hook"]
    assert [json.loads(request.body)["type"] for request in hooks] == ["dlq.alert.raised", "dlq.alert.resolved"]
    for request in hooks:
        verify_standard(request.body, dict(request.headers), [WEBHOOK_SECRET])
    slack = [json.loads(request.body)["text"] for request in receiver.requests if request.service == "T0/B0/xyz"]
    assert [text.split()[0] for text in slack] == ["RAISED", "RESOLVED"]

    listed = dlqctl(live, "alerts", "channel", "list", "--format", "json")
    assert {row["name"]: row["last_status"] for row in json.loads(listed.stdout)} == {
        "hook": "delivered", "pager": "delivered", "team": "delivered",
    }  # fmt: skip
    assert WEBHOOK_SECRET not in listed.stdout
    assert "xyz" not in listed.stdout


def test_a_url_that_pg_net_does_not_take_is_told_without_its_secret(live: Sandbox, conn: psycopg.Connection) -> None:
    conn.execute("select dlq.set_secret('SLACK_WEBHOOK', 'T0/B0/xyz')")
    conn.execute(
        "select dlq.set_alert_channel('team', 'slack', 'https://a.invalid:99999/services/{secret}', 'SLACK_WEBHOOK')"
    )
    done = dlqctl(live, "alerts", "test", "team", "--format", "json")
    assert done.returncode == 1
    assert "xyz" not in done.stdout + done.stderr
    assert "xyz" not in str(conn.execute("select error from dlq.alert_deliveries").fetchall())
    told = str(conn.execute("select * from dlq.alert_channel_states").fetchall())
    assert "given_up" in told
    assert "xyz" not in told + str(conn.execute("select * from dlq.health where name = 'alerts'").fetchall())


def test_rules_are_listed_set_and_silenced(live: Sandbox, conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into webhook_dlq (service, payload, next_retry_at) values ('alarming', '1', now() + interval '1 day')"
    )
    assert dlqctl(live, "alerts", "silence", "pending", "--for", "2 hours", "--reason", "a move").returncode == 0
    evaluated = dlqctl(live, "alerts", "evaluate")
    assert evaluated.returncode in (0, 1)  # 1: pg_cron does it at this moment
    conn.execute("select dlq.evaluate_alerts()")
    listed = json.loads(dlqctl(live, "alerts", "list", "--format", "json").stdout)
    assert listed[0]["rule"] == "pending"
    assert (listed[0]["state"], listed[0]["threshold"], listed[0]["silence_reason"]) == ("raised", "0", "a move")
    assert settled(conn)
    assert dlqctl(live, "alerts", "unsilence", "pending").returncode == 0
    assert dlqctl(live, "alerts", "unsilence", "pending").returncode == 1
    assert dlqctl(live, "alerts", "set", "pending", "--threshold", "5 apples").returncode == 1
    assert dlqctl(live, "alerts", "set", "pending", "--threshold", "5", "--hold", "2 minutes").returncode == 0
    row = conn.execute("select threshold, hold::text from dlq.alert_states where rule = 'pending'").fetchone()
    assert row == ("5", "00:02:00")
    (pending,) = (
        rule
        for rule in json.loads(dlqctl(live, "alerts", "list", "--format", "json").stdout)
        if rule["rule"] == "pending"
    )
    assert (pending["hold"], pending["quiet"]) == ("00:02:00", "00:00:00"), "as threshold has it, and PostgreSQL"
    conn.execute("select dlq.set_alert_rule('pending', hold => '0')")
    nothing = dlqctl(live, "alerts", "set", "pending")
    assert nothing.returncode == 2
    assert "--threshold" in nothing.stderr
    assert "--disable" in nothing.stderr
    assert dlqctl(live, "alerts", "channel", "remove", "pager").returncode == 0
    assert dlqctl(live, "alerts", "test").returncode == 1
    table = dlqctl(live, "alerts", "list")
    assert "nobody is told" in table.stderr
