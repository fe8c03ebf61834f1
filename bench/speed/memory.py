"""Memory: the most that dlqctl holds while it lists, exports, replays or adopts ever more entries.

    python -m bench.speed.memory [--entries 10000,100000,1000000]

Each command is run over each of these, and measured are the resident set of its process, by the kernel's own high-water
mark, and what its server process has allocated, shared buffers left out, looked at every hundredth of a second. The
output is read as fast as it comes, by a reader who keeps nothing. Ten to fifteen minutes with a million.

    list        dlqctl list --all --format json, through a pipe
    export      dlqctl list --all --payload --format csv --output FILE
    replay      dlqctl replay --all
    cancel      dlqctl replay cancel, of all of it
    adopt       dlqctl adopt, of a home-made queue

Entries have failed and have payloads of 200 bytes; loaded without triggers. Needs /proc.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg

from bench.quiet import SETTINGS, Quiet, quiet
from bench.report import Report, tell
from bench.world import Connection
from dlqctl.cluster import start_cluster

SESSION = "measured"
FAILED: LiteralString = """
insert into webhook_dlq (service, payload, status, retry_count, attempt_count, created_at, updated_at, settled_at)
select 's' || mod(n, 20), jsonb_build_object('n', n, 'text', repeat('x', 170)), 'failed', 5, 6, at, at, at
from generate_series(1, %s) as n
  cross join lateral (select now() - n * interval '1 s' as at) as t
"""
OLD: LiteralString = """
create table webhook_dlq (
  id uuid primary key default gen_random_uuid(), service text not null, payload jsonb not null,
  status text not null, retry_count integer not null default 0, error_message text,
  created_at timestamptz not null default now(), next_retry_at timestamptz)
"""
OLD_ROWS: LiteralString = """
insert into webhook_dlq (service, payload, status)
select 'shop', jsonb_build_object('n', n, 'text', repeat('x', 170)), 'reprocessed' from generate_series(1, %s) as n
"""


@dataclass(frozen=True)
class Run:
    """What one run of a command has taken: MiB of its process, MiB of its server process, seconds."""

    resident: float
    server: float
    seconds: float


def run(conn: Connection, dsn: str, *arguments: str) -> Run:
    """Run dlqctl, and measure it. `conn` is another session of the same server, to tell its server process by."""
    with tempfile.TemporaryDirectory() as folder:
        return _watched(conn, dsn, [sys.executable, "-m", "dlqctl", *arguments], folder)


def _watched(conn: Connection, dsn: str, command: list[str], folder: str) -> Run:
    began = time.monotonic()
    path = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder,
        env={**os.environ, "DLQCTL_DATABASE_URL": dsn, "PGAPPNAME": SESSION, "PYTHONPATH": path},
    )  # fmt: skip
    reader = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
    resident, server = 0.0, 0.0
    backend: int | None = None
    while process.poll() is None:  # not by wait4(): that counts what this process holds, too
        resident = max(resident, _mib(process.pid, "VmHWM"))
        if not backend or not (now := _mib(backend, "RssAnon")):
            backend = _backend(conn)  # adopt has several sessions, one after the other
        else:
            server = max(server, now)
        time.sleep(0.01)
    reader.wait()
    assert process.returncode == 0, f"{command} failed"
    return Run(resident, server, time.monotonic() - began)


def _mib(pid: int, what: str) -> float:
    """A line of /proc/PID/status, in MiB; 0 when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{what}:")), 0.0)


def _backend(conn: Connection) -> int | None:
    query = "select pid from pg_stat_activity where application_name = %s order by backend_start desc limit 1"
    row = conn.execute(query, (SESSION,)).fetchone()
    return int(row[0]) if row else None


def load(q: Quiet, entries: int) -> None:
    q.conn.execute("truncate webhook_dlq, dlq.replays, dlq.replayed_entries restart identity")
    q.conn.execute("set session_replication_role = replica")
    q.conn.execute(FAILED, (entries,))
    q.conn.execute("set session_replication_role = origin")
    q.conn.execute("vacuum analyze webhook_dlq")


@contextmanager
def home_made(entries: int) -> Iterator[tuple[Connection, str, Sequence[str]]]:
    """A server with a queue of somebody's, a connection to it, and what adopt is to be told of it."""
    with (
        start_cluster(settings=SETTINGS) as cluster,
        psycopg.connect(cluster.dsn(), autocommit=True, prepare_threshold=None) as conn,
    ):
        if cluster.has_pg_net:
            conn.execute("create extension pg_net")
        conn.execute(OLD)
        conn.execute(OLD_ROWS, (entries,))
        conn.execute("vacuum analyze webhook_dlq")
        yield conn, cluster.dsn(), [] if cluster.has_pg_net else ["--net-worker"]


COMMANDS = {
    "list": ("list", "--all", "--format", "json"),
    "export": ("list", "--all", "--payload", "--format", "csv", "--output", "entries.csv"),
    "replay": ("replay", "--all", "--reason", "bench", "--yes", "--no-watch"),
    "cancel": ("replay", "cancel", "1", "--reason", "bench"),
}


def measure(q: Quiet, entries: int, names: Sequence[str] = (*COMMANDS, "adopt")) -> dict[str, Run]:
    """Each command over so many entries."""
    load(q, entries)
    runs = {}
    for name in names:
        if name == "adopt":
            with home_made(entries) as (conn, dsn, sender):
                runs[name] = run(conn, dsn, "adopt", "--yes", "--no-cron", *sender)
        else:
            runs[name] = run(q.conn, q.cluster.dsn(), *COMMANDS[name])
        tell(
            f"{name} of {entries:,}: {runs[name].resident:.0f} MiB, its server {runs[name].server:.0f} MiB,"
            f" {runs[name].seconds:.1f} s"
        )
        if state := {"replay": "pending", "cancel": "failed"}.get(name):
            assert q.one("select count(*) from webhook_dlq where status = %s", state) == entries, f"not all are {state}"
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", default="10000,100000,1000000")
    counts = [int(part) for part in parser.parse_args().entries.split(",")]
    report = Report("memory", "How much memory does dlqctl hold over many entries?")
    with quiet() as q:
        report.server(q.conn)
        runs = {entries: measure(q, entries) for entries in counts}
    small, large = runs[counts[0]], runs[counts[-1]]
    for title, what in (
        ("The most resident, MiB", "resident"),
        ("The most that its server process has allocated, MiB", "server"),
        ("Seconds", "seconds"),
    ):
        rows = [(name, *(f"{getattr(runs[entries][name], what):.1f}" for entries in counts)) for name in small]
        report.table(title, ("dlqctl", *(f"{entries:,} entries" for entries in counts)), rows)
    for name in small:
        words = f"{name}: memory over {counts[-1]:,} over {counts[0]:,}"
        report.ratio(words, large[name].resident / small[name].resident, at_most=1.1)
    report.save()


if __name__ == "__main__":
    main()
