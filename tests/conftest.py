"""What tests start from: one throw-away server for them all, a fresh database for each.

The pieces, smallest first: `cluster` (a server), `empty_database` and `database` (a DSN in it, without
and with dlqctl installed), `conn` (a connection to `database`), `clock` (its time), `receiver` (handlers
to send to), `live` (a whole sandbox, once with the net worker and once with the real pg_net).
"""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pytest_postgresql.janitor import DatabaseJanitor

from dlqctl.cluster import Cluster, find_server, start_cluster
from dlqctl.receiver import Receiver
from dlqctl.sandbox import Sandbox, sandbox

_TEMPLATE = "dlq_template"
_numbers = itertools.count(1)


# Where a shell runs this in the background, its children would be deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What the user's shell says of databases is not meant for the tests.
for _name in [*os.environ]:
    if _name.startswith("PG") or _name in ("DLQCTL_DATABASE_URL", "DATABASE_URL"):
        del os.environ[_name]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "pg_net: runs against the real pg_net, and is skipped without it")


# What takes long is begun first, so that no process has a long file left when the others are through. Those that
# mostly wait, for pg_cron's minute, stand beside those that compute.
_FIRST = (
    "live/test_demo.py",
    "faults/test_storm.py",
    "db/test_plans.py",
    "live/test_pg_cron.py",
    "faults/test_machine.py",
    "live/test_standby.py",
    "db/test_signatures.py",
    "faults/test_two_of_everything.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {Path(__file__).parent / name: number for number, name in enumerate(_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))  # the others stay as they are
    for item in items:
        if item.get_closest_marker("pg_net") or "pg_net_cluster" in getattr(item, "fixturenames", ()):
            item.user_properties.append(("pg_net", True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much of what was seen is true of the real pg_net."""

    def count(*outcomes: str) -> int:
        reports = [r for outcome in outcomes for r in terminalreporter.stats.get(outcome, [])]
        return sum(("pg_net", True) in getattr(report, "user_properties", ()) for report in reports)

    ran, failed, skipped = count("passed", "failed", "error"), count("failed", "error"), count("skipped")
    if skipped:
        line = f"{skipped} tests SKIPPED: {_why_no_pg_net() or 'see the reasons above'}; {ran} ran"
    elif ran or failed:
        line = f"{ran} tests ran against it, {failed} of them failed"
    else:
        line = "none of the selected tests needs it"
    terminalreporter.write_line(f"real pg_net: {line}")


def _why_no_pg_net() -> str | None:
    """Return why nothing can be tested against the real pg_net, or None."""
    binaries = find_server()
    if binaries.has_pg_net:
        return None
    return f"pg_net is not installed for PostgreSQL {binaries.major}"


def _require_pg_net() -> None:
    if reason := _why_no_pg_net():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A server without pg_net; pg_cron, where it is installed, serves its database `dlq`."""
    with start_cluster(pg_net=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def pg_net_cluster() -> Iterator[Cluster]:
    """A server that runs the real pg_net in its database `dlq`; skips where it is not installed."""
    _require_pg_net()
    with start_cluster(pg_net=True) as cluster:
        yield cluster


@pytest.fixture(scope="session", params=["net-worker", pytest.param("pg_net", marks=pytest.mark.pg_net)])
def live(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox with a one-minute cycle, shared by all tests: once with the net worker, once with pg_net."""
    use_worker = request.param == "net-worker"
    if not use_worker:
        _require_pg_net()
    with sandbox(net_worker=use_worker, cycle_minutes=1) as box:
        yield box


@contextmanager
def _database(cluster: Cluster, template: str | None = None) -> Iterator[str]:
    """Create a database, yield its DSN, and drop it, whoever is connected.

    Copied file by file, which a janitor cannot be told: page by page, through the log, takes three times as much of the
    processor for the copy and twice as much for the drop.
    """
    name = f"test_{next(_numbers)}"
    with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as conn:
        conn.execute(f"create database {name} template {template or 'template1'} strategy file_copy".encode())
    try:
        yield cluster.dsn(name)
    finally:
        with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as conn:
            conn.execute(f"drop database if exists {name} with (force)".encode())


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> Iterator[str]:
    """The name of a database with dlqctl installed, to copy from; not pg_cron's, which cannot be copied."""
    from dlqctl.migrate import migrate

    janitor = DatabaseJanitor(
        user=cluster.user, host=str(cluster.socket_dir), port=cluster.port, dbname=_TEMPLATE, as_template=True
    )
    with janitor:
        migrate(cluster.dsn(_TEMPLATE), cron=False, net_worker=True)
        yield _TEMPLATE


@pytest.fixture
def empty_database(cluster: Cluster) -> Iterator[str]:
    """The DSN of a new, empty database."""
    with _database(cluster) as dsn:
        yield dsn


@pytest.fixture
def database(cluster: Cluster, template: str) -> Iterator[str]:
    """The DSN of a new database with dlqctl installed, declared to be production."""
    with _database(cluster, template) as dsn:
        # The copy would know that it is one, and send nothing; and it is new, however old the template is.
        with psycopg.connect(dsn) as conn:
            conn.execute("set session_replication_role = replica")
            conn.execute(
                "update dlq.settings set installed_at = clock_timestamp(), database_oid ="
                " (select oid from pg_catalog.pg_database where datname = current_database())"
            )
            conn.execute("update dlq.alert_evaluation set evaluated_at = clock_timestamp()")
        yield dsn


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    """A connection to `database` as its superuser, in autocommit."""
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


class Clock:
    """The time of one database: what dlq._now() answers there."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._ahead: list[str] = []

    def set_forward(self, interval: str) -> None:
        """Set the clock this far ahead of the real one, as in '5 minutes'."""
        self._ahead = [interval]
        self._replace()

    def advance(self, interval: str) -> None:
        """Set the clock forward by this much more."""
        self._ahead.append(interval)
        self._replace()

    def reset(self) -> None:
        """Set the clock back to the real time."""
        self._ahead = []
        self._replace()

    def _replace(self) -> None:
        """Replace the function's body and keep everything else that it says of itself."""
        with psycopg.connect(self._dsn) as conn:
            row = conn.execute("select pg_catalog.pg_get_functiondef('dlq._now()'::regprocedure)").fetchone()
            assert row is not None
            head, _, _ = re.split(r"^AS (\$\w*\$)", row[0], maxsplit=1, flags=re.MULTILINE)
            ahead = [sql.SQL(" + interval {}").format(sql.Literal(interval)) for interval in self._ahead]
            body = sql.SQL("select now()") + sql.SQL("").join(ahead)
            conn.execute(sql.SQL("{} as {}").format(sql.SQL(head), sql.Literal(body.as_string(conn))))


@pytest.fixture
def clock(database: str) -> Clock:
    """The time of `database`; tests set it forward."""
    return Clock(database)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Handlers on loopback that take everything until they are told otherwise."""
    with Receiver() as receiver:
        yield receiver
