"""What a person does with an entry: retry, redeliver, discard, amend, erase."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Clock
from tests.db.conftest import Queue

NUMBER = "+1 555 010-0123"
VERBS = {
    "retry": "select dlq.retry({id}, {reason})",
    "redeliver": "select dlq.redeliver({id}, {reason})",
    "discard": "select dlq.discard({id}, {reason})",
    "amend": "select dlq.amend({id}, '{{\"n\": 2}}', {reason})",
}
APPLIES = {
    "retry": {"pending", "failed", "discarded"},
    "redeliver": {"reprocessed"},
    "discard": {"pending", "failed"},
    "amend": {"pending", "failed", "discarded"},
}


def do(queue: Queue, verb: str, entry_id: Any, reason: str | None = "why not") -> bool:
    return bool(queue.one(VERBS[verb].format(id="%s::uuid", reason="%s"), entry_id, reason))


def in_state(queue: Queue, status: str) -> str:
    """An entry that came into a state as entries do."""
    entry_id = queue.store(payload={"status": status})
    if status == "failed":
        queue.attempt(entry_id, 410)
    elif status == "reprocessed":
        queue.attempt(entry_id, 200)
    elif status == "processing":
        queue.send(entry_id)
    elif status == "discarded":
        assert do(queue, "discard", entry_id)
    assert queue.entry(entry_id)["status"] == status
    return entry_id


@pytest.mark.parametrize("status", ["pending", "processing", "reprocessed", "failed", "discarded"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_applies_to_its_states_and_changes_nothing_of_others(queue: Queue, verb: str, status: str) -> None:
    entry_id = in_state(queue, status)
    before, acts = queue.entry(entry_id), queue.one("select count(*) from dlq.audit_log")
    applies = status in APPLIES[verb]
    assert do(queue, verb, entry_id) is applies
    assert queue.one("select count(*) from dlq.audit_log") == acts + applies
    if not applies:
        assert queue.entry(entry_id) == before


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("reason", [None, "", "  "])
def test_a_verb_wants_a_reason(queue: Queue, verb: str, reason: str | None) -> None:
    entry_id = queue.store()
    with pytest.raises(psycopg.Error) as caught:
        do(queue, verb, entry_id, reason)
    assert caught.value.diag.sqlstate == "WD002"
    assert f"dlq.{verb}('{entry_id}'" in str(caught.value.diag.message_hint)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_wants_an_id(queue: Queue, verb: str) -> None:
    with pytest.raises(psycopg.Error, match="an id is needed") as caught:
        do(queue, verb, None)
    assert caught.value.diag.sqlstate == "WD002"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_warns_that_there_is_no_such_entry_and_leaves_it_out(queue: Queue, verb: str) -> None:
    there = in_state(queue, sorted(APPLIES[verb])[0])
    warned: list[tuple[str | None, ...]] = []
    queue.conn.add_notice_handler(
        lambda said: warned.append((said.severity_nonlocalized, said.sqlstate, said.message_primary))
    )
    gone = "00000000-0000-0000-0000-000000000000"
    assert [do(queue, verb, entry_id) for entry_id in (gone, there)] == [False, True]
    assert warned == [("WARNING", "WD002", f"there is no entry {gone}")]
    assert queue.one("select count(*) from dlq.audit_log where key = %s", gone) == 0


def test_what_is_deleted_meanwhile_stops_none_of_the_others(queue: Queue, database: str) -> None:
    """The statement has seen three entries when the second of them is deleted by somebody else."""
    queue.store_many(3)
    queue.conn.execute("update webhook_dlq set status = 'failed'")
    with psycopg.connect(database, autocommit=True) as somebody:
        ids = [row["id"] for row in queue.rows("select id from webhook_dlq order by id")]
        with queue.conn.transaction(), queue.conn.cursor(name="many") as cursor:  # its snapshot is taken here
            cursor.execute("select dlq.retry(id, 'mended') from webhook_dlq order by id")
            somebody.execute("delete from webhook_dlq where id = %s", (ids[1],))
            done = [row[0] for row in cursor.fetchall()]
    assert done == [True, False, True]
    assert queue.one("select count(*) from webhook_dlq where status = 'pending'") == 2


def test_a_retry_has_all_its_retries_again_and_keeps_its_attempts(queue: Queue) -> None:
    entry_id = queue.store()
    for _ in range(5):
        queue.attempt(entry_id, 500)
    assert queue.entry(entry_id)["status"] == "failed"
    assert do(queue, "retry", entry_id)
    entry = queue.entry(entry_id)
    assert (entry["status"], entry["retry_count"], entry["attempt_count"]) == ("pending", 0, 5)
    assert queue.dispatch() == 1
    queue.answer(entry_id, 200)
    queue.collect()
    assert [a["attempt"] for a in queue.attempts(entry_id)] == [1, 2, 3, 4, 5, 6]
    (act,) = queue.rows("select * from dlq.audit_log where action = 'retry'")
    assert (act["key"], act["reason"], act["before"]["status"], act["after"]["status"]) == (
        entry_id, "why not", "failed", "pending",
    )  # fmt: skip


def test_over_many_in_the_postgres_way(queue: Queue) -> None:
    queue.store_many(50)
    queue.conn.execute("update webhook_dlq set status = 'failed'")
    assert (
        queue.one("select count(*) filter (where dlq.retry(id, 'mended')) from webhook_dlq where service = 'shop'")
        == 50
    )
    assert queue.one("select count(*) from webhook_dlq where status = 'pending'") == 50


def test_an_echo_is_not_retried(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    echo = queue.store(headers=Jsonb({"dlq-entry": entry_id}))
    row = queue.rows("select id from webhook_dlq where duplicate_of is not null")
    assert [str(r["id"]) for r in row] != [entry_id], echo
    assert do(queue, "retry", row[0]["id"]) is False


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_undone_with_its_transaction(queue: Queue, verb: str) -> None:
    entry_id = in_state(queue, sorted(APPLIES[verb])[0])
    before, acts = queue.entry(entry_id), queue.one("select count(*) from dlq.audit_log")
    with queue.conn.transaction(force_rollback=True):
        assert do(queue, verb, entry_id)
    assert queue.entry(entry_id) == before
    assert queue.one("select count(*) from dlq.audit_log") == acts


@pytest.mark.parametrize("verb", VERBS)
def test_the_engine_passes_by_what_a_person_holds(queue: Queue, database: str, verb: str) -> None:
    entry_id = in_state(queue, sorted(APPLIES[verb])[0])
    other = queue.store(payload="other")
    queue.make_due()
    with psycopg.connect(database) as person:
        person.execute(VERBS[verb].format(id=f"'{entry_id}'::uuid", reason="'thinking'").encode())
        queue.conn.execute("set statement_timeout = '5s'")
        queue.dispatch()
        assert queue.entry(other)["status"] == "processing"
        person.rollback()


@pytest.mark.parametrize(
    ("verb", "again"), [("retry", True), ("redeliver", False), ("discard", False), ("amend", True)]
)
def test_a_verb_done_twice_does_what_it_did_once(queue: Queue, verb: str, again: bool) -> None:
    entry_id = in_state(queue, sorted(APPLIES[verb])[0])
    assert do(queue, verb, entry_id)
    once = queue.entry(entry_id)
    assert do(queue, verb, entry_id) is again
    assert queue.entry(entry_id) | {"updated_at": None, "next_retry_at": None} == (
        once | {"updated_at": None, "next_retry_at": None}
    )
    assert queue.one("select count(*) from dlq.audit_log where action = %s and key = %s", verb, entry_id) == 1 + again


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_waits_for_the_step_of_a_cycle_and_goes_by_what_that_has_made(
    queue: Queue, database: str, verb: str
) -> None:
    """The entry is being sent, or for redeliver its answer collected, by a step that has not committed yet."""
    entry_id = queue.store()
    if verb == "redeliver":
        queue.send(entry_id)
        queue.answer(entry_id, 200)
    queue.make_due(entry_id)
    with psycopg.connect(database, autocommit=True) as cycle, ThreadPoolExecutor(1) as beside:
        with cycle.transaction():
            step = "collect_responses" if verb == "redeliver" else "dispatch_due"
            cycle.execute(f"select from dlq.{step}()".encode())
            acting = beside.submit(do, queue, verb, entry_id)
            while not cycle.execute("select from pg_locks where not granted").rowcount:
                assert not acting.done()
        assert acting.result(10) is (verb == "redeliver")
    assert queue.entry(entry_id)["status"] == ("pending" if verb == "redeliver" else "processing")


def test_an_amended_payload_is_sent_and_the_old_one_kept(queue: Queue) -> None:
    entry_id = str(queue.one("select store_dlq_entry('shop', raw_body => %s)", b'{"n": 1} '))
    queue.endpoint(body="raw")
    assert do(queue, "amend", entry_id)
    (kept,) = queue.rows("select payload, raw_body, reason from dlq.amendments where entry_id = %s", entry_id)
    assert kept == {"payload": {"n": 1}, "raw_body": b'{"n": 1} ', "reason": "why not"}
    queue.send(entry_id)
    assert bytes(queue.one("select body from net.http_request_queue")) == b'{"n": 2}'
    (act,) = queue.rows("select before, after from dlq.audit_log where action = 'amend'")
    assert "n" not in str(act["before"]["payload"]).removeprefix("hmac")


def test_a_payload_is_not_amended_to_nothing(queue: Queue) -> None:
    with pytest.raises(psycopg.Error, match="a payload is needed"):
        queue.one("select dlq.amend(%s, null, 'x')", queue.store())


def test_a_payload_is_not_amended_to_what_holds_up_the_engine(queue: Queue) -> None:
    with pytest.raises(psycopg.Error, match="no double holds"):
        queue.one("select dlq.amend(%s, '{\"n\": 1e131071}', 'x')", queue.store())


# The right to be forgotten.


def test_erase_finds_a_number_wherever_it_is_and_keeps_what_happened(queue: Queue, clock: Clock) -> None:
    theirs = {
        "column": queue.store(payload=1, phone_number="+15550100123"),
        "payload": queue.store(payload={"from": "15550100123"}),
        "formatted": queue.store(payload=3, phone_number="+1 (555) 010-0123"),
        "headers": queue.store(payload=4, headers=Jsonb({"x-from": "+15550100123"})),
        "error": queue.store(payload=5, error_message="no account 15550100123."),
        "raw": str(queue.one("select store_dlq_entry('shop', raw_body => %s)", b"from=15550100123&x=\xff")),
        "reply": queue.store(payload=7),
        "failed": queue.store(payload={"tel": "+15550100123"}),
        "amended": queue.store(payload={"from": "15550100123", "n": 1}),
    }
    others = [
        queue.store(payload={"from": "155501001234"}),
        queue.store(payload={"from": "9115550100123"}),
        queue.store(payload=8, phone_number="+15550100124"),
    ]
    queue.attempt(theirs["reply"], 500, content="15550100123 is unknown")
    queue.attempt(theirs["failed"], 410)
    queue.conn.execute("select dlq.amend(%s, '{\"n\": 2}', 'x')", (theirs["amended"],))
    queue.send(theirs["payload"])

    erased = queue.one("select dlq.erase(%s, 'request of 3 March')", NUMBER)

    assert erased["entries"] == len(theirs)
    assert (erased["amendments"], erased["requests"]) == (1, 1)
    for name, entry_id in theirs.items():
        entry = queue.entry(entry_id)
        assert entry["payload"] == {"erased": True}, name
        kept = ("raw_body", "headers", "phone_number", "error_message", "idempotency_key")
        assert [entry[column] for column in kept] == [None] * 5, name
        assert entry["status"] == ("failed" if name == "failed" else "discarded")
    assert [a["outcome"] for a in queue.attempts(theirs["reply"])] == ["http_error"]
    for entry_id in others:
        assert queue.entry(entry_id)["status"] == "pending"
        assert queue.entry(entry_id)["payload"] != {"erased": True}
    for (table,) in queue.conn.execute(
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('dlq', 'net', 'public') and c.relkind = 'r'"
    ).fetchall():
        found = queue.one(f"select count(*) from {table} as t where t::text ~ '(^|[^0-9])15550100123($|[^0-9])'")
        assert found == 0, table
    (act,) = queue.rows("select * from dlq.audit_log where action = 'erase' and key is null")
    assert (act["reason"], act["after"]["entries"]) == ("request of 3 March", len(theirs))
    assert {row["key"] for row in queue.rows("select key from dlq.audit_log where action = 'erase'")} == {
        None, *theirs.values(),
    }  # fmt: skip
    assert queue.one("select dlq.erase(%s, 'again')", NUMBER)["entries"] == 0


@pytest.mark.parametrize("status", ["pending", "failed", "reprocessed", "discarded"])
def test_what_is_erased_is_never_sent(queue: Queue, status: str) -> None:
    entry_id, other = in_state(queue, status), in_state(queue, "failed")
    queue.conn.execute("update webhook_dlq set phone_number = %s where id = %s", (NUMBER, entry_id))
    queue.conn.execute("select dlq.erase(%s, 'x')", (NUMBER,))
    for verb in ("retry", "redeliver", "amend"):
        assert do(queue, verb, entry_id) is False
    queue.conn.execute("update webhook_dlq set status = 'pending' where status <> 'processing'")
    assert queue.entry(entry_id)["status"] == ("discarded" if status == "pending" else status)
    assert queue.entry(other)["status"] == "pending"
    queue.make_due()
    queue.dispatch()
    assert queue.one("select count(*) from net.http_request_queue where convert_from(body, 'UTF8') ~ 'erased'") == 0


def test_an_answer_that_comes_after_the_erasure_is_not_kept(queue: Queue) -> None:
    entry_id = queue.store(payload={"from": "15550100123"})
    request_id = queue.send(entry_id)
    queue.conn.execute("select dlq.erase(%s, 'x')", (NUMBER,))
    queue.conn.execute(
        "insert into net._http_response (id, status_code, content) values (%s, 500, '15550100123')", (request_id,)
    )
    assert queue.collect() == (0, 0, 0)
    (attempt,) = queue.attempts(entry_id)
    assert (attempt["outcome"], attempt["reply"]) == ("unanswered", None)


def test_erase_waits_for_the_step_of_a_cycle_and_takes_its_request_back(queue: Queue, database: str) -> None:
    entry_id = queue.store(payload={"from": "15550100123"})
    queue.make_due(entry_id)
    before = queue.entry(entry_id)
    with psycopg.connect(database, autocommit=True) as cycle, ThreadPoolExecutor(1) as beside:
        with cycle.transaction():
            cycle.execute("select from dlq.dispatch_due()")
            erasing = beside.submit(queue.one, "select dlq.erase(%s, 'x')", NUMBER)
            while not cycle.execute("select from pg_locks where not granted").rowcount:
                assert not erasing.done()
        assert erasing.result(10)["entries"] == 1
    assert before["status"] == "pending"
    assert queue.entry(entry_id)["status"] == "discarded"
    assert queue.one("select (select count(*) from net.http_request_queue) + (select count(*) from dlq.in_flight)") == 0


def test_erase_counts_no_time_where_the_clock_was_set_back(queue: Queue) -> None:
    queue.send(queue.store(phone_number=NUMBER))
    queue.conn.execute("update dlq.in_flight set dispatched_at = dispatched_at + interval '1 hour'")
    assert queue.one("select dlq.erase(%s, 'x')", NUMBER)["requests"] == 1
    assert queue.one("select seconds from dlq.attempt_counts") == 0


def test_erase_is_undone_with_its_transaction(queue: Queue) -> None:
    entry_id = queue.store(phone_number=NUMBER)
    queue.send(entry_id)
    before = queue.entry(entry_id)
    with queue.conn.transaction(force_rollback=True):
        assert queue.one("select dlq.erase(%s, 'x')", NUMBER)["requests"] == 1
    assert queue.entry(entry_id) == before
    assert queue.one("select count(*) from net.http_request_queue") == 1
    assert queue.one("select count(*) from dlq.audit_log where action = 'erase'") == 0


@pytest.mark.parametrize("number", [None, "", "123456", "+", "no number"])
def test_erase_wants_a_whole_number(queue: Queue, number: str | None) -> None:
    queue.store(payload={"from": "123456"})
    with pytest.raises(psycopg.Error, match="no whole phone number") as caught:
        queue.one("select dlq.erase(%s, 'x')", number)
    assert caught.value.diag.sqlstate == "WD002"
    assert queue.one("select count(*) from webhook_dlq where payload ? 'from'") == 1
