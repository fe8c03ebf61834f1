"""From the net-worker to pg_net and back: what migrate --change-sender does besides.

All of it happens in migrate's transaction and under the engine's lock: nothing is dispatched meanwhile. Waiting for
what is under way locks no row, so nobody waits with it; the answers are collected when it is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, LiteralString

import psycopg

from dlqctl import definitions, preflight
from dlqctl.errors import DlqctlError
from dlqctl.net_queue import LOCK_CLASS

PATIENCE_SECONDS = 40.0
"""No request takes longer than 30 s; a little more, because one may have just been claimed."""

Sender = Literal["net-worker", "pg_net"]

# Somebody sends: a net-worker has its lock, or pg_net, which takes what it finds when it is started, the table's.
_UNDER_WAY: LiteralString = """
    select
      (select count(*) from net.http_request_queue),
      exists (
        select from pg_locks as l
        where l.database = (select oid from pg_database where datname = current_database())
          and l.pid <> pg_backend_pid()
          and (l.relation = 'net.http_request_queue'::regclass
            or l.locktype = 'advisory' and l.objsubid = 2 and l.classid = %s::bigint))
"""
_COLLECT: LiteralString = "select delivered + failed + unanswered from dlq.collect_responses()"
_REQUEUE: LiteralString = "select unanswered from dlq.requeue_lost()"
_OF_OTHERS: LiteralString = """
    select count(*) from net.http_request_queue where id not in (select request_id from dlq.in_flight)
"""
_OUR_OBJECTS: LiteralString = """
    select 'routine ' || oid::regprocedure from pg_proc
    where pronamespace = 'net'::regnamespace and proowner = 'dlq_owner'::regrole
    union all values ('table net.http_request_queue'), ('table net._http_response'), ('schema net')
"""


def outgoing(raw: psycopg.Connection) -> Sender | None:
    """The sender that has to go. None if the one that is wanted is there already, or none is."""
    if preflight.look_at(raw, "pg_net").installed:
        return None if preflight.has_pg_net(raw) else "pg_net"
    return "net-worker" if preflight.has_pg_net(raw) and preflight.has_our_net(raw) else None


def wait_until_sent(raw: psycopg.Connection, say: Callable[[str], None]) -> None:
    """Wait until nothing is queued, nobody sends any more, or 40 seconds are over. `say` is told how many there are."""
    raw.execute(definitions.AS_OWNER.encode())
    deadline, said = time.monotonic() + PATIENCE_SECONDS, None
    while True:
        row = raw.execute(_UNDER_WAY, (LOCK_CLASS,)).fetchone()
        assert row
        queued, is_served = row
        if not (queued and is_served) or time.monotonic() > deadline:
            break
        if queued != said:
            say(f"waiting for the answers to {queued} requests; keep the sender running")
            said = queued
        time.sleep(0.5)
    raw.execute(definitions.AS_CALLER.encode())


def retire(raw: psycopg.Connection, sender: Sender) -> list[str]:
    """Collect the last answers, and drop the sender's schema with nothing else in it. Returns what was done.

    Raises DlqctlError, naming it, if something of somebody else stands there or depends on it.
    """
    raw.execute(definitions.AS_OWNER.encode())
    collected, others = _number(raw, _COLLECT), _number(raw, _OF_OTHERS)
    try:
        if sender == "net-worker":
            for (what,) in raw.execute(_OUR_OBJECTS).fetchall():
                raw.execute(f"drop {what}".encode())
            raw.execute(definitions.AS_CALLER.encode())
        else:
            raw.execute(definitions.AS_CALLER.encode())
            raw.execute("drop extension pg_net")
    except psycopg.errors.DependentObjectsStillExist as error:
        raise DlqctlError(
            f"something that is not dlqctl's needs schema net: {' '.join((error.diag.message_detail or '').split())}",
            "move it or drop it, and run this again. Nothing was changed",
        ) from error
    done = ["schema net of the net-worker, dropped" if sender == "net-worker" else "extension pg_net, dropped"]
    if collected:
        done.append(f"answers collected before: {collected}")
    if others:
        done.append(f"requests of others, dropped unsent: {others}")
    return done


def give_back(raw: psycopg.Connection) -> list[str]:
    """Give back, as unanswered, what the sender that is gone has not answered. Returns what was done."""
    raw.execute(definitions.AS_OWNER.encode())
    unanswered = _number(raw, _REQUEUE)
    raw.execute(definitions.AS_CALLER.encode())
    return [f"entries given back unanswered, to be sent again: {unanswered}"] if unanswered else []


def _number(raw: psycopg.Connection, query: LiteralString) -> int:
    row = raw.execute(query).fetchone()
    return int(row[0]) if row else 0
