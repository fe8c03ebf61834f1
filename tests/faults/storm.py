"""A storm: webhooks are stored, sent and settled while everything fails that can, as a plan says that a seed makes.

What a fault meets depends on the moment, so a replay of a seed is the same plan, and not the same second.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from dlqctl.cluster import Cluster
from dlqctl.errors import DlqctlError
from tests.faults.disk import SmallDisk
from tests.faults.handlers import TIMEOUT_MS, Handlers, quietly
from tests.net_worker import start_net_worker

SERVICES = [f"s{n}" for n in range(10)]  # s8 and s9 follow the template
UNSENDABLE = 87  # of each hundred: bytes that cannot be sent as they are
SPEED = 120  # the queue's clock to the real one
_PATIENT = "-c statement_timeout=8s -c lock_timeout=4s -c idle_in_transaction_session_timeout=30s"

# How often each, in proportion; a plan has each at least once, if it is long enough.
WEIGHTS = {
    "a backend is killed": 10, "the server is killed": 4, "the server is stopped immediately": 6,
    "the server is restarted": 4, "cron's launcher dies": 3, "the disk is full": 5, "the disk is full for WAL": 3,
    "the sender is killed": 8, "the sender is restarted": 8, "the sender stands still": 8, "the sender is cut off": 8,
    "the clock jumps forward": 6, "the clock jumps back": 4, "a long transaction": 8, "a table is locked": 16,
    "rows are locked": 6, "the engine is locked": 4, "the engine is terminated": 24, "the engine is cancelled": 10,
    "a service is paused": 6, "everything is paused": 2, "an endpoint is set wrong": 5, "an endpoint is disabled": 3,
    "entries are made due": 8, "entries are discarded": 4, "a pass is rolled back": 6, "ids start again": 4,
    "ids jump": 3, "the sender's tables are emptied": 4, "answers are deleted": 4, "answers are forged": 4,
    "the head of the queue is bad": 5,
}  # fmt: skip
# These last, and others go on beside them.
_LASTING = {
    "a table is locked", "rows are locked", "a long transaction", "the engine is locked", "the sender stands still",
    "a service is paused", "everything is paused", "an endpoint is set wrong", "an endpoint is disabled",
    "the head of the queue is bad",
}  # fmt: skip


@dataclass
class Fault:
    """One that happened, in real time."""

    kind: str
    began: float
    ended: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Planned:
    """One that shall happen: so long after the last, with dice of its own."""

    kind: str
    pause: float
    seed: float


def plan(seed: int, count: int, gap: float, without: frozenset[str]) -> list[Planned]:
    """Return the seed's plan of faults, each kind at least once if there is room."""
    dice = random.Random(f"faults {seed}")
    kinds = [kind for kind in WEIGHTS if kind not in without]
    chosen = dice.sample(kinds, min(len(kinds), count))
    chosen += dice.choices(kinds, [WEIGHTS[kind] for kind in kinds], k=count - len(chosen))
    dice.shuffle(chosen)
    return [Planned(kind, dice.uniform(0.1, 2 * gap), dice.random()) for kind in chosen]


