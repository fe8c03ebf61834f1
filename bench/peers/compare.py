"""Store, and claim and settle, beside other queues in PostgreSQL, while a million wait that are not due.

    python -m bench.peers.compare [--waiting 1000000] [--entries 5000] [--rounds 5]

The peers are installed for this run into a temporary folder (pip and npm), and left out with a word where they cannot
be. Each round each stores, then takes and settles as many as it stored; the order changes from round to round. All
have payloads of 900 bytes. Stored 1,000 at a time, each by its own call for many, and taken 100 at a time, but for
procrastinate, which takes one. WAL is what the server has written of it for each that was stored.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString, Protocol

from bench.quiet import Quiet, quiet
from bench.report import Report, tell

HERE = Path(__file__).parent
KEEPS = {
    "ours": "the entry and each attempt",
    "ours, a whole turn": "the same, and signs and posts",
    "graphile-worker": "nothing",
    "pgqueuer": "a log",
    "procrastinate": "the job and its events",
}


class Side(Protocol):
    def run(self, command: str, count: int = 0) -> float:
        """Do it, and return how many seconds it took."""


class Peer:
    """Another queue, in a process of its own."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, command: str, count: int = 0) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command} {count}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline() or "nan")

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()


# Due at once, as the peers' are: the first wait is a microsecond here.
ELEMENT = '{"service": "shop", "payload": {"n": 1, "text": "' + "x" * 870 + '"}}'

# What dlq._send() does to the queue, without a request. The owner's, as the engine is:
# anybody else is put on record.
CLAIM: LiteralString = """
create schema bench;
create function bench.claim() returns setof uuid
language sql security definer set search_path = pg_catalog, pg_temp as $$
  with marked as (
    update public.webhook_dlq as e
    set status = 'processing', attempt_count = e.attempt_count + 1, next_retry_at = null,
      last_retry_at = now(), updated_at = now()
    where e.id = any ((select c.entry_ids from dlq._claim(100) as c)::uuid[])
    returning e.id
  )
  insert into dlq.in_flight (entry_id, request_id, dispatched_at, net_oid, attempt, timeout_ms, service, digest)
  select m.id, 0, now(), 0, 1, 5000, 'shop', sha256(uuid_send(m.id)) from marked as m
  returning entry_id
$$;
alter function bench.claim() owner to dlq_owner;
"""


