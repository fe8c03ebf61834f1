"""dlqctl health for monitors: --nagios, and --probe, the whole chain in one go."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from dlqctl import probe as module
from dlqctl.cluster import Cluster
from dlqctl.migrate import migrate
from dlqctl.receiver import Receiver
from dlqctl.sandbox import Sandbox
from tests.command import dlqctl
from tests.conftest import _database
from tests.db.conftest import Queue

# DLQ STATE: text | label=value[unit];warn;crit;min;max …, as the guidelines have it
LINE = re.compile(
    r"DLQ (OK|WARNING|CRITICAL|UNKNOWN): [^|\n]+"
    r"(?: \|(?: [a-z_]+=(?:U|-?\d+s?);[-\d.:@~]*;[-\d.:@~]*;0;)+)?\n"
)


def run(dsn: str, *words: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return dlqctl(*before, "--dsn", dsn, "health", *words, env=os.environ | {"COLUMNS": "80"})


def nagios(dsn: str, *words: str) -> tuple[int, str]:
    """The exit status and the line, which must be one, and agree."""
    done = run(dsn, "--nagios", *words)
    found = LINE.fullmatch(done.stdout)
    assert found, done.stdout + done.stderr
    assert ["OK", "WARNING", "CRITICAL", "UNKNOWN"].index(found[1]) == done.returncode
    return done.returncode, done.stdout


@pytest.fixture
def well(database: str) -> Iterator[Queue]:
    """A queue that is well: a sender, an endpoint, and a processor that has run."""
    with psycopg.connect(database, autocommit=True) as conn:
        queue = Queue(conn)
        queue.beat()
        queue.endpoint()
        conn.execute("call dlq.run_cycle()")
        yield queue


def test_nagios_is_told_the_worst_of_the_checks_and_the_figures(well: Queue, database: str) -> None:
    code, line = nagios(database)
    assert (code, line.split(" | ")[1][:10]) == (0, "pending=0;")
    well.conn.execute("select dlq.pause('we deploy | now', 'shop')")
    code, line = nagios(database)
    assert code == 1
    assert "paused: shop by postgres: we deploy / now" in line
    well.store("nowhere")
    code, line = nagios(database)
    assert code == 2
    assert line.startswith("DLQ CRITICAL: endpoints: nobody has said where to retry: nowhere; paused: ")
    assert " pending=1;;;0;" in line


def test_nagios_thresholds_are_ranges_and_take_the_place_of_the_check_of_their_name(well: Queue, database: str) -> None:
    well.store_many(101)
    assert nagios(database)[0] == 1, "the check's own threshold is 100"
    code, line = nagios(database, "-w", "pending=500", "-c", "pending=1000")
    assert (code, line.split(" | ")[1].split()[0]) == (0, "pending=101;500;1000;0;")
    assert nagios(database, "-w", "pending=100", "-c", "pending=1000")[0] == 1
    code, line = nagios(database, "-w", "pending=50", "-c", "pending=@100:200")
    assert code == 2
    assert "pending: 101, range @100:200" in line
    assert nagios(database, "-w", "pending=500", "--critical", "last_run=1000:")[0] == 2


@pytest.mark.parametrize(
    "words",
    [["--nosuch"], ["-w", "pending"], ["-w", "nosuch=1"], ["-c", "pending=20:10"], ["--watch"], ["--format", "json"]],
)
def test_nagios_usage_errors_are_unknown_and_not_critical(database: str, words: list[str]) -> None:
    assert nagios(database, *words)[0] == 3


def test_nagios_is_told_unknown_where_nothing_can_be_said(database: str, empty_database: str) -> None:
    code, line = nagios("host=/nowhere dbname=x")
    assert (code, "cannot connect" in line) == (3, True)
    assert nagios(empty_database)[0] == 3, "dlqctl is not there"
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("create role nobody_special login")
        try:
            assert nagios(f"{database} user=nobody_special")[0] == 3, "may not look"
            done = run(f"{database} user=nobody_special", "--nagios", before=["--debug"])
            assert (done.returncode, "Traceback" in done.stderr) == (3, True)
        finally:
            conn.execute("drop role nobody_special")
    assert run("host=/nowhere dbname=x").returncode == 3
    assert run(database, "--nosuch").returncode == 2, "without --nagios it is usage, as ever"


def test_nagios_reads_with_a_readers_rights(well: Queue, database: str) -> None:
    well.conn.execute("create role monitor login in role dlq_reader")
    try:
        assert nagios(f"{database} user=monitor")[0] == 0
    finally:
        well.conn.execute("drop role monitor")


def probe(dsn: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = run(dsn, "--probe", "--format", "json")
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout)
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names))
    for row in rows:
        assert row["level"] == "ok" or row["remediation"], row
    assert done.returncode == any(row["level"] == "error" for row in rows)
    return done.returncode, {row["name"]: row for row in rows}


def test_a_probe_walks_the_whole_chain(live: Sandbox, receiver: Receiver) -> None:
    with psycopg.connect(live.dsn, autocommit=True) as conn:
        conn.execute("truncate webhook_dlq, dlq.endpoints, dlq.pauses, dlq.endpoint_state")
        conn.execute("select dlq.set_secret('KEY', 'value')")
        conn.execute(
            "select dlq.set_endpoint('shop', %s, true, true, health_url => %s,"
            " signing => 'x-hub-signature-256', secret_names => '{KEY}')",
            (receiver.url("shop"), f"http://127.0.0.1:{receiver.port}/summary"),
        )
        _, rows = probe(live.dsn)
        sends_by_pg_net = conn.execute("select sender = 'pg_net' from dlq.net_status").fetchone() == (True,)
        links = {"roles", "cron: extension", "signatures", "endpoint shop", "sender", "secrets", "processor"}
        if sends_by_pg_net:
            links |= {"pg_net", "pg_net rights", "pg_net worker", "open files", "pg_net grants"}
        assert links <= set(rows)
        # Whether a cycle has run is a matter of when this server began.
        assert {name for name in links - {"processor", "pg_net grants"} if rows[name]["level"] != "ok"} == set()
        assert receiver.requests == [], "a probe is no webhook"

        conn.execute("select dlq.remove_secret('KEY')")
        conn.execute(
            "select dlq.set_endpoint('shop', %s, health_url => %s)", (receiver.url("shop"), receiver.down("shop"))
        )
        code, rows = probe(live.dsn)
        assert code == 1
        assert {name for name in ("signatures", "endpoint shop") if rows[name]["level"] == "error"} == {
            "signatures", "endpoint shop",
        }  # fmt: skip
        conn.execute("select dlq.remove_endpoint('shop')")
    lines = run(live.dsn, "--probe").stdout.splitlines()
    assert all(len(line) <= 80 for line in lines), lines


def test_a_reader_may_probe_and_is_told_what_it_sees(well: Queue, database: str) -> None:
    well.conn.execute("create role monitor login in role dlq_reader")
    try:
        well.conn.execute("select dlq.set_endpoint('shop', 'http://127.0.0.1:1/', true, true)")
        _, rows = probe(f"{database} user=monitor")
        assert rows["endpoint shop"]["level"] == "error"
        assert rows["signatures"]["level"] == "warning", "nothing is signed"
        assert rows["roles"]["level"] == "ok"
        assert "cron: extension" in rows
        well.conn.execute("alter role dlq_owner login")
        assert probe(f"{database} user=monitor")[1]["roles"]["level"] == "error"
    finally:
        well.conn.execute("alter role dlq_owner nologin")
        well.conn.execute("drop role monitor")


def test_a_probe_finds_pg_net_with_more_requests_in_a_batch_than_files(pg_net_cluster: Cluster) -> None:
    """The soft limit of the server is that of whoever started it: this test."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    dsn = pg_net_cluster.dsn()
    migrate(dsn, cron=False)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"alter system set pg_net.batch_size = {soft}".encode())
        conn.execute("select pg_reload_conf()")
        try:
            while conn.execute("show pg_net.batch_size").fetchone() != (str(soft),):
                pass
            code, rows = probe(dsn)
            assert (code, rows["open files"]["level"]) == (1, "error")
            assert str(soft) in rows["open files"]["detail"]
            conn.execute("create role monitor login in role dlq_reader")
            _, rows = probe(f"{dsn} user=monitor")
            hidden = ("pg_net worker", "open files")
            assert {name: rows[name]["level"] for name in hidden} == dict.fromkeys(hidden, "warning")
        finally:
            conn.execute("drop role if exists monitor")
            conn.execute("alter system reset pg_net.batch_size")
            conn.execute("select pg_reload_conf()")


