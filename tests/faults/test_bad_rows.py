"""Rows at fault of every kind among good ones: the good ones are delivered, and each bad one says what is wrong.

One by one these are in tests/db/test_dispatch_due.py and test_collect_responses.py.
"""

from __future__ import annotations

from typing import Any

from dlqctl.receiver import Reply, Request
from tests.faults.conftest import Place

GOOD = 100


def _reply(request: Request, nth: int) -> Reply:
    if request.service == "not-utf8":
        return Reply(200, b"\xff\xfe\x00caf\xe9", {"X-Odd": "caf\xe9"})
    return Reply(200, b"ok")


def test_rows_at_fault_of_every_kind_stop_none_of_a_hundred_good_ones(here: Place) -> None:
    here.gate.open()
    for service in ("raw", "not-utf8", "vanished", "edited"):
        here.receiver.behave(service, _reply)
        here.rows(
            "select dlq.set_endpoint(%s, %s, true, true, body => %s)",
            service,
            here.receiver.url(service),
            "raw" if service == "raw" else "json",
        )
    # Past every check, as an older version or a superuser may have left it.
    here.rows("alter table dlq.endpoints drop constraint url_is_http, drop constraint https_unless_allowed")
    here.rows("select dlq.set_endpoint('bad-url', 'no url at all', true, true)")
    bad = {
        "bad url": _store(here, "bad-url", payload="{}"),
        "NUL in a raw body": _store(here, "raw", raw_body=b"a\0b"),
        "headers that cannot be sent": _store(
            here, "raw", raw_body=b"{}", headers='{"a b": "c", "x": "line\\nbreak", "n": {"deep": [1]}, "null": null}'
        ),
        "payload null": _store(here, "shop", payload="null"),
        "reply that is not UTF-8": _store(here, "not-utf8", payload="{}"),
        "edited by hand": _store(here, "edited", payload='{"n": "edited"}'),
        "no endpoint any more": _store(here, "vanished", payload='{"n": "vanished"}'),
    }
    here.rows("select dlq.remove_endpoint('vanished')")
    # Its first attempt is on record already, and its counters say that it was never tried.
    here.rows(
        "insert into dlq.delivery_attempts (entry_id, dispatched_at, settled_at, attempt, outcome, service)"
        " values (%s, now(), now(), 1, 'unanswered', 'edited')",
        bad["edited by hand"],
    )
    try:
        good = here.store(GOOD)

        def settled() -> bool:
            here.run()
            return not here.rows(
                "select id from webhook_dlq where service <> 'vanished'"
                " and (status = 'processing' or status = 'pending' and next_retry_at <= dlq._now())"
            )

        here.until(settled, 40)
        delivered = {row["id"] for row in here.rows("select id::text from webhook_dlq where status = 'reprocessed'")}
        assert delivered >= set(good)
        runs = here.rows("select distinct status, error_message from dlq_processing_log")
        assert runs == [{"status": "ok", "error_message": None}]
        ends = {what: _end(here, entry_id) for what, entry_id in bad.items()}
    finally:
        here.rows("delete from dlq.endpoints where service <> 'shop'")
    assert ends == {
        "bad url": ("pending", "not_sent", 1),
        "NUL in a raw body": ("pending", "not_sent", 1),
        "headers that cannot be sent": ("reprocessed", "delivered", 0),
        "payload null": ("reprocessed", "delivered", 0),
        "reply that is not UTF-8": ("reprocessed", "delivered", 0),
        "edited by hand": ("reprocessed", "unanswered", 0),  # what is on record stays
        "no endpoint any more": ("pending", None, 0),
    }


def _store(here: Place, service: str, **columns: Any) -> str:
    names = ", ".join(columns)
    values = ", ".join("%s" for _ in columns)
    query = f"insert into webhook_dlq (service, next_retry_at, {names}) values (%s, dlq._now(), {values})"
    return str(here.one(f"{query} returning id::text", service, *columns.values()))


def _end(here: Place, entry_id: str) -> tuple[str, str | None, int]:
    """Its status, how its last attempt ended, and how many retries it has used up."""
    (row,) = here.rows(
        "select status, retry_count, (select outcome from dlq.delivery_attempts as a where a.entry_id = e.id"
        " order by attempt desc limit 1) as outcome from webhook_dlq as e where id = %s",
        entry_id,
    )
    return row["status"], row["outcome"], row["retry_count"]
