"""dlq.collect_responses(): which answers are believed, and what is kept of them."""

from __future__ import annotations

import psycopg

from tests.db.conftest import Queue


def test_an_attempt_is_recorded_once_with_what_was_answered(queue: Queue) -> None:
    entry_id = queue.store()
    queue.attempt(entry_id, 503, content="out of order")
    (attempt,) = queue.attempts(entry_id)
    assert (attempt["attempt"], attempt["outcome"], attempt["status_code"]) == (1, "http_error", 503)
    assert (attempt["error"], attempt["reply"], attempt["service"]) == ("HTTP 503", "out of order", "shop")
    assert attempt["dispatched_at"] < attempt["settled_at"]
    assert queue.collect() == (0, 0, 0)


def test_an_answer_to_another_request_is_not_believed(queue: Queue) -> None:
    entry_id = queue.store()
    request_id = queue.send(entry_id)
    queue.conn.execute("insert into net._http_response (id, status_code) values (%s, 200)", (request_id + 1,))
    assert queue.collect() == (0, 0, 0)
    assert queue.entry(entry_id)["status"] == "processing"


def test_an_old_answer_with_the_same_id_is_not_believed(queue: Queue) -> None:
    entry_id = queue.store()
    request_id = queue.send(entry_id)
    queue.conn.execute(
        "insert into net._http_response (id, status_code, created) values (%s, 200, now() - interval '1 hour')",
        (request_id,),
    )
    assert queue.collect() == (0, 0, 0)


def test_an_answer_older_than_its_request_is_not_believed_beside_an_older_request(queue: Queue) -> None:
    older, newer = queue.store(payload=1), queue.store(payload=2)
    queue.send(older)
    queue.conn.execute("update dlq.in_flight set dispatched_at = now() - interval '2 hours'")
    request_id = queue.send(newer)
    queue.conn.execute(
        "insert into net._http_response (id, status_code, created) values (%s, 200, now() - interval '1 hour')",
        (request_id,),
    )
    assert queue.collect() == (0, 0, 0)


