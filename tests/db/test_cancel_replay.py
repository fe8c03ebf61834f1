"""dlq.cancel_replay(): what has not been tried is again what it was, and nothing else changes."""

from __future__ import annotations

import threading

import psycopg
import pytest

from tests.conftest import Clock
from tests.db.conftest import Queue
from tests.db.replaying import cancel, insert, progress, replay, states


@pytest.mark.parametrize("status", ["failed", "discarded", "reprocessed", "pending"])
def test_a_cancelled_replay_leaves_what_was_tried_and_puts_back_the_rest(
    queue: Queue, clock: Clock, status: str
) -> None:
    entries = insert(queue, 8, status=status)
    before = states(queue)
    done = replay(queue, status=status, per_minute=1)
    clock.set_forward("3 minutes 1 second")
    assert queue.dispatch() == 3
    queue.answer(entries[0], 200)
    queue.answer(entries[1], 500)
    queue.collect()
    assert queue.one("select dlq.discard(%s, 'not this one')", entries[3]) is True
    assert queue.one("select dlq.retry(%s, 'this one first')", entries[4]) is True
    tried = states(queue)
    assert progress(queue, done["id"]) == {
        "waiting": 4, "processing": 1, "reprocessed": 1, "retrying": 1, "discarded": 1,
    }  # fmt: skip

    assert cancel(queue, done["id"]) == 3

    after = states(queue)
    for entry_id in entries[:5]:
        assert after[entry_id] == tried[entry_id]
    for entry_id in entries[5:]:
        assert after[entry_id] == before[entry_id]
    assert progress(queue, done["id"])["put_back"] == 3
    (kept,) = queue.rows("select cancelled_by, cancelled_at > replayed_at as later from dlq.replays")
    assert kept == {"cancelled_by": "postgres", "later": True}

    acts = queue.one("select count(*) from dlq.audit_log")
    assert cancel(queue, done["id"]) == 0
    assert queue.one("select count(*) from dlq.audit_log") == acts
    again = {"failed": 3, "discarded": 3 + 1, "reprocessed": 3 + 1, "pending": 3 + 2}
    assert replay(queue, status=status)["entries"] == again[status]


def test_what_is_put_back_can_be_replayed_again(queue: Queue) -> None:
    insert(queue, 2)
    first = replay(queue, per_minute=1)
    assert cancel(queue, first["id"]) == 2
    second = replay(queue, per_minute=1)
    assert second["entries"] == 2
    assert cancel(queue, first["id"]) == 0, "they are the second's"
    assert progress(queue, first["id"]) == {"put_back": 2}
    assert cancel(queue, second["id"]) == 2


def test_what_was_tried_stays_whatever_its_times_are(queue: Queue) -> None:
    entries = insert(queue, 2)
    done = replay(queue, per_minute=1)
    queue.conn.execute("update webhook_dlq set attempt_count = 7 where id = %s", (entries[0],))
    assert cancel(queue, done["id"]) == 1
    assert [states(queue)[entry_id]["status"] for entry_id in entries] == ["pending", "failed"]


def test_two_replays_of_one_moment_are_told_apart(queue: Queue) -> None:
    insert(queue, 2)
    with queue.conn.transaction():
        first = replay(queue)
        assert cancel(queue, first["id"]) == 2
        second = replay(queue)
        assert cancel(queue, first["id"]) == 0
    assert progress(queue, second["id"]) == {"waiting": 2}


def test_a_part_of_it_is_what_was_stored_last_and_no_more_is_taken_then(queue: Queue) -> None:
    insert(queue, 6)
    # Ids as of the time when they were stored: n is how many hours ago.
    number = "overlay(id::text placing lpad((9 - payload::integer)::text, 8, '0') from 1 for 8)::uuid"
    queue.conn.execute(f"update webhook_dlq set id = {number}".encode())
    before = states(queue)
    entries = sorted(before)
    done = replay(queue, per_minute=1, at_once=5)
    moved = states(queue)
    assert cancel(queue, done["id"], at_once=2) == 2
    after = states(queue)
    assert [entry_id for entry_id in entries if after[entry_id] != moved[entry_id]] == entries[3:5]
    assert all(after[entry_id] == before[entry_id] for entry_id in entries[3:5])
    with pytest.raises(psycopg.Error, match="cannot be continued"):
        queue.one("select (dlq.continue_replay(%s)).id", done["id"])
    assert [cancel(queue, done["id"], at_once=2) for _ in range(3)] == [2, 1, 0]
    assert states(queue) == before
    acts = queue.rows("select after from dlq.audit_log where action = 'cancel_replay' order by id")
    assert [act["after"] for act in acts] == [{"entries": 2}, {"entries": 2}, {"entries": 1}]


def test_a_part_is_of_what_was_not_tried(queue: Queue, clock: Clock) -> None:
    entries = insert(queue, 4)
    done = replay(queue, per_minute=1)
    clock.set_forward("2 minutes 1 second")
    assert queue.dispatch() == 2
    assert cancel(queue, done["id"], at_once=2) == 2
    assert [states(queue)[entry_id]["status"] for entry_id in entries] == ["processing"] * 2 + ["failed"] * 2


def test_what_somebody_moves_meanwhile_stays_as_they_have_made_it(queue: Queue, database: str) -> None:
    entries = insert(queue, 2)
    done = replay(queue, per_minute=1)
    with psycopg.connect(database) as person, psycopg.connect(database, autocommit=True) as other:
        person.execute("select dlq.discard(%s, 'not this one')", (entries[0],))
        thread = threading.Thread(target=other.execute, args=("select dlq.cancel_replay(%s, 'x')", (done["id"],)))
        queue.meets_a_lock(thread, other)
        person.commit()
        thread.join()
    assert [states(queue)[entry_id]["status"] for entry_id in entries] == ["discarded", "failed"]
    assert progress(queue, done["id"]) == {"discarded": 1, "put_back": 1}


@pytest.mark.parametrize("at_once", [0, -1, 100_001])
def test_a_part_has_a_size(queue: Queue, at_once: int) -> None:
    insert(queue, 1)
    done = replay(queue, per_minute=1)
    with pytest.raises(psycopg.Error, match="cannot be put back at once"):
        cancel(queue, done["id"], at_once=at_once)
    assert progress(queue, done["id"]) == {"waiting": 1}


@pytest.mark.parametrize("replay_id", [None, 7])
def test_a_cancel_wants_a_replay_and_a_reason(queue: Queue, replay_id: int | None) -> None:
    insert(queue, 1)
    done = replay(queue, per_minute=1)
    for number, reason in ((replay_id, "x"), (done["id"], " "), (done["id"], None)):
        with pytest.raises(psycopg.Error) as caught:
            queue.one("select dlq.cancel_replay(%s::bigint, %s)", number, reason)
        assert caught.value.diag.sqlstate == "WD002"
    assert progress(queue, done["id"]) == {"waiting": 1}


def test_a_cancel_is_undone_with_its_transaction(queue: Queue) -> None:
    insert(queue, 2)
    done = replay(queue, per_minute=1)
    with queue.conn.transaction(force_rollback=True):
        assert cancel(queue, done["id"]) == 2
    assert progress(queue, done["id"]) == {"waiting": 2}
