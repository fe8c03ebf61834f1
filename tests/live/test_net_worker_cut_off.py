"""The net-worker behind poolers and proxies, over a failover, and beside another version of itself."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dlqctl import net_queue
from dlqctl.bundle import ROOT
from dlqctl.cluster import _as_server_user, _make_folder, start_cluster
from dlqctl.errors import DlqctlError
from dlqctl.migrate import migrate
from dlqctl.net_queue import require_session
from tests.live.net_working import WORKER, Connection, Receiver, Start, Worker, answered, post, scalar, until
from tests.standby import standby_of

pytest.importorskip("pycurl", reason="the net-worker's extra is not installed: dlqctl[net-worker]")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


# Poolers.


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as attempt:
        return attempt.connect_ex(str(path)) == 0


@pytest.fixture
def pooler(request: pytest.FixtureRequest, net_database: str) -> Iterator[str]:
    """The DSN of the database through PgBouncer in the mode that the test asks for."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    mode, size = request.param
    server = conninfo_to_dict(net_database)
    folder = _make_folder()
    (folder / "users.txt").write_text(f'"{WORKER}" ""\n"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={server['host']} port={server['port']}\n"
        f"[pgbouncer]\npool_mode = {mode}\ndefault_pool_size = {size}\nauth_type = trust\n"
        f"auth_file = {folder}/users.txt\nlisten_addr =\nunix_socket_dir = {folder}\nlisten_port = 6432\n"
        f"server_idle_timeout = 5\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, folder / "pgbouncer.ini"], stdout=log, stderr=log, **_as_server_user(folder)
        )
    try:
        until(lambda: _listens(folder / ".s.PGSQL.6432"))
        yield make_conninfo(net_database, host=str(folder), port=6432)
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("pooler", [("session", 5)], indirect=True, ids=str)
def test_behind_a_pooler_in_session_mode_it_serves(
    pooler: str, db: Connection, start: Start, receiver: Receiver
) -> None:
    worker = start(dsn=pooler, constants={"POLL_SECONDS": 600})  # notifications come through, or nothing does
    until(lambda: scalar(db, "select count(*) from dlq.net_workers"))
    for number in range(10):
        post(db, receiver.url("/ok"))
        until(lambda: answered(db) == number + 1)  # noqa: B023
    ids = post(db, receiver.url("/gate"), 20)
    until(lambda: receiver.count("/gate") == 20)
    worker.signal(signal.SIGKILL)
    # The pooler hands the session on without its lock: the claims are free.
    second = start(dsn=pooler)
    until(lambda: receiver.count("/gate") == 40)
    receiver.open_gate()
    until(lambda: answered(db) == 10 + len(ids))
    assert worker.count("reconnecting") + second.count("reconnecting") == 0


@pytest.mark.parametrize("pooler", [("session", 1)], indirect=True, ids=str)
def test_a_pooler_with_one_session_for_it_is_enough(
    pooler: str, db: Connection, start: Start, receiver: Receiver
) -> None:
    start(dsn=pooler)
    post(db, receiver.url("/ok"), 5)
    until(lambda: answered(db) == 5)


