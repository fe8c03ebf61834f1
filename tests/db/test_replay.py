"""dlq.replay(): many entries at a time, by filters; its preview, its pace, and that it can be taken back."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import psycopg
import psycopg.rows
import pytest
from psycopg.conninfo import make_conninfo

from tests.conftest import Clock
from tests.db.conftest import Queue
from tests.db.replaying import cancel, fail, insert, of, preview, progress, replay, states

# What it matches.

FILTERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing but the state": ({}, {"a", "b", "c", "d"}),
    "service": ({"service": "till"}, {"c", "d"}),
    "another service": ({"service": "nobody"}, set()),
    "status code": ({"status_code": 400}, {"a", "c"}),
    "a status code before the last": ({"status_code": 503}, set()),
    "error text": ({"error_text": "refused"}, {"b"}),
    "error text, in any case": ({"error_text": "TIMEOUT"}, {"d"}),
    "the whole of it": ({"error_text": "HTTP 400"}, {"a", "c"}),
    "an error before the last": ({"error_text": "HTTP 503"}, set()),
    "phone number": ({"phone_number": "+1 (555) 010-0123"}, {"a", "d"}),
    "a part of a number": ({"phone_number": "5550100"}, set()),
    "from": ({"created_after": "now() - interval '2 days'"}, {"b", "c", "d"}),
    "before": ({"created_before": "now() - interval '2 days'"}, {"a"}),
    "between": ({"created_after": "now() - interval '2 days'", "created_before": "now() - interval '12 hours'"}, {"b"}),
    "service and code": ({"service": "till", "status_code": 400}, {"c"}),
    "service and text": ({"service": "shop", "error_text": "timeout"}, set()),
    "number and text": ({"phone_number": "15550100123", "error_text": "timeout"}, {"d"}),
    "all of them": (
        {
            "service": "shop", "status": "failed", "created_after": "now() - interval '9 days'", "status_code": 400,
            "created_before": "now()", "error_text": "400", "phone_number": "15550100123",
        },
        {"a"},
    ),
}  # fmt: skip


def test_filters_match_what_they_say_and_the_preview_says_what_is_done(queue: Queue) -> None:
    queue.endpoint("till")
    entries = {
        "a": fail(queue, "shop", 400, phone_number="+15550100123"),
        "b": fail(queue, "shop", None, "Connection refused", phone_number="+15550100124"),
        "c": fail(queue, "till", 400),
        "d": fail(queue, "till", None, "Timeout was reached", phone_number="1 555 0100123"),
    }
    for name, days in (("a", "3 days"), ("b", "1 day")):
        queue.conn.execute(
            "update webhook_dlq set created_at = now() - %s::interval where id = %s", (days, entries[name])
        )
    other = [
        queue.store(payload="waits"),
        *insert(queue, 1, status="discarded"),
        *insert(queue, 1, status="reprocessed"),
    ]
    before = states(queue)
    for name, (words, expected) in FILTERS.items():
        filters = {
            key: queue.one(f"select {value}") if str(key).startswith("created") else value
            for key, value in words.items()
        }
        with queue.conn.transaction(force_rollback=True):
            seen = preview(queue, **filters)
            assert states(queue) == before
            done = replay(queue, **filters)
            taken = of(queue, done["id"])
            assert {key for key, entry_id in entries.items() if entry_id in taken} == expected, name
            assert (seen["matched"], seen["entries"]) == (done["matched"], done["entries"]) == (len(taken),) * 2, name
            after = states(queue)
            services: dict[str, int] = {}
            for entry_id in taken:
                entry = queue.entry(entry_id)
                services[entry["service"]] = services.get(entry["service"], 0) + 1
                assert (entry["status"], entry["retry_count"], entry["unanswered_count"]) == ("pending", 0, 0)
                assert (entry["settled_at"], entry["next_retry_at"]) == (None, queue.one("select dlq._now()"))
                assert entry["attempt_count"] == before[entry_id]["attempt_count"]
            assert (seen["services"] or {}) == services
            ages = sorted(queue.entry(entry_id)["created_at"] for entry_id in taken)
            assert [seen["oldest"], seen["newest"]] == ([ages[0], ages[-1]] if ages else [None, None])
            assert {e: after[e] for e in after if e not in taken} == {e: before[e] for e in before if e not in taken}
    assert all(queue.entry(entry_id)["status"] != "failed" for entry_id in other)


@pytest.mark.parametrize("status", ["pending", "discarded", "reprocessed"])
def test_other_states_are_replayed_only_by_name(queue: Queue, status: str) -> None:
    entries = insert(queue, 3, status=status)
    assert replay(queue)["entries"] == 0
    assert queue.one("select count(*) from webhook_dlq where status = %s and retry_count = 5", status) == 3
    done = replay(queue, status=status)
    assert (done["entries"], done["filters"]["status"]) == (3, status)
    assert {states(queue)[entry]["retry_count"] for entry in entries} == {0}


def test_what_is_being_sent_is_not_replayed_nor_is_an_echo(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.store(headers=psycopg.types.json.Jsonb({"dlq-entry": entry_id}))
    assert queue.one("select count(*) from webhook_dlq where duplicate_of is not null") == 1
    for status in ("failed", "pending", "discarded", "reprocessed"):
        assert replay(queue, status=status)["entries"] == 0
    with pytest.raises(psycopg.Error) as caught:
        replay(queue, status="processing")
    assert caught.value.diag.sqlstate == "WD002"


NASTY = [
    "%",
    "_",
    "x%y",
    "\\",
    "'",
    "''; drop table webhook_dlq; --",
    "$$",
    "{id}",
    "' or true --",
    "é\u202e",
    "(.*)",
    "%s",
]


@pytest.mark.parametrize("text", NASTY)
def test_nothing_in_a_text_is_a_wildcard_or_code(queue: Queue, text: str) -> None:
    insert(queue, 2)
    assert preview(queue, error_text=text)["matched"] == 0
    (one, _) = [row["id"] for row in queue.rows("select id from webhook_dlq order by created_at")]
    queue.conn.execute(
        "insert into dlq.delivery_attempts (entry_id, attempt, dispatched_at, settled_at, outcome, service, error)"
        " select id, 6, now(), now(), 'network_error', service, 'nobody' from webhook_dlq"
    )
    assert preview(queue, error_text=text)["matched"] == 0
    queue.conn.execute("update dlq.delivery_attempts set error = '<' || %s || '>' where entry_id = %s", (text, one))
    assert preview(queue, error_text=text)["matched"] == 1
    done = replay(queue, reason=text, error_text=text)
    assert of(queue, done["id"]) == [str(one)]
    assert (done["filters"]["error_text"], done["reason"]) == (text, text)
    assert cancel(queue, done["id"], text) == 1
    for filters in ({"service": text}, {"status": text}, {"phone_number": text}):
        for function in (preview, replay):
            with pytest.raises(psycopg.Error) as caught:
                function(queue, **filters)
            assert caught.value.diag.sqlstate == "WD002"


@pytest.mark.parametrize(
    ("filters", "hint"),
    [
        ({"service": "No Name"}, "whatsapp"),
        ({"service": ""}, "whatsapp"),
        ({"status": None}, "status: "),
        ({"status": "processing"}, "status: "),
        ({"error_text": " "}, "error_text: "),
        ({"phone_number": "+"}, "phone_number: "),
        ({"max_entries": 0}, "max_entries: "),
        ({"max_entries": None}, "max_entries: "),
        ({"max_entries": 100_001}, "at_once => "),
        ({"at_once": 100_001}, "at_once => "),
        ({"at_once": 0}, "at_once => "),
        ({"per_minute": 0}, "per_minute: "),
        ({"reason": None}, "dlq.replay("),
        ({"reason": " "}, "dlq.replay("),
    ],
)
def test_what_is_not_in_order_is_refused_and_the_hint_says_how(
    queue: Queue, filters: dict[str, Any], hint: str
) -> None:
    insert(queue, 1)
    for function in (replay, preview):
        if function is preview and ("reason" in filters or hint == "at_once => "):
            continue
        with pytest.raises(psycopg.Error) as caught:
            function(queue, **filters)
        assert caught.value.diag.sqlstate == "WD002"
        assert hint in str(caught.value.diag.message_hint)
    assert queue.one("select count(*) from dlq.replays") == 0


# How much, and when.


def test_it_takes_the_oldest_up_to_its_most_and_goes_on_when_called_again(queue: Queue) -> None:
    entries = insert(queue, 7)
    for matched, expected in ((7, entries[:3]), (4, entries[3:6]), (1, entries[6:]), (0, [])):
        seen = preview(queue, max_entries=3)
        assert (seen["matched"], seen["entries"]) == (matched, len(expected))
        done = replay(queue, max_entries=3, per_minute=60)
        assert (done["matched"], done["entries"], of(queue, done["id"])) == (matched, len(expected), expected)


def test_what_waits_for_a_replay_is_not_taken_by_another_until_it_is_tried_or_moved(queue: Queue) -> None:
    entries = insert(queue, 4, status="pending")
    assert of(queue, replay(queue, status="pending", max_entries=2, per_minute=1)["id"]) == entries[:2]
    assert of(queue, replay(queue, status="pending", max_entries=2, per_minute=1)["id"]) == entries[2:]
    assert preview(queue, status="pending")["matched"] == 0
    queue.attempt(entries[1], 500)
    assert queue.one("select dlq.retry(%s, 'this one first')", entries[0]) is True
    assert of(queue, replay(queue, status="pending", per_minute=1)["id"]) == entries[:2]


def test_the_nth_is_due_after_n_parts_of_a_minute(queue: Queue) -> None:
    entries = insert(queue, 90)
    seen = preview(queue, per_minute=40)
    done = replay(queue, per_minute=40)
    begun = done["replayed_at"]
    found = queue.rows("select id::text, next_retry_at - %s as wait from webhook_dlq order by next_retry_at", begun)
    assert [row["id"] for row in found] == entries
    assert [row["wait"] for row in found] == [timedelta(minutes=1) * n / 40 for n in range(1, 91)]
    assert seen["ends_at"] - begun < timedelta(minutes=90 / 40)
    assert queue.rows("select waiting, due, last_due_at - replayed_at as took from dlq.replay_progress") == [
        {"waiting": 90, "due": 0, "took": timedelta(minutes=90 / 40)}
    ]


def test_the_processor_keeps_the_pace(queue: Queue, clock: Clock) -> None:
    insert(queue, 10)
    done = replay(queue, per_minute=2)
    assert queue.dispatch() == 0
    clock.set_forward("1 minute 1 second")
    assert queue.dispatch() == 2
    assert progress(queue, done["id"]) == {"waiting": 8, "processing": 2}
    clock.set_forward("5 minutes 1 second")
    assert queue.dispatch() == 8


# In parts.


def go_on(queue: Queue, replay_id: int | None, **given: Any) -> dict[str, Any]:
    arguments = "".join(f", {name} => %({name})s" for name in given)
    with queue.conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        query = f"select * from dlq.continue_replay(%(id)s{arguments})"
        (row,) = cursor.execute(query.encode(), {"id": replay_id, **given}).fetchall()
        return row


def test_in_parts_it_takes_what_it_takes_at_once_at_the_same_pace(queue: Queue) -> None:
    entries = insert(queue, 9)
    done = replay(queue, max_entries=8, per_minute=2, at_once=3)
    assert (done["matched"], done["entries"], of(queue, done["id"])) == (9, 3, entries[:3])
    for so_far in (6, 8, 8):
        assert go_on(queue, done["id"], at_once=3)["entries"] == so_far
    assert of(queue, done["id"]) == entries[:8]
    assert queue.entry(entries[8])["status"] == "failed"
    waits = queue.rows(
        "select x.due_at - r.replayed_at as wait"
        " from dlq.replays as r join dlq.replayed_entries as x on x.replay_id = r.id order by x.due_at"
    )
    assert [row["wait"] for row in waits] == [timedelta(seconds=30) * n for n in range(1, 9)]
    acts = queue.rows("select action, key, reason, after from dlq.audit_log where object = 'dlq.replays' order by id")
    assert [(act["action"], act["key"], act["reason"], act["after"]["entries"]) for act in acts] == [
        (action, str(done["id"]), "mended", entries)
        for action, entries in (("replay", 3), ("continue_replay", 3), ("continue_replay", 2))
    ]
    assert cancel(queue, done["id"]) == 8


def test_what_a_part_has_taken_the_next_does_not_take_again(queue: Queue) -> None:
    """Sent meanwhile, it is again what the filters match: for ever, if that counted. All were stored at once."""
    insert(queue, 30, status="reprocessed")
    queue.conn.execute("update webhook_dlq set created_at = (select min(created_at) from webhook_dlq)")
    done = replay(queue, status="reprocessed", at_once=1, per_minute=1)
    for nth, (at_once, so_far) in enumerate(((1, 2), (100, 30), (100, 30))):  # more than 20 parts are left, and fewer
        queue.attempt(of(queue, done["id"])[nth], 200)
        assert go_on(queue, done["id"], at_once=at_once)["entries"] == so_far
    assert len(set(of(queue, done["id"]))) == 30
    assert progress(queue, done["id"]) == {"reprocessed": 3, "waiting": 27}


def test_continued_a_day_later_it_does_not_make_up_for_the_day(queue: Queue, clock: Clock) -> None:
    entries = insert(queue, 4)
    done = replay(queue, per_minute=1, at_once=2)
    clock.set_forward("1 day")
    go_on(queue, done["id"])
    now = queue.one("select dlq._now()")
    waits = [queue.entry(entry_id)["next_retry_at"] - now for entry_id in entries[2:]]
    assert timedelta(seconds=50) < waits[0] <= timedelta(minutes=1)
    assert waits[1] - waits[0] == timedelta(minutes=1)


def test_what_cannot_be_continued_is_refused_and_the_hint_says_why(queue: Queue) -> None:
    insert(queue, 3)
    fail(queue, "shop", 400, phone_number="+15550100123")
    cancelled = replay(queue, at_once=1, service="shop")
    cancel(queue, cancelled["id"])
    personal = replay(queue, phone_number="15550100123")
    part = replay(queue, at_once=1)
    for replay_id, at_once, hint in (
        (cancelled["id"], 1, "cancelled"), (personal["id"], 1, "not kept"), (part["id"], 0, "at_once"),
        (part["id"], 100_001, "at_once"), (part["id"] + 1, 1, "replay list"), (None, 1, "replay list"),
    ):  # fmt: skip
        with pytest.raises(psycopg.Error) as caught:
            go_on(queue, replay_id, at_once=at_once)
        assert caught.value.diag.sqlstate == "WD002"
        assert hint in str(caught.value.diag.message_hint)
    assert queue.one("select sum(entries) from dlq.replays") == 3


def test_newer_entries_are_left_alone(queue: Queue) -> None:
    entries = insert(queue, 4)
    time = queue.entry(entries[2])["created_at"]
    assert set(of(queue, replay(queue, created_before=time)["id"])) == set(entries[:2])
    assert [states(queue)[entry]["status"] for entry in entries] == ["pending", "pending", "failed", "failed"]
    insert(queue, 1)
    assert replay(queue, created_before=time)["entries"] == 0
    assert replay(queue, created_after=time)["entries"] == 3, "that time or later"


# One act.


def test_it_is_one_act_with_its_filters_and_nothing_personal(queue: Queue) -> None:
    entry_id = fail(queue, "shop", None, "no account 15550100123", phone_number="+15550100123")
    insert(queue, 20)
    before = queue.one("select max(id) from dlq.audit_log")
    done = replay(queue, service="shop", error_text="account 15550100123", phone_number="+15550100123", per_minute=6)
    replay(queue, max_entries=5)
    cancel(queue, done["id"])

    one, two, three = queue.rows("select * from dlq.audit_log where id > %s order by id", before)
    assert (one["action"], one["object"], one["key"], one["reason"]) == (
        "replay", "dlq.replays", str(done["id"]), "mended",
    )  # fmt: skip
    assert {name: value for name, value in one["after"].items() if not str(value).startswith("hmac:")} == {
        "service": "shop", "status": "failed", "max_entries": 1000, "per_minute": 6, "matched": 1, "entries": 1,
    }  # fmt: skip
    assert {name for name, value in one["after"].items() if str(value).startswith("hmac:")} == {
        "error_text", "phone_number",
    }  # fmt: skip
    assert done["filters"]["phone_number"] == one["after"]["phone_number"]
    assert done["filters"]["phone_number"] == queue.one("select dlq._keyed_digest('\"15550100123\"') #>> '{}'")
    assert (two["after"]["entries"], two["after"]["matched"]) == (5, 20)
    assert (three["action"], three["key"], three["reason"], three["after"]) == (
        "cancel_replay", str(done["id"]), "it fails again", {"entries": 1},
    )  # fmt: skip
    assert queue.entry(entry_id)["status"] == "failed"


def test_a_person_who_is_forgotten_is_forgotten_in_its_filters_too(queue: Queue) -> None:
    fail(queue, "shop", None, "no account 15550100123", phone_number="+15550100123")
    insert(queue, 2)
    done = replay(queue, error_text="account 15550100123", phone_number="+15550100123")
    other = replay(queue, error_text="155501001234")
    queue.conn.execute("select dlq.erase('+15550100123', 'request of 3 March')")
    for table in ("dlq.replays", "dlq.replayed_entries", "dlq.audit_log"):
        assert queue.one(f"select count(*) from {table} as t where t::text ~ '(^|[^0-9])15550100123($|[^0-9])'") == 0
    (kept,) = queue.rows("select filters from dlq.replays where id = %s", done["id"])
    assert kept["filters"]["error_text"].startswith("hmac:")
    assert queue.one("select filters ->> 'error_text' from dlq.replays where id = %s", other["id"]) == "155501001234"
    assert progress(queue, done["id"]) == {"discarded": 1}
    assert cancel(queue, done["id"]) == 0


def test_twice_is_once(queue: Queue) -> None:
    insert(queue, 3)
    assert replay(queue, per_minute=1)["entries"] == 3
    after = states(queue)
    assert replay(queue)["entries"] == 0
    assert states(queue) == after


def test_it_is_undone_with_its_transaction(queue: Queue) -> None:
    insert(queue, 3)
    before, acts = states(queue), queue.one("select count(*) from dlq.audit_log")
    with queue.conn.transaction(force_rollback=True):
        assert replay(queue)["entries"] == 3
    assert (states(queue), queue.one("select count(*) from dlq.audit_log")) == (before, acts)
    assert queue.one("select (select count(*) from dlq.replays) + (select count(*) from dlq.replayed_entries)") == 0


# Beside others.


def test_the_processor_passes_by_what_a_replay_holds_and_a_replay_leaves_what_others_have_moved(
    queue: Queue, database: str
) -> None:
    entries = insert(queue, 5)
    other = queue.store(payload="other")
    queue.make_due(other)
    with psycopg.connect(database) as person:
        assert Queue(person).one("select (dlq.replay('thinking', max_entries => 3)).entries") == 3
        queue.conn.execute("set statement_timeout = '10s'")
        assert queue.dispatch() == 1
        person.rollback()
    with psycopg.connect(database) as person:
        person.execute("select dlq.discard(%s, 'a test')", (entries[0],))
        done: list[dict[str, Any]] = []
        waiting = threading.Thread(target=lambda: done.append(replay(queue)))
        waiting.start()
        _await_a_lock(person, waiting)
        person.commit()
        waiting.join(20)
    assert (done[0]["matched"], done[0]["entries"]) == (5, 4)
    assert queue.entry(entries[0])["status"] == "discarded"


def test_two_replays_at_once_share_the_work(queue: Queue, database: str) -> None:
    entries = insert(queue, 6)
    with psycopg.connect(database) as person:
        assert replay(Queue(person), max_entries=3)["entries"] == 3
        done: list[dict[str, Any]] = []
        waiting = threading.Thread(target=lambda: done.append(replay(queue, max_entries=3)))
        waiting.start()
        _await_a_lock(person, waiting)
        person.commit()
        waiting.join(20)
    assert (done[0]["matched"], done[0]["entries"]) == (3, 3)
    assert set(of(queue, done[0]["id"])) == set(entries[3:])


def _await_a_lock(conn: psycopg.Connection, waiting: threading.Thread) -> None:
    """Wait until somebody waits for this session."""
    for _ in range(2000):
        row = conn.execute(
            "select count(*) from pg_stat_activity where pg_backend_pid() = any (pg_blocking_pids(pid))"
        ).fetchone()
        if row and row[0]:
            return
        assert waiting.is_alive()
        waiting.join(0.01)
    raise AssertionError("nobody waits")


def test_beside_a_running_cycle_each_is_sent_once(queue: Queue, database: str) -> None:
    insert(queue, 300)
    queue.conn.execute("update dlq.endpoints set max_in_flight = 1000")
    stop = threading.Event()
    failures: list[Exception] = []

    def engine() -> None:
        try:
            with psycopg.connect(database, autocommit=True) as conn:
                while not stop.is_set():
                    conn.execute("select process_dlq_entries()")
                    conn.execute(
                        "with taken as (delete from net.http_request_queue returning id)"
                        " insert into net._http_response (id, status_code) select id, 200 from taken"
                    )
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=engine)
    thread.start()
    try:
        cancelled = 0
        while (done := replay(queue, max_entries=40, at_once=25))["entries"]:
            go_on(queue, done["id"])
            if done["id"] % 2:
                cancelled += cancel(queue, done["id"])
    finally:
        for _ in range(500):
            if (
                queue.one("select count(*) from webhook_dlq where status <> 'reprocessed'") == 0
                or not thread.is_alive()
            ):
                break
            thread.join(0.02)
        stop.set()
        thread.join(20)
    assert failures == []
    assert queue.one("select count(*) from webhook_dlq where status = 'reprocessed' and attempt_count = 7") == 300
    assert queue.one("select count(*) from dlq.delivery_attempts") == 300
    assert queue.one("select count(*) from dlq.replayed_entries where put_back") == cancelled
    assert queue.one("select sum(reprocessed + put_back) from dlq.replay_progress") == 300 + cancelled


# What is old.


def test_a_row_goes_with_its_entry_and_a_replay_with_its_last_row(queue: Queue, clock: Clock) -> None:
    entries = insert(queue, 3)
    done = replay(queue, per_minute=1)
    queue.attempt(entries[0], 200)
    queue.conn.execute("delete from webhook_dlq where id = %s", (entries[1],))
    assert progress(queue, done["id"]) == {"reprocessed": 1, "waiting": 1, "removed": 1}

    clock.set_forward("31 days")
    queue.conn.execute("call dlq.maintain()")
    assert progress(queue, done["id"]) == {"waiting": 1, "removed": 2}
    assert queue.one("select count(*) from dlq.replayed_entries") == 2, "a person's deletion is found with the replay"

    queue.conn.execute("delete from webhook_dlq where id = %s", (entries[2],))
    clock.set_forward("29 days")
    queue.conn.execute("call dlq.maintain()")
    assert queue.one("select count(*) from dlq.replays") == 1
    clock.set_forward("32 days")
    queue.conn.execute("call dlq.maintain()")
    assert queue.one("select (select count(*) from dlq.replays) + (select count(*) from dlq.replayed_entries)") == 0


# By each role.


def test_admins_may_and_nobody_else_may(queue: Queue, database: str) -> None:
    insert(queue, 2)
    queue.conn.execute("create role replayer login in role dlq_admin")
    try:
        with psycopg.connect(make_conninfo(database, user="replayer"), autocommit=True) as conn:
            theirs = Queue(conn)
            assert preview(theirs)["entries"] == 2
            done = replay(theirs, per_minute=1)
            assert (done["entries"], done["replayed_by"]) == (2, "replayer")
            assert progress(theirs, done["id"]) == {"waiting": 2}
            assert cancel(theirs, done["id"]) == 2
            for table in ("dlq.replays", "dlq.replayed_entries"):
                assert theirs.rows(f"select * from {table}")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    theirs.conn.execute(f"delete from {table}".encode())
    finally:
        queue.conn.execute("drop role replayer")
    for role in ("dlq_reader", "dlq_writer", "dlq_net_worker"):
        for statement in (
            "select dlq.preview_replay()",
            "select dlq.replay('x')",
            f"select dlq.cancel_replay({done['id']}, 'x')",
            "select * from dlq.replay_progress",
            "select id from dlq.replays",
            "select replay_id from dlq.replayed_entries",
            "select dlq._replayable(null, 'failed', null, null, null, null, null)",
        ):
            with queue.conn.transaction(force_rollback=True):
                queue.conn.execute(f"set local role {role}".encode())
                with pytest.raises(psycopg.errors.InsufficientPrivilege), queue.conn.transaction():
                    queue.conn.execute(statement.encode())


def test_what_is_erased_is_not_replayed(queue: Queue) -> None:
    entry_id = queue.store(phone_number="+15550100123")
    queue.attempt(entry_id, 410)
    queue.conn.execute("select dlq.erase('+15550100123', 'x')")
    assert queue.one("select entries from dlq.replay('mended')") == 0
    assert queue.entry(entry_id)["status"] == "failed"
