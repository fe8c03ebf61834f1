"""Two of everything at once, and what a DBA may do to the queue without knowing it."""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest

from dlqctl.cluster import start_cluster
from dlqctl.migrate import migrate
from dlqctl.receiver import Receiver
from tests.conftest import _require_pg_net
from tests.faults.crowd import LOCK_WAIT_MS, SETTINGS, Crowd

IS_LONG = os.environ.get("DLQCTL_FAULTS") == "long"
ROUNDS, SECONDS = (10_000, 900) if IS_LONG else (500, 60)
LONGEST = 5.0  # seconds, for a store or a verb, on a machine that others use too
STORES = ("store", "echo", "echo by key", "echo by insert", "echo late")
VERBS = ("pause", "resume", "set_endpoint", "reset_endpoint", "update by hand", "delete by hand")


@pytest.mark.parametrize("sender", ["net-worker", pytest.param("pg_net", marks=pytest.mark.pg_net)])
def test_all_at_once_nothing_is_in_flight_twice_no_cap_is_passed_and_nobody_waits(sender: str) -> None:
    if sender == "pg_net":
        _require_pg_net()
    seed = int(os.environ.get("DLQCTL_FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"\ntwo of everything with {sender}, seed {seed}")
    began = time.monotonic()
    with start_cluster(pg_net=sender == "pg_net", settings=SETTINGS) as cluster, Receiver() as receiver:
        migrate(cluster.dsn(), cron=False, net_worker=sender == "net-worker")
        crowd = Crowd(cluster, receiver, is_pg_net=sender == "pg_net", seed=seed, rounds=ROUNDS)
        crowd.set_up()
        for service in ["*", *(f"s{n}" for n in range(6))]:
            receiver.behave(service, crowd.handle)
        with crowd.senders():
            crowd.work(SECONDS)
            worked = time.monotonic() - began
            crowd.settle(60)
        crowd.judge()
        waits = crowd.lock_waits()
    _report(crowd, waits, worked, time.monotonic() - began)

    figures = crowd.figures
    if figures.wrong:
        pytest.fail("\n".join(["", *figures.wrong[:20], f"{len(figures.wrong)} in all"]), pytrace=False)
    assert not figures.errors
    assert not receiver.errors
    assert max(figures.longest[act] for act in (*STORES, *VERBS)) < LONGEST
    # That something happened at all.
    assert min(figures.snapshots, figures.said["ok"], figures.acts["cycle"]) >= ROUNDS / 100
    assert figures.ends["reprocessed"] >= ROUNDS / 20


def _report(crowd: Crowd, waits: Counter[str], worked: float, took: float) -> None:
    def line(title: str, counts: Counter[str]) -> None:
        print(f"{title} ({counts.total()}): {', '.join(f'{n} {what}' for what, n in counts.most_common()) or 'none'}")

    figures = crowd.figures
    line("acts", figures.acts)
    print("longest, ms: " + ", ".join(f"{what} {1000 * t:.0f}" for what, t in sorted(figures.longest.items(), key=lambda i: -i[1])))
    line("passes said", figures.said)
    line(f"waits for a lock of more than {LOCK_WAIT_MS} ms", waits)
    line("handlers", Counter(call.kind for call in crowd.calls))
    line("entries at the end", figures.ends)
    line("taken again", figures.duplicates)
    line("at a handler twice at the same moment", figures.overlaps)
    line("errors", figures.errors)
    print(f"{figures.snapshots} snapshots; {figures.just_lowered} dispatches beside a limit that was just being lowered;"
          f" {figures.own_echoes} echoes that are entries of their own")
    print(f"{worked:.0f} s of work, {took:.0f} s in all")
