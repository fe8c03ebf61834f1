"""One worker's side of the queue in schema net: its number, its claims, its answers.

A claim is a worker's number in `claimed_by`. It stands for as long as that worker's session holds the advisory
lock on the number, so the claims of a worker that is gone are free within a second. An answer is inserted by the
statement that deletes its request, and only if the claim stands: in any snapshot a request is queued or answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from dlqctl import __version__
from dlqctl.errors import DlqctlError
from dlqctl.net_http import Answer, Request

LOCK_CLASS = 1684828526  # b"dlqn"; with it the worker's number, or 0 for what one worker at a time does
KEEP_RESPONSES = "6 hours"
# A statement takes at most so much: an answer can be 1 MiB.
WRITE_ROWS, WRITE_CHARACTERS = 1000, 8 << 20
# A connection on which nothing comes back for so long is given up, by both ends: behind a proxy that hangs, the
# keepalives are answered by the proxy's machine.
SILENCE_SECONDS = 30.0
POOLER_SECONDS = 5.0

# A machine that is gone says nothing. Both ends must find out, or its claims would stand for hours.
_CONNECTION: dict[str, Any] = {
    "application_name": "dlqctl net-worker",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
    "target_session_attrs": "read-write",
}
# A queue is never what its statistics say: a plan made while it was empty must be good when it is full. Of a plan
# that has nothing but a disabled scan the cost is so high that the server would compile it, in a tenth of a second.
_SESSION: LiteralString = """
set search_path = pg_catalog, pg_temp;
set client_encoding = utf8;
set default_transaction_isolation = 'read committed';
set statement_timeout = 0;
set lock_timeout = 0;
set idle_session_timeout = '30s';
set tcp_keepalives_idle = 10;
set tcp_keepalives_interval = 5;
set tcp_keepalives_count = 3;
set enable_seqscan = off;
set enable_bitmapscan = off;
set jit = off;
listen dlqctl_net_wake
"""
# By the catalog: to_regclass() raises where the role may not use the schema.
_CHECK: LiteralString = """
select
  exists (select from pg_extension where extname = 'pg_net')
    or exists (select from pg_settings where name = 'pg_net.database_name' and setting = current_database()),
  count(a.attname) = 2,
  bool_and(has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'delete')),
  quote_ident(current_user)
from pg_namespace as n
  join pg_class as c on c.relnamespace = n.oid
  join pg_attribute as a on a.attrelid = c.oid and not a.attisdropped
where n.nspname = 'net'
  and (c.relname, a.attname) in (('http_request_queue', 'claimed_by'), ('_http_response', 'error_msg'))
"""
# A session of ours whose end the server has not noticed would keep the lock.
_END_PREDECESSOR: LiteralString = """
select pg_terminate_backend(l.pid, 5000)
from pg_locks as l
  join pg_stat_activity as a on a.pid = l.pid and a.usename = current_user
where l.locktype = 'advisory' and l.objsubid = 2 and l.pid <> pg_backend_pid()
  and l.database = (select oid from pg_database where datname = current_database())
  and l.classid = %s::bigint and l.objid = %s::bigint
"""
_LOCK: LiteralString = "select pg_try_advisory_lock(%s, %s)"
_MINE: LiteralString = "select id from net.http_request_queue where claimed_by = %s"
_RELEASE: LiteralString = """
update net.http_request_queue set claimed_by = null where claimed_by = %s and id <> all (%s::bigint[])
"""
_CLAIM: LiteralString = """
with waiting as (
  select id from net.http_request_queue
  where claimed_by is null and id > %s
  order by id limit %s
  for update skip locked
),
claimed as (
  update net.http_request_queue as q set claimed_by = %s
  from waiting where q.id = waiting.id
  returning q.id, q.url, q.headers::text, q.body, q.timeout_milliseconds
)
select * from claimed order by id
"""
# A worker locks its number before it claims, and the locks are read after the snapshot was taken: whoever has a
# claim in the snapshot and lives is seen to live.
_FREE_ORPHANS: LiteralString = """
with workers as materialized (
  select objid::bigint as number, pid from pg_locks
  where locktype = 'advisory' and objsubid = 2 and classid = %s::bigint
    and database = (select oid from pg_database where datname = current_database())
),
orphans as (
  select id from net.http_request_queue
  where claimed_by is not null and claimed_by not in (select number from workers)
  for update skip locked
),
freed as (
  update net.http_request_queue as q set claimed_by = null
  from orphans where q.id = orphans.id
)
select exists (select from workers where number = %s and pid = pg_backend_pid())
"""
_EXPIRE: LiteralString = """
delete from net._http_response where ctid = any (array(
  select ctid from net._http_response
  where created < now() - %s::interval and (select pg_try_advisory_xact_lock(%s, 0))
  order by created limit 5000))
