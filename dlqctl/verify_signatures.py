"""Whether handlers verify signatures: each is sent what it must refuse, and its answers are the evidence.

What is sent is made of marked bodies that the database has signed (dlq.sign_probes): no secret comes here, and
nothing but such a body can be had signed. A handler verifies if it refuses every one of the PROBES; it is careless
if it takes one.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from secrets import token_bytes
from typing import Any

import httpx
import psycopg

from dlqctl import __version__
from dlqctl.errors import DlqctlError

NO_ANSWER = "no answer"
# What a handler says to a signature that is wrong; 422 where a framework misses the header. A 404, 405 or 429 would be
# said to a genuine webhook as well.
REFUSALS = frozenset({400, 401, 403, 422})
_AT_ONCE = 8

_Headers = Mapping[str, str]


@dataclass(frozen=True)
class Signed:
    """A marked body, and the headers that sign it."""

    body: bytes
    signature: _Headers

    def with_body(self, body: bytes) -> Signed:
        """Another body under the same signature."""
        return Signed(body, self.signature)

    def with_mac(self, change: Callable[[bytes], bytes]) -> Signed:
        """The same body under another signature: this one's 32 bytes, changed."""

        def changed(one: str) -> str:
            if one.startswith("sha256="):
                return "sha256=" + change(bytes.fromhex(one[7:])).hex()
            return "v1," + b64encode(change(b64decode(one[3:]))).decode()

        return Signed(
            self.body,
            {
                name: " ".join(map(changed, value.split(" "))) if name in _SIGNATURES else value
                for name, value in self.signature.items()
            },
        )

    def without(self) -> Signed:
        """The same body without its signature; webhook-id and webhook-timestamp stay."""
        return Signed(self.body, {name: value for name, value in self.signature.items() if name not in _SIGNATURES})


_SIGNATURES = ("x-hub-signature-256", "webhook-signature")

# What is sent, and what takes it: a handler that …
PROBES: dict[str, Callable[[Mapping[str, Signed]], Signed]] = {
    # … verifies nothing
    "unsigned": lambda signed: signed["compact"].without(),
    # … looks only whether there is a signature
    "forged": lambda signed: signed["compact"].with_mac(lambda mac: token_bytes(32)),
    # … compares only the beginning
    "close": lambda signed: signed["compact"].with_mac(lambda mac: mac[:-1] + bytes([mac[-1] ^ 1])),
    # … compares only as much as it is given
    "cut": lambda signed: signed["compact"].with_mac(lambda mac: mac[:15]),
    # … verifies something else than the body
    "tampered": lambda signed: signed["compact"].with_body(signed["compact"].body.replace(b"-probe-", b"-Probe-")),
    # … verifies the JSON as it would have written it itself, and not the bytes
    "respaced": lambda signed: signed["compact"].with_body(
        signed["compact"].body.replace(b":", b": ").replace(b",", b", ")
    ),
    "compacted": lambda signed: signed["spaced"].with_body(signed["spaced"].body.replace(b" ", b"")),
    # … does not look at the time: with Standard Webhooks alone
    "stale": lambda signed: signed["stale"],
}
VALID = "valid"


@dataclass(frozen=True)
class Handler:
    """A service's endpoint, and what a request to it carries."""

    service: str
    url: str
    timeout_ms: int
    headers: _Headers
    method: str | None  # the signing scheme
    auth: str | None
    auth_secret: str | None

    @property
    def probes(self) -> Sequence[str]:
        """The probes that it must refuse."""
        return [name for name in PROBES if name != "stale" or self.method == "standard-webhooks"]


@dataclass(frozen=True)
class Coverage:
    """How a handler answered. `answers`: the status, or NO_ANSWER, for each probe that was sent.

    `verdict` is `verifies`; `careless`: it took a probe; `refuses all`: also what is rightly signed; `unsigned`:
    nothing says how its webhooks are signed, and it was not called; or `not known`, and `detail` says why.
    """

    service: str
    verdict: str
    method: str | None
    answers: Mapping[str, int | str]
    detail: str


def find_handlers(connection: psycopg.Connection, services: Sequence[str] = ()) -> list[Handler]:
    """Return the handlers of these services, or of all that are enabled.

    The template's are those of services that have entries and no endpoint of their own.
    Raises DlqctlError if there is none.
    """
    # Every entry is read for the template's services: that of one that was delivered is in no index by service.
    rows = connection.execute(
        """
        select s.service, r.url, r.timeout_ms, r.headers, r.signing, r.auth, r.auth_secret
        from (
          select pg_catalog.unnest(%(services)s::text[]) as service
          union
          select e.service from dlq.endpoints as e where e.service <> '*' and %(all)s
          union
          select w.service
          from public.webhook_dlq as w
          where %(all)s and exists (select from dlq.endpoints as e where e.service = '*' and e.enabled)
        ) as s
          cross join lateral dlq._route(s.service) as r
        where r.enabled or not %(all)s
        order by s.service
        """,
        {"services": list(services), "all": not services},
    ).fetchall()
    handlers = [Handler(*row) for row in rows]
    missing = sorted(set(services) - {handler.service for handler in handlers})
    if missing or not handlers:
        raise DlqctlError(
            f"there is no endpoint for {', '.join(missing) or 'anything'}", "dlqctl endpoints set SERVICE URL"
        )
    return handlers


