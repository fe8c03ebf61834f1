"""Upkeep: what autovacuum's settings cost and save, over the same weeks of a queue that neither grows nor shrinks.

    python -m bench.speed.upkeep [--rows 300000] [--days 30] [--factors 0.2,0.05,0.02,0.01]

Thirty days of delivered entries are there. Each further day as many come as go: they are stored, claimed and delivered,
2,000 at a time in 20 services, and at night dlq._remove_entries() removes the oldest day, with its attempts. Each
scale factor begins from a copy of the same database, and has autovacuum to itself: a day passes in seconds, so it looks every
second, and the next day begins when it has nothing to do. What it did is read from the server's log.
"""

from __future__ import annotations

import argparse
import re
import statistics
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
TABLES = ("public.webhook_dlq", "dlq.delivery_attempts")

# Day 0 is long ago, so that the clock can stand still: what moves is retain_settled.
BEGAN: LiteralString = "timestamptz '2026-01-01'"
STORE: LiteralString = f"""
insert into public.webhook_dlq (service, payload, created_at, updated_at, next_retry_at)
select
  's' || n % {SERVICES}, jsonb_build_object('n', n, 'text', repeat('x', 870)),
  d.at, d.at, d.at + n * interval '1 ms'
from generate_series(1, %s) as n
  cross join (select {BEGAN} + %s * interval '1 day' as at) as d
""".replace("n % ", "n %% ")
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
RETAIN: LiteralString = f"update dlq.settings set retain_settled = dlq._now() - ({BEGAN} + %s * interval '1 day')"
# What autovacuum goes by, as the documentation has it, and a second's grace for what is not reported yet.
IDLE: LiteralString = """
select bool_and(
  s.n_dead_tup <= current_setting('autovacuum_vacuum_threshold')::integer
    + coalesce((select o.option_value from pg_options_to_table(c.reloptions) as o
        where o.option_name = 'autovacuum_vacuum_scale_factor'), '0.2')::double precision * c.reltuples)
  and not exists (select from pg_stat_progress_vacuum)
from pg_stat_user_tables as s
  join pg_class as c on c.oid = s.relid
where s.relid = any (%s::regclass[])
"""
SIZE: LiteralString = "select pg_table_size(%s::regclass), pg_indexes_size(%s::regclass)"
VACUUM = re.compile(
    r'automatic vacuum of table "[^".]+\.(?P<table>[^"]+)": index scans: (?P<index_scans>\d+)\n'
    r".*?pages: \d+ removed, \d+ remain, (?P<scanned>\d+) scanned"
    r".*?buffer usage: (?P<hits>\d+) hits, (?P<misses>\d+) misses"
    r".*?CPU: user: (?P<user>[\d.]+) s, system: (?P<system>[\d.]+) s",
    re.DOTALL,
)


@dataclass
class Weeks:
    """What the same days have come to with one factor."""

    sizes: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {table: [] for table in TABLES})
    claims: list[int] = field(default_factory=list)
    vacuums: list[dict[str, Any]] = field(default_factory=list)
    live: int = 0


@contextmanager
def copy(q: Quiet, name: str) -> Iterator[Connection]:
    """A copy of the loaded database, and a connection to it as dlq_owner, whose work is no act of a person."""
    with psycopg.connect(q.cluster.dsn("postgres"), autocommit=True) as admin:
        admin.execute(f"create database {name} template dlq".encode())
        with psycopg.connect(q.cluster.dsn(name), autocommit=True, prepare_threshold=None) as conn:
            yield conn
        admin.execute(f"drop database {name}".encode())