def test_a_probe_finds_pg_net_that_sends_for_another_database(pg_net_cluster: Cluster) -> None:
    migrate(pg_net_cluster.dsn(), cron=False)
    with _database(pg_net_cluster, None) as other, psycopg.connect(other, autocommit=True) as conn:
        conn.execute("create extension pg_net")
        name, level, detail, _ = next(module._pg_net(conn))
        assert (name, level) == ("pg_net", "error")
        assert "sends for database dlq" in detail


def test_the_jobs_are_shown_to_whom_pg_cron_shows_them_and_their_last_run_to_everybody(live: Sandbox) -> None:
    if not live.has_cron:
        pytest.skip("pg_cron is not installed")
    jobs = "select job, is_scheduled, is_active from dlq.cron_status order by job"
    with (
        psycopg.connect(live.dsn, autocommit=True) as conn,
        psycopg.connect(live.cluster.dsn(), autocommit=True) as superuser,
    ):
        conn.execute("call dlq.run_cycle()")
        names = [row[0] for row in conn.execute("select jobname from dlq._jobs() order by jobname").fetchall()]
        assert conn.execute(jobs).fetchall() == [(name, True, True) for name in names]
        owner = conn.execute("select distinct username from dlq.cron_status").fetchall()
        assert owner == [(conn.info.user,)]
        superuser.execute("grant usage on schema cron to dlq_reader")
        ran = "select last_run_at > now() - interval '1 hour' from dlq.cron_status where job = 'process-dlq-entries'"
        for _ in range(2):  # and without that right
            superuser.execute("set role dlq_reader")
            assert superuser.execute(jobs).fetchall() == [(name, None, None) for name in names]
            assert superuser.execute(ran).fetchone() == (True,)
            superuser.execute("reset role")
            superuser.execute("revoke usage on schema cron from dlq_reader")