def verify_signatures(
    connection: psycopg.Connection,
    handlers: Sequence[Handler],
    *,
    include_valid: bool = False,
    keys: Mapping[str, str] | None = None,
) -> list[Coverage]:
    """Call each handler with each of its probes, up to eight handlers at a time, and return how they answered.

    `include_valid` sends, last, what is rightly signed: the handler takes it, and does with it what it does. `keys` are
    the values of auth_secrets by their names, for handlers behind a gateway: they are not read from the database.
    The connection must be in autocommit. Raises psycopg.Error, WD004 on a copy of production: nobody is called.
    """
    with (
        httpx.Client(headers={"user-agent": f"dlqctl/{__version__}"}) as client,
        ThreadPoolExecutor(_AT_ONCE) as threads,
    ):

        def examine(handler: Handler) -> Coverage:
            return _examine(connection, client, handler, include_valid, (keys or {}).get(handler.auth_secret or ""))

        return list(threads.map(examine, handlers))


def discard_stored(connection: psycopg.Connection, handlers: Sequence[Handler]) -> int:
    """Discard the probes that handlers have stored as failed webhooks, so that nobody retries them; return how many."""
    return connection.execute(
        """
        update public.webhook_dlq
        set status = 'discarded'
        where status = 'pending' and service = any (%s) and created_at > (select dlq._now() - interval '1 day')
          and payload ->> 'dlqctl' = 'probe'
        """,
        ([handler.service for handler in handlers],),
    ).rowcount


def _examine(
    connection: psycopg.Connection, client: httpx.Client, handler: Handler, include_valid: bool, key: str | None
) -> Coverage:
    if handler.method is None:
        return Coverage(handler.service, "unsigned", None, {}, "dlqctl endpoints set … --signing … --secret …")
    answers: dict[str, int | str] = {}
    try:
        for name in [*handler.probes, *([VALID] if include_valid else [])]:
            # Signed anew for each: one that has waited for others would be refused for its age.
            signed = _sign(connection, handler.service)
            answers[name] = _call(client, handler, PROBES[name](signed) if name != VALID else signed["compact"], key)
    except psycopg.Error as error:
        if error.sqlstate != "WD005":
            raise
        return Coverage(handler.service, "not known", handler.method, answers, str(error.diag.message_primary))
    verdict, detail = judge(answers)
    if verdict != "careless" and handler.auth_secret and not key:
        verdict, detail = "not known", f"a gateway may be who refuses: --auth-from-env {handler.auth_secret}"
    return Coverage(handler.service, verdict, handler.method, answers, detail)


def judge(answers: Mapping[str, int | str]) -> tuple[str, str]:
    """Return the verdict on these answers, by probe, and what is to say about it."""
    refusable = {name: answer for name, answer in answers.items() if name != VALID}
    taken = [name for name, answer in refusable.items() if isinstance(answer, int) and 200 <= answer < 400]
    if taken:
        return "careless", f"takes {', '.join(taken)}"
    unclear = [name for name, answer in refusable.items() if answer not in REFUSALS]
    if unclear:
        return "not known", f"neither taken nor refused: {', '.join(unclear)}"
    if answers.get(VALID) in REFUSALS:
        return "refuses all", "also what is rightly signed"
    return "verifies", ""


def _sign(connection: psycopg.Connection, service: str) -> dict[str, Signed]:
    rows = connection.execute("select variant, body, signature from dlq.sign_probes(%s)", (service,)).fetchall()
    return {variant: Signed(bytes(body), signature) for variant, body, signature in rows}


def _call(client: httpx.Client, handler: Handler, probe: Signed, key: str | None) -> int | str:
    """Return the status with which a handler answers; what it says beside that is not read."""
    headers: dict[str, Any] = {"content-type": "application/json"}
    headers |= {name.lower(): value for name, value in handler.headers.items()}
    if key and handler.auth in ("bearer", "both"):
        headers["authorization"] = f"Bearer {key}"
    if key and handler.auth in ("apikey", "both"):
        headers["apikey"] = key
    headers |= probe.signature
    try:
        with client.stream(
            "POST", handler.url, content=probe.body, headers=headers, timeout=handler.timeout_ms / 1000
        ) as response:
            return response.status_code
    except (httpx.HTTPError, httpx.InvalidURL):
        return NO_ANSWER
