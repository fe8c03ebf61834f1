"""What the tests of installing and upgrading have in common: how to run it, and how to tell what it did."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from dlqctl.cluster import find_server
from dlqctl.definitions import ROLES
from tests.command import dlqctl


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def run(*words: str) -> Outcome:
    """Run the command line."""
    done = dlqctl(*words)
    return Outcome(done.returncode, done.stdout, done.stderr)


def program(name: str) -> Path:
    """One of PostgreSQL's own programs, of the server's version; skips where it is not installed."""
    path = find_server().bin_dir / name
    if not path.exists():
        pytest.skip(f"{path} is not installed")
    return path


def dump(dsn: str, *options: str) -> str:
    """The database as pg_dump writes it, without its data unless asked."""
    words = [str(program("pg_dump")), *(options or ("--schema-only",)), dsn]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    # Two lines carry a random word of each run's own.
    return "".join(line for line in text.splitlines(True) if not line.startswith(("\\restrict", "\\unrestrict")))


def fingerprint(dsn: str) -> dict[tuple[str, str], str]:
    """Which transaction last wrote each row of the catalog: equal before and after, nothing was touched."""
    catalogs = ("pg_proc", "pg_class", "pg_attribute", "pg_policy", "pg_trigger", "pg_rewrite", "pg_namespace")
    rows: dict[tuple[str, str], str] = {}
    with psycopg.connect(dsn) as conn:
        for catalog in catalogs:
            key = "attrelid || '.' || attnum" if catalog == "pg_attribute" else "oid::text"
            for oid, xmin in conn.execute(f"select {key}, xmin::text from {catalog}".encode()):
                rows[catalog, oid] = xmin
        for key, xmin in conn.execute(
            "select classoid || '.' || objoid || '.' || objsubid, xmin::text from pg_description"
        ):
            rows["pg_description", key] = xmin
    return rows


def ask(dsn: str, query: str) -> object:
    """The first column of the first row."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def do(dsn: str, *statements: str) -> None:
    """Run statements, each by itself, as the superuser."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def wait_for(dsn: str, query: str, timeout: float = 15) -> object:
    """Ask until there is a row, and return its first column."""
    deadline = time.monotonic() + timeout
    with psycopg.connect(dsn, autocommit=True) as conn:
        while (row := conn.execute(query.encode()).fetchone()) is None:
            assert time.monotonic() < deadline, f"waited in vain for: {query}"
            time.sleep(0.02)
    return row[0]


WAITING = """
    select pid from pg_stat_activity
    where application_name = 'dlqctl' and wait_event_type = 'Lock' and datname = current_database()
"""
"""Who runs migrate and waits for a lock."""


def let_use_our_roles(dsn: str, role: str) -> None:
    """As if `role` had made our roles: those of this server may be an earlier test's, which 16 and later mind."""
    with psycopg.connect(dsn) as conn:
        for (ours,) in conn.execute("select rolname from pg_roles where rolname = any (%s)", (list(ROLES),)).fetchall():
            conn.execute(f"grant {ours} to {role} with admin option".encode())
