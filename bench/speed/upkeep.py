"""Upkeep: what autovacuum's settings cost and save.

    python -m bench.speed.upkeep [--rows 180000] [--days 30] [--factors 0.2,0.05,0.02,0.01]

First, what each pass pays until autovacuum comes: after a backlog of one service has been delivered, for its dead
entries at the head of the claim's index; and for what statistics do not know.

Then the same weeks with each scale factor, of a queue that neither grows nor shrinks. Thirty days of delivered entries
are there. Each further day as many come as go: they are stored, claimed and delivered, 2,000 at a time in 20 services,
and at night dlq._remove_entries() removes the oldest day, with its attempts. Each factor begins from a copy of the same
database. A day passes in seconds, so autovacuum looks every second, and the next day begins when it has nothing to do.
What it did is read from the server's log.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg

from bench.quiet import Quiet, quiet
from bench.report import Report, tell
from bench.world import Connection

SERVER = {
    "autovacuum_naptime": "1s",
    "log_autovacuum_min_duration": "0",
    "cron.database_name": "postgres",  # its launcher would be in the way of copying the other
}
KEPT = 30  # days, as dlq.settings.retain_settled has it
BATCH = 2_000
SERVICES = 20
BACKLOG = 100_000
TABLES = ("public.webhook_dlq", "dlq.delivery_attempts")

# Day 0 is long ago, so that the clock can stand still: what moves is retain_settled.
BEGAN: LiteralString = "timestamptz '2026-01-01'"
STORE: LiteralString = f"""
insert into public.webhook_dlq (service, payload, created_at, updated_at, next_retry_at)
select
  's' || mod(n, %(services)s), jsonb_build_object('n', n, 'text', repeat('x', 870)),
  d.at, d.at, d.at + n * interval '1 ms'
from generate_series(1, %(entries)s) as n
  cross join (select {BEGAN} + %(day)s * interval '1 day' as at) as d
"""
SEND: LiteralString = """
update public.webhook_dlq as e
set
  status = 'processing', next_retry_at = null, last_retry_at = e.created_at, attempt_count = e.attempt_count + 1,
  updated_at = e.created_at
where e.id = any (%s)
"""
SETTLE: LiteralString = """
with moved as (
  update public.webhook_dlq as e
  set status = 'reprocessed', settled_at = e.created_at, updated_at = e.created_at
  where e.id = any (%s)
  returning e.id, e.attempt_count, e.created_at, e.service
)
insert into dlq.delivery_attempts (entry_id, attempt, dispatched_at, settled_at, status_code, outcome, service, reply)
select m.id, m.attempt_count, m.created_at, m.created_at, 200, 'delivered', m.service, '{"ok":true}'
from moved as m
"""
DUE: LiteralString = (
    "select e.id from public.webhook_dlq as e where e.status = 'pending' order by e.next_retry_at limit %s"
)
FAIL: LiteralString = """
update public.webhook_dlq set status = 'failed', next_retry_at = null, settled_at = created_at
where id in (select e.id from public.webhook_dlq as e where e.status = 'pending' limit %s)
"""
RETAIN: LiteralString = f"update dlq.settings set retain_settled = dlq._now() - ({BEGAN} + %s * interval '1 day')"
SIZE: LiteralString = "select pg_table_size(%(table)s::regclass), pg_indexes_size(%(table)s::regclass)"
# What autovacuum goes by, as PostgreSQL's documentation has it.
IDLE: LiteralString = """
select not exists (select from pg_stat_progress_vacuum) and bool_and(
  s.n_dead_tup <= current_setting('autovacuum_vacuum_threshold')::integer + c.reltuples * (
    select o.option_value::double precision from pg_options_to_table(c.reloptions) as o
    where o.option_name = 'autovacuum_vacuum_scale_factor'))
from pg_stat_user_tables as s
  join pg_class as c on c.oid = s.relid
