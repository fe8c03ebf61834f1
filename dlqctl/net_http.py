"""Sends HTTP requests through libcurl, many at once, inside an asyncio loop.

What goes over the wire and what is kept of the answer is what pg_net does, with libcurl as pg_net has it,
but for these: a slow request holds up no other; redirects are not followed, because a followed POST becomes
a GET whose 200 is no delivery, and its signature goes to another host; at most 1 MiB of a body is kept.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dlqctl import __version__
from dlqctl.errors import DlqctlError

try:
    import pycurl
except ImportError:
    pycurl = None

BODY_LIMIT = 1 << 20

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# libcurl's own framing: another value would shift where the next request on the connection begins.
_FRAMING = {"content-length", "transfer-encoding"}

# curl_easy_strerror() of libcurl before 8.9, as pg_net's users know it: the same for every request, so it can be
# grouped by. A result that is not here is told in libcurl's words for that one request.
_FAILURES = {
    1: "Unsupported protocol",
    3: "URL using bad/illegal format or missing URL",
    5: "Couldn't resolve proxy name",
    6: "Couldn't resolve host name",
    7: "Couldn't connect to server",
    8: "Weird server reply",
    16: "Error in the HTTP2 framing layer",
    18: "Transferred a partial file",
    35: "SSL connect error",
    52: "Server returned nothing (no headers, no data)",
    55: "Failed sending data to the peer",
    56: "Failure when receiving data from the peer",
    60: "SSL peer certificate or SSH remote key was not OK",
    92: "Stream error in the HTTP/2 framing layer",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A POST to be sent. `headers` is the text of a JSON object; `timeout_ms` covers the whole request."""

    id: int
    url: str
    headers: str | None
    body: bytes | None
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: the columns of net._http_response. `headers` is the text of a JSON object."""

    id: int
    status_code: int | None = None
    content_type: str | None = None
    headers: str | None = None
    content: str | None = None
    timed_out: bool = False
    error_msg: str | None = None


def require_pycurl() -> None:
    """Raise DlqctlError, naming the extra to install, if there is no pycurl."""
    if pycurl is None:
        raise DlqctlError("the net-worker needs pycurl", "pip install 'dlqctl[net-worker]'")


class Sender:
    """Sends requests at the same time, and calls `on_answer` once for each that ends, however it ends.

    Must be made inside the running loop. `in_flight` has the ids that are being sent; to send no more than the
    `slots` it keeps connections for is the caller's part.
    """

    def __init__(self, slots: int, on_answer: Callable[[Answer], None]) -> None:
        require_pycurl()
        self.in_flight: dict[int, _Transfer] = {}
        self._by_handle: dict[Any, _Transfer] = {}
        self._on_answer = on_answer
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._idle: list[Any] = []
        # Python's trust, SSL_CERT_FILE included: pycurl's wheel knows the place of one distribution only.
        self._ca_file = ssl.get_default_verify_paths().cafile
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, slots)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    def send(self, request: Request) -> None:
        """Begin to send `request`. One that cannot be sent is answered before this returns."""
        self.abandon(request.id)
        transfer = _Transfer(request, self._idle.pop() if self._idle else pycurl.Curl())
        try:
            self._prepare(transfer)
            self._multi.add_handle(transfer.handle)
        except Exception as error:  # one bad row must not stop the rest, whatever pycurl makes of it
            self._on_answer(Answer(request.id, error_msg=_clean(f"cannot be sent: {_first_line(error)}")))
        else:
            self.in_flight[request.id] = self._by_handle[transfer.handle] = transfer

    def abandon(self, request_id: int) -> None:
        """Stop sending the request, if it is being sent. Nobody hears of its answer."""
        transfer = self.in_flight.get(request_id)
        if transfer is not None:
            self._retire(transfer)

    def close(self) -> None:
        """Abandon everything."""
        for request_id in list(self.in_flight):
            self.abandon(request_id)
        if self._timer is not None:
            self._timer.cancel()
        self._multi.close()

    def _prepare(self, transfer: _Transfer) -> None:
        request, handle = transfer.request, transfer.handle
        handle.setopt(pycurl.URL, request.url.encode())
        handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        handle.setopt(pycurl.POST, 1)
        handle.setopt(pycurl.POSTFIELDS, request.body or b"")
        handle.setopt(pycurl.HTTPHEADER, list(_header_lines(request.headers)))
        handle.setopt(pycurl.USERAGENT, f"dlqctl/{__version__}")
        handle.setopt(pycurl.FOLLOWLOCATION, 0)
        handle.setopt(pycurl.TIMEOUT_MS, max(1, request.timeout_ms))
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.HEADERFUNCTION, transfer.take_header)
        handle.setopt(pycurl.WRITEFUNCTION, transfer.take_body)
        if self._ca_file is not None:
            handle.setopt(pycurl.CAINFO, self._ca_file)

    def _retire(self, transfer: _Transfer) -> None:
        del self.in_flight[transfer.request.id]
        del self._by_handle[transfer.handle]
        self._multi.remove_handle(transfer.handle)
        transfer.handle.reset()
        self._idle.append(transfer.handle)

    # libcurl says which sockets to watch and when to be called; the loop does both.

    def _watch(self, what: int, socket: int, _multi: object, _data: object) -> None:
        if what & pycurl.POLL_IN and what != pycurl.POLL_REMOVE:
            self._loop.add_reader(socket, self._act, socket, pycurl.CSELECT_IN)
        else:
            self._loop.remove_reader(socket)
        if what & pycurl.POLL_OUT and what != pycurl.POLL_REMOVE:
            self._loop.add_writer(socket, self._act, socket, pycurl.CSELECT_OUT)
        else:
            self._loop.remove_writer(socket)

    def _set_timer(self, milliseconds: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if milliseconds >= 0:
            self._timer = self._loop.call_later(milliseconds / 1000, self._act, pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, socket: int, events: int) -> None:
        self._multi.socket_action(socket, events)
        remaining = 1
        while remaining:
            remaining, succeeded, failed = self._multi.info_read()
            for handle in succeeded:
                self._finish(self._by_handle[handle], 0, "")
            for handle, code, text in failed:
                self._finish(self._by_handle[handle], code, text)

    def _finish(self, transfer: _Transfer, code: int, text: str) -> None:
        answer = transfer.answer(code, text)
        self._retire(transfer)
        self._on_answer(answer)


@dataclass(slots=True)
class _Transfer:
    """A request on its way and what has come back so far."""

    request: Request
    handle: Any
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    is_cut: bool = False

    def take_header(self, line: bytes) -> None:
        if line.startswith(b"HTTP/"):
            self.headers.clear()  # what came before belongs to a 1xx or to a proxy
            return
        name, separator, value = line.partition(b":")
        if separator:
            self.headers[_decode(name.strip())] = _decode(value.strip())

    def take_body(self, chunk: bytes) -> int:
        """Keep the chunk. To take less than was given is how libcurl is told to stop."""
        taken = chunk[: BODY_LIMIT - len(self.body)]
        self.body += taken
        self.is_cut = len(taken) < len(chunk)
        return len(taken)

    def answer(self, code: int, text: str) -> Answer:
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return Answer(self.request.id, timed_out=True, error_msg=self._timing())
        if code and not (code == pycurl.E_WRITE_ERROR and self.is_cut):
            reason = _FAILURES.get(code) or _clean(text) or f"libcurl's error {code}"
            return Answer(self.request.id, error_msg=reason)
        return Answer(
            self.request.id,
            status_code=self.handle.getinfo(pycurl.RESPONSE_CODE),
            content_type=next((v for k, v in self.headers.items() if k.lower() == "content-type"), None),
            headers=json.dumps(self.headers, ensure_ascii=False),
            content=_decode(self.body) or None,
        )

    def _timing(self) -> str:
        times = (pycurl.TOTAL_TIME, pycurl.NAMELOOKUP_TIME, pycurl.CONNECT_TIME, pycurl.APPCONNECT_TIME)
        total, dns, connected, secured = (self.handle.getinfo(key) * 1000 for key in times)
        handshake = max(0.0, connected - dns, secured - dns)
        rest = max(0.0, total - dns - handshake)
        return (
            f"Timeout of {max(1, self.request.timeout_ms)} ms reached. Total time: {total:f} ms "
            f"(DNS time: {dns:f} ms, TCP/SSL handshake time: {handshake:f} ms, "
            f"HTTP Request/Response time: {rest:f} ms)"
        )


def _header_lines(headers: str | None) -> Iterator[bytes]:
    """The lines for libcurl. Raises ValueError if one of them cannot be sent as it is."""
    # Numbers stay as they are written. The empty Expect: libcurl would wait for a 100 before a long body.
    fields = json.loads(headers or "{}", parse_int=str, parse_float=str)
    if not isinstance(fields, dict):
        raise ValueError("the headers are not a JSON object")
    yield b"Expect:"
    for name, value in fields.items():
        if value is None:
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if not _TOKEN.fullmatch(name) or _CONTROL.search(text):
            raise ValueError("a header has a line break or another character that no header can hold")
        if name.lower() in _FRAMING:
            raise ValueError(f"the header {name} is the sender's to set")
        # "Name:" without a value would take the header away.
        yield f"{name}: {text}".encode() if text.strip() else f"{name};".encode()


def _decode(raw: bytes | bytearray) -> str:
    return raw.decode("utf-8", "replace").replace("\0", "")


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
