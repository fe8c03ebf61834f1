"""A throw-away server with dlqctl installed in it and something that sends: for a look, a command, a test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Literal, NoReturn

from dlqctl.cluster import Cluster, find_server, loopback_is_direct, start_cluster, tail
from dlqctl.errors import DlqctlError, UsageError

# As on a managed server: the superuser, postgres, only makes the extensions. dlqctl is installed, and used, by a
# role that owns the database and may make roles, and requests are sent by one that may do nothing else.
_DEPLOYER, _SENDER = "deployer", "sender"


@dataclass(frozen=True)
class Sandbox:
    """A throw-away server with dlqctl installed in its database and something that sends its requests.

    `dsn` connects as the role that installed it, `cluster.dsn()` as the superuser.
    """

    cluster: Cluster
    dsn: str
    has_cron: bool
    sender: Literal["pg_net", "net-worker"]


@contextlib.contextmanager
def sandbox(*, net_worker: bool | None = None, cycle_minutes: int = 5) -> Iterator[Sandbox]:
    """Run a throw-away server with dlqctl installed, its requests being sent, until the block ends.

    `net_worker` says who sends: True the net worker, False pg_net, None pg_net where it is installed.
    The cycle runs every `cycle_minutes` where there is pg_cron, and only by hand where there is not.
    """
    from dlqctl.migrate import migrate

    binaries = find_server()
    use_worker = not binaries.has_pg_net if net_worker is None else net_worker
    with contextlib.ExitStack() as stack:
        stack.enter_context(_no_other_database())
        cluster = stack.enter_context(start_cluster(binaries=binaries, pg_net=not use_worker))
        _make_deployer(cluster)
        dsn = cluster.dsn(user=_DEPLOYER)
        migrate(dsn, cron=cluster.has_pg_cron, net_worker=use_worker)
        if cluster.has_pg_cron and cycle_minutes != 5:
            _set_cycle(dsn, cycle_minutes)
        if use_worker:
            _make_sender(dsn)
            stack.enter_context(_run_net_worker(cluster))
        yield Sandbox(cluster, dsn, cluster.has_pg_cron, "net-worker" if use_worker else "pg_net")


@contextlib.contextmanager
def _no_other_database() -> Iterator[None]:
    """Forget, until the block ends, which database the environment means: no setting meant for it applies."""
    ours = ("DLQCTL_DATABASE_URL", "DATABASE_URL")
    names = [name for name in os.environ if name.startswith("PG") or name in ours]
    values = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(values)


def _make_deployer(cluster: Cluster) -> None:
    """Make the role that installs, and what only a superuser can make."""
    from psycopg import sql

    from dlqctl.connection import connect

    with connect(cluster.dsn()) as conn:
        conn.execute(sql.SQL("create role {} login createrole in role pg_monitor").format(sql.Identifier(_DEPLOYER)))
        conn.execute(
            sql.SQL("alter database {} owner to {}").format(sql.Identifier(cluster.database), sql.Identifier(_DEPLOYER))
        )
        if cluster.has_pg_cron:
            conn.execute("create extension pg_cron")
            conn.execute(sql.SQL("grant usage on schema cron to {}").format(sql.Identifier(_DEPLOYER)))
        if cluster.has_pg_net:
            conn.execute("create extension pg_net")


def _make_sender(dsn: str) -> None:
    """Make the role that the net worker logs in as."""
    from psycopg import sql

    from dlqctl.connection import connect

    with connect(dsn) as conn:
        conn.execute(sql.SQL("create role {} login in role dlq_net_worker").format(sql.Identifier(_SENDER)))


def _set_cycle(dsn: str, minutes: int) -> None:
    """Have pg_cron run the cycle every so many minutes."""
    from dlqctl.connection import connect

    with connect(dsn) as conn:
        conn.execute("update dlq.settings set cycle_minutes = %s", (minutes,))
        conn.execute("select dlq.schedule_jobs()")


@contextlib.contextmanager
def _run_net_worker(cluster: Cluster) -> Iterator[None]:
    """Run `dlqctl net-worker` beside the server, from the moment it is ready until the block ends."""
    from dlqctl.connection import connect

    log_path = cluster.socket_dir / "net-worker.log"
    with log_path.open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "dlqctl", "--dsn", cluster.dsn(user=_SENDER), "net-worker"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **loopback_is_direct()},
            start_new_session=True,
        )
    try:
        cluster.end_with_me(worker)
        deadline = time.monotonic() + 30
        with connect(cluster.dsn(), autocommit=True) as conn:
            # It takes its lock when it has begun to listen.
            ready = """
                select from pg_locks join pg_stat_activity using (pid)
                where application_name = %s and locktype = 'advisory' and granted
            """
            while conn.execute(ready, ("dlqctl net-worker",)).fetchone() is None:
                if worker.poll() is not None or time.monotonic() > deadline:
                    raise DlqctlError("the net worker does not start", tail(log_path, 10))
                time.sleep(0.05)
        yield
    finally:
        worker.terminate()
        try:
            worker.wait(20)  # it gives its requests ten seconds to finish
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def main(command: Sequence[str] = (), *, net_worker: bool | None = None, cycle_minutes: int = 5) -> int:
    """Run `command` in a sandbox and return its exit code; without one, print the DSN and wait for ctrl-c."""
    previous = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        with sandbox(net_worker=net_worker, cycle_minutes=cycle_minutes) as box:
            if command:
                return run_command(command, command_env(box))
            return wait_forever(box)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _on_sigterm(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def command_env(box: Sandbox) -> dict[str, str]:
    """Return the environment in which a command finds the sandbox's database, and no other.

    libpq's variables and DLQCTL_DATABASE_URL name it, and DATABASE_URL too: a command that is run here
    must not find its way to the database that this variable names outside.
    """
    url = box.cluster.url(user=_DEPLOYER)
    return {**os.environ, **box.cluster.env(_DEPLOYER), "DLQCTL_DATABASE_URL": url, "DATABASE_URL": url}


def run_command(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run `command` and return its exit code, 128 and the signal's number if a signal ended it.

    Ctrl-c is left to the command; SIGTERM is passed on to it. Raises UsageError if it cannot be run.
    """
    try:
        process = subprocess.Popen(list(command), env=dict(env))
    except OSError as error:
        raise UsageError(f"cannot run {command[0]}: {error.strerror}", "dlqctl sandbox -- COMMAND") from error
    while True:
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:
            continue  # the terminal sent it to the command as well
        except SystemExit:
            process.terminate()


def wait_forever(box: Sandbox) -> int:
    """Print the DSN to stdout and how to use it to stderr, and wait for ctrl-c or SIGTERM.

    Raises DlqctlError if the server ends on its own.
    """
    cron = "pg_cron runs the cycle" if box.has_cron else "no pg_cron here: run `dlqctl process` and `dlqctl maintain`"
    print(box.dsn, flush=True)
    print(f"PostgreSQL {box.cluster.binaries.major}, sending by {box.sender}; {cron}.", file=sys.stderr)
    print(f"psql '{box.dsn}'", file=sys.stderr)
    print("Ctrl-c stops it and removes it.", file=sys.stderr, flush=True)
    try:
        code = box.cluster.wait()
    except (KeyboardInterrupt, SystemExit):
        return 0
    raise DlqctlError(f"the throw-away server ended on its own (exit code {code})", box.cluster.log_tail())
