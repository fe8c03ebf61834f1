"""Handlers that fail in every way. Which, the seed, the webhook and the attempt decide: a storm can be replayed.

What they were asked and what they answered is their own log, against which the database's is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

TIMEOUT_MS = 1000  # of every endpoint in the storm
# How often, in thousandths, an attempt meets what.
KINDS = {
    "take": 430, "take slowly": 60, "take with a big reply": 10, "take with a reply that is not UTF-8": 30,
    "take too late": 30, "500": 90, "503 with Retry-After": 40, "429 with Retry-After": 40, "401": 30, "404": 20,
    "410": 5, "redirect": 20, "close": 50, "reset": 40, "hang": 35, "not HTTP": 20, "cut short": 20,
    "echo, 200": 15, "echo, 500": 10, "echo by insert": 15,
}  # fmt: skip
TAKES = {"take", "take slowly", "take with a big reply", "take with a reply that is not UTF-8", "take too late"}
# Of each hundred webhooks these never get through, as long as they are sent at all.
POISON = {7: "500", 27: "hang", 37: "410", 47: "echo, 200", 67: "not HTTP"}


@dataclass(frozen=True)
class Call:
    """One request and what became of it. `status` is what was answered, if it was HTTP; `took`: dealt with."""

    entry_id: UUID
    attempt: int
    kind: str
    at: float
    status: int | None
    took: bool


class Handlers:
    """Listens on loopback from `with Handlers(…) as handlers` until the block ends."""

    def __init__(self, seed: int, dsn: str) -> None:
        self.calm = False  # if set, everything is taken that is not poison
        self._seed = seed
        self._dsn = dsn
        self._calls: list[Call] = []
        self._lock = threading.Lock()
        self._few = asyncio.Semaphore(8)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Handlers:
        self._thread.start()
        listen = asyncio.start_server(self._converse, "127.0.0.1", 0, backlog=2048)
        self._server = asyncio.run_coroutine_threadsafe(listen, self._loop).result(10)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def calls(self) -> list[Call]:
        with self._lock:
            return list(self._calls)

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/{service}"

    def kinds(self) -> Counter[str]:
        return Counter(call.kind for call in self.calls)

    async def _finish(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._answer_one(reader, writer):
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # senders hang up, and storms end
        finally:
            self._tasks.discard(task)
            writer.close()

    def _choose(self, n: int, entry_id: UUID, attempt: int) -> str:
        if n % 100 in POISON:
            return POISON[n % 100]
        if self.calm:
            return "take"
        dice = random.Random(f"{self._seed} {n} {attempt}")
        return dice.choices(list(KINDS), list(KINDS.values()))[0]

    def _log(self, entry_id: UUID, attempt: int, kind: str, status: int | None) -> None:
        took = kind in TAKES
        with self._lock:
            self._calls.append(Call(entry_id, attempt, kind, time.time(), status, took))

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = head[0].split(" ")
        if method != "POST":  # a redirect was followed: this is not the webhook
            writer.write(_reply(200))
            return True
        payload = json.loads(body)
        entry_id, attempt = UUID(headers["dlq-entry"]), int(headers["dlq-attempt"])
        kind = self._choose(int(payload["n"]), entry_id, attempt)
        service = path.removeprefix("/hooks/")

        def reply(status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> bool:
            self._log(entry_id, attempt, kind, status)
            writer.write(_reply(status, content, headers))
            return True

        match kind:
            case "take":
                status = random.Random(f"{payload['n']}").choice([200, 201, 202, 204])
                return reply(status, headers={"Location": "/made/1"} if status in (201, 202) else {})
            case "take slowly":
                await asyncio.sleep(0.2 + 0.0005 * TIMEOUT_MS)
                return reply(200)
            case "take too late":
                await asyncio.sleep(0.0015 * TIMEOUT_MS)
                return reply(200)
            case "take with a big reply":
                return reply(200, b"x" * 300_000)
            case "take with a reply that is not UTF-8":
                return reply(200, b"a\xff\xfeb\x00c\xc3")
            case "503 with Retry-After" | "429 with Retry-After":
                return reply(int(kind[:3]), headers={"Retry-After": "1200"})
            case "redirect":
                return reply(302, headers={"Location": "/elsewhere"})
            case "close" | "reset" | "hang" | "not HTTP" | "cut short":
                self._log(entry_id, attempt, kind, None)
                if kind == "reset":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(1, 13, linger)  # SOL_SOCKET, SO_LINGER
                elif kind == "hang":
                    await reader.read()  # until the sender has had enough
                elif kind == "not HTTP":
                    writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
                elif kind == "cut short":
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
                return False
            case "echo, 200" | "echo, 500" | "echo by insert":
                status = await self._store_again(kind, service, payload, headers)
                return reply(status)
        return reply(int(kind))

    async def _store_again(self, kind: str, service: str, payload: Any, headers: Mapping[str, str]) -> int:
        """What a careless handler does when it fails. Where it cannot even do that, it says 500."""
        try:
            async with self._few:
                conn = await psycopg.AsyncConnection.connect(
                    self._dsn, autocommit=True, connect_timeout=2, application_name="careless handler",
                    options="-c statement_timeout=4s",
                )  # fmt: skip
                async with conn:
                    if kind == "echo by insert":
                        statement = "insert into public.webhook_dlq (service, payload) values (%s, %s)"
                        await conn.execute(statement.encode(), (service, Jsonb(payload)))
                    else:
                        statement = "select public.store_dlq_entry(service => %s, payload => %s, headers => %s)"
                        await conn.execute(statement.encode(), (service, Jsonb(payload), Jsonb(dict(headers))))
        except psycopg.Error:
            return 500
        return 500 if kind == "echo, 500" else 200


def _reply(status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    if status != 204:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def quietly() -> contextlib.AbstractContextManager[None]:
    """What may go wrong with a connection in a storm, and is nobody's fault."""
    return contextlib.suppress(psycopg.Error, OSError)