"""
_WRITE: LiteralString = """
with answers as materialized (
  select * from unnest(
    %b::bigint[], %b::integer[], %b::text[], %b::text[], %b::text[], %b::boolean[], %b::text[])
    as a (id, status_code, content_type, headers, content, timed_out, error_msg)
),
answered as (
  delete from net.http_request_queue
  where id = any (%b::bigint[]) and claimed_by = %b
  returning id
)
insert into net._http_response (id, status_code, content_type, headers, content, timed_out, error_msg)
select a.id, a.status_code, a.content_type, a.headers::jsonb, a.content, a.timed_out, a.error_msg
from answered join answers as a on a.id = answered.id
"""
# A lock on this table must hold up no answer. For another version's table see Queue.beat().
_BEAT: LiteralString = """
set local lock_timeout = '1s';
delete from dlq.net_workers where number = any (array(
  select number from dlq.net_workers where seen_at < now() - interval '1 day' for update skip locked));
insert into dlq.net_workers (number, host, pid, version, slots, in_flight, answered, stopped_at)
values ({number}, {host}, {pid}, {version}, {slots}, {in_flight}, {answered}, case when {is_last} then now() end)
on conflict (number) do update
set seen_at = now(), in_flight = excluded.in_flight, answered = excluded.answered, stopped_at = excluded.stopped_at
"""
_WHY_NOT: LiteralString = "select dlq._why_not_sending()"


def require_queue(conn: psycopg.Connection) -> None:
    """Raise DlqctlError if there is no queue to serve, no right to serve it, or pg_net serves it already."""
    _judge(conn.execute(_CHECK).fetchone())


def _judge(found: tuple[Any, ...] | None) -> None:
    assert found is not None
    has_pg_net, has_queue, is_allowed, user = found
    if has_pg_net:
        raise DlqctlError(
            "pg_net serves this database already, and two senders on one queue are a trap",
            "do without the net-worker: pg_net does its work",
        )
    if not has_queue:
        raise DlqctlError("there is no queue to serve in this database", "dlqctl migrate --net-worker")
    if not is_allowed:
        raise DlqctlError(f"the role {user} may not serve the queue", f"grant dlq_net_worker to {user}")


def require_session(conn: psycopg.Connection, dsn: str) -> None:
    """Raise DlqctlError behind a pooler in transaction mode: claims rest on a lock that a session holds.

    Such a pooler lends the session of an idle client to the next who comes. One in session mode does not, and if
    it has no other, lets the next one wait.
    """
    mine = _backend(conn)
    if conn.info.backend_pid == mine:
        return  # no pooler
    try:  # not by our own connect(), which asks something at once, and nobody would end its wait
        with psycopg.connect(dsn, connect_timeout=10, prepare_threshold=None) as other:
            timer = threading.Timer(POOLER_SECONDS, _cut, (other.fileno(),))
            timer.start()
            try:
                is_lent = _backend(other) == mine or _backend(conn) != mine
            finally:
                timer.cancel()
    except psycopg.Error:
        return
    if is_lent:
        raise DlqctlError(
            "this is a pooler in transaction mode, and the net-worker needs a session of its own",
            "connect past the pooler or to its session mode (PgBouncer: pool_mode = session; Supabase: port 5432)",
        )


def _backend(conn: psycopg.Connection) -> int | None:
    row = conn.execute("select pg_backend_pid()").fetchone()
    return row[0] if row else None


def _cut(fileno: int) -> None:
    """Shut a connection, so that whoever waits for it sees its end."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fileno)) as connection:
        connection.shutdown(socket.SHUT_RDWR)


