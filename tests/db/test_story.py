"""What happened to an entry, what becomes of it, and which one is meant: the views and functions that people read."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Clock
from tests.db.conftest import Queue


def story(queue: Queue, entry_id: str, *, personal: bool = False) -> list[tuple[str, str]]:
    rows = queue.rows("select * from dlq.story(%s, %s)", entry_id, personal)
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    return [(row["what"], row["detail"]) for row in rows]


def what_next(queue: Queue, entry_id: str) -> dict[str, dict[str, Any]]:
    return {row["what"]: row for row in queue.rows("select * from dlq.what_next(%s)", entry_id)}


def as_reader(queue: Queue, query: str, *parameters: Any) -> Any:
    with queue.conn.transaction():
        queue.conn.execute("set local role dlq_reader")
        return queue.rows(query, *parameters)


def test_a_story_tells_each_attempt_and_each_act_in_order(queue: Queue) -> None:
    entry_id = queue.store(error_message="no such order 4711", correlation_id="c-1")
    queue.attempt(entry_id, 503, content="try later, 4711")
    queue.attempt(entry_id, None, error_msg="Couldn't connect to server")
    queue.conn.execute("select dlq.discard(%s, 'a test of ours')", (entry_id,))
    queue.conn.execute("select dlq.amend(%s, '{}', 'empty is enough')", (entry_id,))
    queue.conn.execute("select dlq.retry(%s, 'mended')", (entry_id,))
    queue.send(entry_id)

    told = story(queue, entry_id)
    assert [what for what, _ in told if what != "update"] == [
        "stored", "attempt 1", "attempt 2", "discard", "amend", "retry", "sent",
    ]  # fmt: skip
    by_what = dict(told)
    assert by_what["stored"] == "a failed webhook of shop, correlation id c-1"
    assert by_what["attempt 1"].startswith("HTTP 503, ")
    assert by_what["attempt 2"].startswith("no answer")
    assert by_what["retry"] == "by postgres, discarded -> pending: mended"
    assert by_what["amend"] == "by postgres: empty is enough"
    assert by_what["sent"] == "attempt 3 is under way"
    assert "4711" not in str(told)

    personal = dict(story(queue, entry_id, personal=True))
    assert "no such order 4711" in personal["stored"]
    assert personal["attempt 1"].endswith("reply: try later, 4711")
    assert personal["attempt 2"].endswith("Couldn't connect to server")


@pytest.mark.parametrize(
    ("status_code", "answer", "words"),
    [
        (200, {}, "delivered, HTTP 200"),
        (302, {}, "redirected, HTTP 302"),
        (200, {"headers": {"Location": "/"}}, "redir"),
    ],
)
def test_an_answer_is_told_for_what_it_is(queue: Queue, status_code: int, answer: dict[str, Any], words: str) -> None:
    entry_id = queue.store()
    queue.attempt(entry_id, status_code, **answer)
    assert dict(story(queue, entry_id))["attempt 1"].startswith(words)


def test_a_reader_is_told_the_story_without_acts_and_words(queue: Queue) -> None:
    entry_id = queue.store(error_message="SECRET")
    queue.attempt(entry_id, 500, content="SECRET")
    queue.conn.execute("select dlq.discard(%s, 'because')", (entry_id,))
    queue.conn.execute("select dlq.amend(%s, '{}', 'because')", (entry_id,))
    rows = as_reader(queue, "select * from dlq.story(%s)", entry_id)
    assert [row["what"] for row in rows] == ["stored", "attempt 1", "amend"]
    assert as_reader(queue, "select * from dlq.what_next(%s)", entry_id)[0]["what"] == "discarded"
    assert as_reader(queue, "select dlq.find_entry(%s) as id", entry_id)[0]["id"] is not None
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_reader(queue, "select * from dlq.story(%s, personal => true)", entry_id)


def test_a_story_tells_the_replays_that_took_it_and_their_cancellation(queue: Queue) -> None:
    entry_id = queue.store()
    queue.attempt(entry_id, 410)
    first = queue.one("select id from dlq.replay('mended', per_minute => 1)")
    queue.conn.execute("select dlq.cancel_replay(%s, 'not yet')", (first,))
    second = queue.one("select id from dlq.replay('mended at last')")
    queue.attempt(entry_id, 200)

    told = story(queue, entry_id)
    assert [what for what, _ in told if what != "update"] == [
        "stored", "attempt 1", f"replay {first}", "cancel", f"replay {second}", "attempt 2",
    ]  # fmt: skip
    by_what = dict(told)
    due_at = queue.one("select date_trunc('second', due_at)::text from dlq.replayed_entries where replay_id = 1")
    assert by_what[f"replay {first}"] == f"by postgres, failed -> pending, due {due_at}: mended"
    assert by_what["cancel"] == f"by postgres, replay {first}, pending -> failed: not yet"
    assert by_what[f"replay {second}"].endswith(": mended at last")
    assert [row["what"] for row in as_reader(queue, "select * from dlq.story(%s)", entry_id)] == [
        "stored", "attempt 1", "attempt 2",
    ]  # fmt: skip


def test_a_story_tells_its_echoes(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.store(headers=Jsonb({"dlq-entry": entry_id}))
    queue.answer(entry_id, 200)
    queue.collect()
    queue.store(headers=Jsonb({"dlq-entry": entry_id}), payload="later")
    echoes = [row["id"] for row in queue.rows("select id::text from webhook_dlq where duplicate_of is not null")]
    told = [detail.rpartition(" ")[2] for what, detail in story(queue, entry_id) if what == "echo"]
    assert sorted(told) == sorted(echoes)
    assert len(echoes) == 2
    assert [row["what"] for row in as_reader(queue, "select * from dlq.story(%s)", entry_id)].count("echo") == 2


def test_a_story_tells_what_was_done_to_many_at_once(queue: Queue) -> None:
    entry_id, _ = queue.store(payload=1, phone_number="+15550100123"), queue.store(payload=2)
    queue.conn.execute("select dlq.discard(id, 'a test of ours') from webhook_dlq")
    queue.conn.execute("select dlq.retry(id, 'no test') from webhook_dlq")
    queue.conn.execute("update webhook_dlq set status = 'failed'")
    queue.conn.execute("select dlq.erase('+15550100123', 'request of 3 March')")
    assert story(queue, entry_id)[1:] == [
        ("discard", "by postgres, pending -> discarded: a test of ours"),
        ("retry", "by postgres, discarded -> pending: no test"),
        ("update", "by postgres, pending -> failed"),
        ("erase", "by postgres: request of 3 March"),
    ]


def test_what_is_next_says_why_it_ended(queue: Queue) -> None:
    gone, refused, delivered = (queue.store(payload=n) for n in range(3))
    queue.attempt(gone, 410)
    for _ in range(5):
        queue.attempt(refused, 422)
    queue.attempt(delivered, 200)
    assert "410" in what_next(queue, gone)["failed"]["detail"]
    assert "used up, 5 of 5" in what_next(queue, refused)["failed"]["detail"]
    assert "dlqctl retry" in what_next(queue, refused)["failed"]["remediation"]
    assert "dlqctl redeliver" in what_next(queue, delivered)["reprocessed"]["remediation"]
    dropped = queue.store(payload="dropped")
    queue.conn.execute("select dlq.discard(%s, 'x')", (dropped,))
    assert "a person" in what_next(queue, dropped)["discarded"]["detail"]


def test_an_echo_names_the_entry_that_it_repeats(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    assert "sender" in what_next(queue, entry_id)["processing"]["detail"]
    queue.store(headers=Jsonb({"dlq-entry": entry_id}))
    echo = queue.one("select id::text from webhook_dlq where duplicate_of is not null")
    assert entry_id in what_next(queue, echo)["discarded"]["detail"]
    assert entry_id in dict(story(queue, echo))["stored"]
    queue.answer(entry_id, 200)
    queue.collect()
    assert "stored this failure again, HTTP 200" in dict(story(queue, entry_id))["attempt 1"]


def test_what_is_next_names_everything_that_stands_in_the_way(queue: Queue) -> None:
    entry_id = queue.store()
    queue.conn.execute("insert into dlq_processing_log (processed_at, status) values (now(), 'ok')")
    (only,) = what_next(queue, entry_id).values()
    assert (only["what"], "1 of 5" in only["detail"]) == ("pending", True)
    assert only["at"] == queue.entry(entry_id)["next_retry_at"]

    queue.endpoint(auth="bearer", auth_secret="TOKEN", enabled=False)
    queue.conn.execute("select dlq.pause('deploying', until => now() + interval '1 hour')")
    queue.conn.execute(
        "insert into dlq.endpoint_state (service, cap, failing_since, probe_at, trouble)"
        " values ('shop', 0, now(), now() + interval '15 minutes', 'HTTP 503')"
    )
    queue.conn.execute("update dlq_processing_log set processed_at = now() - interval '1 day'")
    queue.conn.execute("update dlq.settings set installed_at = now() - interval '1 day'")
    found = what_next(queue, entry_id)
    assert [*found] == ["pending", "paused", "disabled", "no secret", "circuit open", "no processor"]
    assert "deploying" in found["paused"]["detail"]
    assert found["paused"]["remediation"] == "dlqctl resume"
    assert "TOKEN" in found["no secret"]["detail"]
    assert "HTTP 503" in found["circuit open"]["detail"]

    queue.conn.execute("update dlq.endpoint_state set cap = 2")
    assert "at most 2" in what_next(queue, entry_id)["held back"]["detail"]
    queue.conn.execute("delete from dlq.endpoints")
    assert what_next(queue, entry_id)["no endpoint"]["remediation"] == "dlqctl endpoints set shop URL"
    queue.conn.execute("update dlq.settings set database_oid = 1")
    assert "copy" in what_next(queue, entry_id)["no sender"]["detail"]


def test_what_is_next_says_which_pause_to_end(queue: Queue, clock: Clock) -> None:
    entry_id = queue.store()
    queue.conn.execute("select dlq.pause('a storm')")
    queue.conn.execute("select dlq.pause('deploying', 'shop', until => dlq._now() + interval '1 hour')")
    assert what_next(queue, entry_id)["paused"]["remediation"] == "dlqctl resume shop"
    clock.advance("2 hours")
    paused = what_next(queue, entry_id)["paused"]
    assert ("a storm" in paused["detail"], paused["remediation"]) == (True, "dlqctl resume")


def test_after_a_shortened_schedule_the_next_try_is_the_last(queue: Queue) -> None:
    entry_id = queue.store()
    for _ in range(3):
        queue.attempt(entry_id, 422)
    queue.conn.execute("update dlq.settings set retry_schedule = '{1 minute}'")
    assert "try 4 of 4: " in what_next(queue, entry_id)["pending"]["detail"]


def test_nobody_has_that_entry(queue: Queue) -> None:
    for call in ("dlq.what_next(gen_random_uuid())", "dlq.story(gen_random_uuid())", "dlq.what_next(null)"):
        with pytest.raises(psycopg.Error) as caught:
            queue.rows(f"select * from {call}")
        assert caught.value.diag.sqlstate == "WD002"


def test_the_beginning_of_an_id_is_enough_if_it_is_the_only_one(queue: Queue) -> None:
    ids = [
        "01a20d9a-eaa1-7f5c-b53d-60912fff3cfe",
        "01a20d9a-eaa1-7f5c-b53d-60912fff3cff",
        "01a20d9b-0000-7000-8000-000000000000",
    ]
    for entry_id in ids:
        queue.conn.execute("insert into webhook_dlq (id, service, payload) values (%s, 'shop', '1')", (entry_id,))
    for prefix in ("01a20d9b", "01A20D9B-0", ids[2], ids[2].replace("-", "")):
        assert str(queue.one("select dlq.find_entry(%s)", prefix)) == ids[2]
    with pytest.raises(psycopg.Error) as several:
        queue.one("select dlq.find_entry('01a20d9a-eaa1')")
    assert several.value.diag.sqlstate == "WD002"
    assert ids[0] in str(several.value.diag.message_hint)
    assert ids[1] in str(several.value.diag.message_hint)
    assert ids[2] not in str(several.value.diag.message_hint)
    for wrong in ("ffff", "01a", "", None, "xyzw", "01a2'", ids[2] + "0", "%"):
        with pytest.raises(psycopg.Error) as caught:
            queue.one("select dlq.find_entry(%s)", wrong)
        assert caught.value.diag.sqlstate == "WD002", wrong


def test_entries_show_the_last_attempt(queue: Queue) -> None:
    entry_id, fresh = queue.store(payload=1), queue.store(payload=2)
    queue.attempt(entry_id, 500)
    queue.attempt(entry_id, 404)
    rows = as_reader(queue, "select id::text, last_outcome, last_status_code from dlq.entries")
    assert {row["id"]: (row["last_outcome"], row["last_status_code"]) for row in rows} == {
        entry_id: ("http_error", 404),
        fresh: (None, None),
    }


def test_activity_counts_what_came_and_went_within_the_minute(queue: Queue, clock: Clock) -> None:
    done, refused, sent, due = (queue.store(payload=n) for n in range(4))
    queue.attempt(done, 200)
    queue.attempt(refused, 410)
    queue.send(sent)
    queue.store(payload="later")
    queue.make_due(due)

    def counts() -> dict[str, Any]:
        (row,) = as_reader(queue, "select * from dlq.activity")
        return {name: value for name, value in row.items() if name != "at"}

    assert counts() == {"pending": 2, "due": 1, "in_flight": 1, "stored": 5, "delivered": 1, "failed": 1}
    clock.advance("2 minutes")
    assert counts() == {"pending": 2, "due": 1, "in_flight": 1, "stored": 0, "delivered": 0, "failed": 0}


def test_what_is_erased_is_offered_for_nothing(queue: Queue) -> None:
    entry_id = queue.store(phone_number="+15550100123")
    queue.conn.execute("select dlq.erase('+15550100123', 'x')")
    (row,) = what_next(queue, entry_id).values()
    assert (row["detail"], row["remediation"]) == ("its body was erased: it cannot be sent again", None)
