"""The library for programs: docs/python.md as it stands, and what it promises of transactions and types."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

import dlqctl
from dlqctl.bundle import ROOT
from tests.db.conftest import Queue

_PAGE = ROOT / "docs" / "python.md"


@pytest.fixture
def program(queue: Queue) -> Any:
    """What the page's blocks define, with the tables that they write to."""
    if not _PAGE.exists():
        pytest.skip("not in a checkout")
    queue.conn.execute(
        "create table orders (id int primary key, total int check (total > 0)); create table deliveries (size int)"
    )
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", _PAGE.read_text(), re.M | re.S):
        exec(compile(block, str(_PAGE), "exec"), names)
    return SimpleNamespace(**names)


def test_the_handler_books_or_stores_in_one_transaction(queue: Queue, program: Any) -> None:
    assert program.handle(queue.conn, {}, b'{"id": 1, "total": 5}') == 200
    assert queue.one("select count(*) from orders") == 1
    assert queue.one("select count(*) from webhook_dlq") == 0

    assert program.handle(queue.conn, {"x-a": "b"}, b'{"id": 2, "total": 0}') == 200
    assert program.handle(queue.conn, {}, b"not JSON") == 200
    assert queue.one("select count(*) from orders") == 1
    assert queue.one("select count(*) from deliveries") == 3
    stored, no_json = queue.rows("select payload, raw_body, headers, error_message from webhook_dlq order by id")
    assert (stored["payload"], stored["headers"]) == ({"id": 2, "total": 0}, {"x-a": "b"})
    assert "CheckViolation" in stored["error_message"]
    assert (no_json["payload"], bytes(no_json["raw_body"])) == (None, b"not JSON")


def test_the_handler_that_fails_on_a_retry_makes_no_second_entry(queue: Queue, program: Any) -> None:
    program.handle(queue.conn, {}, b'{"id": 2, "total": 0}')
    entry_id = str(queue.one("select id from webhook_dlq"))
    queue.send(entry_id)
    assert program.handle(queue.conn, {"dlq-entry": entry_id}, b'{"id": 2, "total": 0}') == 500
    assert queue.one("select count(*) from webhook_dlq where status in ('pending', 'processing')") == 1


def test_what_cannot_be_stored_raises_and_leaves_nothing(queue: Queue, program: Any) -> None:
    queue.conn.execute("alter table webhook_dlq add constraint full_up check (service <> 'shop')")
    with pytest.raises(psycopg.Error):
        program.handle(queue.conn, {}, b"not JSON")
    assert queue.one("select count(*) from deliveries") == 0


def test_stored_with_other_data_is_undone_with_it(queue: Queue, program: Any) -> None:
    queue.endpoint("billing")
    program.handle(queue.conn, {}, b'{"id": 1, "total": 5}')
    with queue.conn.transaction(force_rollback=True):
        program.cancel(queue.conn, 1)
    assert queue.one("select count(*) from webhook_dlq") == 0
    program.cancel(queue.conn, 1)
    assert queue.one("select payload from webhook_dlq") == {"cancelled": 1}
    assert program.is_well(queue.conn)


def test_store_is_typed_whatever_the_connection_returns(queue: Queue, database: str) -> None:
    with psycopg.connect(database, row_factory=dict_row) as conn:
        conn.execute("set role dlq_writer")
        first = dlqctl.store(conn, "shop", payload={"n": 1}, idempotency_key="k", correlation_id="c", phone_number="+1")
        assert isinstance(first, UUID)
        assert dlqctl.store(conn, "shop", payload=[], idempotency_key="k") == first
        dlqctl.store(conn, "shop", payload=Jsonb(None))
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        with pytest.raises(psycopg.Error) as caught:
            dlqctl.store(conn, "Not A Slug", payload=1)
        assert caught.value.sqlstate == "WD001"


def test_health_is_typed(queue: Queue, database: str) -> None:
    queue.store(service="nowhere")
    with psycopg.connect(database, row_factory=dict_row) as conn:
        conn.execute("set role dlq_reader")
        health = dlqctl.health(conn)
    assert health.status == "unhealthy"
    assert (health.stats.total, health.stats.pending, health.stats.estimated) == (1, 1, False)
    (finding,) = (finding for finding in health.findings if finding.name == "endpoints")
    assert (finding.level, "nowhere" in finding.detail) == ("error", True)


def test_import_is_quick() -> None:
    code = "import sys, dlqctl; assert 'psycopg' not in sys.modules; dlqctl.store; print('psycopg' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "True"
    with pytest.raises(AttributeError):
        dlqctl.nothing_of_the_kind  # noqa: B018
