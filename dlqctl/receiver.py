"""An HTTP receiver on loopback that plays webhook handlers, good and bad, and remembers what it was sent."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

_HOOKS = "/hooks/"


@dataclass(frozen=True)
class Request:
    """One request as it came in. `headers` are looked up without regard to case."""

    service: str
    headers: Message
    body: bytes
    entry_id: str | None  # dlq-entry: a raw body may come with the provider's own webhook-id
    attempt: int | None  # dlq-attempt
    method: str = "POST"
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Reply:
    """What to answer, after `delay` seconds. `took`: the entry is dealt with (unless set, by a 2xx)."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    close: bool = False  # hang up without a word
    took: bool | None = None


# Is given the request and how many times this entry has come by now, this time included.
Behaviour = Callable[[Request, int], Reply]


def reply(status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Behaviour:
    """Always answer exactly this. A Content-Length among the headers is sent as it stands, right or wrong."""
    return lambda request, nth: Reply(status, body, headers or {})


def ok() -> Behaviour:
    """Take everything."""
    return reply(200, b"ok")


def always(status: int, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Always answer with this status."""
    return reply(status, f"always {status}".encode(), headers)


def fail_first(n: int, status: int = 500) -> Behaviour:
    """Answer `status` to the first `n` attempts of each entry, then take it."""
    return lambda request, nth: Reply(status, b"not yet") if nth <= n else Reply(200, b"ok")


def hang(seconds: float) -> Behaviour:
    """Answer 200 only after so many seconds. It counts as taken if the sender is still there."""
    return lambda request, nth: Reply(200, b"at last", delay=seconds)


def close_without_reply() -> Behaviour:
    """Read the request and hang up."""
    return lambda request, nth: Reply(close=True)


def store_again(
    dsn: str,
    how: Literal["function", "insert"] = "function",
    status: int = 200,
    *,
    with_headers: bool = True,
) -> Behaviour:
    """Fail as a careless handler does: catch, store the failure again, and answer `status` all the same.

    Through store_dlq_entry(), with the headers of the request unless told otherwise, or by a plain insert.
    """
    import psycopg
    from psycopg.types.json import Jsonb

    few = threading.BoundedSemaphore(8)  # hundreds of requests at once must not use up the connections

    def behaviour(request: Request, nth: int) -> Reply:
        payload = Jsonb(json.loads(request.body))
        headers = Jsonb({name.lower(): value for name, value in request.headers.items()})
        if how == "insert":
            statement = "insert into public.webhook_dlq (service, payload, error_message) values (%s, %s, %s)"
        else:
            statement = "select public.store_dlq_entry(service => %s, payload => %s, error_message => %s"
            statement += ", headers => %s)" if with_headers else ")"
        values = [request.service, payload, "failed again", headers][: statement.count("%s")]
        with few, psycopg.connect(dsn, autocommit=True, application_name="careless handler") as conn:
            conn.execute(statement, values)
        return Reply(status, b"stored for later", took=False)

    return behaviour


class Receiver:
    """The receiver, listening from `with Receiver() as receiver` until the block ends.

    Each service is a path and behaves as `behave` last said, else as `default`. GET /summary gives the
    counts as JSON. What is remembered may be read at any time, from any thread.
    """

    def __init__(self, default: Behaviour | None = None) -> None:
        self._default = default or ok()
        self._behaviours: dict[str, Behaviour] = {}
        self._requests: list[Request] = []
        self._attempts: Counter[tuple[str, str | None]] = Counter()
        self._accepted: dict[str, str] = {}
        self._errors: list[BaseException] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._nobody: dict[str, socket.socket] = {}
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and hang up on everybody, also on those who are kept waiting."""
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_all()
        for nobody in self._nobody.values():
            nobody.close()

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return int(self._server.server_address[1])

    def url(self, service: str) -> str:
        """Return where this service's webhooks go. `{service}` may stand for the name, as in a template."""
        return f"http://127.0.0.1:{self.port}{_HOOKS}{service}"

    def down(self, service: str) -> str:
        """Return a URL on a port where nobody listens, and nobody will while this receiver is open."""
        if service not in self._nobody:
            self._nobody[service] = socket.socket()
            self._nobody[service].bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        return f"http://127.0.0.1:{self._nobody[service].getsockname()[1]}{_HOOKS}{service}"

    def behave(self, service: str, behaviour: Behaviour) -> None:
        """Have a service behave like this from now on."""
        with self._changed:
            self._behaviours[service] = behaviour

    @property
    def requests(self) -> list[Request]:
        """Every request, in the order they came in."""
        with self._changed:
            return list(self._requests)

    def by_entry(self, entry_id: object) -> list[Request]:
        """Return the requests for one entry, in the order they came in."""
        return [request for request in self.requests if request.entry_id == str(entry_id)]

    @property
    def accepted(self) -> set[str]:
        """The ids of the entries that a handler took: answered with 2xx, and meant it."""
        with self._changed:
            return set(self._accepted)

    @property
    def errors(self) -> list[BaseException]:
        """What behaviours raised; their requests were answered with 500."""
        with self._changed:
            return list(self._errors)

    def summary(self) -> dict[str, Any]:
        """Return the counts: requests, distinct entries, and entries taken, in all and by service."""
        with self._changed:
            requests = Counter(request.service for request in self._requests)
            pairs = {(request.service, request.entry_id) for request in self._requests if request.entry_id}
            entries = Counter(service for service, _ in pairs)
            accepted = Counter(self._accepted.values())
            return {
                "requests": len(self._requests),
                "entries": len({entry for _, entry in pairs}),
                "accepted": len(self._accepted),
                "services": {
                    service: {"requests": count, "entries": entries[service], "accepted": accepted[service]}
                    for service, count in sorted(requests.items())
                },
            }

    def wait_for(self, condition: Callable[[], bool], timeout: float = 10) -> None:
        """Return once `condition()` holds, asked at least 20 times a second. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout} s in vain; received: {json.dumps(self.summary())}")
            with self._changed:
                self._changed.wait(0.05)

    def _play(self, request: Request) -> Reply:
        """Remember a request and decide what to answer."""
        key = (request.service, request.entry_id)
        with self._changed:
            self._requests.append(request)
            self._attempts[key] += 1
            nth = self._attempts[key]
            behaviour = self._behaviours.get(request.service, self._default)
            self._changed.notify_all()
        try:
            return behaviour(request, nth)
        except Exception as error:
            with self._changed:
                self._errors.append(error)
            return Reply(500, f"{type(error).__name__}: {error}".encode())

    def _take(self, request: Request) -> None:
        with self._changed:
            if request.entry_id is not None:
                self._accepted.setdefault(request.entry_id, request.service)
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def close_all(self) -> None:
        """Hang up on every connection, so that their threads end, and wait until they have."""
        self.server_close()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with self._lock:
                if not self._open:
                    return
                for connection in self._open:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
            time.sleep(0.01)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: senders hang up, that is what they are tested for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for headers and body
    disable_nagle_algorithm = True
    server: _Server

    def _answer(self, answer: Reply) -> None:
        self.send_response(answer.status)
        given = {name.lower() for name in answer.headers}
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "content-length" in given:
            self.close_connection = True  # it may be a lie
        elif answer.status >= 200 and answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _receive(self) -> None:
        if self.path == "/summary":
            body = json.dumps(self.server.receiver.summary()).encode()
            return self._answer(Reply(200, body, {"Content-Type": "application/json"}))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service = self.path.partition("?")[0].removeprefix(_HOOKS)
        if not self.path.startswith(_HOOKS) or not service:
            return self._answer(Reply(404, b"hooks are at /hooks/SERVICE"))
        attempt = self.headers.get("dlq-attempt", "")
        request = Request(
            service=service,
            headers=self.headers,
            body=body,
            entry_id=self.headers.get("dlq-entry"),
            attempt=int(attempt) if attempt.isdecimal() else None,
            method=self.command,
        )
        receiver = self.server.receiver
        answer = receiver._play(request)
        if (answer.delay and receiver._closing.wait(answer.delay)) or answer.close or self._sender_is_gone():
            self.close_connection = True
            return None
        # Taken first, answered second: whoever hears of the answer finds the entry among those taken.
        if answer.took if answer.took is not None else 200 <= answer.status < 300:
            receiver._take(request)
        return self._answer(answer)

    do_GET = do_POST = do_PUT = do_DELETE = _receive

    def _sender_is_gone(self) -> bool:
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: everything is in memory."""