def test_an_answer_created_a_little_before_the_dispatch_is_believed(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.answer(entry_id, 200)
    queue.conn.execute("update net._http_response set created = created - interval '15 seconds'")
    assert queue.collect() == (1, 0, 0)


def test_an_id_that_was_answered_twice_makes_the_attempt_unanswered(queue: Queue) -> None:
    entry_id = queue.store()
    request_id = queue.send(entry_id)
    queue.answer(entry_id, 200)
    queue.conn.execute("insert into net._http_response (id, status_code) values (%s, 500)", (request_id,))
    assert queue.collect() == (0, 0, 1)
    entry = queue.entry(entry_id)
    assert (entry["status"], entry["retry_count"], entry["unanswered_count"]) == ("pending", 0, 1)


def test_an_id_that_was_handed_out_twice_makes_both_attempts_unanswered(queue: Queue) -> None:
    first, second = queue.store(payload=1), queue.store(payload=2)
    queue.send(first)
    queue.conn.execute("select setval(pg_get_serial_sequence('net.http_request_queue', 'id'), 1, false)")
    queue.conn.execute("alter table net.http_request_queue drop constraint http_request_queue_pkey")  # pg_net has none
    queue.send(second)
    assert queue.one("select count(distinct request_id) from dlq.in_flight") == 1
    queue.conn.execute("delete from net.http_request_queue")
    queue.conn.execute(
        "insert into net._http_response (id, status_code) select distinct request_id, 200 from dlq.in_flight"
    )
    assert queue.collect() == (0, 0, 2)
    assert {row["status"] for row in queue.rows("select status from webhook_dlq")} == {"pending"}


def test_an_id_that_was_answered_before_it_was_ours_delivers_nothing(queue: Queue) -> None:
    """A stranger sets the ids back, and empties the queue: the only answer to our request is to an older one."""
    queue.attempt(queue.store(payload=1), 200)
    queue.conn.execute("truncate net.http_request_queue restart identity")
    entry_id = queue.store(payload=2)
    queue.send(entry_id)
    queue.conn.execute("truncate net.http_request_queue")
    assert queue.collect() == (0, 0, 0)
    assert queue.one("select unanswered from dlq.requeue_lost()") == 1
    assert queue.entry(entry_id)["status"] == "pending"
    queue.conn.execute("select setval('net.http_request_queue_id_seq', 1000)")
    queue.attempt(entry_id, 200)
    assert [a["outcome"] for a in queue.attempts(entry_id)] == ["unanswered", "delivered"]


def test_an_answer_that_cannot_be_read_does_not_stop_the_others(queue: Queue) -> None:
    bad, good = queue.store(payload="bad"), queue.store(payload="good")
    queue.send(bad)
    queue.send(good)
    queue.answer(bad, 200, content="poison")
    queue.answer(good, 200)
    queue.conn.execute(
        """
        create or replace function dlq._snippet(content text) returns text language plpgsql as $$
        begin
          if content = 'poison' then raise exception using errcode = '22021'; end if;
          return content;
        end $$
        """
    )
    assert queue.collect() == (1, 0, 1)
    assert queue.entry(good)["status"] == "reprocessed"
    assert queue.entry(bad)["status"] == "pending"
    (attempt,) = queue.attempts(bad)
    assert attempt["outcome"] == "unanswered"
    assert "22021" in attempt["error"]


def test_an_id_that_was_handed_out_twice_is_believed_for_neither_beside_an_answer_that_cannot_be_read(
    queue: Queue,
) -> None:
    first, second, bad = queue.store(payload=1), queue.store(payload=2), queue.store(payload=3)
    queue.send(first)
    queue.conn.execute("select setval(pg_get_serial_sequence('net.http_request_queue', 'id'), 1, false)")
    queue.conn.execute("alter table net.http_request_queue drop constraint http_request_queue_pkey")  # pg_net has none
    queue.send(second)
    queue.send(bad)
    queue.answer(first, 200)
    queue.answer(bad, 200)
    queue.conn.execute(
        "update net._http_response set headers = '[]' where id ="
        " (select request_id from dlq.in_flight where entry_id = %s)",
        (bad,),
    )
    assert queue.collect() == (0, 0, 3)


def test_an_answer_whose_bytes_are_not_utf8_is_kept_as_text_that_everybody_can_read(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.answer(entry_id, 500)
    with psycopg.connect(queue.conn.info.dsn, client_encoding="sql_ascii", autocommit=True) as raw:
        # A C program can store what SQL would refuse; this is the nearest way from here.
        raw.execute("update pg_catalog.pg_database set encoding = 0 where datname = current_database()")
    with psycopg.connect(queue.conn.info.dsn, client_encoding="sql_ascii", autocommit=True) as raw:
        raw.execute(b"update net._http_response set content = E'caf\\xe9 \\xff'")
        raw.execute("update pg_catalog.pg_database set encoding = 6 where datname = current_database()")
    with psycopg.connect(queue.conn.info.dsn, autocommit=True) as reader:
        reader.execute("select * from dlq.collect_responses()")
        row = reader.execute("select reply from dlq.delivery_attempts where entry_id = %s", (entry_id,)).fetchone()
    assert row == ("caf\\351 \\377",)


def test_a_long_answer_is_cut_at_a_character(queue: Queue) -> None:
    for content in ("x" * 5000, "é" * 5000, "x" + "日" * 5000, "🙂" * 999):
        snippet = queue.one("select dlq._snippet(%s)", content)
        assert content.startswith(snippet)
        assert 996 < len(snippet.encode()) <= 1000


def test_a_pass_beside_another_engine_does_nothing(queue: Queue, database: str) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.answer(entry_id, 200)
    with psycopg.connect(database) as other:
        other.execute("select dlq._engine_lock()")
        assert queue.collect() == (0, 0, 0)
        assert queue.one("select process_dlq_entries() ->> 'status'") == "busy"
    assert queue.collect() == (1, 0, 0)


def test_an_entry_that_was_deleted_in_flight_stops_nothing(queue: Queue) -> None:
    entry_id = queue.store()
    queue.send(entry_id)
    queue.answer(entry_id, 200)
    queue.conn.execute("delete from webhook_dlq")
    assert queue.one("select process_dlq_entries() ->> 'status'") == "ok"
    assert queue.one("select count(*) from dlq.in_flight") == 0
