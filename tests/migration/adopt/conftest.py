"""A home-made queue to adopt, and roles that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from dlqctl.cluster import Cluster
from tests.migration.adopt import home_made
from tests.migration.migrating import do


@pytest.fixture
def home(empty_database: str) -> str:
    """A database with the mission's tables, a few rows in each status, and no job."""
    do(empty_database, home_made.TABLES, home_made.PROCESSOR, home_made.rows(40))
    return empty_database


@pytest.fixture
def role(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """Makes a role with these attributes and returns its name; what it owns goes with it."""
    made: list[str] = []

    def make(name: str, attributes: str = "login") -> str:
        do(cluster.dsn("postgres"), f"create role {name} {attributes}")
        made.append(name)
        return name

    yield make
    with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as conn:
        databases = conn.execute(
            "select datname from pg_database where datallowconn and datname like 'test%'"
        ).fetchall()
    for (database,) in databases:
        do(cluster.dsn(database), *(f"drop owned by {name} cascade" for name in made))
    do(cluster.dsn("postgres"), *(f"reassign owned by {name} to postgres; drop role {name}" for name in made))