@pytest.mark.parametrize(
    ("words", "code"), [([], 1), (["--format", "json"], 1), (["--probe"], 1), (["--nagios"], 3)], ids=str
)
def test_behind_somebodys_lock_health_says_whose_and_does_not_hang(
    well: Queue, database: str, words: list[str], code: int
) -> None:
    with psycopg.connect(database, application_name="a vacuum full") as other:
        other.execute("lock table webhook_dlq in access exclusive mode")
        began = time.monotonic()
        done = run(database, *words)
        assert time.monotonic() - began < 15
        said = done.stdout + done.stderr
        assert (done.returncode, "Traceback" in said) == (code, False)
        assert f"public.webhook_dlq is locked by process {other.info.backend_pid} (postgres, a vacuum full)" in said
        if code == 1:
            assert f"select pg_terminate_backend({other.info.backend_pid})" in done.stderr
            assert done.stdout == ""
    assert "processor" in run(database, *words).stdout or words == ["--nagios"]


def test_behind_somebody_who_waits_for_a_lock_health_names_whom_he_waits_for(well: Queue, database: str) -> None:
    with (
        psycopg.connect(database, application_name="a report") as reader,
        psycopg.connect(database, application_name="an alter table", autocommit=True) as waiting,
        ThreadPoolExecutor(1) as threads,
    ):
        reads, waits = reader.info.backend_pid, waiting.info.backend_pid
        reader.execute("select count(*) from webhook_dlq")
        altering = threads.submit(waiting.execute, "alter table webhook_dlq add column nothing int")
        while not well.one("select wait_event_type = 'Lock' from pg_stat_activity where pid = %s", waits):
            time.sleep(0.02)
        done = run(database)
        reader.rollback()
        altering.result(30)
    assert done.returncode == 1
    assert f"process {waits} (postgres, an alter table)" in done.stderr
    assert (
        f"which waits for process {reads} -> wait for it; or end it: select pg_terminate_backend({reads})"
        in done.stderr
    )


def test_a_watch_says_whose_lock_is_in_the_way_and_goes_on(well: Queue, database: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "dlqctl", "--dsn", database, "health", "--watch", "--interval", "0.1"],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as watching:  # fmt: skip
        assert watching.stdout is not None
        try:
            assert "pending" in watching.stdout.readline()
            with psycopg.connect(database) as other:
                other.execute("lock table webhook_dlq in access exclusive mode")
                assert any("no answer: public.webhook_dlq is locked by" in line for line in watching.stdout)
            assert any("pending" in line for line in watching.stdout)
        finally:
            watching.send_signal(signal.SIGINT)
