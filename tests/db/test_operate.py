"""What a person does: pause, resume, endpoints; and what health says of it."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Clock
from tests.db.conftest import URL, Queue


def _health(queue: Queue, name: str) -> dict[str, Any]:
    (row,) = queue.rows("select * from dlq.health where name = %s", name)
    return row


@pytest.mark.parametrize("service", ["shop", None])
def test_a_pause_stops_what_is_sent_and_nothing_else(queue: Queue, service: str | None) -> None:
    waiting, in_flight = queue.store(payload=1), queue.store(payload=2)
    queue.send(in_flight)
    queue.conn.execute("select dlq.pause('deploying', %s)", (service,))
    queue.make_due()
    assert queue.dispatch() == 0
    queue.answer(in_flight, 200)
    assert queue.collect() == (1, 0, 0)
    queue.store(payload=3)
    assert "deploying" in _health(queue, "paused")["detail"]
    assert queue.entry(waiting)["retry_count"] == 0
    assert queue.one("select dlq.resume(%s)", service)
    assert queue.dispatch() == 1
    assert not queue.one("select dlq.resume(%s)", service)


def test_one_paused_service_does_not_hold_up_another(queue: Queue) -> None:
    queue.endpoint("other")
    queue.conn.execute("select dlq.pause('broken', 'shop')")
    queue.store_many(1)
    queue.store_many(1, "other")
    assert queue.dispatch() == 1
    assert queue.one("select service from dlq.in_flight") == "other"


def test_resuming_everything_leaves_a_service_paused_that_was_paused_by_name(queue: Queue) -> None:
    queue.conn.execute("select dlq.pause('a', 'shop'), dlq.pause('b')")
    queue.conn.execute("select dlq.resume()")
    queue.store_many(1)
    assert queue.dispatch() == 0


def test_a_pause_may_end_by_itself(queue: Queue, clock: Clock) -> None:
    queue.conn.execute("select dlq.pause('lunch', until => dlq._now() + interval '1 hour')")
    queue.store_many(1)
    assert queue.dispatch() == 0
    clock.advance("61 minutes")
    assert queue.dispatch() == 1
    assert _health(queue, "paused")["level"] == "ok"


@pytest.mark.parametrize("arguments", ["null", "''", "'  '", "'x', 'No such name'"])
def test_a_pause_without_reason_or_with_no_name_is_refused(queue: Queue, arguments: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        queue.conn.execute(f"select dlq.pause({arguments})".encode())
    assert caught.value.diag.sqlstate == "WD002"
    assert caught.value.diag.message_hint


@pytest.mark.parametrize(
    "bad",
    [
        {"url": "http://handler.example/"},
        {"url": "ftp://handler.example/"},
        {"url": "https://"},
        {"url": "https:///path"},
        {"url": "https://user:password@handler.example/"},
        {"url": "https://handler.example/a b"},
        {"url": "https://handler.example/\n"},
        {"url": "https://handler.example:port/"},
        {"url": "handler.example"},
        {"url": "https://handlér.example/"},
        {"url": "https://handler.example/{service}"},
        {"url": None},
        {"url": ""},
        {"service": "No Slug"},
        {"service": None},
        {"service": "*"},
        {"timeout_ms": 0},
        {"timeout_ms": 30001},
        {"max_in_flight": 0},
        {"headers": {"X-A": "a\nb"}},
        {"headers": {"X-A": "a\rb"}},
        {"headers": {"X A": "a"}},
        {"headers": {"X-A\n": "a"}},
        {"headers": {"X-A": 1}},
        {"headers": {"Content-Length": "1"}},
        {"headers": {"hOsT": "elsewhere.example"}},
        {"headers": ["X-A"]},
        {"retry_schedule": []},
        {"retry_schedule": [timedelta(0)]},
        {"retry_schedule": [timedelta(minutes=1), None]},
        {"retry_schedule": [timedelta(days=31)]},
    ],
    ids=str,
)
def test_an_endpoint_that_is_not_in_order_is_refused_clearly_and_changes_nothing(
    queue: Queue, bad: dict[str, Any]
) -> None:
    before = queue.rows("select * from dlq.endpoints")
    given = {"service": "shop", "url": URL, **bad}
    if "headers" in given:
        given["headers"] = Jsonb(given["headers"])
    arguments = ", ".join(f"{name} => %({name})s" for name in given)
    with pytest.raises(psycopg.Error) as caught:
        queue.conn.execute(f"select dlq.set_endpoint({arguments})".encode(), given)
    assert caught.value.diag.sqlstate == "WD002"
    assert caught.value.diag.message_hint
    assert queue.rows("select * from dlq.endpoints") == before


def test_what_is_not_given_stays_as_it_is(queue: Queue) -> None:
    queue.endpoint(timeout_ms=1000, max_in_flight=3, headers=Jsonb({"X-A": "a"}))
    queue.endpoint(url="https://new.example/")
    (endpoint,) = queue.rows("select * from dlq.endpoints")
    assert (endpoint["url"], endpoint["timeout_ms"], endpoint["max_in_flight"], endpoint["headers"]) == (
        "https://new.example/", 1000, 3, {"X-A": "a"},
    )  # fmt: skip


def test_urls_that_people_have_are_taken(queue: Queue) -> None:
    for url in (
        "https://project.supabase.co/functions/v1/whatsapp-webhook",
        "https://1.1.1.1:8443/hook?key=a%20b&x=[1]",
        "https://[2606:4700::1111]:8080/",
        "https://handler.example",
        "https://handler.example?x=1",
    ):
        queue.endpoint(url=url)
    queue.endpoint(url="http://127.0.0.1:1/", allow_http=True, allow_private=True)


def test_an_endpoint_may_be_removed(queue: Queue) -> None:
    assert queue.one("select dlq.remove_endpoint('shop')")
    assert not queue.one("select dlq.remove_endpoint('shop')")


def test_health_is_all_right_on_a_fresh_queue_but_for_the_processor_that_has_not_run(queue: Queue) -> None:
    levels = {row["name"]: row["level"] for row in queue.rows("select * from dlq.health")}
    assert levels.pop("processor") == "warning"
    assert set(levels.values()) == {"ok"}
    queue.conn.execute("update dlq.settings set installed_at = now() - interval '11 minutes'")
    assert _health(queue, "processor")["level"] == "error"
    queue.conn.execute("call dlq.run_cycle()")
    assert _health(queue, "processor")["level"] == "ok"


def test_silence_is_not_health(queue: Queue) -> None:
    queue.conn.execute("call dlq.run_cycle()")
    queue.conn.execute("update dlq_processing_log set processed_at = processed_at - interval '11 minutes'")
    row = _health(queue, "processor")
    assert (row["level"], row["remediation"]) == ("error", "dlqctl verify-cron")


def test_a_sender_that_does_not_answer_is_noticed(queue: Queue, clock: Clock) -> None:
    queue.send(queue.store())
    assert _health(queue, "answers")["level"] == "ok"
    clock.advance("6 minutes")
    row = _health(queue, "answers")
    assert row["level"] == "error"
    assert "dlqctl net-worker" in row["remediation"]


def test_a_net_worker_that_never_came_is_a_warning_until_the_install_is_old(queue: Queue) -> None:
    queue.conn.execute("delete from dlq.net_workers")
    row = _health(queue, "sender")
    assert (row["level"], row["detail"]) == ("warning", "no net-worker has been seen")
    assert "dlqctl net-worker" in row["remediation"]
    queue.conn.execute("update dlq.settings set installed_at = now() - interval '11 minutes'")
    assert _health(queue, "sender")["level"] == "error"


def test_net_workers_are_counted_and_one_that_is_not_seen_for_a_minute_is_missed(queue: Queue) -> None:
    queue.conn.execute("update dlq.settings set installed_at = now() - interval '1 day'")
    queue.beat("61 s", number=2)
    assert _health(queue, "sender")["level"] == "ok"
    assert "1 running" in _health(queue, "sender")["detail"]
    queue.beat("59 s", number=2)
    assert "2 running" in _health(queue, "sender")["detail"]
    queue.beat("61 s")
    queue.beat("61 s", number=2)
    row = _health(queue, "sender")
    assert (row["level"], row["remediation"]) == ("error", "keep this running: dlqctl net-worker")
    assert row["detail"].startswith("no net-worker has been seen since")


def test_a_net_worker_that_stopped_has_a_minute_to_be_started_again(queue: Queue) -> None:
    queue.conn.execute("update dlq.settings set installed_at = now() - interval '1 day'")
    queue.conn.execute("update dlq.net_workers set stopped_at = seen_at")
    assert _health(queue, "sender")["level"] == "warning"
    queue.beat("61 s")
    assert _health(queue, "sender")["level"] == "error"


def test_health_counts_what_waits_what_is_overdue_and_what_has_failed(queue: Queue) -> None:
    queue.store_many(100)
    assert _health(queue, "pending")["level"] == "ok"
    queue.store_many(1)
    assert _health(queue, "pending")["level"] == "warning"
    assert _health(queue, "overdue")["level"] == "ok"
    queue.conn.execute("update webhook_dlq set next_retry_at = next_retry_at - interval '11 minutes'")
    assert _health(queue, "overdue")["level"] == "warning"
    queue.conn.execute("update webhook_dlq set status = 'failed' where (payload ->> 'n')::int <= 5")
    assert _health(queue, "failed")["level"] == "warning"
    queue.conn.execute("update webhook_dlq set status = 'failed'")
    assert _health(queue, "failed")["level"] == "error"
    queue.conn.execute("update webhook_dlq set settled_at = settled_at - interval '61 minutes'")
    assert _health(queue, "failed")["level"] == "ok"


def test_dlq_health_is_one_object_with_the_counts(queue: Queue) -> None:
    queue.conn.execute("call dlq.run_cycle()")
    delivered = queue.store(payload=1)
    queue.attempt(delivered, 200)
    queue.attempt(queue.store(payload=2), 410)
    queue.send(queue.store(payload=3))
    queue.store(payload=4)
    health = queue.one("select dlq_health()")
    assert health["service"] == "dlq-processor"
    assert health["status"] == "degraded"
    assert health["stats"] == {
        "total": 4, "pending": 1, "processing": 1, "reprocessed": 1, "failed": 1, "estimated": False,
    }  # fmt: skip
    assert [finding["name"] for finding in health["findings"]] == ["failed"]


def test_a_reader_sees_health_and_entries_and_nothing_personal(queue: Queue, database: str) -> None:
    queue.attempt(queue.store(phone_number="+31", error_message="e"), 500)
    with psycopg.connect(database, autocommit=True) as reader:
        reader.execute("set role dlq_reader")
        for allowed in (
            "select * from dlq.health",
            "select * from dlq.entries",
            "select count(*) from dlq.entries",
            "select * from dlq.backlog",
            "select dlq_health()",
            "select status, count(*), avg(retry_count) from webhook_dlq group by status",
            "select count(*) from webhook_dlq where status = 'pending'",
            "select * from dlq_processing_log",
            "select entry_id, outcome, status_code from dlq.delivery_attempts",
            "select service, url from dlq.endpoints",
            "select * from dlq.cron_checks()",
        ):
            reader.execute(allowed.encode())
        for forbidden in (
            "select * from webhook_dlq",
            "select payload from webhook_dlq",
            "select phone_number from webhook_dlq",
            "select error_message from webhook_dlq",
            "select reply from dlq.delivery_attempts",
            "select headers from dlq.endpoints",
            "select dlq.pause('x')",
            "update webhook_dlq set status = 'failed'",
            "select store_dlq_entry('shop', '1')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(forbidden.encode())


def test_two_people_who_change_different_things_of_one_endpoint_both_have_their_way(
    queue: Queue, database: str
) -> None:
    with psycopg.connect(database) as one, psycopg.connect(database, autocommit=True) as other:
        one.execute("select dlq.set_endpoint('shop', %s, max_in_flight => 3, signing => 'none')", (URL,))
        thread = threading.Thread(
            target=other.execute, args=("select dlq.set_endpoint('shop', %s, timeout_ms => 9000)", (URL,))
        )
        queue.meets_a_lock(thread, other)
        one.commit()
        thread.join()
    assert queue.rows("select max_in_flight, timeout_ms from dlq.endpoints") == [
        {"max_in_flight": 3, "timeout_ms": 9000}
    ]
