"""Every command behind a real pgbouncer in transaction mode, which gives each transaction another of its sessions."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from dlqctl.cluster import Cluster
from dlqctl.connection import connect
from dlqctl.receiver import Receiver, hang
from tests.migration.migrating import Outcome, do, run
from tests.net_worker import net_worker
from tests.supabase import free_port

_CONFIGURATION = """
[databases]
* = host={socket_dir} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
"""


@pytest.fixture(scope="module")
def pooler(cluster: Cluster) -> Iterator[int]:
    """The port of a pooler in front of the server."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    port = free_port()
    users = cluster.socket_dir / "users.txt"
    users.write_text('"postgres" ""\n')
    configuration = cluster.socket_dir / "pgbouncer.ini"
    configuration.write_text(
        _CONFIGURATION.format(socket_dir=cluster.socket_dir, server_port=cluster.port, port=port, users=users)
    )
    # It refuses to run as root.
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    if account is not None:
        os.chown(users, account.pw_uid, account.pw_gid)
        os.chown(configuration, account.pw_uid, account.pw_gid)
    process = subprocess.Popen(
        [program, "-q", str(configuration)], user=account and account.pw_uid, cwd="/", stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "pgbouncer does not start"
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(15)


def through(pooler: int, dsn: str, *words: str) -> Outcome:
    return run("--dsn", make_conninfo(dsn, host="127.0.0.1", port=pooler), *words)


def test_migrate_installs_and_compares_behind_it(pooler: int, empty_database: str) -> None:
    words = ("migrate", "--no-cron", "--net-worker")

    assert through(pooler, empty_database, *words).code == 0
    assert through(pooler, empty_database, *words, "--check") == Outcome(0, "", "nothing differs\n")


def test_commands_that_ask_again_and_again_work_behind_it(
    pooler: int, cluster: Cluster, database: str, receiver: Receiver
) -> None:
    """A statement that psycopg prepared would be in one session, and asked for in another."""
    receiver.behave("shop", hang(1.5))
    due = "insert into webhook_dlq (service, payload, next_retry_at) values ('shop', '{\"n\": 1}', now())"
    with net_worker(database):
        url = receiver.url("shop")
        assert through(pooler, database, "endpoints", "set", "shop", url, "--allow-http", "--allow-private").code == 0
        for _ in range(2):
            assert through(pooler, database, "endpoints", "test", "shop").err == ""
        for _ in range(2):
            do(database, due)
            assert through(pooler, database, "process").err == ""
    assert through(pooler, database, "health").code == 0


def test_other_peoples_sessions_are_left_as_they_are(pooler: int, database: str) -> None:
    """The search_path that a command narrows for itself would stay with whoever has its session next."""
    assert through(pooler, database, "list").code == 0
    with psycopg.connect(make_conninfo(database, host="127.0.0.1", port=pooler), autocommit=True) as other:
        assert other.execute("show search_path").fetchone() == ('"$user", public',)
    with connect(database) as ours:
        assert ours.execute("show search_path").fetchone() == ("pg_catalog, pg_temp",)
