"""The net-worker as a service: its heartbeat, its login, its unit, and that it sends nothing from a copy."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from dlqctl import __version__, net_queue, net_worker
from dlqctl.bundle import ROOT
from dlqctl.cli import cli
from dlqctl.migrate import migrate
from tests.live.net_working import WORKER, Connection, Receiver, Start, answered, post, queued, scalar, until
from tests.migration.migrating import program

pytest.importorskip("pycurl", reason="the net-worker's extra is not installed: dlqctl[net-worker]")

UNIT = ROOT / "docs/dlqctl-net-worker.service"
OFTEN = {"BEAT_SECONDS": 0.2}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


def rows(conn: Connection) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("select * from dlq.net_workers order by started_at").fetchall()


def outcomes(conn: Connection) -> Any:
    return scalar(conn, "select array_agg(outcome order by attempt) from dlq.delivery_attempts")


def sender(conn: Connection) -> tuple[str, str]:
    """What health says of the sender."""
    row = conn.execute("select level, detail from dlq.health where name = 'sender'").fetchone()
    assert row is not None
    return row[0], row[1]


# The heartbeat.


def test_a_worker_is_seen_while_it_runs_and_says_when_it_stops(
    db: Connection, start: Start, receiver: Receiver
) -> None:
    worker = start(slots=7, constants=OFTEN)
    until(lambda: rows(db))
    (first,) = rows(db)
    assert (first["pid"], first["host"]) == (worker.process.pid, socket.gethostname())
    assert (first["version"], first["slots"], first["stopped_at"]) == (__version__, 7, None)
    assert sender(db) == ("ok", "net-worker in schema net, 1 running")
    post(db, receiver.url("/ok"), 5)
    post(db, receiver.url("/gate"), 2)
    until(lambda: (rows(db)[0]["answered"], rows(db)[0]["in_flight"]) == (5, 2))
    (then,) = rows(db)
    assert then["seen_at"] > first["seen_at"]
    assert then["started_at"] == first["started_at"]
    receiver.open_gate()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    (last,) = rows(db)
    assert last["stopped_at"] == last["seen_at"]
    assert (last["answered"], last["in_flight"]) == (7, 0)
    assert sender(db)[0] == "warning"


def test_each_process_has_a_row(db: Connection, start: Start) -> None:
    start(workers=2)
    start()
    until(lambda: len(rows(db)) == 3)
    assert sender(db) == ("ok", "net-worker in schema net, 3 running")


def test_a_request_writes_no_heartbeat(db: Connection, start: Start, receiver: Receiver) -> None:
    start(constants={"BEAT_SECONDS": 600})
    until(lambda: rows(db))
    written = scalar(db, "select xmin::text from dlq.net_workers")
    post(db, receiver.url("/ok"), 500)
    until(lambda: answered(db) == 500)
    assert scalar(db, "select xmin::text from dlq.net_workers") == written


def test_a_heartbeat_costs_no_more_than_a_statement(net_database: str) -> None:
    async def beat() -> float:
        queue = await net_queue.Queue.open(net_database, 1)
        began = time.monotonic()
        for _ in range(20):
            assert await queue.beat(slots=1, in_flight=0, answered=0) is None
            assert await queue.why_not_sending() is None
        took = time.monotonic() - began
        await queue.close()
        return took

    # A plan that the server compiles takes a tenth of a second.
    assert asyncio.run(beat()) < 2


def test_what_was_not_seen_for_a_day_is_deleted(db: Connection, start: Start) -> None:
    db.execute(
        "insert into dlq.net_workers (number, seen_at, pid, slots, host, version)"
        " select n, now() - n * interval '23 hours', 1, 1, 'gone', '0' from generate_series(1, 2) as n"
    )
    start()
    until(lambda: socket.gethostname() in {row["host"] for row in rows(db)})
    assert [row["number"] for row in rows(db) if row["host"] == "gone"] == [1]


def test_a_lock_on_the_heartbeat_holds_up_no_answer(
    net_database: str, db: Connection, start: Start, receiver: Receiver
) -> None:
    worker = start(constants=OFTEN)
    until(lambda: rows(db))
    with psycopg.connect(net_database) as other:
        other.execute("lock table dlq.net_workers")
        until(lambda: worker.count("no heartbeat"))
        post(db, receiver.url("/ok"), 5)
        until(lambda: answered(db) == 5, seconds=10)
    assert worker.count("reconnecting") == 0


@pytest.mark.parametrize(
    "older",
    [
        "drop table dlq.net_workers cascade",
        "alter table dlq.net_workers drop column slots",
        "revoke usage on schema dlq from dlq_net_worker",
        "drop schema dlq cascade",
    ],
)
def test_a_worker_serves_a_database_that_is_older_than_it(
    db: Connection, start: Start, receiver: Receiver, older: str
) -> None:
    db.execute(older.encode())
    worker = start(constants=OFTEN)
    post(db, receiver.url("/ok"), 5)
    until(lambda: answered(db) == 5)
    assert worker.count("no heartbeat") == 1
    assert worker.count("reconnecting") == 0
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


# A copy of production.


def test_on_a_copy_nothing_is_claimed_until_it_is_production(
    net_database: str, db: Connection, start: Start, receiver: Receiver
) -> None:
    db.execute("select dlq.set_endpoint('shop', %s, allow_http => true, allow_private => true)", (receiver.url("/ok"),))
    db.execute("insert into webhook_dlq (service, payload, next_retry_at) values ('shop', '1', now())")
    db.execute("select process_dlq_entries()")
    db.execute("update dlq.settings set database_oid = 1")
    post(db, receiver.url("/carried"), 2)
    db.execute("insert into net._http_response (id) values (1000000)")
    worker = start(constants=OFTEN)
    until(lambda: worker.count("sending nothing: this is a copy"))
    post(db, receiver.url("/carried"))
    until(lambda: len(rows(db)) == 1 and rows(db)[0]["seen_at"] > rows(db)[0]["started_at"])
    assert scalar(db, "select count(*) from net.http_request_queue where claimed_by is not null") == 0
    assert sender(db)[0] == "error"
    assert worker.count("sending nothing") == 1

    report = migrate(net_database, cron=False, this_is_production=True)
    assert report.changed == [
        "this database is production now",
        "dlq.in_flight: 1 carried along, deleted",
        "net.http_request_queue: 4 carried along, deleted",
        "net._http_response: 1 carried along, deleted",
    ]
    db.execute("call dlq.run_cycle()")
    assert outcomes(db) == ["unanswered", "delivered"]
    assert [path for path, _, _ in receiver.seen] == ["/ok"]
    assert sender(db)[0] == "ok"


def test_whether_it_is_a_copy_is_asked_on_every_connection(db: Connection, start: Start, receiver: Receiver) -> None:
    worker = start(constants={"BEAT_SECONDS": 600})
    until(lambda: rows(db))
    db.execute("update dlq.settings set database_oid = 1")
    db.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (WORKER,))
    until(lambda: worker.count("connected again"))
    post(db, receiver.url("/carried"))
    until(lambda: worker.count("sending nothing"))
    assert scalar(db, "select count(*) from net.http_request_queue where claimed_by is not null") == 0
    assert receiver.seen == []


def test_a_restore_that_has_not_come_to_the_settings_is_a_copy(db: Connection, start: Start) -> None:
    db.execute("delete from dlq.settings")
    worker = start()
    until(lambda: worker.count("sending nothing: this is a copy"))


def test_a_restored_dump_calls_nobody_and_then_sends_what_was_under_way_once(
    net_database: str, db: Connection, start: Start, receiver: Receiver, empty_database: str
) -> None:
    db.execute("select dlq.set_endpoint('shop', %s, allow_http => true, allow_private => true)", (receiver.url("/ok"),))
    db.execute("insert into webhook_dlq (service, payload, next_retry_at) values ('shop', '1', now())")
    db.execute("insert into webhook_dlq (service, payload, next_retry_at) values ('shop', '2', now() + '1 day')")
    db.execute("select process_dlq_entries()")
    assert queued(db) == 1
    copy = empty_database
    dump = subprocess.run([program("pg_dump"), net_database], check=True, capture_output=True).stdout
    restored = subprocess.run(
        [program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", copy], input=dump, check=False, capture_output=True
    )
    assert restored.returncode == 0, restored.stderr
    with psycopg.connect(copy, autocommit=True) as conn:
        assert queued(conn) == 1
        worker = start(dsn=copy, constants=OFTEN)
        until(lambda: worker.count("sending nothing"))
        assert scalar(conn, "select process_dlq_entries() ->> 'status'") == "error"

        assert migrate(copy, cron=False, this_is_production=True).changed == [
            "this database is production now",
            "net.http_request_queue: 1 carried along, deleted",
        ]
        conn.execute("call dlq.run_cycle()")
        assert scalar(conn, "select array_agg(status order by status) from webhook_dlq") == ["pending", "reprocessed"]
        assert outcomes(conn) == ["unanswered", "delivered"]
    assert receiver.count("/ok") == 1


# Its login.


def test_the_documented_login_serves_and_can_do_nothing_else(
    net_database: str, db: Connection, start: Start, receiver: Receiver
) -> None:
    (statement,) = re.findall(r"```sql\n(.*?);?\n```", (ROOT / "docs/net-worker.md").read_text(), re.S)
    login = re.search(r"create role (\w+) login in role dlq_net_worker", statement)
    assert login is not None
    db.execute(f"drop role if exists {login[1]}".encode())
    db.execute(statement.encode())
    start(user=login[1])
    post(db, receiver.url("/ok"), 5)
    until(lambda: answered(db) == 5)
    until(lambda: rows(db))
    with psycopg.connect(make_conninfo(net_database, user=login[1]), autocommit=True) as conn:
        conn.execute("select * from net.http_request_queue")
        conn.execute("select * from dlq.net_workers")
        for forbidden in (
            "select * from webhook_dlq",
            "select payload from webhook_dlq",
            "select id from webhook_dlq",
            "select * from dlq.in_flight",
            "select * from dlq.delivery_attempts",
            "select * from dlq.endpoints",
            "select * from dlq.settings",
            "select * from dlq.entries",
            "select store_dlq_entry('shop', '1')",
            "insert into webhook_dlq (service, payload) values ('shop', '1')",
            "select net.http_post('http://127.0.0.1/')",
            "insert into net.http_request_queue (method, url, timeout_milliseconds) values ('POST', 'http://x/', 1)",
            "update net.http_request_queue set url = 'http://x/'",
            "update net.http_request_queue set body = ''",
            "update net._http_response set status_code = 200",
            "truncate net.http_request_queue",
            "select process_dlq_entries()",
            "select dlq.pause('x')",
            "select dlq._is_production()",
            "update dlq.settings set database_oid = 1",
            "create table dlq.mine ()",
            "create table net.mine ()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(forbidden.encode())


# The unit.


def _unit() -> dict[str, str]:
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    (tmp_path / "dlqctl").symlink_to(sys.executable)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/dlqctl/bin/", f"{tmp_path}/"))
    done = subprocess.run(["systemd-analyze", "verify", unit], check=False, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, said) == (0, []), done.stderr


def test_the_units_command_line_and_limits_are_ours() -> None:
    unit = _unit()
    words = unit["ExecStart"].split()
    assert words[0].endswith("/dlqctl")
    command = cli.commands[words[1]]
    with command.make_context(words[1], words[2:], obj={"dsn": None}) as context:
        slots = context.params["concurrency"]
    assert int(unit["LimitNOFILE"]) >= slots + 64
    assert int(unit["TimeoutStopSec"]) >= net_worker.DRAIN_SECONDS + net_queue.POOLER_SECONDS
    assert int(unit["WatchdogSec"]) > net_queue.SILENCE_SECONDS


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket such as systemd listens on, and how NOTIFY_SOCKET names it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@dlqctl-test-{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        try:
            listening.bind(name.replace("@", "\0", 1))
        except OSError:
            pytest.skip("there are no such sockets here")
        listening.settimeout(20)
        yield listening, name


@pytest.mark.parametrize("workers", [1, 2])
def test_systemd_hears_that_it_is_ready_alive_and_stopping(
    start: Start, listener: tuple[socket.socket, str], workers: int
) -> None:
    listening, name = listener
    worker = start(workers=workers, NOTIFY_SOCKET=name, WATCHDOG_USEC="300000")
    assert listening.recv(100) == b"READY=1"
    for _ in range(5):
        assert listening.recv(100) == b"WATCHDOG=1"
    worker.signal(signal.SIGTERM)
    while (heard := listening.recv(100)) == b"WATCHDOG=1":
        pass
    assert heard == b"STOPPING=1"
    assert worker.wait() == 0


def test_the_watchdog_is_fed_while_the_database_is_away(
    db: Connection, start: Start, listener: tuple[socket.socket, str]
) -> None:
    listening, name = listener
    worker = start(NOTIFY_SOCKET=name, WATCHDOG_USEC="300000")
    db.execute(f"alter role {WORKER} nologin".encode())
    try:
        db.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (WORKER,))
        until(lambda: worker.count("reconnecting"))
        _hear_nothing_old(listening)
        for _ in range(5):
            assert listening.recv(100) == b"WATCHDOG=1"
        assert worker.count("connected again") == 0
    finally:
        db.execute(f"alter role {WORKER} login".encode())
    until(lambda: worker.count("connected again"))


def _hear_nothing_old(listening: socket.socket) -> None:
    listening.setblocking(False)
    while True:
        try:
            listening.recv(100)
        except BlockingIOError:
            break
    listening.settimeout(20)
