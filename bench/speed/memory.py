"""Memory: the most that dlqctl holds while it lists, replays or adopts ever more entries.

    python -m bench.speed.memory [--entries 1000000]

Each command is run over 10,000 entries and over so many, and the resident set of its process is compared.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import LiteralString

import psycopg

from bench.quiet import Quiet, quiet
from bench.report import Report, tell
from dlqctl.cluster import start_cluster

SMALL = 10_000
REPLAYED_AT_ONCE = 100_000  # no more: the next replay goes on with the next
FAILED: LiteralString = """
insert into webhook_dlq (service, payload, status, created_at, updated_at, settled_at)
select 'shop', jsonb_build_object('n', n, 'text', repeat('x', 200)), 'failed', now(), now(), now()
from generate_series(1, %s) as n
"""
OLD: LiteralString = """
create table webhook_dlq (
  id uuid primary key default gen_random_uuid(), service text not null, payload jsonb not null,
  status text not null, retry_count integer not null default 0, error_message text,
  created_at timestamptz not null default now(), next_retry_at timestamptz)
"""
OLD_ROWS: LiteralString = """
insert into webhook_dlq (service, payload, status)
select 'shop', jsonb_build_object('n', n, 'text', repeat('x', 200)), 'reprocessed' from generate_series(1, %s) as n
"""


def most_resident(dsn: str, *arguments: str) -> float:
    """Run dlqctl, and return the most memory that its process has held, in MiB."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "dlqctl", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "DLQCTL_DATABASE_URL": dsn},
    )  # fmt: skip
    most = 0.0
    while process.poll() is None:  # not by wait4(): that counts what this process holds, too
        most = max(most, _most_so_far(process.pid))
        time.sleep(0.01)
    assert process.returncode == 0, f"dlqctl {arguments[0]} failed"
    tell(f"dlqctl {' '.join(arguments)}: {most:.0f} MiB, {time.monotonic() - began:.0f} s")
    return most


def _most_so_far(pid: int) -> float:
    """The peak of a process's resident set, in MiB. Needs /proc."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0  # it has ended


def load(q: Quiet, entries: int) -> None:
    q.conn.execute("truncate webhook_dlq")
    q.conn.execute("set session_replication_role = replica")
    q.conn.execute(FAILED, (entries,))
    q.conn.execute("set session_replication_role = origin")
    q.conn.execute("vacuum analyze webhook_dlq")


def adopt(entries: int) -> float:
    with start_cluster(settings={"max_wal_size": "8GB"}) as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True, prepare_threshold=None) as conn:
            if cluster.has_pg_net:
                conn.execute("create extension pg_net")
            conn.execute(OLD)
            conn.execute(OLD_ROWS, (entries,))
            conn.execute("vacuum analyze webhook_dlq")
        sender = [] if cluster.has_pg_net else ["--net-worker"]
        return most_resident(cluster.dsn(), "adopt", "--yes", "--no-cron", *sender)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    args = parser.parse_args()
    report = Report("memory", "How much memory does dlqctl hold over many entries?")
    most: dict[str, list[float]] = {"list --format json": [], "replay": [], "adopt": []}
    with quiet() as q:
        report.server(q.conn)
        for entries in (SMALL, args.entries):
            load(q, entries)
            dsn, every = q.cluster.dsn(), str(entries)
            most["list --format json"].append(most_resident(dsn, "list", "--format", "json", "--limit", every))
            at_once = str(min(entries, REPLAYED_AT_ONCE))
            most["replay"].append(
                most_resident(dsn, "replay", "--reason", "bench", "--max-entries", at_once, "--yes", "--no-watch")
            )
    most["adopt"] += [adopt(SMALL), adopt(args.entries)]
    rows = [(name, *(f"{mib:.0f}" for mib in of)) for name, of in most.items()]
    report.table("The most resident, MiB", ("dlqctl", f"{SMALL:,} entries", f"{args.entries:,}"), rows)
    for name, (small, large) in most.items():
        report.ratio(f"{name}: memory over {args.entries:,} over {SMALL:,}", large / small, at_most=1.2)
    report.save()


if __name__ == "__main__":
    main()
