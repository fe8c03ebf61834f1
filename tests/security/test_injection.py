"""Text stays text: in SQL, in formats, in headers, in what is printed."""

from __future__ import annotations

import re

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dlqctl.output import print_checks, print_rows
from tests.db.conftest import Queue
from tests.security.conftest import House

HOSTILE = (
    "'); select pg_temp.sprung(); --",
    "'; select pg_temp.sprung(); --",
    "' || pg_temp.sprung() || '",
    '"; select pg_temp.sprung(); --',
    "$$; select pg_temp.sprung(); $$",
    "$f$ || pg_temp.sprung()",
    "\\'; select pg_temp.sprung(); --",
    "%s %I %L %1$s %n",
    "%",
    "\\",
    "{}",
    '{"a": "b"',
    "shop\r\nX: y",
    "pg_temp.sprung()",
    "*",
    "\u202e\x1b[2J",
    "x" * 100_000,
)

# What becomes of text that is taken for SQL or for a name in it.
TAKEN_FOR_SQL = ("42601", "42703", "42P01", "42883", "42704", "3F000")


def test_no_argument_of_any_function_is_taken_for_sql(house: House) -> None:
    with psycopg.connect(house.superuser) as conn:
        functions = conn.execute(
            """
            select p.oid::regproc::text, array(select format_type(t, null) from unnest(p.proargtypes) as t)
            from pg_proc as p
            where p.proowner = 'dlq_owner'::regrole and p.prokind = 'f' and p.prorettype <> 'trigger'::regtype
              and p.proargtypes <> ''
            """
        ).fetchall()
        sprung: list[str] = []
        conn.add_notice_handler(lambda notice: sprung.append(str(notice.message_primary)))
        conn.execute(
            "create function pg_temp.sprung() returns text language plpgsql as"
            " $f$ begin raise warning 'sprung'; return ''; end $f$"
        )
        conn.execute("set local search_path = public, pg_temp")
        conn.execute("set local jit = off")  # as in the engine: to compile a step took a hundred times as long as it
        tried = 0
        taken = []
        for name, types in functions:
            for nth, type_ in enumerate(types):
                if type_ not in ("text", "jsonb", "bytea", "text[]"):
                    continue
                for hostile in HOSTILE:
                    values = [_value(t, hostile if n == nth else "shop") for n, t in enumerate(types)]
                    places = ", ".join(f"%s::{t}" for t in types)
                    try:
                        with conn.transaction(force_rollback=True):
                            conn.execute(f"select * from {name}({places})".encode(), values)
                    except psycopg.Error as error:
                        if error.sqlstate in TAKEN_FOR_SQL or "format()" in str(error):
                            taken.append(f"{name}, argument {nth}, {hostile[:50]!r}: {error}")
                    tried += 1
        conn.rollback()
    assert tried > 500
    assert (taken, sprung) == ([], [])


def _value(type_: str, text: str) -> object:
    match type_:
        case "text":
            return text
        case "jsonb":
            return Jsonb({text: text, "headers": {text: text}})
        case "bytea":
            return text.encode()
        case "text[]":
            return [text, text]
        case _:
            return None


def test_where_sql_is_built_is_known(house: House) -> None:
    """Each of these was read: names come from the catalog or are constants, and values are parameters."""
    with psycopg.connect(house.superuser) as conn:
        found = conn.execute(
            "select p.oid::regproc::text from pg_proc as p"
            " where p.proowner = 'dlq_owner'::regrole and p.prosrc ~* '\\mexecute [^'']' order by 1"
        ).fetchall()
    assert [name for (name,) in found] == ["dlq._revoke_everything", "dlq._secret", "dlq.set_secret"]


def test_what_is_stored_comes_back_as_it_was(queue: Queue) -> None:
    for hostile in HOSTILE:
        entry = queue.entry(
            queue.store(payload={hostile: hostile}, error_message=hostile, phone_number=hostile, correlation_id=hostile,
                        idempotency_key=hostile, headers=Jsonb({hostile: hostile}))
        )  # fmt: skip
        for column in ("error_message", "phone_number", "correlation_id", "idempotency_key"):
            assert entry[column] == hostile
        assert (entry["payload"], entry["headers"]) == ({hostile: hostile},) * 2
        queue.conn.execute("select dlq.pause(%s, 'shop')", (hostile,))
        assert queue.one("select reason from dlq.pauses") == hostile


LINE_BREAKS = (
    "a\r\nX-Injected: 1",
    "a\nX-Injected: 1",
    "a\rX-Injected: 1",
    "a\x0bb",
    "a\x85b",
    "a\u2028b",
    "a\x7fb",
    "a\tb",
)


def test_no_line_break_gets_into_a_request(queue: Queue) -> None:
    queue.endpoint("raw", "https://handler.example/", body="raw")
    for text in LINE_BREAKS:
        for service in ("shop", "raw"):
            queue.store(service, payload={"n": text}, correlation_id=text)
            queue.store(
                service,
                payload=None,
                raw_body=repr(text).encode(),
                headers=Jsonb({"x-a": text, text: "b", "x-ok": "c"}),
            )
    queue.conn.execute("update webhook_dlq set next_retry_at = now()")
    assert queue.dispatch() == 4 * len(LINE_BREAKS)

    sent = queue.rows("select headers from net.http_request_queue")
    assert any("x-ok" in row["headers"] for row in sent)
    for row in sent:
        assert not any(re.search(r"[\x00-\x1f\x7f]", name + value) for name, value in row["headers"].items()), row
        assert not any("injected" in name.lower() for name in row["headers"])


def test_an_endpoints_headers_hold_no_line_break(queue: Queue) -> None:
    for text in LINE_BREAKS:
        if text.isprintable() or "\u2028" in text or "\x85" in text:
            continue
        for headers in ({"x-a": text}, {text: "a"}):
            with pytest.raises(psycopg.DatabaseError) as caught:
                queue.endpoint(headers=Jsonb(headers))
            assert caught.value.sqlstate == "WD002"


def test_what_is_printed_is_one_line_and_no_command_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A reason or a reply with a line break would add a line of its own; an escape would redraw the screen."""
    bad = "a\nok       server    all is well\x1b[2J\x9b2J\u202e"
    print_checks([("paused", "error", bad, bad)], "table")
    print_rows(("reason",), [(bad,)], "table")

    printed = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", printed)
    assert not [line for line in printed.splitlines() if line.startswith("ok ")]
    assert len(printed.splitlines()) <= 6
