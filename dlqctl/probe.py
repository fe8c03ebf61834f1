"""The whole chain in one go, from the server's preloaded libraries to the handlers: what `dlq.health` says, and what no
view can see. Nothing is changed, and no handler is sent a webhook.

Each row is name, level (ok, warning, error), detail, and what to type. Whatever this role may not see is a warning that
says so: what is hidden is not in order, and not out of order either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import psycopg

from dlqctl import __version__, definitions, preflight
from dlqctl.patience import bounded

Row = tuple[str, str, str, str | None]

_AT_ONCE = 8
_PATIENCE = 5.0
# What a worker of pg_net has open beside its requests: libraries, logs, its own sockets.
_OTHER_FILES = 24
_USUAL_LIMIT = 1024

_ENDPOINTS = """
    select c.service, replace(e.url, '{service}', c.service), replace(e.health_url, '{service}', c.service),
      e.signing, dlq._missing_secret(c.service)
    from dlq.circuits as c
      cross join lateral (
        select o.* from (
          select service, url, health_url, signing, enabled from dlq.endpoints where service in (c.service, '*')
        ) as o order by o.service = '*' limit 1
      ) as e
    where e.enabled
    order by c.service
"""


@dataclass(frozen=True)
class Endpoint:
    """Where a service is retried, and what is said of it."""

    service: str
    url: str
    health_url: str | None
    signing: str | None
    missing_secret: str | None


def probe(connection: psycopg.Connection) -> list[Row]:
    """Look at every link, in the order in which a webhook meets them. The connection must be in autocommit."""
    with bounded(connection):
        endpoints = [Endpoint(*row) for row in connection.execute(_ENDPOINTS).fetchall()]
        server = [*_roles(connection), *_cron(connection), *_pg_net(connection)]
        health = connection.execute("select name, level, detail, remediation from dlq.health").fetchall()
    return [*server, *_signatures(endpoints), *_reachable(endpoints), *health]


def _roles(connection: psycopg.Connection) -> Iterator[Row]:
    roles: dict[str, bool] = dict(
        connection.execute(
            "select rolname, rolcanlogin or rolsuper from pg_roles where rolname = any (%s)", (list(definitions.ROLES),)
        ).fetchall()
    )
    missing = [role for role in definitions.ROLES if role not in roles]
    if missing:
        yield "roles", "error", f"not there: {', '.join(missing)}", "dlqctl migrate"
    elif roles[definitions.OWNER]:
        yield (
            "roles", "error", f"{definitions.OWNER} can log in or is a superuser, and what is installed has its rights",
            f"alter role {definitions.OWNER} nologin nosuperuser",
        )  # fmt: skip
    else:
        yield "roles", "ok", f"{', '.join(definitions.ROLES)}; nobody logs in as {definitions.OWNER}", None


def _cron(connection: psycopg.Connection) -> Iterator[Row]:
    """pg_cron as `verify-cron` checks it; whether its jobs do anything, dlq.health says. Not all servers have it."""
    is_absent = not preflight.look_at(connection, "pg_cron").available
    for name, level, detail, remediation in connection.execute("select * from dlq.cron_checks()").fetchall():
        if name not in ("processor", "retention"):
            yield f"cron: {name}", "warning" if is_absent and level == "error" else level, detail, remediation


def _pg_net(connection: psycopg.Connection) -> Iterator[Row]:
    """Loaded, in its database, as new as its library, allowed what it needs, and with files enough for a batch."""
    extension = preflight.look_at(connection, "pg_net")
    if extension.installed is None:
        if extension.available:
            yield (
                "pg_net", "error" if not preflight.has_our_net(connection) else "warning",
                "is on this server and not in this database", "dlqctl migrate; with a net-worker: --change-sender",
            )  # fmt: skip
        return
    here = connection.info.dbname
    restart = f"set shared_preload_libraries = 'pg_cron, pg_net' and pg_net.database_name = '{here}', and restart"
    if extension.loaded_for is None and extension.hidden:
        yield "pg_net", "warning", "whether it is loaded is hidden from this role", _grant(connection, "settings")
    elif extension.loaded_for is None:
        yield "pg_net", "error", "its library is not loaded: nothing is sent", restart
    elif extension.loaded_for != here:
        yield "pg_net", "error", f"it sends for database {extension.loaded_for}, not for {here}", restart
    else:
        yield "pg_net", "ok", f"{extension.installed}, loaded, for this database", None
    yield from _pg_net_version(connection, extension.installed)
    missing = [text for text, _ in connection.execute(definitions.missing_pg_net_grants().encode()).fetchall()]
    if missing:
        yield "pg_net rights", "error", "dlq_owner lacks what it needs to send", "; ".join(missing)
    else:
        yield "pg_net rights", "ok", "dlq_owner has what it needs to send", None
    yield from _pg_net_process(connection)


def _pg_net_version(connection: psycopg.Connection, installed: str) -> Iterator[Row]:
    row = connection.execute(
        "select default_version from pg_available_extensions where name = 'pg_net' and default_version <> %s",
        (installed,),
    ).fetchone()
    if row:  # whose functions then are not those of its library: it can queue for ever
        yield (
            "pg_net version", "warning", f"{installed} in the database, {row[0]} on the server",
            "alter extension pg_net update; then restart its worker: select net.worker_restart()",
        )  # fmt: skip


def _pg_net_process(connection: psycopg.Connection) -> Iterator[Row]:
    row = connection.execute("select is_running, batch_size from dlq.net_status").fetchone()
    is_running, batch_size = row if row else (None, None)
    if is_running is None:
        yield "pg_net worker", "warning", "whether it runs is hidden from this role", _grant(connection, "stats")
    elif is_running:
        yield "pg_net worker", "ok", "runs", None
    else:
        yield "pg_net worker", "error", "does not run: nothing is sent", "select net.worker_restart(); or restart"
    yield open_files(batch_size, _open_files_limit(connection))


def open_files(batch_size: int | None, limit: int | None) -> Row:
    """Judge pg_net's batch by how many files its process may open: each of its requests is one, and beyond the limit
    requests fail at once as "Couldn't connect to server". None is unknown.
    """
    name = "open files"
    if batch_size is None:
        return name, "warning", "pg_net's batch size is hidden from this role", "ask as a superuser"
    need = batch_size + _OTHER_FILES
    fits = max(1, (limit or _USUAL_LIMIT) - _OTHER_FILES)
    smaller = f"alter system set pg_net.batch_size = {fits}; select pg_reload_conf()"
    if limit is None:
        detail = f"a batch of {batch_size} needs {need}; the server's limit is hidden from this role"
        if need <= _USUAL_LIMIT:
            return name, "ok", f"{detail}, and is {_USUAL_LIMIT} where nobody has changed it", None
        return name, "warning", detail, f"ask as a superuser; or {smaller}"
    detail = f"a batch of {batch_size} needs {need} of {limit}"
    if need <= limit:
        return name, "ok", detail, None
    return name, "error", detail, f"{smaller}; or raise LimitNOFILE of the server's unit, and restart"


def _open_files_limit(connection: psycopg.Connection) -> int | None:
    """The soft limit of this session's process: it has it from the postmaster, as pg_net's worker has. Linux only."""
    try:
        with connection.transaction():
            row = connection.execute("select pg_read_file('/proc/self/limits')").fetchone()
    except psycopg.Error:  # not a superuser nor pg_read_server_files, or not Linux
        return None
    found = re.search(r"^Max open files\s+(\d+)", row[0] if row else "", re.M)
    return int(found[1]) if found else None


def _grant(connection: psycopg.Connection, what: str) -> str:
    return f"grant pg_read_all_{what} to {connection.info.user}"


def _signatures(endpoints: list[Endpoint]) -> Iterator[Row]:
    """What can be said without calling anybody. Whether handlers verify, `verify-signatures` finds out."""
    missing = [f"{e.service}: {e.missing_secret}" for e in endpoints if e.missing_secret]
    unsigned = [e.service for e in endpoints if e.signing is None]
    if missing:
        yield "signatures", "error", "; ".join(missing), "dlqctl secrets list; dlqctl secrets set NAME"
    elif unsigned:
        yield (
            "signatures", "warning", f"sent without: {', '.join(unsigned)}",
            f"dlqctl endpoints set {unsigned[0]} URL --signing x-hub-signature-256 --secret NAME",
        )  # fmt: skip
    elif endpoints:
        yield (
            "signatures", "ok",
            "every endpoint's retries are signed; whether handlers verify: dlqctl verify-signatures", None,
        )  # fmt: skip


def _reachable(endpoints: list[Endpoint]) -> Iterator[Row]:
    with (
        httpx.Client(headers={"user-agent": f"dlqctl/{__version__}"}, timeout=_PATIENCE) as client,
        ThreadPoolExecutor(_AT_ONCE) as threads,
    ):
        yield from threads.map(lambda endpoint: reach(client, endpoint), endpoints)


def reach(client: httpx.Client, endpoint: Endpoint) -> Row:
    """Ask an endpoint how it is, from here: its health_url, which must answer 2xx; without one its host, by any answer.

    Never its url: many a handler takes whatever comes for a webhook.
    """
    name = f"endpoint {endpoint.service}"
    parts = urlsplit(endpoint.url)
    url = endpoint.health_url or f"{parts.scheme}://{parts.netloc}/"
    try:
        with client.stream("GET" if endpoint.health_url else "HEAD", url) as response:
            status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        return (
            name,
            "error",
            f"{url} does not answer from here: {words}",
            f"mend it; then dlqctl endpoints test {endpoint.service}",
        )
    if endpoint.health_url is None:
        return (
            name,
            "ok",
            f"its host answers (HTTP {status}); to ask itself: dlqctl endpoints set … --health-url URL",
            None,
        )
    if 200 <= status < 300:
        return name, "ok", f"{url} answers {status}", None
    return name, "error", f"{url} answers {status}", f"mend it; then dlqctl endpoints test {endpoint.service}"