@pytest.mark.parametrize("pooler", [("transaction", 1), ("transaction", 5)], indirect=True, ids=str)
def test_behind_a_pooler_in_transaction_mode_it_refuses_and_names_the_mode(pooler: str) -> None:
    dsn = make_conninfo(pooler, user=WORKER)
    with psycopg.connect(dsn, autocommit=True) as conn, pytest.raises(DlqctlError) as caught:
        require_session(conn, dsn)
    assert "session mode" in (caught.value.hint or "")
    done = subprocess.run(
        [sys.executable, "-m", "dlqctl", "--dsn", dsn, "net-worker"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "session mode" in done.stderr


# A proxy that hangs.


class Proxy:
    """A proxy on loopback to a server's socket. While it is silent it takes bytes and passes none on."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._silent: set[socket.socket] = set()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def go_silent(self) -> None:
        """Pass nothing on any more over the connections there are. New ones are not concerned."""
        self._silent |= set(self._peers)

    def close(self) -> None:
        self._is_over = True
        self._thread.join()

    def _run(self) -> None:
        with self._listening, selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            while not self._is_over:
                for key, _ in selector.select(0.05):
                    assert isinstance(key.fileobj, socket.socket)
                    if key.fileobj is self._listening:
                        self._accept(selector)
                    elif key.fileobj in self._peers:
                        self._pass_on(key.fileobj, selector)
            for one in list(self._peers):
                one.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        client = self._listening.accept()[0]
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        self._peers |= {client: server, server: client}
        for one in (client, server):
            selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, source: socket.socket, selector: selectors.BaseSelector) -> None:
        target = self._peers[source]
        with contextlib.suppress(OSError):
            data = source.recv(1 << 16)
            if source in self._silent:
                if not data:
                    selector.unregister(source)  # not even its end
                return
            if data:
                target.sendall(data)
                return
        for one in (source, target):
            if self._peers.pop(one, None):
                selector.unregister(one)
                one.close()


@pytest.fixture
def proxy(net_database: str) -> Iterator[Proxy]:
    server = conninfo_to_dict(net_database)
    proxy = Proxy(f"{server['host']}/.s.PGSQL.{server['port']}")
    yield proxy
    proxy.close()


def through(proxy: Proxy, dsn: str) -> str:
    return make_conninfo(dsn, host="127.0.0.1", port=proxy.port)


SILENCE = 3.0


def test_a_connection_that_hangs_is_given_up_and_what_was_in_flight_is_answered(
    net_database: str, db: Connection, start: Start, receiver: Receiver, proxy: Proxy
) -> None:
    timeout = 2.0
    worker = start(dsn=through(proxy, net_database), silence=SILENCE)
    ids = post(db, receiver.url("/gate"), 20, timeout=20_000)
    hanging = post(db, receiver.url("/hang"), 5, timeout=int(timeout * 1000))
    until(lambda: receiver.count("/gate") == 20 and receiver.count("/hang") == 5)
    began = time.monotonic()
    proxy.go_silent()
    receiver.open_gate()
    until(lambda: answered(db) == len(ids) + len(hanging), seconds=timeout + SILENCE + 10)
    took = time.monotonic() - began
    print(f"silent for {SILENCE} s: all answered {took:.1f} s after it began; requests time out after {timeout} s")
    assert took < timeout + SILENCE + 2
    assert worker.count("connected again") == 1
    assert Counter(path for path, _, _ in receiver.seen) == {"/gate": 20, "/hang": 5}, "sent again"


def test_what_a_worker_has_claimed_that_is_cut_off_for_good_goes_to_another(
    net_database: str, db: Connection, start: Start, receiver: Receiver, proxy: Proxy
) -> None:
    stuck = start(dsn=through(proxy, net_database), silence=SILENCE)
    ids = post(db, receiver.url("/gate"), 5)
    until(lambda: receiver.count("/gate") == 5)
    stuck.signal(signal.SIGSTOP)
    proxy.go_silent()
    start()
    until(lambda: receiver.count("/gate") == 10, seconds=SILENCE + 10)
    receiver.open_gate()
    until(lambda: answered(db) == len(ids))
    stuck.signal(signal.SIGCONT)
    until(lambda: stuck.count("connected again"), seconds=20)
    assert answered(db) == len(ids)


def test_a_silent_session_is_ended_by_the_server_too() -> None:
    """What the test above sets lower."""
    assert f"set idle_session_timeout = '{net_queue.SILENCE_SECONDS:.0f}s'" in net_queue._SESSION


# A failover.


def test_after_a_failover_it_finds_the_new_primary_and_every_entry_ends_well(receiver: Receiver) -> None:
    count = 40
    with start_cluster(pg_net=False) as primary:
        migrate(primary.dsn(), cron=False, net_worker=True)
        with psycopg.connect(primary.dsn(), autocommit=True) as conn:
            conn.execute(f"create role {WORKER} login in role dlq_net_worker".encode())
            conn.execute("update dlq.settings set cycle_budget = '20 s', retry_schedule = '{1 s,1 s,1 s}', jitter = 0")
            conn.execute(
                "select dlq.set_endpoint('shop', %s, allow_http => true, allow_private => true, max_in_flight => 1000)",
                (receiver.url("/gate"),),
            )
            conn.execute(
                "insert into webhook_dlq (service, payload, next_retry_at)"
                " select 'shop', to_jsonb(n), now() from generate_series(1, %s) as n",
                (count,),
            )
        with standby_of(primary) as replica:
            hosts = f"{primary.socket_dir},{replica.socket_dir}"
            worker = Worker(make_conninfo(primary.dsn(), host=hosts), constants={"BEAT_SECONDS": 0.5})
            try:
                with psycopg.connect(primary.dsn(), autocommit=True) as conn:
                    conn.execute("select process_dlq_entries()")
                    until(lambda: receiver.count("/gate") == count)
                    written = scalar(conn, "select pg_current_wal_lsn()")
                with psycopg.connect(replica.dsn(), autocommit=True) as conn:
                    until(lambda: scalar(conn, "select pg_last_wal_replay_lsn() >= %s", written))
                    primary.stop("immediate")
                    began = time.monotonic()
                    conn.execute("select pg_promote()")
                    promoted = time.monotonic()
                    until(lambda: worker.count("connected again"))
                    again = time.monotonic()
                    receiver.open_gate()
                    conn.execute("call dlq.run_cycle()")
                    print(
                        f"promoted after {promoted - began:.1f} s, the worker there {again - promoted:.1f} s later;"
                        f" {receiver.count('/gate') - count} of {count} sent again;"
                        f" all delivered {time.monotonic() - began:.1f} s after the old primary ended"
                    )
                    assert scalar(conn, "select count(*) from webhook_dlq where status = 'reprocessed'") == count
                    assert scalar(conn, "select sum(unanswered_count) from webhook_dlq") == count
                    assert scalar(conn, "select sum(retry_count) from webhook_dlq") == 0
                    (row,) = conn.execute("select level from dlq.health where name = 'sender'").fetchall()
                    assert row == ("ok",)
                sent = Counter(headers["webhook-id"] for _, headers, _ in receiver.seen)
                assert len(sent) == count
                assert max(sent.values()) <= 2
            finally:
                worker.end()


# Two versions at once.

OLDER = "cf0eb53"  # the last commit without a heartbeat


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an older dlqctl in it."""
    folder = tmp_path_factory.mktemp("older")
    archive = folder / "older.tar"
    with archive.open("wb") as file:
        done = subprocess.run(["git", "-C", ROOT, "archive", OLDER], stdout=file, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        pytest.skip(f"this is no clone that has {OLDER}: {done.stderr.decode().strip()}")
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    return folder


def test_two_versions_serve_one_queue(
    net_database: str, db: Connection, start: Start, receiver: Receiver, older: Path
) -> None:
    assert not (older / "dlqctl/service.py").exists()
    old = start(slots=20, PYTHONPATH=str(older), PYTHONSAFEPATH="1")
    new = start(slots=20)
    post(db, receiver.url("/gate"), 40)
    until(lambda: receiver.count("/gate") == 40)
    assert scalar(db, "select count(distinct claimed_by) from net.http_request_queue") == 2
    receiver.open_gate()
    post(db, receiver.url("/ok"), 2000)
    until(lambda: answered(db) == 2040)
    assert receiver.count("/ok") == 2000
    post(db, receiver.url("/ok"), 10)
    old.signal(signal.SIGKILL)
    until(lambda: answered(db) == 2050)
    assert old.count("reconnecting") + new.count("reconnecting") == 0
    assert scalar(db, "select array_agg(pid) from dlq.net_workers") == [new.process.pid]


def test_this_version_serves_what_an_older_one_installed(
    empty_database: str, net_database: str, start: Start, receiver: Receiver, older: Path
) -> None:
    words = [sys.executable, "-m", "dlqctl", "--dsn", empty_database, "migrate", "--no-cron", "--net-worker"]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(older)}, cwd=older)
    with psycopg.connect(empty_database, autocommit=True) as conn:
        assert scalar(conn, "select to_regclass('dlq.net_workers')") is None
        worker = start(dsn=empty_database)
        post(conn, receiver.url("/ok"), 5)
        until(lambda: answered(conn) == 5)
        assert worker.count("no heartbeat") == 1