def pass_a_day(conn: Connection, day: int, entries: int) -> list[int]:
    """Store, claim and deliver so many, then remove what is thirty days old. Returns the pages that each claim read."""
    pages = []
    for nth in range(entries // BATCH):
        conn.execute(STORE, (BATCH, day + nth * BATCH / entries))
        plan = conn.execute(f"explain (analyze, buffers, format json) select dlq._claim({BATCH})".encode())
        root = plan.fetchall()[0][0][0]["Plan"]
        pages.append(root["Shared Hit Blocks"] + root["Shared Read Blocks"])
        waiting = conn.execute("select id from public.webhook_dlq where status = 'pending'").fetchall()
        ids = [entry_id for (entry_id,) in waiting]
        conn.execute(SEND, (ids,))
        conn.execute(SETTLE, (ids,))
    conn.execute(RETAIN, (day - KEPT,))
    after = "-infinity"
    while after is not None:
        ((after, error),) = conn.execute(
            "select r.after::text, r.error from dlq._remove_entries(false, %s) as r", (after,)
        ).fetchall()
        assert error is None, error
    return pages


def wait_for_autovacuum(conn: Connection) -> None:
    """Return when it has nothing to do any more for what was done until now."""
    conn.execute("select pg_stat_force_next_flush()")
    time.sleep(1.2)
    while conn.execute(IDLE, (list(TABLES),)).fetchall() != [(True,)]:
        time.sleep(0.2)


def pass_weeks(q: Quiet, factor: str, days: int, entries: int) -> Weeks:
    """The same days with one scale factor."""
    weeks = Weeks()
    log_begins = q.cluster.log_path.stat().st_size
    with copy(q, "weeks") as conn:
        for table in TABLES:
            conn.execute(f"alter table {table} set (autovacuum_vacuum_scale_factor = {factor})".encode())
        conn.execute("set session authorization dlq_owner")
        for day in range(KEPT, KEPT + days):
            weeks.claims += pass_a_day(conn, day, entries)
            wait_for_autovacuum(conn)
            for table in TABLES:
                weeks.sizes[table] += conn.execute(SIZE, (table, table)).fetchall()
        weeks.live = conn.execute("select count(*) from public.webhook_dlq").fetchall()[0][0]
    log = q.cluster.log_path.read_bytes()[log_begins:].decode()
    weeks.vacuums = [match.groupdict() for match in VACUUM.finditer(log)]
    return weeks


def load(q: Quiet, entries: int) -> None:
    """Thirty days of delivered entries with their attempts, vacuumed and analyzed."""
    q.conn.execute(
        "select dlq.set_endpoint('*', 'http://127.0.0.1:9/{service}', true, true, max_in_flight => %s)", (BATCH,)
    )
    q.conn.execute("update dlq.settings set max_in_flight = %s", (BATCH * SERVICES,))
    q.conn.execute("set session authorization dlq_owner")
    for day in range(KEPT):
        q.conn.execute(STORE, (entries, day))
        q.conn.execute(SETTLE, ([i for (i,) in q.conn.execute("select id from webhook_dlq where status = 'pending'")],))
    q.conn.execute("reset session authorization")
    q.conn.execute("vacuum full public.webhook_dlq")
    q.conn.execute("vacuum analyze")
    q.conn.execute("checkpoint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--factors", default="0.2,0.05,0.02,0.01")
    args = parser.parse_args()
    entries = args.rows // KEPT
    report = Report("upkeep", "What do autovacuum's settings cost and save?")
    found: dict[str, Weeks] = {}
    with quiet("net-worker", settings=SERVER) as q:
        report.server(q.conn)
        load(q, entries)
        at_first = {table: q.conn.execute(SIZE, (table, table)).fetchall()[0] for table in TABLES}
        q.conn.close()
        for factor in args.factors.split(","):
            found[factor] = pass_weeks(q, factor, args.days, entries)
            tell(f"scale factor {factor}: {len(found[factor].vacuums)} vacuums")
    for table in TABLES:
        rows = []
        for factor, weeks in found.items():
            heap, indexes = (max(sizes) / first for sizes, first in zip(zip(*weeks.sizes[table], strict=True), at_first[table], strict=True))
            done = [vacuum for vacuum in weeks.vacuums if vacuum["table"] == table]
            pages = sum(int(vacuum["hits"]) + int(vacuum["misses"]) for vacuum in done)
            rows.append((
                factor, f"{heap:.2f}", f"{indexes:.2f}", len(done), sum(vacuum["index_scans"] == "0" for vacuum in done),
                f"{pages / args.days / entries:.2f}",
                f"{sum(float(vacuum['user']) + float(vacuum['system']) for vacuum in done) * 1e6 / args.days / entries:.1f}",
            ))  # fmt: skip
        report.table(
            f"{table}, {args.rows:,} rows, {args.days} days",
            ("scale factor", "table, of its first size", "its indexes", "vacuums", "of them without the indexes", "pages a vacuum reads, an entry", "it computes, µs an entry"),
            rows,
        )
    report.table(
        f"pages that a claim of {BATCH:,} reads",
        ("scale factor", "median", "mean", "most"),
        [(factor, f"{statistics.median(w.claims):,.0f}", f"{statistics.mean(w.claims):,.0f}", f"{max(w.claims):,}") for factor, w in found.items()],
    )
    report.save()


if __name__ == "__main__":
    main()
