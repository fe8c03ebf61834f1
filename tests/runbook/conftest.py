"""One desk for all sections of the runbook."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dlqctl.cluster import find_server
from dlqctl.receiver import Receiver
from dlqctl.sandbox import sandbox
from tests.runbook.desk import Desk


@pytest.fixture(scope="module")
def _desk() -> Iterator[Desk]:
    pytest.importorskip("pycurl", reason="the net-worker's extra is not installed: dlqctl[net-worker]")
    if not find_server().has_pg_cron:
        pytest.skip("pg_cron is not installed")
    with Receiver() as receiver, sandbox(net_worker=True) as box:
        desk = Desk(box, receiver)
        desk.rows("create role onlooker login in role dlq_reader; grant usage on schema cron to onlooker")
        desk.rows("create role weak login; create role stranger login")
        try:
            yield desk
        finally:
            desk.close()


@pytest.fixture
def desk(_desk: Desk) -> Desk:
    """A desk where all is well, and nothing waits."""
    _desk.fresh()
    return _desk
