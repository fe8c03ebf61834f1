"""Two of everything, at one queue, at the same time: cycles, passes, senders, handlers, people.

Each actor is a thread with a connection of its own. What must hold is looked at while they work: by a trigger, in the
transaction of every dispatch, and by an observer that takes consistent snapshots. At the end the handlers' log is held
against what the database has on record.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
from psycopg.types.json import Jsonb

from dlqctl.cluster import Cluster
from dlqctl.receiver import Receiver, Reply, Request
from tests.faults.crowd_verdict import Call, Figures
from tests.net_worker import start_net_worker

SERVICES = [f"s{n}" for n in range(6)]  # the last follows the template
TIMEOUT_MS = 1000
SPEED = 60  # the queue's clock to the real one: a circuit is open for a second, then two, then four
MOST_IN_ALL = 60  # with net-workers; with pg_net it is two of its batches
LOCK_WAIT_MS = 250  # what waits for a lock for longer is in the server's log
SETTINGS = {
    "deadlock_timeout": f"{LOCK_WAIT_MS}ms",
    "log_lock_waits": "on",
    "log_line_prefix": "%a ",
    "log_min_error_statement": "error",
    "max_connections": "150",
}
# Nobody may wait for longer: it is an error then, and an error is a failure.
_PATIENCE = "-c lock_timeout=8s -c statement_timeout=30s"

# What a handler does: how often of a hundred, and what it answers.
KINDS = {
    "take": (58, 200), "take slowly": (10, 200), "take too late": (1, 200), "refuse": (12, 500),
    "refuse for good": (1, 410), "not this one": (2, 422), "overloaded": (2, 503), "hang up": (2, 0),
    "echo": (4, 200), "echo by key": (3, 200), "echo by insert": (3, 500), "echo late": (2, 200),
}  # fmt: skip

# Verbs on entries, and the states in which each does something.
VERBS = {
    "retry": ("failed", "pending", "discarded"),
    "redeliver": ("reprocessed",),
    "discard": ("pending",),
    "amend": ("pending",),
}
PHONES = 50

_WATCH = """
create schema watch;
create table watch.dispatches (
  n bigint generated always as identity,
  began timestamptz not null default now(), at timestamptz not null default clock_timestamp(),
  service text, in_flight bigint, most integer, cap integer, is_paused boolean, in_all bigint);
create table watch.limits (at timestamptz not null default clock_timestamp(), service text, was jsonb);
create table watch.deleted (entry_id uuid);
create function watch.dispatched() returns trigger language plpgsql security definer as $$
begin
  insert into watch.dispatches (service, in_flight, most, cap, is_paused, in_all)
  select s.service, (select count(*) from dlq.in_flight as f where f.service = s.service), r.max_in_flight,
    t.cap, dlq._is_paused(s.service), (select count(*) from dlq.in_flight)
  from (select distinct service from sent) as s
    cross join lateral dlq._route(s.service) as r
    left join dlq.endpoint_state as t on t.service = s.service;
  return null;
end $$;
create function watch.limited() returns trigger language plpgsql security definer as $$
begin
  insert into watch.limits (service, was) values (coalesce(new.service, old.service), to_jsonb(old));
  return null;
end $$;
create function watch.deleted() returns trigger language plpgsql security definer as $$
begin
  insert into watch.deleted values (old.id);
  return null;
end $$;
create trigger watch after insert on dlq.in_flight referencing new table as sent
  for each statement execute function watch.dispatched();
create trigger watch after insert or update on dlq.endpoints for each row execute function watch.limited();
create trigger watch after insert or update on dlq.pauses for each row execute function watch.limited();
create trigger watch after delete on public.webhook_dlq for each row execute function watch.deleted();
"""
# A dispatch goes by what had been committed when it chose. The trigger looks a moment later: what a person has lowered
# since the transaction began, or was about to commit then, does not count, and is counted apart.
_PASSED = """
select d.n, d.service, d.in_flight, d.most, d.cap, d.is_paused, d.in_all, exists (
    select from watch.limits as l
    where l.service in (d.service, '*') and l.at between d.began - interval '100 ms' and d.at
      and d.in_flight <= greatest((l.was ->> 'max_in_flight')::integer, d.most)
      and (d.cap is null or d.in_flight <= greatest(d.cap, 1))) as is_just_lowered
from watch.dispatches as d
where d.n > %s and (
  d.is_paused or d.in_flight > case when d.cap = 0 then 1 else least(d.cap, d.most) end or d.in_all > %s)
