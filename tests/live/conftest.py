"""Fixtures that the tests of the net-worker share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.live.net_working import WORKER, Connection, Start, Worker, scalar


@pytest.fixture
def net_database(database: str) -> str:
    """The DSN of a database with schema net in it, as a superuser, on a server where WORKER may log in."""
    with psycopg.connect(database, autocommit=True) as conn:
        if not scalar(conn, "select count(*) from pg_roles where rolname = %s", WORKER):
            conn.execute(f"create role {WORKER} login in role dlq_net_worker".encode())
    return database


@pytest.fixture
def db(net_database: str) -> Iterator[Connection]:
    with psycopg.connect(net_database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def start(net_database: str) -> Iterator[Start]:
    """Start a worker on the database; all are ended afterwards."""
    started: list[Worker] = []

    def start(*, dsn: str = net_database, **options: Any) -> Worker:
        started.append(Worker(dsn, **options))
        return started[-1]

    yield start
    for worker in started:
        worker.process.kill()  # all, before one of them is waited for
    for worker in started:
        worker.end()
