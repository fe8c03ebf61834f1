"""docs/handlers.md as it stands there: what its handlers do with a webhook, with a retry, and with the same again."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests import edge
from tests.pages.pages import IS_CHECKOUT, blocks_in

pytestmark = pytest.mark.skipif(not IS_CHECKOUT, reason="not in a checkout")

PAGE = "docs/handlers.md"

Post = Callable[..., int]


def one(conn: psycopg.Connection, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def login(conn: psycopg.Connection, database: str) -> str:
    """The DSN of a login that has what the page says a handler needs; the page's tables are there."""
    (tables,) = (block for block in blocks_in(PAGE, "sql") if "create table" in block)
    conn.execute(tables.encode())
    if not one(conn, "select count(*) from pg_roles where rolname = 'page_handler'"):
        conn.execute("create role page_handler login in role dlq_writer")
    conn.execute("grant select, insert, delete on orders, taken to page_handler")
    return make_conninfo(database, user="page_handler")


@pytest.fixture
def post(login: str, monkeypatch: pytest.MonkeyPatch) -> Post:
    """Call the page's WSGI application, and return the status that it answers."""
    (source,) = blocks_in(PAGE, "python")
    names: dict[str, Any] = {}
    exec(compile(source, PAGE, "exec"), names)

    def post(body: bytes, dsn: str = login, **headers: str) -> int:
        monkeypatch.setenv("DATABASE_URL", dsn)
        answered: list[str] = []
        environ: dict[str, Any] = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        setup_testing_defaults(environ)
        names["application"](environ, lambda status, headers: answered.append(status))
        return int(answered[0].split()[0])

    return post


def order(number: int, total: int = 5) -> bytes:
    return json.dumps({"id": number, "total": total}).encode()


def test_the_work_is_done_or_its_failure_is_stored_and_never_half(conn: psycopg.Connection, post: Post) -> None:
    assert post(order(1)) == 200
    assert post(order(2, total=0), x_from="shop") == 200
    assert post(b"no JSON") == 200

    assert conn.execute("select id from orders").fetchall() == [(1,)]
    assert conn.execute("select event from taken").fetchall() == [("1",)], "undone with its work"
    stored = conn.execute("select raw_body, headers, error_message from webhook_dlq order by created_at").fetchall()
    assert [bytes(row[0]) for row in stored] == [order(2, total=0), b"no JSON"]
    assert stored[0][1] == {"x-from": "shop"}
    assert "CheckViolation" in stored[0][2]


def test_a_retry_that_fails_again_makes_no_second_entry_and_says_so(conn: psycopg.Connection, post: Post) -> None:
    post(order(2, total=0))
    entry = str(one(conn, "select id from webhook_dlq"))

    assert post(order(2, total=0), dlq_entry=entry) == 500
    assert one(conn, "select count(*) from webhook_dlq where duplicate_of is null") == 1


def test_what_cannot_be_stored_is_the_providers_again(conn: psycopg.Connection, login: str, post: Post) -> None:
    assert post(order(1), dsn="postgresql://nobody@127.0.0.1:1/nowhere") == 503

    conn.execute("alter table webhook_dlq add constraint full_up check (service <> 'shop')")
    assert post(order(2, total=0)) == 503
    assert one(conn, "select count(*) from orders") == 0


def test_a_webhook_that_comes_twice_is_taken_once(conn: psycopg.Connection, post: Post) -> None:
    assert [post(order(1)), post(order(1)), post(order(1), dlq_entry="01a20d9a-eaa1-7f5c-b53d-60912fff3cfe")] == [
        200
    ] * 3

    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(post(order(2)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [200] * 4
    assert conn.execute("select id from orders order by id").fetchall() == [(1,), (2,)]
    assert one(conn, "select count(*) from webhook_dlq") == 0


def test_what_is_taken_can_be_forgotten(conn: psycopg.Connection, post: Post) -> None:
    post(order(1))
    conn.execute("update taken set at = now() - interval '91 days'")
    (forget,) = (block for block in blocks_in(PAGE, "sql") if block.startswith("delete"))
    assert conn.execute(forget.encode()).rowcount == 1


def test_what_is_stored_with_other_data_is_undone_with_it(conn: psycopg.Connection, login: str) -> None:
    (outbox,) = (block for block in blocks_in(PAGE, "sql") if block.startswith("begin"))
    with psycopg.connect(login, autocommit=True) as handler:
        handler.execute(outbox.replace("commit", "rollback").encode())
        assert one(conn, "select count(*) from webhook_dlq") == 0
        handler.execute(outbox.encode())
    assert one(conn, "select payload ->> 'order' from webhook_dlq join orders on orders.id = 7") == "7"


def test_the_edge_function_takes_keeps_or_refuses(conn: psycopg.Connection, login: str, tmp_path: Path) -> None:
    (source,) = blocks_in(PAGE, "ts")
    (tmp_path / "index.ts").write_text(source)
    with edge.open_door(login) as door:
        keys = {"SUPABASE_URL": door.url, "SUPABASE_SERVICE_ROLE_KEY": edge.SERVICE_KEY}
        with edge.serve(tmp_path, keys) as url:
            sent = {"x-from": "shop", "authorization": "Bearer x"}
            assert httpx.post(url, content=order(1), headers=sent, trust_env=False).status_code == 200
            assert httpx.post(url, content=b"\xff\x00", headers=sent, trust_env=False).status_code == 200
            door.is_open = False
            assert httpx.post(url, content=order(3), trust_env=False).status_code == 503
        door.is_open = True
        with edge.serve(tmp_path, {**keys, "STOCK": "1"}) as url:
            assert httpx.post(url, content=order(4), trust_env=False).status_code == 200

    stored = conn.execute("select raw_body, headers, error_message from webhook_dlq order by created_at").fetchall()
    assert [bytes(row[0]) for row in stored] == [order(1), b"\xff\x00"]
    assert stored[0][1:] == ({"x-from": "shop"}, "Error: no stock")