order by d.n
"""
# One statement, so one snapshot.
_SNAPSHOT = """
with queued as materialized (
  select q.id, (h.value)::uuid as entry_id
  from net.http_request_queue as q
    cross join lateral jsonb_each_text(q.headers) as h
  where h.key = 'dlq-entry'
),
sent as (select q.id, q.entry_id from queued as q union select f.request_id, f.entry_id from dlq.in_flight as f)
select 'two requests at once' as what, s.entry_id from sent as s group by 2 having count(*) > 1
union all
select 'a request that is not in flight', q.entry_id
from queued as q join public.webhook_dlq as e on e.id = q.entry_id and e.payload <> '{"erased": true}'
where q.id not in (select f.request_id from dlq.in_flight as f)
union all
select 'in flight, and neither queued nor answered', f.entry_id
from dlq.in_flight as f
where f.request_id not in (select q.id from queued as q)
  and f.request_id not in (select r.id from net._http_response as r where r.id is not null)
union all
select 'processing, and not in flight', e.id
from public.webhook_dlq as e
where e.status = 'processing' and e.id not in (select f.entry_id from dlq.in_flight as f)
"""


def _phone(n: int) -> str:
    return f"+1555{n:07}"


class Crowd:
    """A server with dlqctl in it, and everybody at work on it until so many rounds are done.

    A round is one act of one of them; to have found the engine busy is none.
    """

    def __init__(self, cluster: Cluster, receiver: Receiver, *, is_pg_net: bool, seed: int, rounds: int) -> None:
        self.cluster = cluster
        self.receiver = receiver
        self.is_pg_net = is_pg_net
        self.seed = seed
        self.rounds = rounds
        self.figures = Figures()
        self.calls: list[Call] = []
        self.calm = False
        self._lock = threading.Lock()
        self._most_in_all = 400 if is_pg_net else MOST_IN_ALL
        self._over = threading.Event()
        self._keys = itertools.count(1)
        self._workers: list[subprocess.Popen[bytes]] = []
        self._late: list[threading.Thread] = []
        self._few = threading.BoundedSemaphore(10)

    # The place.

    def connect(self, user: str, name: str) -> psycopg.Connection:
        return psycopg.connect(
            self.cluster.dsn(user=user),
            autocommit=True,
            application_name=name,
            options=_PATIENCE,
            prepare_threshold=None,
        )

    def set_up(self) -> None:
        """Roles, endpoints, settings, the clock and the watch."""
        with psycopg.connect(self.cluster.dsn(), autocommit=True) as conn:
            for role, group in (("writer", "dlq_writer"), ("admin", "dlq_admin"), ("sender", "dlq_net_worker")):
                if conn.execute("select to_regrole(%s)", (group,)).fetchone() != (None,):
                    conn.execute(f"create role {role} login in role {group}".encode())
            conn.execute(
                "update dlq.settings set cycle_budget = '1 s', max_in_flight = %s, max_unanswered = 50,"
                " retry_schedule = '{10 s,20 s,30 s,30 s,30 s,30 s}'",
                (MOST_IN_ALL,),
            )
            self._set_endpoints(conn)
            since = f"pg_catalog.now() - pg_catalog.to_timestamp({time.time()})"
            conn.execute(
                "create or replace function dlq._now() returns timestamptz language sql stable as"
                f" $$ select pg_catalog.now() + ({since}) * {SPEED - 1} $$".encode()
            )
            conn.execute(_WATCH.encode())

    def _set_endpoints(self, conn: psycopg.Connection) -> None:
        for service in ("*", *SERVICES[:-1]):
            url = self.receiver.url("{service}" if service == "*" else service)
            conn.execute(
                "select dlq.set_endpoint(%s, %s, true, true, timeout_ms => %s, max_in_flight => 8)",
                (service, url, TIMEOUT_MS),
            )

    @contextlib.contextmanager
    def senders(self) -> Iterator[None]:
        """Two net-workers, where pg_net does not send."""
        try:
            if not self.is_pg_net:
                self._workers = [start_net_worker(self.cluster.dsn(user="sender")) for _ in range(2)]
                with self.connect("postgres", "starter") as conn:
                    while not self._has_two_workers(conn):
                        time.sleep(0.05)
            yield
        finally:
            for worker in self._workers:
                worker.kill()
                worker.wait()

    def _has_two_workers(self, conn: psycopg.Connection) -> bool:
        query = "select count(*) from pg_stat_activity where application_name = 'dlqctl net-worker'"
        return conn.execute(query).fetchone() == (2,)

    # Everybody.

    def work(self, seconds: float) -> None:
        """Have everybody work until the rounds are done. Raises if they are not after so many seconds."""
        actors: list[tuple[str, str, Callable[[psycopg.Connection, random.Random], None]]] = [
            *[("admin", "cycle", self._cycle)] * 2,
            *[("admin", "pass", self._pass)] * 3,
            *[("writer", "store", self._store)] * 3,
            *[("admin", "person", self._act)] * 3,
            ("postgres", "maintenance", self._maintain),
            ("postgres", "killer", self._kill),
        ]
        threads = [
            threading.Thread(target=self._run, args=(n, *actor), name=f"{actor[1]} {n}")
            for n, actor in enumerate(actors)
        ]
        threads.append(threading.Thread(target=self._observe, name="observer"))
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds
        try:
            while not self._over.wait(0.1) and time.monotonic() < deadline:
                pass
            assert self._over.is_set(), f"{self.figures.acts} after {seconds} s"
        finally:
            self._over.set()
            for thread in threads:
                thread.join(40)
        assert not any(thread.is_alive() for thread in threads)

    def _run(self, n: int, user: str, name: str, act: Callable[[psycopg.Connection, random.Random], None]) -> None:
        dice = random.Random(f"{self.seed} {n}")
        while not self._over.is_set():
            pid = 0
            try:
                with self.connect(user, name) as conn:
                    pid = conn.info.backend_pid
                    while not self._over.is_set():
                        act(conn, dice)
            except psycopg.Error as error:
                if pid not in self.figures.ended:
                    self._err(name, error)
                    self._over.wait(0.1)

    def _err(self, name: str, error: psycopg.Error) -> None:
        with self._lock:
            self.figures.errors[f"{name}: {error.sqlstate or 'connection'} {str(error).splitlines()[0]}"] += 1

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        with self._lock:
            self.figures.acts[what] += 1
            self.figures.longest[what] = max(self.figures.longest[what], time.monotonic() - began)
            if self.figures.acts.total() - self.figures.said["busy"] >= self.rounds:
                self._over.set()

    def _cycle(self, conn: psycopg.Connection, dice: random.Random) -> None:
        with self._timed("cycle"):
            conn.execute("call dlq.run_cycle()")
        time.sleep(dice.uniform(0, 0.1))

    def _pass(self, conn: psycopg.Connection, dice: random.Random) -> None:
        """Alone, or within a person's transaction, which may come to nothing."""
        lot = dice.random()
        with self._timed("pass"), conn.transaction(force_rollback=lot < 0.1):
            row = conn.execute("select process_dlq_entries()").fetchone()
            if lot < 0.2 and row and row[0]["status"] != "busy":
                if lot < 0.02 or lot > 0.18:
                    conn.execute("select process_dlq_entries()")
                time.sleep(dice.uniform(0, 0.1))
        assert row is not None
        status = row[0]["status"]
        with self._lock:
            self.figures.said[f"{status}, rolled back" if lot < 0.1 and status == "ok" else status] += 1
            if "error" in row[0]:
                self.figures.errors[f"pass: {row[0]['error']}"] += 1
        time.sleep(dice.uniform(0, 0.03))

    def _store(self, conn: psycopg.Connection, dice: random.Random) -> None:
        """New webhooks, and some that another has stored before or stores now, by their keys."""
        n = next(self._keys) if dice.random() < 0.8 else max(1, next(self._keys) - dice.randrange(1, 4))
        service = SERVICES[n % len(SERVICES)]
        payload = Jsonb({"n": n, "key": f"k{n}"})
        with self._timed("store"):
            if dice.random() < 0.2:
                conn.execute("insert into webhook_dlq (service, payload) values (%s, %s)", (service, payload))
            else:
                self._store_by_key(conn, service, payload, f"k{n}", _phone(n % PHONES) if n % 3 == 0 else None)
        time.sleep(dice.uniform(0, 0.08))

    def _store_by_key(
        self, conn: psycopg.Connection, service: str, body: Jsonb | str, key: str, phone: str | None = None
    ) -> None:
        began = time.time()
        row = conn.execute(
            "select store_dlq_entry(%s, %s, 'no', %s, headers => '{\"host\": \"us\"}', idempotency_key => %s)",
            (service, body, phone, key),
        ).fetchone()
        assert row is not None
        with self._lock:
            self.figures.stored[str(row[0])].append((began, time.time()))

    def _act(self, conn: psycopg.Connection, dice: random.Random) -> None:
        """What people do: verbs, updates by hand, and looking."""
        service = dice.choice(SERVICES)
        what = dice.choices(
            ["pause", "pause all", "limit", "reset", "make due", "settle", "delete", "hold", "look", *VERBS, "erase"],
            [4, 1, 6, 3, 3, 1, 2, 1, 6, *[2] * len(VERBS), 1],
        )[0]
        these = "select id, payload from webhook_dlq where status = any (%s) and service = %s order by id limit %s"
        some = these.replace(", payload", "") + " for update"
        match what:
            case "pause" | "pause all":
                named = service if what == "pause" else None
                with self._timed("pause"):
                    conn.execute("select dlq.pause('two of everything', %s)", (named,))
                time.sleep(dice.uniform(0, 0.2))
                with self._timed("resume"):
                    conn.execute("select dlq.resume(%s, 'enough')", (named,))
            case "limit" if service != SERVICES[-1]:
                with self._timed("set_endpoint"):
                    conn.execute(
                        "select dlq.set_endpoint(%s, %s, max_in_flight => %s)",
                        (service, self.receiver.url(service), dice.choice([1, 2, 3, 5, 8, 20])),
                    )
            case "reset":
                with self._timed("reset_endpoint"):
                    conn.execute("select dlq.reset_endpoint(%s, 'two of everything')", (service,))
            case "make due":
                with self._timed("update by hand"):
                    conn.execute(
                        "update webhook_dlq set status = 'pending', next_retry_at = dlq._now()"
                        f" where id in ({some})".encode(),
                        (dice.choice([["pending"], ["processing"], ["failed"], ["reprocessed"]]), service, 3),
                    )
            case "settle":
                with self._timed("update by hand"):
                    conn.execute(
                        f"update webhook_dlq set status = %s where id in ({some})".encode(),
                        (dice.choice(["discarded", "failed"]), ["pending", "processing"], service, 2),
                    )
            case "delete":
                with self._timed("delete by hand"):
                    conn.execute(
                        f"delete from webhook_dlq where id in ({some})".encode(),
                        (["pending", "processing", "discarded"], service, 2),
                    )
            case "retry" | "redeliver" | "discard" | "amend":
                statuses = [["pending", "processing", "failed", "reprocessed", "discarded"], [*VERBS[what]]]
                repaired = "payload || '{\"amended\": true}', " if what == "amend" else ""
                with self._timed(what), self._unless_deleted():
                    conn.execute(
                        f"select dlq.{what}(id, {repaired}'two of everything') from ({these}) as e".encode(),
                        (dice.choice(statuses), service, 3),
                    )
            case "erase":
                with self._timed("erase"):
                    conn.execute("select dlq.erase(%s, 'two of everything')", (_phone(dice.randrange(PHONES)),))
            case "hold":
                # For a while, with the rows locked: who wants the very same waits for this one; the engine does not.
                with conn.transaction():
                    conn.execute(f"{some} skip locked".encode(), (["pending", "processing"], service, 5))
                    time.sleep(dice.uniform(0, 0.2))
            case _:
                with self._timed("look"):
                    conn.execute("select * from dlq.health")
                    conn.execute("select * from dlq.circuits, dlq.backlog")
        time.sleep(dice.uniform(0, 0.05))

    @contextlib.contextmanager
    def _unless_deleted(self) -> Iterator[None]:
        """Another person may have deleted one of these entries meanwhile: then the verb says that there is none."""
        try:
            yield
        except psycopg.Error as error:
            if error.sqlstate != "WD002":
                raise
            with self._lock:
                self.figures.said["a verb: no such entry"] += 1

    def _maintain(self, conn: psycopg.Connection, dice: random.Random) -> None:
        """Retention, where it is installed, with something old to remove."""
        if conn.execute("select to_regprocedure('dlq.maintain()')").fetchone() == (None,):
            self._over.wait(1)
            return
        conn.execute(
            "insert into webhook_dlq (service, payload, status, created_at, settled_at)"
            " select 'old', '1', 'discarded', dlq._now() - interval '60 days', dlq._now() - interval '60 days'"
            " from generate_series(1, 20)"
        )
        with self._timed("maintain"):
            conn.execute("call dlq.maintain()")
        self._over.wait(dice.uniform(0, 0.5))

    def _kill(self, conn: psycopg.Connection, dice: random.Random) -> None:
        """A sender, or a session of the engine."""
        self._over.wait(dice.uniform(0.2, 0.8))
        if dice.random() < 0.3 and (self.is_pg_net or self._has_two_workers(conn)):
            with self._timed("kill of a sender"):
                self.figures.kills.append(time.time())
                if self.is_pg_net:
                    conn.execute("select net.worker_restart()")
                else:
                    which = dice.randrange(len(self._workers))
                    self._workers[which].send_signal(signal.SIGKILL)
                    self._workers[which].wait()
                    self._workers[which] = start_net_worker(self.cluster.dsn(user="sender"))
        else:
            row = conn.execute(
                "select pid from pg_stat_activity where application_name in ('cycle', 'pass') order by random() limit 1"
            ).fetchone()
            if row is not None:
                self.figures.ended.add(row[0])
                with self._timed("kill of a session"):
                    conn.execute("select pg_terminate_backend(%s)", row)

    # The handlers.

    def handle(self, request: Request, nth: int) -> Reply:
        """Deal with a request as the dice say, and remember when."""
        assert request.entry_id is not None
        dice = random.Random(f"{self.seed} {request.entry_id} {request.attempt} {nth}")
        kind = "take"
        if not self.calm:
            kind = dice.choices([*KINDS], [weight for weight, _ in KINDS.values()])[0]
            if int(time.time() / 2) % (2 * len(SERVICES)) == SERVICES.index(request.service):
                kind = "refuse"  # each is down for two seconds now and then
        call = Call(request.entry_id, request.attempt or 0, kind, KINDS[kind][1], time.time())
        with self._lock:
            self.calls.append(call)
        try:
            return self._deal(request, kind, dice)
        finally:
            call.ended = time.time()

    def _deal(self, request: Request, kind: str, dice: random.Random) -> Reply:
        status = KINDS[kind][1]
        if kind == "take slowly":
            time.sleep(dice.uniform(0.05, 0.25))
        elif kind == "take too late":
            time.sleep(1.5 * TIMEOUT_MS / 1000)
        elif kind == "hang up":
            return Reply(close=True)
        elif kind == "overloaded":
            return Reply(503, headers={"Retry-After": "5"})
        elif kind == "echo late":
            thread = threading.Thread(target=self._echo, args=(request, kind, 0.1))
            self._late.append(thread)
            thread.start()
        elif kind.startswith("echo"):
            self._echo(request, kind, 0)
        return Reply(status, b"")

    def _echo(self, request: Request, kind: str, delay: float) -> None:
        """Store the failure again, as a careless handler does."""
        time.sleep(delay)
        try:
            with self._few, self.connect("writer", "echo") as conn, self._timed(kind):
                body = request.body.decode()
                if kind == "echo by insert":
                    conn.execute("insert into webhook_dlq (service, payload) values (%s, %s)", (request.service, body))
                elif kind == "echo by key" and (key := re.search(r'"key": "(\w+)"', body)):
                    self._store_by_key(conn, request.service, body, key[1])
                else:
                    headers = Jsonb({name.lower(): value for name, value in request.headers.items()})
                    conn.execute("select store_dlq_entry(%s, %s, headers => %s)", (request.service, body, headers))
        except psycopg.Error as error:
            self._err(kind, error)

    # The observer.

    def _observe(self) -> None:
        seen = 0
        with self.connect("postgres", "observer") as conn:
            while not self._over.is_set():
                seen = self._look(conn, seen)
                self._over.wait(0.01)
            self._look(conn, seen)

    def _look(self, conn: psycopg.Connection, seen: int) -> int:
        figures = self.figures
        figures.snapshots += 1
        # A deleted entry's request is on its way all the same.
        figures.wrong += [f"{what}: {entry_id}" for what, entry_id in conn.execute(_SNAPSHOT.encode())]
        for n, service, in_flight, most, cap, is_paused, in_all, is_just_lowered in conn.execute(
            _PASSED.encode(), (seen, self._most_in_all)
        ).fetchall():
            seen = n
            if is_just_lowered and in_all <= self._most_in_all:
                figures.just_lowered += 1
            else:
                figures.wrong.append(
                    f"{in_flight} of {service} in flight, {in_all} in all; cap {cap} of {most}, paused: {is_paused}"
                )
        return int(seen)

    # The end.

    def settle(self, seconds: float) -> None:
        """Have the handlers take everything, nobody pause anything, and cycles run until all is settled."""
        self.calm = True
        for thread in self._late:
            thread.join(20)
        deadline = time.monotonic() + seconds
        with self.connect("postgres", "settle") as conn:
            self._set_endpoints(conn)
            for service in (None, *SERVICES):
                conn.execute("select dlq.resume(%s)", (service,))
            left = "select count(*) from webhook_dlq where status in ('pending', 'processing')"
            while (row := conn.execute(left.encode()).fetchone()) != (0,):
                assert time.monotonic() < deadline, f"{row} are not settled after {seconds} s"
                for service in SERVICES:
                    conn.execute("select dlq.reset_endpoint(%s, 'it takes everything now')", (service,))
                conn.execute("update webhook_dlq set next_retry_at = dlq._now() where status = 'pending'")
                conn.execute("call dlq.run_cycle()")
                time.sleep(0.05)
