"""What heals by itself: see heals.py. docs/faults.md has the table, which tests/runbook/test_faults.py compares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.conftest import Place, place
from tests.faults.heals import HEALS, Heal


@pytest.fixture(scope="module")
def server() -> Iterator[Place]:
    with place("net-worker") as here:
        yield here


@pytest.mark.parametrize("heal", HEALS, ids=str)
def test_a_fault_that_needs_nobody_leaves_a_trace_loses_nothing_and_turns_no_line_red(
    server: Place, heal: Heal
) -> None:
    here = server
    here.fresh()
    entries = here.send(3)

    heal.inflict(here)
    here.gate.open()

    def delivered() -> bool:
        here.a_minute_goes_by()
        here.run()
        here.rows("update webhook_dlq set next_retry_at = dlq._now() where status = 'pending'")
        return not here.rows("select id from webhook_dlq where status <> 'reprocessed'")

    here.until(delivered)
    assert {tuple(here.story(entry)) for entry in entries} <= heal.left[1]
    here.until(lambda: not here.rows("select name from dlq.health where level = 'error'"))
