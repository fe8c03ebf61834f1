"""How channels are told: each edge once, in order, whatever is answered, lost or killed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import psycopg
import pytest

from tests.conftest import Clock
from tests.db.alerting import KEY, Alerts
from tests.db.conftest import Queue


@pytest.fixture
def alerts(queue: Queue, clock: Clock) -> Alerts:
    """The alerts of a healthy queue with one channel, PagerDuty."""
    queue.conn.execute("call dlq.run_cycle()")
    queue.conn.execute("call dlq.maintain()")
    alerts = Alerts(queue, clock)
    alerts.channel()
    return alerts


def trouble(alerts: Alerts) -> None:
    alerts.queue.store_many(101)
    alerts.queue.conn.execute("update webhook_dlq set next_retry_at = dlq._now() + interval '9 days'")


def end_trouble(alerts: Alerts) -> None:
    alerts.queue.conn.execute("delete from webhook_dlq")


def lost(alerts: Alerts) -> None:
    """What a crash leaves of pg_net's tables and of ours."""
    alerts.queue.conn.execute("truncate net.http_request_queue, net._http_response restart identity")
    alerts.queue.conn.execute("truncate dlq.alert_requests, dlq.in_flight")


# In order, once.


def test_a_trigger_and_a_resolve_are_what_pagerduty_takes(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    (trigger,) = alerts.answer()
    end_trouble(alerts)
    alerts.minute(6)
    (resolve,) = alerts.answer()
    alerts.minute()

    assert trigger["url"] == "https://events.pagerduty.com/v2/enqueue"
    event = trigger["body"]
    payload = event.pop("payload")
    assert event.pop("dedup_key") == resolve["body"].pop("dedup_key")
    assert event == {"routing_key": KEY, "event_action": "trigger", "client": "dlqctl"}
    assert resolve["body"] == {"routing_key": KEY, "event_action": "resolve"}
    assert payload["severity"] == "warning"
    assert payload["summary"].endswith(": pending: 101 waiting")
    assert payload["custom_details"]["runbook"] == "docs/runbook.md#pending"
    assert alerts.deliveries() == [("pending", "raised", "delivered", 1), ("pending", "resolved", "delivered", 1)]


def test_an_alert_that_lasts_is_told_once(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    assert len(alerts.answer()) == 1
    alerts.minute(30)
    assert alerts.queued() == []


def test_a_resolve_waits_for_its_trigger_and_the_next_trigger_for_both(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    end_trouble(alerts)
    alerts.minute(6)
    assert [request["body"]["event_action"] for request in alerts.queued()] == ["trigger"]
    trouble(alerts)
    alerts.minute()
    sent = []
    for _ in range(3):
        (request,) = alerts.answer()
        sent.append(request["body"]["event_action"])
        alerts.minute()
    assert sent == ["trigger", "resolve", "trigger"]
    assert alerts.queued() == []


@pytest.mark.parametrize("status_code", [429, 500, 503, 408, None])
def test_what_another_try_may_mend_is_tried_again_later_and_later(alerts: Alerts, status_code: int | None) -> None:
    trouble(alerts)
    alerts.evaluate()
    error = "Couldn't connect to server" if status_code is None else None
    tries = []
    for minute in range(40):
        if any(
            request["body"]["payload"]["class"] == "pending" for request in alerts.answer(status_code, error_msg=error)
        ):
            tries.append(minute)
        alerts.minute()
    # Half a minute, then one, two, four, eight and at last fifteen; each is taken up by the minute after it.
    assert tries == [0, 2, 4, 7, 12, 21, 37]
    alerts.minute(20)
    alerts.answer()
    alerts.minute()
    assert ("pending", "raised", "delivered", 8) in alerts.deliveries()


def test_retry_after_is_heeded_up_to_an_hour(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    alerts.answer(429, headers={"Retry-After": "600"})
    alerts.minute(10)
    assert alerts.queued() == []
    alerts.minute(2)
    assert len(alerts.queued()) == 1


def test_400_is_final(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    alerts.answer(400, content='{"status": "invalid event"}')
    alerts.minute(30)
    (delivery,) = alerts.queue.rows("select * from dlq.alert_deliveries where rule = 'pending'")
    assert (delivery["status"], delivery["status_code"]) == ("refused", 400)
    assert delivery["reply"] == '{"status": "invalid event"}'


def test_what_was_refused_is_told_once_the_channel_takes_something(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.minute()
    alerts.answer(400)
    alerts.minute(2)
    alerts.queue.conn.execute("select dlq.test_alert_channel('pager')")
    alerts.answer()
    alerts.minute()
    told = [request["body"] for request in alerts.answer(400)]
    assert [body["payload"]["class"] for body in told if body["event_action"] == "trigger"] == ["pending"]
    alerts.minute(2)
    assert alerts.queued() == []  # refused again after what was taken: final again


def test_it_is_tried_while_it_is_raised_and_for_a_day_after(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    for _ in range(3):
        alerts.answer(500)
        alerts.clock.advance("1 day")
        alerts.evaluate()
        alerts.minute()
    end_trouble(alerts)
    alerts.minute(6)
    alerts.answer(500)
    alerts.minute()
    alerts.clock.advance("1 day")
    alerts.evaluate()
    alerts.answer(500)
    alerts.minute()
    assert [delivery[:3] for delivery in alerts.deliveries() if delivery[0] == "pending"] == [
        ("pending", "raised", "given_up"), ("pending", "resolved", "sent"),
    ]  # fmt: skip


# Whatever happens in between.


def test_an_evaluation_that_is_killed_leaves_nothing_and_the_next_tells_once(alerts: Alerts, database: str) -> None:
    trouble(alerts)
    with psycopg.connect(database) as killed:
        killed.execute("select * from dlq.evaluate_alerts()")
        alerts.queue.conn.execute("select pg_terminate_backend(%s, 5000)", (killed.info.backend_pid,))
        killed.close()
    assert (alerts.queued(), alerts.deliveries(), alerts.raised()) == ([], [], set())
    alerts.minute(2)
    assert len(alerts.queued()) == 1


def test_a_request_that_a_crash_has_emptied_is_sent_again_with_the_same_key(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    (first,) = alerts.queued()
    lost(alerts)
    alerts.minute()
    assert alerts.queued() == []
    alerts.minute()
    (second,) = alerts.queued()
    assert second["body"] == first["body"]
    assert alerts.deliveries() == [("pending", "raised", "sent", 2)]


def test_a_request_that_waits_is_not_sent_again(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    alerts.minute(60)
    assert len([r for r in alerts.queued() if r["body"]["payload"]["class"] == "pending"]) == 1


def test_an_answer_that_expired_makes_it_unanswered_after_its_timeout_and_a_minute(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    alerts.queue.conn.execute("delete from net.http_request_queue")
    alerts.minute(3)
    assert alerts.queued() == []
    alerts.queue.conn.execute("update dlq.alert_requests set missing_since = missing_since - interval '71 seconds'")
    alerts.minute(2)
    assert len(alerts.queued()) == 1


def test_a_clock_that_is_set_back_holds_up_no_alert_for_as_long(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    alerts.queue.conn.execute("delete from net.http_request_queue")
    alerts.minute()
    alerts.queue.conn.execute("update dlq.alert_requests set missing_since = missing_since + interval '1 hour'")
    alerts.minute()
    assert alerts.queue.one("select missing_since <= clock_timestamp() from dlq.alert_requests")


@pytest.mark.parametrize("forgery", ["another oid", "twice", "still queued", "before the request"])
def test_an_answer_is_believed_only_for_its_own_request(alerts: Alerts, forgery: str) -> None:
    trouble(alerts)
    alerts.evaluate()
    conn = alerts.queue.conn
    answer = (
        "insert into net._http_response (id, status_code, created) select request_id, 202, {} from dlq.alert_requests"
    )
    conn.execute(answer.format("now() - interval '1 hour'" if forgery == "before the request" else "now()").encode())
    if forgery == "another oid":
        conn.execute("update dlq.alert_requests set net_oid = 1")
    elif forgery == "twice":
        conn.execute(answer.format("now()").encode())
    if forgery != "still queued":
        conn.execute("delete from net.http_request_queue")
    alerts.minute()
    assert "delivered" not in {status for _, _, status, _ in alerts.deliveries()}


def test_an_answer_that_cannot_be_read_harms_nobody(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    alerts.answer(500, headers={"Retry-After": "99999999999999999999"}, content="\\377")
    alerts.minute(3)
    assert len(alerts.queued()) == 1


def test_a_redirect_is_no_delivery(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.evaluate()
    alerts.answer(200, headers={"Location": "https://elsewhere.example/"})
    alerts.minute()
    assert ("pending", "raised", "refused", 1) in alerts.deliveries()


def test_without_a_sender_alerts_are_kept_and_sent_when_there_is_one(alerts: Alerts) -> None:
    alerts.queue.conn.execute("alter function net.http_post rename to http_post_away")
    trouble(alerts)
    alerts.minute(2)
    assert alerts.raised() == {"pending", "sender"}
    alerts.queue.conn.execute("alter function net.http_post_away rename to http_post")
    alerts.minute()
    assert len(alerts.queued()) == 2


def test_nobody_is_called_for_what_is_over_before_it_could_be_told(alerts: Alerts) -> None:
    alerts.queue.conn.execute("alter function net.http_post rename to http_post_away")
    trouble(alerts)
    alerts.minute()
    end_trouble(alerts)
    alerts.minute(6)
    alerts.queue.conn.execute("alter function net.http_post_away rename to http_post")
    alerts.minute()
    assert [d for d in alerts.deliveries() if d[0] == "pending"] == [("pending", "raised", "superseded", 0)]


def test_a_foreign_net_schema_is_not_called(alerts: Alerts) -> None:
    make = "do $$ begin create role foreign_owner; exception when duplicate_object then null; end $$"
    alerts.queue.conn.execute(make)
    alerts.queue.conn.execute("alter schema net owner to foreign_owner")
    alerts.queue.conn.execute("grant usage on schema net to public")
    trouble(alerts)
    alerts.minute()
    assert alerts.queued() == []
    alerts.queue.conn.execute("alter schema net owner to dlq_owner")


# Who is told.


def test_a_silenced_rule_tells_nobody_until_it_is_over_and_still_resolves_what_was_told(alerts: Alerts) -> None:
    conn = alerts.queue.conn
    conn.execute("select dlq.silence('pending', dlq._now() + interval '10 minutes', 'a planned replay')")
    trouble(alerts)
    alerts.minute(9)
    assert (alerts.raised(), alerts.queued()) == ({"pending"}, [])
    alerts.minute()
    assert len(alerts.answer()) == 1
    conn.execute("select dlq.silence('*', dlq._now() + interval '1 hour', 'known')")
    end_trouble(alerts)
    alerts.minute(7)
    assert [request["body"]["event_action"] for request in alerts.answer()] == ["resolve"]
    acts = alerts.queue.rows(
        "select action, key, reason from dlq.audit_log where object = 'dlq.alert_silences' order by id"
    )
    assert [(act["action"], act["key"], act["reason"]) for act in acts] == [
        ("silence", "pending", "a planned replay"), ("silence", "*", "known"),
    ]  # fmt: skip


def test_what_is_over_within_its_silence_is_never_told(alerts: Alerts) -> None:
    alerts.queue.conn.execute("select dlq.silence('pending', dlq._now() + interval '1 hour', 'why')")
    trouble(alerts)
    alerts.minute(3)
    end_trouble(alerts)
    alerts.minute(70)
    assert [d for d in alerts.deliveries() if d[0] == "pending"] == []


@pytest.mark.parametrize("rule", ["pending", "*"])
def test_to_unsilence_tells_at_once(alerts: Alerts, rule: str) -> None:
    alerts.queue.conn.execute("select dlq.silence(%s, dlq._now() + interval '1 hour', 'why')", (rule,))
    trouble(alerts)
    alerts.minute()
    assert alerts.queued() == []
    assert alerts.queue.one("select dlq.unsilence(%s)", rule) is True
    assert alerts.queue.one("select dlq.unsilence(%s)", rule) is False
    alerts.minute()
    assert len(alerts.queued()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "'pending', now() + interval '1 hour', ''", "'pending', now() - interval '1 hour', 'why'",
        "'pending', now() + interval '31 days', 'why'", "'pending', null, 'why'",
        "'nothing', now() + interval '1 h', 'why'", "null, now() + interval '1 h', 'why'",
    ],
)  # fmt: skip
def test_a_silence_has_a_rule_a_reason_and_an_end(alerts: Alerts, arguments: str) -> None:
    with pytest.raises(psycopg.Error) as error:
        alerts.queue.conn.execute(f"select dlq.silence({arguments})".encode())
    assert error.value.sqlstate == "WD002"


def test_a_channel_hears_its_severities_and_of_the_rest_when_it_gets_worse(alerts: Alerts) -> None:
    alerts.channel("loud", "webhook", url="https://loud.example/hook", severities=["error", "critical"])
    alerts.queue.conn.execute("select dlq.set_alert_rule('circuits', hold => '0')")
    alerts.queue.conn.execute(
        "insert into dlq.endpoint_state (service, cap, failing_since, probe_at, trouble)"
        " values ('shop', 0, dlq._now() - interval '58 minutes', dlq._now() + interval '1 day', 'HTTP 503')"
    )
    alerts.minute()
    alerts.answer()
    alerts.minute(3)
    alerts.answer()
    alerts.minute()
    assert alerts.deliveries() == [("circuits", "raised", "delivered", 1), ("circuits", "changed", "delivered", 1)]
    assert alerts.deliveries("loud") == [("circuits", "raised", "delivered", 1)]


def test_a_new_channel_hears_of_what_is_raised_and_a_disabled_one_of_nothing(alerts: Alerts) -> None:
    alerts.queue.conn.execute("select dlq.set_alert_channel('pager', enabled => false)")
    trouble(alerts)
    alerts.minute(2)
    assert alerts.queued() == []
    alerts.channel("late", "webhook", url="https://late.example/hook")
    alerts.minute()
    assert [request["url"] for request in alerts.queued()] == ["https://late.example/hook"]


def test_a_channel_that_is_removed_and_set_again_hears_of_what_is_raised(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.minute()
    alerts.answer()
    alerts.minute()
    alerts.queue.conn.execute("select dlq.remove_alert_channel('pager')")
    alerts.channel()
    alerts.minute()
    (request,) = alerts.queued()
    assert request["body"]["event_action"] == "trigger"


def remove_and_set(alerts: Alerts) -> None:
    alerts.queue.conn.execute("select dlq.remove_alert_channel('pager')")
    alerts.channel()


def test_a_channel_that_is_removed_and_set_again_while_a_trigger_is_under_way_closes_the_incident(
    alerts: Alerts,
) -> None:
    trouble(alerts)
    alerts.evaluate()
    (trigger,) = alerts.queued()
    remove_and_set(alerts)
    alerts.minute()
    assert alerts.queued() == [trigger], "in order: nothing before it is answered"
    assert alerts.queue.one("select trouble from dlq.alert_channel_states") is None
    end_trouble(alerts)
    alerts.minute(6)
    alerts.answer()
    alerts.minute(2)
    (resolve,) = alerts.answer()
    assert resolve["body"]["event_action"] == "resolve"
    assert resolve["body"]["dedup_key"] == trigger["body"]["dedup_key"]
    alerts.minute(2)
    assert alerts.queued() == []


def test_a_channel_that_is_removed_and_set_again_while_a_resolve_is_under_way_closes_the_incident(
    alerts: Alerts,
) -> None:
    trouble(alerts)
    alerts.minute()
    alerts.answer()
    end_trouble(alerts)
    alerts.minute(6)
    remove_and_set(alerts)
    (resolve,) = alerts.answer(503)
    assert resolve["body"]["event_action"] == "resolve"
    alerts.minute(2)
    (again,) = alerts.answer()
    assert again["body"] == resolve["body"]
    alerts.minute()
    assert alerts.deliveries()[-1] == ("pending", "resolved", "delivered", 2)


def test_a_channel_that_is_set_again_hears_that_what_it_was_told_is_over(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.minute()
    alerts.answer()
    alerts.minute()
    alerts.queue.conn.execute("select dlq.remove_alert_channel('pager')")
    end_trouble(alerts)
    alerts.minute(7)
    assert alerts.queued() == []
    alerts.channel()
    alerts.minute()
    (request,) = alerts.queued()
    assert request["body"]["event_action"] == "resolve"


def test_a_channel_that_is_disabled_meanwhile_hears_that_it_is_over_and_is_not_called_for_it(alerts: Alerts) -> None:
    trouble(alerts)
    alerts.minute()
    alerts.answer(503)
    alerts.minute()
    alerts.queue.conn.execute("select dlq.set_alert_channel('pager', enabled => false)")
    end_trouble(alerts)
    alerts.minute(7)
    assert alerts.queued() == []
    alerts.queue.conn.execute("select dlq.set_alert_channel('pager', enabled => true)")
    alerts.minute()
    (request,) = alerts.queued()
    assert request["body"]["event_action"] == "resolve"


def test_a_channel_of_another_kind_goes_to_that_kinds_place(alerts: Alerts) -> None:
    alerts.queue.conn.execute("select dlq.set_alert_channel('team', 'webhook', 'https://hook.example/')")
    alerts.queue.conn.execute("select dlq.set_alert_channel('team', 'slack', secret => 'SLACK')")
    (channel,) = alerts.queue.rows("select url from dlq.alert_channels where name = 'team'")
    assert channel["url"] == "https://hooks.slack.com/services/{secret}"


def test_a_change_takes_the_place_of_what_could_not_be_told_yet(alerts: Alerts) -> None:
    def open_circuit(service: str) -> None:
        alerts.queue.conn.execute(
            "insert into dlq.endpoint_state (service, cap, failing_since, probe_at, trouble)"
            " values (%s, 0, dlq._now(), dlq._now() + interval '1 day', 'HTTP 503')",
            (service,),
        )

    alerts.queue.conn.execute("select dlq.set_alert_rule('circuits', hold => '0')")
    open_circuit("shop")
    alerts.minute()
    alerts.answer(500)
    alerts.minute()
    open_circuit("till")
    alerts.minute()
    (request,) = alerts.answer()
    alerts.minute()
    assert request["body"]["payload"]["custom_details"]["services"] == ["shop", "till"]
    assert alerts.deliveries() == [("circuits", "raised", "superseded", 1), ("circuits", "raised", "delivered", 1)]


def test_an_alert_of_thousands_of_services_is_no_larger_than_a_pager_takes(alerts: Alerts) -> None:
    alerts.queue.conn.execute("select dlq.set_alert_rule('circuits', hold => '0')")
    alerts.queue.conn.execute(
        """
        insert into dlq.endpoint_state (service, cap, failing_since, probe_at, trouble)
        select rpad('s' || n, 63, 'x'), 0, dlq._now(), dlq._now() + interval '1 day', repeat('ü', 300)
        from generate_series(1, 3000) as n
        """
    )
    alerts.minute()
    (request,) = alerts.queued()
    payload = request["body"]["payload"]
    assert len(payload["summary"]) <= 1024
    assert len(json.dumps(request["body"])) < 64_000
    (line,) = alerts.queue.rows("select detail from dlq.health where name = 'circuits'")
    assert line["detail"].endswith("; and 2990 more")


def test_one_that_cannot_be_sent_says_why_and_holds_up_no_other(alerts: Alerts) -> None:
    alerts.channel("other", "webhook", url="https://other.example/hook")
    alerts.queue.conn.execute("select dlq.remove_secret('PAGERDUTY_KEY')")
    trouble(alerts)
    alerts.minute()
    assert [request["url"] for request in alerts.queued() if "data" in request["body"]] == [
        "https://other.example/hook"
    ] * 2
    error = alerts.queue.one("select error from dlq.alert_deliveries where channel = 'pager' and rule = 'pending'")
    assert error.startswith("not sent: WD005")
    alerts.channel()
    alerts.minute()
    assert "https://events.pagerduty.com/v2/enqueue" in {request["url"] for request in alerts.queued()}


# Slack and any webhook.


@pytest.mark.parametrize("value", ["T0/B0/xyz", "https://hooks.slack.com/services/T0/B0/xyz"])
def test_slack_is_told_in_words_at_its_secret_url(alerts: Alerts, value: str) -> None:
    alerts.queue.conn.execute("select dlq.set_secret('SLACK', %s)", (value,))
    alerts.queue.conn.execute("select dlq.remove_alert_channel('pager')")
    alerts.channel("team", "slack", secret="SLACK")
    alerts.queue.conn.execute("select dlq.pause('a <b> & c', 'shop')")
    alerts.queue.conn.execute("select dlq.set_alert_rule('paused', hold => '0')")
    alerts.evaluate()
    (message,) = alerts.answer(200, content="ok")
    assert message["url"] == "https://hooks.slack.com/services/T0/B0/xyz"
    lines = message["body"]["text"].split("\n")
    assert lines[0].startswith("RAISED warning: ")
    assert lines[0].endswith("shop by postgres: a &lt;b&gt; &amp; c")
    assert lines[1:] == ["to do: dlqctl resume shop", "runbook: docs/runbook.md#paused"]


def test_a_webhook_is_signed_over_what_is_sent(alerts: Alerts) -> None:
    secret = base64.b64encode(b"k" * 24).decode()
    alerts.queue.conn.execute("select dlq.set_secret('HOOK', %s)", ("whsec_" + secret,))
    alerts.queue.conn.execute("select dlq.remove_alert_channel('pager')")
    alerts.channel("hook", "webhook", url="https://hook.example/in", secret="HOOK")
    trouble(alerts)
    alerts.evaluate()
    (row,) = alerts.queue.rows("select headers, body from net.http_request_queue")
    headers: dict[str, Any] = row["headers"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + bytes(row["body"])
    expected = base64.b64encode(hmac.new(b"k" * 24, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    (request,) = alerts.queued()
    assert request["body"]["type"] == "dlq.alert.raised"
    data = request["body"]["data"]
    assert (data["rule"], data["severity"], data["event"], data["resolved_at"]) == (
        "pending",
        "warning",
        "raised",
        None,
    )


def test_a_runbook_that_is_a_url_is_a_link(alerts: Alerts) -> None:
    alerts.queue.conn.execute("select dlq.set_alert_rule('pending', runbook => 'https://wiki.example/pending')")
    trouble(alerts)
    alerts.evaluate()
    (request,) = alerts.queued()
    assert request["body"]["links"] == [{"href": "https://wiki.example/pending", "text": "runbook"}]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("'pager2', 'pagerduty'", "--secret"),
        ("'team', 'slack', url => 'https://hooks.slack.com/services/T0/B0/x', secret => 'S'", "{secret}"),
        ("'team', 'slack', url => 'https://hooks.slack.com/services/T0/B0/x'", "{secret}"),
        ("'hook', 'webhook'", "url"),
        ("'hook', 'webhook', url => 'http://hook.example/'", "--allow-http"),
        ("'hook', 'webhook', url => 'https://127.0.0.1/'", "--allow-private"),
        ("'hook', 'webhook', url => 'https://hook.example/{secret}'", "--secret"),
        ("'hook', 'fax', url => 'https://hook.example/'", "pagerduty"),
        ("'A hook', 'webhook', url => 'https://hook.example/'", "name"),
        ("'hook', 'webhook', url => 'https://hook.example/', severities => '{bad}'", "critical"),
    ],
)
def test_a_channel_is_not_set_to_nonsense(alerts: Alerts, arguments: str, hint: str) -> None:
    with pytest.raises(psycopg.Error) as error:
        alerts.queue.conn.execute(f"select dlq.set_alert_channel({arguments})".encode())
    assert error.value.sqlstate == "WD002"
    assert hint in (error.value.diag.message_hint or "")


def test_a_test_is_sent_and_taken_back_to_a_disabled_channel_too_and_tried_once(alerts: Alerts) -> None:
    alerts.queue.conn.execute("select dlq.set_alert_channel('pager', enabled => false)")
    alerts.queue.conn.execute("select dlq.test_alert_channel('pager')")
    assert [request["body"]["event_action"] for request in alerts.answer(500)] == ["trigger"]
    alerts.queue.conn.execute("select dlq.deliver_alerts()")
    assert [request["body"]["event_action"] for request in alerts.answer()] == ["resolve"]
    alerts.queue.conn.execute("select dlq.deliver_alerts()")
    assert alerts.deliveries() == [("test", "raised", "given_up", 1), ("test", "resolved", "delivered", 1)]
    assert alerts.queue.one("select count(*) from dlq.alert_states where state <> 'well'") == 0