where s.relid = any (%s::regclass[])
"""
VACUUM = re.compile(
    r'automatic vacuum of table "[^".]+\.(?P<table>[^"]+)": index scans: (?P<index_scans>\d+)\n'
    r".*?buffer usage: (?P<hits>\d+) hits, (?P<misses>\d+) misses"
    r".*?CPU: user: (?P<user>[\d.]+) s, system: (?P<system>[\d.]+) s",
    re.DOTALL,
)
# What a person looks at first: its plan is the index of what failed, until statistics know that there is much.
FAILED: LiteralString = "select * from dlq.entries where status = 'failed' order by created_at desc limit 50"


@dataclass
class Weeks:
    """What the same days have come to with one factor."""

    sizes: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {table: [] for table in TABLES})
    vacuums: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def copy(q: Quiet) -> Iterator[Connection]:
    """A copy of the loaded database, to which nobody is connected, and a connection to the copy."""
    with psycopg.connect(q.cluster.dsn("postgres"), autocommit=True) as admin:
        admin.execute("create database copy template dlq")
        with psycopg.connect(q.cluster.dsn("copy"), autocommit=True, prepare_threshold=None) as conn:
            yield conn
        admin.execute("drop database copy")


@contextmanager
def as_owner(conn: Connection) -> Iterator[None]:
    """As the queue itself, whose work is no act of a person and not recorded."""
    conn.execute("set session authorization dlq_owner")
    yield
    conn.execute("reset session authorization")


def store(conn: Connection, entries: int, day: float, services: int = SERVICES) -> None:
    conn.execute(STORE, {"entries": entries, "day": day, "services": services})


def deliver(conn: Connection, entries: int) -> None:
    """Deliver the next so many, as two updates and an attempt each."""
    ids = [entry_id for (entry_id,) in conn.execute(DUE, (entries,)).fetchall()]
    conn.execute(SEND, (ids,))
    conn.execute(SETTLE, (ids,))


def load(q: Quiet, entries: int) -> None:
    """Thirty days of delivered entries with their attempts, vacuumed and analyzed."""
    q.conn.execute(
        "select dlq.set_endpoint('*', 'http://127.0.0.1:9/{service}', true, true, max_in_flight => %s)", (BATCH,)
    )
    q.conn.execute("update dlq.settings set max_in_flight = %s", (BATCH * SERVICES,))
    with as_owner(q.conn):
        for day in range(KEPT):
            store(q.conn, entries, day)
            deliver(q.conn, entries)
    q.conn.execute("vacuum (full, analyze) public.webhook_dlq")
    q.conn.execute("vacuum analyze")
    q.conn.execute("checkpoint")


def pages(conn: Connection, query: LiteralString) -> int:
    """What a query reads, once it has been planned and has met everything that is dead before."""
    for _ in range(3):
        plan = conn.execute(f"explain (analyze, buffers, format json) {query}".encode()).fetchall()[0][0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def until_it_comes(report: Report, conn: Connection) -> None:
    """What is paid until the table is vacuumed and analyzed, on a copy whose autovacuum is off."""
    claim: LiteralString = "select dlq._claim(100)"
    conn.execute("alter table public.webhook_dlq set (autovacuum_enabled = off)")
    rows = []

    def note(when: str) -> None:
        with as_owner(conn):
            rows.append((when, f"{pages(conn, claim):,}", f"{pages(conn, FAILED):,}"))

    with as_owner(conn):
        store(conn, BACKLOG, KEPT, 1)
        for _ in range(BACKLOG // BATCH):
            deliver(conn, BATCH)
        store(conn, 1, KEPT + 1, 1)
    note(f"{BACKLOG:,} of one service delivered, one waits")
    conn.execute("vacuum (index_cleanup off) public.webhook_dlq")
    note("vacuumed, without the indexes")
    conn.execute("vacuum (index_cleanup on) public.webhook_dlq")
    note("vacuumed")
    conn.execute("analyze public.webhook_dlq")
    with as_owner(conn):
        store(conn, BACKLOG, KEPT + 2)
        conn.execute(FAIL, (BACKLOG // 2,))
    conn.execute("vacuum (index_cleanup on) public.webhook_dlq")
    note(f"{BACKLOG // 2:,} wait and {BACKLOG // 2:,} have failed, statistics say none")
    conn.execute("analyze public.webhook_dlq")
    note("analyzed")
    report.table("Pages read by", ("when", "a claim of 100", "the 50 that failed last"), rows)


def pass_a_day(conn: Connection, day: int, entries: int) -> None:
    """Store, claim and deliver so many, then remove what is thirty days old."""
    for nth in range(entries // BATCH):
        store(conn, BATCH, day + nth * BATCH / entries)
        conn.execute("select dlq._claim(%s)", (BATCH,))
        deliver(conn, BATCH)
    conn.execute(RETAIN, (day - KEPT,))
    after = "-infinity"
    while after is not None:
        removed = "select r.after::text, r.error from dlq._remove_entries(false, %s) as r"
        ((after, error),) = conn.execute(removed.encode(), (after,)).fetchall()
        assert error is None, error


def wait_for_autovacuum(conn: Connection) -> None:
    """Return when it has nothing to do any more for what was done until now."""
    conn.execute("select pg_stat_force_next_flush()")
    time.sleep(1.2)  # it looks once a second
    while conn.execute(IDLE, (list(TABLES),)).fetchall() != [(True,)]:
        time.sleep(0.2)


def pass_weeks(q: Quiet, factor: str, days: int, entries: int) -> Weeks:
    """The same days with one scale factor."""
    weeks = Weeks()
    log_begins = q.cluster.log_path.stat().st_size
    with copy(q) as conn:
        for table in TABLES:
            conn.execute(f"alter table {table} set (autovacuum_vacuum_scale_factor = {factor})".encode())
        with as_owner(conn):
            for day in range(KEPT, KEPT + days):
                pass_a_day(conn, day, entries)
                wait_for_autovacuum(conn)
                for table in TABLES:
                    weeks.sizes[table] += conn.execute(SIZE, {"table": table}).fetchall()
    log = q.cluster.log_path.read_bytes()[log_begins:].decode()
    weeks.vacuums = [match.groupdict() for match in VACUUM.finditer(log)]
    tell(f"scale factor {factor}: {len(weeks.vacuums)} vacuums")
    return weeks


def row(factor: str, weeks: Weeks, table: str, at_first: tuple[int, int], entries: int) -> tuple[str, ...]:
    heaps, indexes = zip(*weeks.sizes[table], strict=True)
    vacuums = [vacuum for vacuum in weeks.vacuums if vacuum["table"] == table]
    read = sum(int(vacuum["hits"]) + int(vacuum["misses"]) for vacuum in vacuums)
    computed = sum(float(vacuum["user"]) + float(vacuum["system"]) for vacuum in vacuums)
    without = sum(vacuum["index_scans"] == "0" for vacuum in vacuums)
    return (
        factor,
        f"{max(heaps) / at_first[0]:.2f}",
        f"{max(indexes) / at_first[1]:.2f}",
        f"{len(vacuums)}, {without}",
        f"{read / entries:.2f}",
        f"{computed / entries * 1e6:.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=180_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--factors", default="0.2,0.05,0.02,0.01", help="empty: without the weeks")
    args = parser.parse_args()
    report = Report("upkeep", "What do autovacuum's settings cost and save?")
    entries = args.rows // KEPT
    with quiet("net-worker", settings=SERVER) as q:
        report.server(q.conn)
        load(q, entries)
        at_first = {table: q.conn.execute(SIZE, {"table": table}).fetchall()[0] for table in TABLES}
        q.conn.close()
        with copy(q) as conn:
            until_it_comes(report, conn)
        found = {factor: pass_weeks(q, factor, args.days, entries) for factor in args.factors.split(",") if factor}
    heads = ("scale factor", "its size", "its indexes'", "vacuums, without indexes", "pages an entry", "µs an entry")
    for table in TABLES if found else ():
        report.table(
            f"{table}, {args.days} days over {args.rows:,} rows: most, of its size when vacuumed; what vacuum did",
            heads,
            [row(factor, weeks, table, at_first[table], args.days * entries) for factor, weeks in found.items()],
        )
    report.save()


if __name__ == "__main__":
    main()
