"""What the tests of the net-worker have in common: a worker, a receiver that misbehaves, and how to ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

WORKER = "net_test_worker"
Connection = psycopg.Connection[tuple[Any, ...]]

# Gives up a connection sooner than in earnest, at both ends.
_SILENCE = """
from dlqctl import net_queue as queue
queue.SILENCE_SECONDS = {}
queue._SESSION = queue._SESSION.replace("idle_session_timeout = '30s'", "idle_session_timeout = '{}'")
"""


class Worker:
    """A worker process as a role with no more than dlq_net_worker's rights.

    `constants` are those of dlqctl.net_worker; `silence` is SILENCE_SECONDS of dlqctl.net_queue.
    """

    def __init__(
        self,
        dsn: str,
        slots: int = 50,
        workers: int = 1,
        user: str = WORKER,
        constants: Mapping[str, float] | None = None,
        silence: float | None = None,
        **environment: str,
    ) -> None:
        code = ["from dlqctl import net_worker as worker"]
        code += [f"worker.{name} = {value}" for name, value in (constants or {}).items()]
        if silence is not None:
            code += [_SILENCE.format(silence, f"{silence * 1000:.0f}ms")]
        code += [f"worker.run(workers={workers}, concurrency={slots})"]
        without_proxies = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", "\n".join(code)],
            env=without_proxies | {"DLQCTL_DATABASE_URL": make_conninfo(dsn, user=user)} | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            # The second is what one says whose first connection failed.
            until(lambda: self._has_started(workers) or self.process.poll() is not None, seconds=60)
            assert self.process.poll() is None
        except AssertionError:
            self.end()
            pytest.fail(f"the worker does not start; it said: {self.lines}")

    def _has_started(self, workers: int) -> bool:
        return self.count("started on") + self.count("connected again to") >= workers

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            self.lines.extend(stderr)

    def count(self, words: str) -> int:
        return sum(words in line for line in self.lines)

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self) -> int:
        status = self.process.wait(timeout=20)
        self._reader.join(timeout=20)
        return status

    def end(self) -> None:
        """Have it gone, however it is."""
        self.process.kill()
        self.wait()


Start = Callable[..., Worker]


REPLIES = {
    "/ok": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    "/none": b"HTTP/1.1 204 No Content\r\nX-Twice: a\r\nX-Twice: b\r\n\r\n",
    "/moved": b"HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n",
    "/utf8": b"HTTP/1.1 200 OK\r\nX-Odd: \xff\r\nContent-Length: 6\r\n\r\na\xff\x00b\xc3\xa9",
    "/big": b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000,
    "/early": b"HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
    "/empty": b"",
    "/short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
    "/chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "/ssh": b"SSH-2.0-OpenSSH_9.2p1\r\n",
}
CLOSING = ("/empty", "/short", "/chunk", "/ssh")


class Receiver:
    """A server on loopback that misbehaves by path. What comes to /gate is answered once the gate is open."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._gate = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = self._call(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    def url(self, path: str) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{path}"

    def open_gate(self) -> None:
        self._loop.call_soon_threadsafe(self._gate.set)

    def count(self, path: str) -> int:
        return sum(seen == path for seen, _, _ in list(self.seen))

    def close(self) -> None:
        self._call(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=20)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._converse, "127.0.0.1", 0, backlog=2048, ssl=self._tls)

    async def _finish(self) -> None:
        self._server.close()
        self._gate.set()
        for writer in self._writers:
            writer.transport.abort()
        while self._writers:
            await asyncio.sleep(0.01)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._answer_one(reader, writer):
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self._writers.discard(writer)

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.readexactly(1)
        if first == b"\x16":  # TLS, to a plain port
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name: value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("Content-Length", 0)))
        path = head[0].split(" ")[1]
        self.seen.append((path, headers, body))
        if path == "/gate":
            await self._gate.wait()
        elif path == "/hang":
            await reader.read()
        elif path == "/reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        writer.write(REPLIES.get(path, REPLIES["/ok"]))
        return path not in CLOSING


def scalar(conn: Connection, query: str, *parameters: object) -> Any:
    row = conn.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def post(conn: Connection, url: str, count: int = 1, timeout: int = 20_000) -> list[int]:
    rows = conn.execute(
        "select net.http_post(url := %s, body := jsonb_build_object('n', n), timeout_milliseconds := %s)"
        " from generate_series(1, %s) as n",
        (url, timeout, count),
    )
    return [row[0] for row in rows]


def insert(conn: Connection, url: str, headers: object) -> int:
    """Queue a request past net.http_post()'s checks."""
    return int(
        scalar(
            conn,
            "insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)"
            " values ('POST', %s, %s, '{}', 5000) returning id",
            url,
            Jsonb(headers),
        )
    )


def answered(conn: Connection) -> int:
    return int(scalar(conn, "select count(*) from net._http_response"))


def queued(conn: Connection) -> int:
    return int(scalar(conn, "select count(*) from net.http_request_queue"))


def answer(conn: Connection, request_id: int) -> dict[str, Any]:
    """Wait for the one answer to the request."""
    query = b"select * from net._http_response where id = %s"
    until(lambda: conn.execute(query, (request_id,)).fetchone())
    cursor = conn.execute(query, (request_id,))
    assert cursor.description is not None
    (row,) = cursor.fetchall()
    return dict(zip((column.name for column in cursor.description), row, strict=True))


def failure(conn: Connection, request_id: int) -> str:
    """The error_msg of a request that must have failed, with nothing else on record."""
    row = answer(conn, request_id)
    assert row["timed_out"] is False
    assert {row[column] for column in ("status_code", "content_type", "headers", "content")} == {None}
    return str(row["error_msg"])
