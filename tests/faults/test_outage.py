"""Six hours in which a downstream takes nothing: no webhook is failed for it, and nobody beside it notices.

The simulation is bench/outage.py's, which prints the figures. The short form has few webhooks and a run every
half hour; with DLQCTL_FAULTS=long there are 40,000 and a run every five minutes.
"""

from __future__ import annotations

import os

import pytest

from bench.trouble.outage import Outage, simulate
from bench.world import Sender
from dlqctl.cluster import find_server

LONG = os.environ.get("DLQCTL_FAULTS") == "long"


REAL = pytest.mark.pg_net
LONG_ONLY = pytest.mark.skipif(not LONG, reason="make faults runs it: the other status does here")


@pytest.mark.parametrize(
    ("sender", "status"),
    [
        ("net-worker", 500),
        pytest.param("net-worker", 401, marks=LONG_ONLY),
        pytest.param("pg_net", 500, marks=[REAL, LONG_ONLY]),
        pytest.param("pg_net", 401, marks=REAL),
    ],
)
def test_an_outage_of_six_hours_fails_no_webhook_and_moves_no_healthy_service(sender: Sender, status: int) -> None:
    if sender == "net-worker":
        pytest.importorskip("pycurl", reason="the net-worker's extra is not installed: dlqctl[net-worker]")
    elif not find_server().has_pg_net:
        pytest.skip(f"pg_net is not installed for PostgreSQL {find_server().major}")
    every = 5 if LONG else 30
    outage = Outage(
        sender,
        status,
        webhooks=40_000 if LONG else 150,
        every_minutes=every,
        calm_minutes=1 if LONG else 10,
        max_in_flight=200 if LONG and sender == "pg_net" else 20,
    )
    result = simulate(outage)

    assert result.settled == {"reprocessed": outage.webhooks}
    # What was sent until the circuit opened has used up retries; nothing else has. With few webhooks it opens in a
    # later run, and some of them fail in both.
    assert max(result.retries) <= (1 if LONG else 2)
    used_up = sum(used * entries for used, entries in result.retries.items())
    assert result.attempts - result.probes == used_up <= 3 * outage.max_in_flight
    assert 5 <= result.probes <= outage.hours * 60 / every
    # A probe at most 15 minutes after the downstream is well again, in the run that comes next.
    assert result.first_delivered <= (15 + every) * 60
    assert result.drained >= result.first_delivered
    assert result.calm[-1] <= every * 60 + 15