@dataclass
class Storm:
    """A server with dlqctl in it, its sender, its handlers, and what is done to them."""

    cluster: Cluster
    handlers: Handlers
    is_pg_net: bool
    disk: SmallDisk | None
    seed: int
    faults: list[Fault] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)  # what callers of the engine were told, by SQLSTATE
    cycles: int = 0

    def __post_init__(self) -> None:
        self._power = threading.RLock()  # who has it may stop the server
        self._over = threading.Event()
        self._workers: list[subprocess.Popen[bytes]] = []
        self._origin = time.time()
        self._offset = 0.0  # of the queue's clock, in seconds
        self._clock = threading.Lock()

    # The pieces.

    def connect(self, name: str = "fault", **options: Any) -> psycopg.Connection:
        return psycopg.connect(
            self.cluster.dsn(), autocommit=True, connect_timeout=3, application_name=name, options=_PATIENT, **options
        )

    def do(self, *statements: str) -> list[Any]:
        """Run statements, and return the last one's rows."""
        with self.connect() as conn:
            for statement in statements:
                cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def until_up(self) -> None:
        """Return once the server takes connections, started again if it is down. Raises if it does not come up."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self.cluster.start()
                self.do("select 1")
                return
            except (psycopg.Error, DlqctlError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def set_up(self, entries: int) -> None:
        """Endpoints and settings; the first half of the entries."""
        self.do(
            "update dlq.settings set cycle_minutes = 1, cycle_budget = '4 s'",
            "select dlq.set_alert_rule('processor', '1 min')",
        )
        self.set_endpoints()
        self.move_clock(0)
        for n in range(entries // 2):
            self.store(n)

    def set_endpoints(self) -> None:
        with self.connect() as conn:
            for service in ("*", *SERVICES[:8], "raw"):
                conn.execute(
                    "select dlq.set_endpoint(%s, %s, true, true, timeout_ms => %s, enabled => true, body => %s)",
                    (
                        service,
                        self.handlers.url("{service}" if service == "*" else service),
                        TIMEOUT_MS,
                        "raw" if service == "raw" else "json",
                    ),
                )

    def store(self, n: int) -> None:
        """Store a webhook as a handler does: until somebody says that it is stored, under one key."""
        service = "raw" if n % 100 == UNSENDABLE else SERVICES[n % len(SERVICES)]
        body = b"\x00" * 3 if service == "raw" else None
        while True:
            with quietly(), self.connect("a handler") as conn:
                conn.execute(
                    "select store_dlq_entry(%s, %s, 'failed', raw_body => %s, idempotency_key => %s,"
                    ' headers => \'{"content-type": "application/json"}\')',
                    (service, None if body else Jsonb({"n": n}), body, f"k{n}"),
                )
                return
            time.sleep(0.05)

    def move_clock(self, seconds: float) -> None:
        """Set the queue's clock forward by so much, or back. It is fast by SPEED besides."""
        with self._clock:
            self._offset += seconds
            body = (
                f"select pg_catalog.now() + (pg_catalog.now() - pg_catalog.to_timestamp({self._origin})) * {SPEED - 1}"
                f" + interval '{self._offset} s'"
            )
            self.do(
                "create or replace function dlq._now() returns timestamptz language sql stable"
                f" as $$ {body} $$"  # keeps its owner
            )

    @contextlib.contextmanager
    def running(self, entries: int, seconds: float) -> Iterator[None]:
        """Run cycles and net-workers until the block ends; store the other half of the entries in so many seconds."""
        threads = [
            threading.Thread(target=self._cycle, daemon=True),
            threading.Thread(target=self._take_in, args=(range(entries // 2, entries), seconds), daemon=True),
        ]
        try:
            if not self.is_pg_net:
                self._workers = [start_net_worker(self.cluster.dsn(user="sender")) for _ in range(2)]
            for thread in threads:
                thread.start()
            yield
            threads[1].join(60)
        finally:
            self._over.set()
            for thread in threads:
                thread.join(20)
            for worker in self._workers:
                with contextlib.suppress(ProcessLookupError):
                    worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait()

    def _cycle(self) -> None:
        """What pg_cron does too, more often."""
        while not self._over.is_set():
            try:
                with psycopg.connect(
                    self.cluster.dsn(), autocommit=True, connect_timeout=3, application_name="driver"
                ) as conn:
                    while not self._over.is_set():
                        conn.execute("call dlq.run_cycle()")
                        self.cycles += 1
                        self._over.wait(0.2)
            except psycopg.Error as error:
                self.errors[error.sqlstate or "no connection"] += 1
                self._over.wait(0.05)

    def _take_in(self, numbers: range, seconds: float) -> None:
        began = time.monotonic()
        for done, n in enumerate(numbers):
            self.store(n)
            self._over.wait(max(0, began + seconds * done / len(numbers) - time.monotonic()))

    # The faults.

    def rage(self, planned: list[Planned], deadline: float) -> None:
        """Carry out the plan. What lasts goes on beside the next ones. Stops at the deadline, a monotonic time."""
        with ThreadPoolExecutor(4) as pool:
            for item in planned:
                if time.monotonic() > deadline:
                    break
                time.sleep(item.pause)
                if item.kind in _LASTING:
                    pool.submit(self._commit_fault, item)
                else:
                    self._commit_fault(item)

    def _commit_fault(self, item: Planned) -> None:
        fault = Fault(item.kind, time.time())
        act: Callable[[random.Random], str | None] = getattr(self, "_" + "_".join(_words(item.kind)))
        try:
            fault.note = act(random.Random(item.seed)) or ""
        except (psycopg.Error, OSError, DlqctlError, LookupError) as error:
            # Another fault was in its way: it did not happen.
            self.missed[f"{item.kind}: {type(error).__name__}"] += 1
        else:
            fault.ended = time.time()
            self.faults.append(fault)

    def _processes(self) -> list[tuple[int, str]]:
        """The server's own processes but for the logger, with what they are."""
        rows = self.do("select pid, coalesce(backend_type, '') || ' ' || application_name from pg_stat_activity")
        return [(pid, what) for pid, what in rows if _parent(pid) == self.cluster.postmaster_pid]

    def _a_backend_is_killed(self, dice: random.Random) -> str:
        pid, what = dice.choice([row for row in self._processes() if "fault" not in row[1]])
        os.kill(pid, signal.SIGKILL)
        self._wait_for_crash(pid)
        return what

    def _wait_for_crash(self, pid: int) -> None:
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and _parent(pid) == self.cluster.postmaster_pid:
            if time.monotonic() > deadline:
                raise LookupError(f"{pid} does not die")
            time.sleep(0.01)
        with self._power:
            self.until_up()

    def _the_server_is_killed(self, dice: random.Random) -> None:
        with self._power:
            os.kill(self.cluster.postmaster_pid, signal.SIGKILL)
            self.cluster.wait()
            time.sleep(dice.uniform(0, 0.5))
            self.until_up()

    def _the_server_is_stopped_immediately(self, dice: random.Random) -> None:
        with self._power:
            self.cluster.stop("immediate")
            time.sleep(dice.uniform(0, 1))
            self.until_up()

    def _the_server_is_restarted(self, dice: random.Random) -> None:
        with self._power:
            self.cluster.restart()
            self.until_up()

    def _crons_launcher_dies(self, dice: random.Random) -> str:
        rows = self.do("select pid from pg_stat_activity where backend_type = 'pg_cron launcher'")
        self.do(f"select pg_terminate_backend({rows[0][0]}, 5000)")
        time.sleep(dice.uniform(0, 2))
        version = self.do("select installed_version from pg_available_extensions where name = 'pg_cron'")[0][0]
        if version >= "1.6.1":  # it comes back by itself
            return str(version)
        self._the_server_is_restarted(dice)
        return f"{version}, and a restart for it"

    def _the_disk_is_full(self, dice: random.Random, wal: bool = False) -> str:
        assert self.disk is not None
        with self._power:
            try:
                self.disk.fill()
                for _ in range(12 if wal else 0):  # until no segment is left to write over
                    with quietly():
                        self.do("select pg_switch_wal() from pg_logical_emit_message(true, 'x', 'y')")
                time.sleep(dice.uniform(0.5, 2))
            finally:
                self.disk.free()
            with quietly():
                self.do("select 1")
                return "the server stood"
            self.until_up()
            return "the server fell"

    def _the_disk_is_full_for_wal(self, dice: random.Random) -> str:
        return self._the_disk_is_full(dice, wal=True)

    def _senders_session(self) -> int:
        where = "backend_type like 'pg_net%'" if self.is_pg_net else "application_name = 'dlqctl net-worker'"
        return int(self.do(f"select pid from pg_stat_activity where {where} order by random() limit 1")[0][0])

    def _the_sender_is_killed(self, dice: random.Random) -> str:
        if self.is_pg_net:
            pid = self._senders_session()
            os.kill(pid, signal.SIGKILL)
            self._wait_for_crash(pid)
            return "and with it the server"
        which = dice.randrange(len(self._workers))
        self._workers[which].kill()
        self._workers[which].wait()
        time.sleep(dice.uniform(0, 1))
        self._workers[which] = start_net_worker(self.cluster.dsn(user="sender"))
        return ""

    def _the_sender_is_restarted(self, dice: random.Random) -> None:
        if self.is_pg_net:
            self.do("select net.worker_restart()")
            return
        which = dice.randrange(len(self._workers))
        self._workers[which].terminate()
        try:
            self._workers[which].wait(15)
        except subprocess.TimeoutExpired:
            self._workers[which].kill()
            self._workers[which].wait()
        self._workers[which] = start_net_worker(self.cluster.dsn(user="sender"))

    def _the_sender_stands_still(self, dice: random.Random) -> None:
        pid = self._senders_session() if self.is_pg_net else dice.choice(self._workers).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(dice.uniform(0.5, 3))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _the_sender_is_cut_off(self, dice: random.Random) -> None:
        self.do(f"select pg_terminate_backend({self._senders_session()})")

    def _the_clock_jumps_forward(self, dice: random.Random) -> str:
        seconds = dice.uniform(600, 4 * 3600)
        self.move_clock(seconds)
        return f"{seconds / 60:.0f} min"

    def _the_clock_jumps_back(self, dice: random.Random) -> str:
        seconds = dice.uniform(60, 3600)
        self.move_clock(-seconds)
        return f"{seconds / 60:.0f} min"

    def _a_long_transaction(self, dice: random.Random) -> None:
        with self.connect() as conn, conn.transaction():
            conn.execute("set transaction isolation level repeatable read")
            conn.execute("select pg_current_xact_id(), count(*) from public.webhook_dlq")
            time.sleep(dice.uniform(2, 8))

    def _a_table_is_locked(self, dice: random.Random) -> str:
        table = dice.choice([
            "public.webhook_dlq", "public.dlq_processing_log", "dlq.in_flight", "dlq.delivery_attempts", "dlq.settings",
            "dlq.endpoints", "net.http_request_queue", "net._http_response", "dlq.net_workers",
        ])  # fmt: skip
        mode = dice.choice(["access exclusive", "share row exclusive", "share"])
        with self.connect() as conn, conn.transaction():
            conn.execute(f"lock table {table} in {mode} mode".encode())
            time.sleep(dice.uniform(0.5, 3))
        return f"{table}, {mode}"

    def _rows_are_locked(self, dice: random.Random) -> str:
        table = dice.choice(["public.webhook_dlq", "dlq.in_flight", "net.http_request_queue"])
        with self.connect() as conn, conn.transaction():
            conn.execute(f"select from {table} where random() < 0.3 for update skip locked".encode())
            time.sleep(dice.uniform(0.5, 3))
        return table

    def _the_engine_is_locked(self, dice: random.Random) -> None:
        """As by a migration."""
        with self.connect() as conn, conn.transaction():
            conn.execute("select pg_advisory_xact_lock(6581361)")
            time.sleep(dice.uniform(0.5, 3))

    def _end_engine(self, dice: random.Random, function: str) -> str:
        """Whatever a cycle is at, the driver's or pg_cron's, but a sleep between two passes only now and then."""
        asleep = "true" if dice.random() < 0.2 else "wait_event is distinct from 'PgSleep'"
        deadline = time.monotonic() + 3
        with self.connect() as conn:
            while time.monotonic() < deadline:
                time.sleep(dice.uniform(0, 0.02))
                row = conn.execute(
                    f"select {function}(pid), wait_event from pg_stat_activity"
                    f" where query like '%run_cycle()%' and state = 'active' and pid <> pg_backend_pid() and {asleep}"
                    " order by random() limit 1".encode()
                ).fetchone()
                if row is not None:
                    return str(row[1])
        raise LookupError("no cycle is running")

    def _the_engine_is_terminated(self, dice: random.Random) -> str:
        return self._end_engine(dice, "pg_terminate_backend")

    def _the_engine_is_cancelled(self, dice: random.Random) -> str:
        return self._end_engine(dice, "pg_cancel_backend")

    def _a_service_is_paused(self, dice: random.Random) -> str:
        service = dice.choice(SERVICES)
        self.do(f"select dlq.pause('a storm', '{service}')")
        time.sleep(dice.uniform(0.5, 4))
        self.do(f"select dlq.resume('{service}')")
        return service

    def _everything_is_paused(self, dice: random.Random) -> None:
        self.do("select dlq.pause('a storm')")
        time.sleep(dice.uniform(0.5, 2))
        self.do("select dlq.resume()")

    def _an_endpoint_is_set_wrong(self, dice: random.Random) -> str:
        """To a port where nobody listens."""
        service = dice.choice(SERVICES[:8])
        self.do(f"select dlq.set_endpoint('{service}', 'http://127.0.0.1:9/')")
        time.sleep(dice.uniform(0.5, 2))
        self.do(f"select dlq.set_endpoint('{service}', '{self.handlers.url(service)}')")
        return service

    def _an_endpoint_is_disabled(self, dice: random.Random) -> str:
        service = dice.choice(SERVICES[:8])
        for enabled in ("false", "true"):
            self.do(f"select dlq.set_endpoint('{service}', '{self.handlers.url(service)}', enabled => {enabled})")
            time.sleep(dice.uniform(0.5, 2))
        return service

    def _entries_are_made_due(self, dice: random.Random) -> str:
        status = dice.choice(["failed", "failed", "processing", "pending", "reprocessed"])
        return self._update(status, 10, "status = 'pending', next_retry_at = dlq._now()")

    def _entries_are_discarded(self, dice: random.Random) -> str:
        status = dice.choice(["failed", "processing", "pending"])
        return self._update(status, 2, "status = 'discarded'")

    def _update(self, status: str, count: int, assignment: str) -> str:
        rows = self.do(
            f"with chosen as materialized (select id from webhook_dlq where status = '{status}' order by random()"
            f" limit {count} for update skip locked)"
            f" update webhook_dlq set {assignment} where id in (select id from chosen) returning 1"
        )
        return f"{len(rows)} that were {status}"

    def _a_pass_is_rolled_back(self, dice: random.Random) -> str:
        with self.connect() as conn, conn.transaction(force_rollback=True):
            (run,) = conn.execute("select process_dlq_entries()").fetchone() or ({},)
        return str(run.get("status"))

    def _ids_start_again(self, dice: random.Random) -> None:
        self.do("select setval('net.http_request_queue_id_seq', 1, false)")

    def _ids_jump(self, dice: random.Random) -> None:
        self.do(f"select setval('net.http_request_queue_id_seq', {dice.randrange(10**6)})")

    def _the_senders_tables_are_emptied(self, dice: random.Random) -> str:
        tables = dice.choice(
            ["net.http_request_queue", "net._http_response", "net.http_request_queue, net._http_response"]
        )
        self.do(f"truncate {tables} {dice.choice(['restart identity', ''])}")
        return tables

    def _answers_are_deleted(self, dice: random.Random) -> None:
        self.do("delete from net._http_response where random() < 0.5")

    def _answers_are_forged(self, dice: random.Random) -> None:
        """To requests that nobody has made."""
        self.do(
            "insert into net._http_response (id, status_code)"
            f" select 1000000000 + (random() * 1e9)::bigint, 200 from generate_series(1, {dice.randrange(1, 50)})"
        )

    def _the_head_of_the_queue_is_bad(self, dice: random.Random) -> None:
        """By a stranger: pg_net's worker dies of it, each second, until it is taken out."""
        self.do(
            "insert into net.http_request_queue (id, method, url, headers, body, timeout_milliseconds)"
            " values (-1, 'POST', 'http://127.0.0.1:9/', '[1]', null, 1000)"
        )
        time.sleep(dice.uniform(1, 4))
        self.do("delete from net.http_request_queue where id = -1")

    # The calm.

    def calm_down(self, *, wait: bool, seconds: float) -> None:
        """End what the faults have left, then let the clock run until every entry is settled, for so long at most.

        What must go missing for a minute by the real clock is waited for, or made a minute older.
        """
        with self._power:
            if self.disk is not None:
                self.disk.free()
            self.until_up()
        self.handlers.calm = True
        with quietly():
            self.do("delete from net.http_request_queue where id = -1")
        for service in [row[0] for row in self.do("select service from dlq.backlog")]:
            self.do(f"select dlq.resume('{service}')")
        self.do("select dlq.resume()")
        self.set_endpoints()
        if not self.is_pg_net:
            for n, worker in enumerate(self._workers):
                if worker.poll() is not None:
                    self._workers[n] = start_net_worker(self.cluster.dsn(user="sender"))
        deadline = time.monotonic() + seconds
        while True:
            if not wait:
                self.do(
                    "update dlq.in_flight set missing_since = missing_since - interval '2 min'"
                    " where missing_since is not null",
                    "update dlq_processing_log set processed_at = processed_at - interval '2 min'"
                    " where status = 'running' and processed_at < clock_timestamp() - interval '8 s'",
                )
            (under_way, waiting, running) = self.do(
                "select count(*) filter (where status = 'processing'), count(*) filter (where status = 'pending'),"
                " (select count(*) from dlq_processing_log where status = 'running'"
                "   and processed_at + coalesce(duration, '0') < clock_timestamp() - interval '10 s')"
                " from webhook_dlq where status in ('pending', 'processing')"
            )[0]
            if under_way + waiting + running == 0:
                return
            if time.monotonic() > deadline:
                return  # the verdict says what is left
            if not under_way and waiting:
                self.move_clock(12 * 3600)
            time.sleep(0.5)


def _words(kind: str) -> list[str]:
    return kind.lower().replace("'", "").split()


def _parent(pid: int) -> int:
    """The parent of a process, 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0
