"""What the tests of the audit log have in common: people, and how to read what is on record.

alice and bob are people: two logins, alice with the rights of dlq_admin. `queue` is driven by the superuser postgres.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from dlqctl.cluster import Cluster
from tests.conftest import _database
from tests.db.conftest import Queue


@pytest.fixture(scope="module")
def people(cluster: Cluster, template: str) -> Iterator[str]:
    """The DSN of a database shared by this module, and the logins alice and bob."""
    with _database(cluster, template) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create role alice login in role dlq_admin")
        conn.execute("create role bob login")
        conn.execute("create schema hers authorization alice")
        yield dsn
        conn.execute("drop owned by alice cascade")
        conn.execute("drop role alice, bob")


@pytest.fixture
def log(people: str) -> Iterator[Queue]:
    """That database as its superuser, who looks at the log."""
    with psycopg.connect(people, autocommit=True) as conn:
        yield Queue(conn)


@contextmanager
def session(dsn: str, login: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(make_conninfo(dsn, user=login), autocommit=True) as conn:
        yield conn


def since(queue: Queue, last: int = 0) -> list[dict[str, Any]]:
    return queue.rows("select * from dlq.audit_log where id > %s order by id", last)


def last(queue: Queue) -> int:
    return int(queue.one("select coalesce(max(id), 0) from dlq.audit_log"))
