"""A throw-away server where nothing moves by itself, to measure what statements cost: no cron job, and no sender.

The sender's part is played by hand: answer() does to the queue and the answers what a sender would do to
them. So what is measured is SQL, without HTTP, and without anybody beside it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from bench.world import Connection, Sender
from dlqctl.cluster import Cluster, find_server, start_cluster

# What a server of this size would be given. No checkpoint, no vacuum and no flush in the middle of a round.
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}

ANSWER: LiteralString = """
with taken as (delete from net.http_request_queue returning id)
insert into net._http_response (id, status_code, content_type, content, timed_out, headers)
select
  t.id, 200, 'application/json', '{"ok":true}', false,
  '{"Content-Type": "application/json", "Content-Length": "11"}'
from taken as t
order by t.id
"""


@dataclass(frozen=True)
class Quiet:
    """The server, and a connection to it as the superuser, in autocommit."""

    cluster: Cluster
    conn: Connection
    sender: Sender

    def one(self, query: LiteralString, *parameters: Any) -> Any:
        """The first column of the first row."""
        row = self.conn.execute(query, parameters or None).fetchone()
        return row[0] if row else None

    def answer(self) -> None:
        """Answer every request that is queued with 200, as a sender does that has sent them all."""
        self.conn.execute(ANSWER)


@contextmanager
def quiet(sender: Sender | None = None, *, settings: Mapping[str, str] | None = None) -> Iterator[Quiet]:
    """Run such a server, with pg_net's functions where it is installed, else with ours for the net-worker."""
    from dlqctl.migrate import migrate

    chosen: Sender = sender or ("pg_net" if find_server().has_pg_net else "net-worker")
    has_pg_net = chosen == "pg_net"
    with start_cluster(pg_net=has_pg_net, settings={**SETTINGS, **(settings or {})}) as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True, prepare_threshold=None) as conn:
            if has_pg_net:
                conn.execute("create extension pg_net")
            migrate(cluster.dsn(), cron=False, net_worker=not has_pg_net)
            if has_pg_net:  # from now on its worker serves another database
                conn.execute("alter system set pg_net.database_name = 'postgres'")
        cluster.stop()
        cluster.start()
        with psycopg.connect(cluster.dsn(), autocommit=True, prepare_threshold=None) as conn:
            yield Quiet(cluster, conn, chosen)


@dataclass
class Stopwatch:
    """Times of one connection's work: by the clock, and what its server process has computed.

    The second is what travels: it hardly knows who else is on the machine. It is zero where there is no /proc.
    """

    conn: Connection
    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, work: Callable[[], object]) -> None:
        """Do the work, and note both times under a name, in seconds."""
        gc.disable()
        cpu, began = self._computed(), time.perf_counter()
        work()
        took, computed = time.perf_counter() - began, self._computed() - cpu
        gc.enable()
        self.wall.setdefault(name, []).append(took)
        self.cpu.setdefault(name, []).append(computed)

    def query(self, name: str, text: str) -> None:
        """The same, of a statement and reading its rows."""
        self.time(name, lambda: self.conn.execute(text.encode()))

    def _computed(self) -> float:
        """What the connection's server process has computed so far, in seconds."""
        return computed(self.conn.info.backend_pid)


def computed(pid: int) -> float:
    """What a process has used of a processor so far, in seconds. Zero where there is no such process, or no /proc."""
    try:
        return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    except OSError:
        return 0.0


def computed_by_ended(pid: int) -> float:
    """What the children of a process that have ended have used of a processor, in seconds, to a hundredth."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def children(pid: int) -> int:
    """How many children a process has."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            count += path.read_text().rpartition(")")[2].split()[1] == str(pid)
    return count