class Queue:
    """The queue over one connection. Every method that asks the server raises psycopg.Error if it cannot."""

    def __init__(self, conn: psycopg.AsyncConnection, number: int) -> None:
        self._conn = conn
        self._number = number
        self._is_notified = False
        conn.add_notify_handler(self._notify)

    @classmethod
    async def open(cls, dsn: str, number: int) -> Queue:
        """Connect, check and lock the worker's number, which ends an earlier session of the same worker."""
        given = conninfo_to_dict(dsn)
        defaults = {key: value for key, value in _CONNECTION.items() if key not in given}
        conn = await psycopg.AsyncConnection.connect(dsn, autocommit=True, **defaults)
        queue = cls(conn, number)
        try:
            await queue._run(_SESSION)
            _judge(await (await queue._run(_CHECK)).fetchone())
            await queue._run(_END_PREDECESSOR, (LOCK_CLASS, number))
            if not await queue._is_true(_LOCK, (LOCK_CLASS, number)):
                raise DlqctlError("another session holds the lock on this worker's number")
        except BaseException:
            await conn.close()
            raise
        return queue

    async def close(self) -> None:
        """Close the connection, which frees the lock and so the claims."""
        await self._conn.close()

    def fileno(self) -> int:
        """The socket that becomes readable when there is a notification, or no connection any more."""
        return self._conn.fileno()

    def place(self) -> str:
        """Which database this is, for people."""
        info = self._conn.info
        return f"database {info.dbname} at {info.host}:{info.port} as {info.user}"

    def was_notified(self) -> bool:
        """Whether a notification has come since the last call. Raises psycopg.OperationalError if cut off."""
        self._conn.pgconn.consume_input()
        while self._conn.pgconn.notifies() is not None:
            self._is_notified = True
        was, self._is_notified = self._is_notified, False
        return was

    async def claim(self, after: int, limit: int) -> list[Request]:
        """Claim the oldest requests with an id beyond `after`."""
        cursor = await self._run(_CLAIM, (after, limit, self._number), binary=True)
        return [Request(*row) for row in await cursor.fetchall()]

    async def mine(self) -> set[int]:
        """Return the ids that are claimed by this worker."""
        return {row[0] for row in await (await self._run(_MINE, (self._number,))).fetchall()}

    async def release(self, keep: Iterable[int]) -> None:
        """Give back every claim of this worker but those to `keep`."""
        await self._run(_RELEASE, (self._number, list(keep)))

    async def tidy(self) -> None:
        """Free the claims of workers that are gone and delete responses that are old enough.

        Raises DlqctlError if this session has lost its lock, as behind a pooler in transaction mode.
        """
        if not await self._is_true(_FREE_ORPHANS, (LOCK_CLASS, self._number)):
            raise DlqctlError("the session has lost its lock: connect past the pooler, or to its session mode")
        await self._run(_EXPIRE, (KEEP_RESPONSES, LOCK_CLASS))

    async def beat(self, *, slots: int, in_flight: int, answered: int, is_last: bool = False) -> str | None:
        """Write this worker's row in dlq.net_workers. Returns why it could not be written, or None.

        That is no error: the database may be of an older or newer version than this, or somebody may hold a lock.
        """
        row = {
            "number": self._number,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
            "slots": slots,
            "in_flight": in_flight,
            "answered": answered,
            "is_last": is_last,
        }
        try:
            await self._run(sql.SQL(_BEAT).format(**row))
        except (psycopg.ProgrammingError, psycopg.IntegrityError, psycopg.errors.LockNotAvailable) as error:
            return error.diag.message_primary or str(error)
        return None

    async def why_not_sending(self) -> str | None:
        """Why nothing may be sent from this database, in words. None if it may, or is too old to say."""
        try:
            row = await (await self._run(_WHY_NOT)).fetchone()
        except psycopg.ProgrammingError:
            return None
        return str(row[0]) if row and row[0] is not None else None

    async def write(self, answers: Sequence[Answer]) -> None:
        """Insert each answer and delete its request, unless the claim is another's by now."""
        for batch in _batches(answers):
            await self._insert(batch)

    async def _insert(self, batch: list[Answer]) -> None:
        columns = [[getattr(answer, column.name) for answer in batch] for column in fields(Answer)]
        await self._run(_WRITE, (*columns, columns[0], self._number))

    async def _run(
        self, query: LiteralString | sql.Composed, parameters: tuple[Any, ...] | None = None, *, binary: bool = False
    ) -> psycopg.AsyncCursor:
        timer = asyncio.get_running_loop().call_later(SILENCE_SECONDS, _cut, self._conn.fileno())
        try:
            cursor = self._conn.cursor(binary=binary)
            return await cursor.execute(query, parameters)
        finally:
            timer.cancel()

    async def _is_true(self, query: LiteralString, parameters: tuple[Any, ...]) -> bool:
        row = await (await self._run(query, parameters)).fetchone()
        return row is not None and bool(row[0])

    def _notify(self, _notify: object) -> None:
        self._is_notified = True


def _batches(answers: Sequence[Answer]) -> Iterable[list[Answer]]:
    batch: list[Answer] = []
    size = 0
    for answer in answers:
        size += len(answer.content or "") + len(answer.headers or "")
        if batch and (size > WRITE_CHARACTERS or len(batch) == WRITE_ROWS):
            yield batch
            batch, size = [], len(answer.content or "") + len(answer.headers or "")
        batch.append(answer)
    if batch:
        yield batch
