"""Webhook handlers for measuring: a fast HTTP server, in a process of its own.

dlqctl.receiver remembers every request whole, in a thread for each; here only the times are kept.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

_PHRASES = {200: "OK", 401: "Unauthorized", 500: "Internal Server Error", 503: "Service Unavailable"}


class Handlers:
    """The handlers, seen by the one who measures. Each service is a path, and takes everything unless told."""

    def __init__(self, port: int) -> None:
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)
        self.port = port

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.port}/{service}"

    def behave(self, service: str, *, status: int = 200, delay: float = 0, hang: float = 0) -> None:
        """Have a service answer with `status` after `delay` seconds, and leave a share `hang` without any answer."""
        rule = {"service": service, "status": status, "delay": delay, "hang": hang}
        self.http.post("/-/behave", json=rule).raise_for_status()

    def seen(self, service: str) -> list[float]:
        """When the requests for a service came in, in seconds of Unix time."""
        return [float(at) for at in self.http.post("/-/seen", json=service).json()]


@contextmanager
def handlers() -> Iterator[Handlers]:
    """Run the handlers until the block ends, or this process does."""
    process = subprocess.Popen([sys.executable, "-m", "bench.handlers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        theirs = Handlers(int(process.stdout.readline()))
        with theirs.http:
            yield theirs
    finally:
        process.communicate()  # ends its standard input, which ends it


_rules: defaultdict[str, dict[str, Any]] = defaultdict(lambda: {"status": 200, "delay": 0, "hang": 0})
_times: defaultdict[str, list[float]] = defaultdict(list)
_chance = random.Random(1)


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if not found or len(rest) < length:
            return
        self._buffer = rest[length:]
        name = head.split(b" ", 2)[1].decode()[1:]
        if name == "-/behave":
            rule = json.loads(rest[:length])
            _rules[rule["service"]] = rule
            self._answer(200)
        elif name == "-/seen":
            self._answer(200, json.dumps(_times[json.loads(rest[:length])]).encode())
        else:
            _times[name].append(asyncio.get_running_loop().time() + _EPOCH)
            rule = _rules[name]
            if _chance.random() < rule["hang"]:
                return  # the sender hangs up when it has waited enough
            if rule["delay"]:
                asyncio.get_running_loop().call_later(rule["delay"], self._answer, rule["status"])
            else:
                self._answer(rule["status"])

    def _answer(self, status: int, body: bytes = b"") -> None:
        head = f"HTTP/1.1 {status} {_PHRASES.get(status, 'Other')}\r\nContent-Length: {len(body)}\r\n\r\n"
        if not self._transport.is_closing():
            self._transport.write(head.encode() + body)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    import resource
    import time

    _EPOCH = time.time() - time.monotonic()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_serve())