class Ours:
    """Ours: claimed and settled by the engine's own functions; `whole` also signs, posts and collects."""

    SETTLE: LiteralString = """
    select s.delivered from dlq._settle(
      %(ids)s, array_fill('delivered'::text, array[cardinality(%(ids)s::uuid[])]), '{}', '{}', '{}', '{}') as s
    """

    def __init__(self, q: Quiet, *, whole: bool) -> None:
        self._q, self._whole = q, whole
        if not whole:
            q.conn.execute(CLAIM)

    def run(self, command: str, count: int = 0) -> float:
        if command == "store":
            return self._timed(count, 1000, self._store)
        return self._timed(count, 100, self._turn if self._whole else self._claim_and_settle)

    def _timed(self, count: int, batch: int, work: Callable[[], float]) -> float:
        return sum(work() for _ in range(count // batch))

    def _store(self) -> float:
        began = time.perf_counter()
        self._q.conn.execute("select store_dlq_entries(%s::jsonb[])", ([ELEMENT] * 1000,))
        return time.perf_counter() - began

    def _claim_and_settle(self) -> float:
        began = time.perf_counter()
        ids = [row[0] for row in self._q.conn.execute("select bench.claim()").fetchall()]
        self._q.conn.execute(self.SETTLE, {"ids": ids})
        took = time.perf_counter() - began
        assert len(ids) == 100, f"{len(ids)} of 100 were claimed"
        return took

    def _turn(self) -> float:
        """A pass of the engine: its three steps. The sender's part, between them, is not counted."""
        run = self._q.one("select dlq._begin_run()")
        took = 0.0
        for step in ("dispatch_due", "collect_responses", "requeue_lost"):
            if step == "collect_responses":
                self._q.answer()
            began = time.perf_counter()
            (moved,) = self._q.conn.execute("select moved from dlq._step(%s, %s)", (run, step)).fetchall()
            took += time.perf_counter() - began
            assert moved[0] == (0 if step == "requeue_lost" else 100), f"{step}: {moved[0]} of 100"
        self._q.conn.execute("select dlq._end_run(%s)", (run,))
        return took


@contextmanager
def peers(dsn: str, url: str) -> Iterator[dict[str, Side]]:
    """Install those that can be had, and yield them, ready. Says which cannot."""
    found: dict[str, Side] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dlqctl-peers-")))
        commands: dict[str, list[str]] = {}
        if _install([sys.executable, "-m", "venv", str(folder / "venv")]) and _install(
            [str(folder / "venv/bin/pip"), "install", "--quiet", "--requirement", str(HERE / "requirements.txt")]
        ):
            python = str(folder / "venv/bin/python")
            for name in ("pgqueuer", "procrastinate"):
                commands[name] = [python, str(HERE / f"{name}_side.py"), dsn]
        shutil.copy(HERE / "package.json", folder)
        if shutil.which("npm") and _install(["npm", "install", "--silent", "--prefix", str(folder)]):
            commands["graphile-worker"] = ["node", str(HERE / "graphile_side.cjs"), url, str(folder)]
        for name in ("graphile-worker", "pgqueuer", "procrastinate"):
            if name not in commands:
                print(f"{name} cannot be installed here: its figures are left out.")
                continue
            peer = Peer(commands[name])
            stack.callback(peer.close)
            if peer.run("install") > 0:
                found[name] = peer
            else:
                print(f"{name} does not start: its figures are left out.")
        yield found


def _install(command: list[str]) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=300).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


# A million that wait, in each one's own table, beyond the reach of its triggers: it is how many that matters.
WAITING: dict[str, LiteralString] = {
    "graphile-worker": """
        insert into graphile_worker._private_jobs (task_id, payload, run_at)
        select t.id, '{"n": 1}', now() + interval '1 day'
        from generate_series(1, %s) as n, graphile_worker._private_tasks as t where t.identifier = 'shop'
    """,
    "pgqueuer": """
        insert into pgqueuer (priority, status, entrypoint, payload, execute_after)
        select 0, 'queued', 'shop', '{"n": 1}', now() + interval '1 day' from generate_series(1, %s) as n
    """,
    "procrastinate": """
        insert into procrastinate_jobs (queue_name, task_name, args, status, scheduled_at)
        select 'shop', 'shop', '{"n": 1}', 'todo', now() + interval '1 day' from generate_series(1, %s) as n
    """,
    "ours": """
        insert into webhook_dlq (service, payload, created_at, updated_at, next_retry_at)
        select 'shop', '{"n": 1}', now(), now(), now() + interval '1 day' from generate_series(1, %s) as n
    """,
}


WRITTEN: LiteralString = "select pg_current_wal_insert_lsn() - '0/0'"


def load(q: Quiet, names: list[str], waiting: int) -> None:
    q.conn.execute("set session_replication_role = replica")
    for name in names:
        if name in WAITING:
            q.conn.execute(WAITING[name], (waiting,))
    q.conn.execute("set session_replication_role = origin")
    q.conn.execute("vacuum analyze")


def measure(q: Quiet, sides: dict[str, Side], entries: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Each side's figures, round by round: stored, taken and settled a second; bytes of WAL for each stored."""
    rates: dict[str, dict[str, list[float]]] = {name: {"store": [], "turn": [], "wal": []} for name in sides}
    order = list(sides)
    for nth in range(rounds + 1):
        for name in order:
            # One at a time over a million that are not due takes procrastinate longer than all the others together.
            count = 1000 if name == "procrastinate" else entries
            for command in ("store", "turn"):
                few = 20 if name == "procrastinate" and command == "turn" else count
                before = q.one(WRITTEN)
                took = sides[name].run(command, few)
                if nth:  # the first round warms up
                    rates[name][command].append(few / took)
                    if command == "store":
                        rates[name]["wal"].append(float(q.one(WRITTEN) - before) / few)
        order = order[1:] + order[:1]
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    report = Report("peers", "What do other queues in PostgreSQL do in the same time?")
    with quiet(settings={"pg_net.batch_size": "100"}) as q, peers(q.cluster.dsn(), q.cluster.url()) as others:
        report.server(q.conn)
        q.conn.execute("update dlq.settings set max_in_flight = 200, retry_schedule = '{1 us}'")
        q.conn.execute("select dlq.set_secret('SECRET', 'It''s a secret to everybody')")
        q.conn.execute(
            "select dlq.set_endpoint('shop', 'http://127.0.0.1:9/shop', true, true, max_in_flight => 100,"
            " signing => 'x-hub-signature-256', secret_names => '{SECRET}')"
        )
        sides: dict[str, Side] = {"ours": Ours(q, whole=False), "ours, a whole turn": Ours(q, whole=True), **others}
        for side in others.values():
            side.run("store", 1000)
            side.run("turn", 1000)
        load(q, list(sides), args.waiting)
        tell(f"{args.waiting:,} wait in each")
        rates = measure(q, sides, args.entries, args.rounds)
    rows = []
    for name, of in rates.items():
        rows.append(
            (name, KEEPS[name], *(f"{statistics.median(of[command]):,.0f}" for command in ("store", "wal", "turn")))
        )
    title = f"{args.waiting:,} waiting, not due; medians of {args.rounds} rounds, a second"
    report.table(title, ("", "keeps", "stored", "WAL, bytes each", "claimed and settled"), rows)
    for name in others:
        if KEEPS[name] != "nothing":
            times = statistics.median(rates["ours"]["store"]) / statistics.median(rates[name]["store"])
            report.ratio(f"stored: ours over {name}", times, at_least=1)
    report.save()


if __name__ == "__main__":
    main()
