"""docs/signatures.md as it stands there: both handlers, taken from the page and run, and every command."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from dlqctl.bundle import ROOT
from dlqctl.cluster import loopback_is_direct
from dlqctl.receiver import Receiver, Reply, Request
from dlqctl.sandbox import Sandbox, command_env, sandbox
from dlqctl.signatures import InvalidSignature, sign_hub, verify_hub
from tests.edge import SERVICE_KEY, open_door, serve

PAGE = ROOT / "docs" / "signatures.md"
SECRET, NEW_SECRET = "a-secret-of-the-page", "its-successor"
BODY = b'{"entry":[{"id":1}]}'

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="not in a checkout")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with sandbox(net_worker=True) as box:
        with psycopg.connect(box.dsn, autocommit=True) as conn:
            conn.execute("create role handler login in role dlq_writer")
        yield box


@pytest.fixture
def conn(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """A connection as who installed; afterwards the queue is empty. The secret is there."""
    monkeypatch.setenv("no_proxy", loopback_is_direct()["no_proxy"])
    with psycopg.connect(box.dsn, autocommit=True) as conn:
        conn.execute("select dlq.set_secret('WHATSAPP_APP_SECRET', %s)", (SECRET,))
        yield conn
        conn.execute("set role dlq_owner")
        conn.execute("truncate webhook_dlq, dlq.delivery_attempts, dlq.in_flight, dlq.endpoints, dlq.secrets")


class Handler:
    """One of the page's handlers, running.

    While `failing` exists, its work cannot be done; within `no_database()` it cannot reach the database.
    """

    def __init__(
        self, url: str, failing: Path, no_database: Callable[[], contextlib.AbstractContextManager[None]]
    ) -> None:
        self.url = url
        self.failing = failing
        self.no_database = no_database

    def post(self, body: bytes, headers: dict[str, str]) -> int:
        sent = {"content-type": "application/json", "x-own": "1", "authorization": "Bearer x", **headers}
        return httpx.post(self.url, content=body, headers=sent, timeout=20).status_code


@contextlib.contextmanager
def python_handler(box: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handler]:
    (source,) = blocks("python")
    failing = folder / "failing"

    def take(webhook: Any) -> None:
        if failing.exists():
            raise RuntimeError("cannot \n do it")

    yours = types.ModuleType("yours")
    yours.take = take  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yours", yours)
    monkeypatch.setenv("WHATSAPP_APP_SECRETS", f"{NEW_SECRET} {SECRET}")
    monkeypatch.setenv("DATABASE_URL", box.cluster.url(user="handler"))
    names: dict[str, Any] = {}
    exec(compile(source, str(PAGE), "exec"), names)

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    @contextlib.contextmanager
    def no_database() -> Iterator[None]:
        with monkeypatch.context() as context:
            context.setenv("DATABASE_URL", "postgresql://handler@127.0.0.1:1/dlq")
            yield

    with make_server("127.0.0.1", 0, names["application"], handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Handler(f"http://127.0.0.1:{server.server_port}/", failing, no_database)
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def edge_function(box: Sandbox, folder: Path) -> Iterator[Handler]:
    (source,) = blocks("ts")
    failing = folder / "failing"
    (folder / "index.ts").write_text(source)
    (folder / "yours.ts").write_text(
        "export async function take(_webhook: unknown) {\n"
        f"  if (await Deno.stat({json.dumps(str(failing))}).then(() => true, () => false)) throw new Error('cannot');\n"
        "}\n"
    )

    @contextlib.contextmanager
    def no_database() -> Iterator[None]:
        door.is_open = False
        yield
        door.is_open = True

    with open_door(make_conninfo(box.dsn, user="handler")) as door:
        keys = {"SUPABASE_URL": door.url, "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY}
        with serve(folder, {**keys, "WHATSAPP_APP_SECRETS": f"{NEW_SECRET} {SECRET}"}) as url:
            yield Handler(url, failing, no_database)


@pytest.fixture(params=["python", "edge function"])
def handler(
    request: pytest.FixtureRequest,
    box: Sandbox,
    conn: psycopg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Handler]:
    """A handler of the page, and an endpoint that calls it."""
    running = python_handler(box, tmp_path, monkeypatch) if request.param == "python" else edge_function(box, tmp_path)
    with running as handler:
        conn.execute(
            "select dlq.set_endpoint('whatsapp', %s, true, true, signing => 'x-hub-signature-256', secret_names => %s)",
            (handler.url, ["WHATSAPP_APP_SECRET"]),
        )
        yield handler


def stored(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    return conn.execute("select status, retry_count from webhook_dlq where duplicate_of is null").fetchall()


def test_a_handler_of_the_page_keeps_what_it_promises(handler: Handler, conn: psycopg.Connection) -> None:
    signed = sign_hub(BODY, SECRET)
    assert handler.post(BODY, signed) == 200
    assert handler.post(BODY, sign_hub(BODY, NEW_SECRET)) == 200, "one takes the other's place"
    assert handler.post(BODY, sign_hub(BODY, "another")) == 401
    assert handler.post(BODY + b" ", signed) == 401
    assert handler.post(BODY, {}) == 401
    assert stored(conn) == [], "what was done, and what was refused, is not kept"

    handler.failing.touch()
    assert handler.post(BODY, sign_hub(BODY, "another")) == 401
    with handler.no_database():
        assert handler.post(BODY, signed) == 503, "the provider must deliver again"
    conn.execute("select dlq.set_secret('WHATSAPP_APP_SECRET', 'not the handler''s')")
    assert handler.post(BODY, signed) == 503, "the door has refused it: nothing was kept"
    assert stored(conn) == []

    conn.execute("select dlq.set_secret('WHATSAPP_APP_SECRET', %s)", (SECRET,))
    assert handler.post(BODY, signed) == 200
    assert handler.post(BODY, signed) == 200, "the same again is a duplicate"
    assert stored(conn) == [("pending", 0)]
    row = conn.execute("select raw_body, headers, error_message from webhook_dlq").fetchone()
    assert row is not None
    headers = {name.lower(): value for name, value in row[1].items()}
    assert bytes(row[0]) == BODY
    assert headers["x-own"] == "1"
    assert "authorization" not in headers
    assert "cannot" in row[2]


def test_our_retries_are_verified_by_the_same_handler_and_its_failures_of_them_count(
    handler: Handler, conn: psycopg.Connection, box: Sandbox
) -> None:
    handler.failing.touch()
    assert handler.post(BODY, sign_hub(BODY, SECRET)) == 200

    retry(conn)  # fails again: the handler stores it, and answers 200
    assert stored(conn) == [("pending", 1)]
    handler.failing.unlink()
    conn.execute("select dlq.set_secret('WHATSAPP_APP_SECRET', 'a wrong one')")
    retry(conn)
    conn.execute("select dlq.set_secret('WHATSAPP_APP_SECRET', %s)", (SECRET,))
    retry(conn)

    assert stored(conn) == [("reprocessed", 2)]
    attempts = conn.execute("select outcome, status_code from dlq.delivery_attempts order by attempt").fetchall()
    assert attempts == [("echoed", 200), ("http_error", 401), ("delivered", 200)]

    # A handler that has answered, and fails afterwards: the header names what it failed on.
    handler.failing.touch()
    row = conn.execute("select id::text, payload::text from webhook_dlq where duplicate_of is null").fetchone()
    assert row is not None
    sent = row[1].encode()
    assert handler.post(sent, {**sign_hub(sent, SECRET), "dlq-entry": row[0]}) == 200
    assert [status for status, _ in stored(conn)] == ["pending"], "the delivery is taken back"
    handler.failing.unlink()

    done = dlqctl(box, "verify-signatures", "--include-valid")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "1/1 handlers verify\n"


def retry(conn: psycopg.Connection) -> None:
    """Have what is pending sent, and its answer settled."""
    conn.execute("update webhook_dlq set next_retry_at = now() where status = 'pending'")
    deadline = time.monotonic() + 20
    before = conn.execute("select count(*) from dlq.delivery_attempts").fetchone()
    while conn.execute("select count(*) from dlq.delivery_attempts").fetchone() == before:
        assert time.monotonic() < deadline
        conn.execute("select process_dlq_entries()")
        time.sleep(0.02)


def dlqctl(box: Sandbox, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dlqctl", *words]
    return subprocess.run(command, input=stdin, env=command_env(box), capture_output=True, text=True, check=False)


def test_every_command_of_the_page_works(
    box: Sandbox, conn: psycopg.Connection, receiver: Receiver, tmp_path: Path
) -> None:
    def handler(request: Request, nth: int) -> Reply:
        try:
            verify_hub(request.body, dict(request.headers), [SECRET, NEW_SECRET])
        except InvalidSignature:
            return Reply(401)
        return Reply(200)

    receiver.behave("whatsapp", handler)
    (tmp_path / "secret.txt").write_text(f"{SECRET}\n")
    (tmp_path / "new-secret.txt").write_text(f"{NEW_SECRET}\n")
    set_up, measure, begin, end = blocks("sh")
    url = "https://example.com/hooks/whatsapp"
    script = "".join((set_up, measure, begin, measure, end))
    script = script.replace(url, receiver.url("whatsapp"))  # nothing leaves this machine
    script = script.replace("dlqctl endpoints set", "dlqctl endpoints set --allow-http --allow-private")
    script = script.replace("dlqctl ", f"{sys.executable} -m dlqctl ")
    assert "example.com" not in script
    done = subprocess.run(
        ["bash", "-euc", script], env=command_env(box), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("1/1 handlers verify") == 5
    assert conn.execute("select name from dlq.list_secrets()").fetchall() == [("WHATSAPP_APP_SECRET_2",)]
    retried = receiver.requests[-1]
    verify_hub(retried.body, dict(retried.headers), [NEW_SECRET])

    conn.execute("select dlq.set_secret('WHATSAPP_APP_SECRET', 'x')")
    check, copy = blocks("sql")
    row = conn.execute(check.encode()).fetchone()
    assert row == (False, "x-hub-signature-256 is not 64 hexadecimal digits long")
    if psql := shutil.which("psql"):
        (tmp_path / "copy.sql").write_text(copy)
        subprocess.run(
            [psql, "-qX", "-v", "ON_ERROR_STOP=1", "-f", "copy.sql"], env=command_env(box), cwd=tmp_path, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        conn.execute("set role dlq_owner")
        assert conn.execute("select dlq._secret('WHATSAPP_APP_SECRET')").fetchone() == (SECRET,)
