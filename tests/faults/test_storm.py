"""A storm of faults over a queue with everything real: nothing lost, nothing stuck, every duplicate explained.

In `make test` a short one; `make faults` has 1,000 entries and more than 200 faults. DLQCTL_FAULTS_SEED=n replays the
plan of a seed, which each storm prints.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass

import psycopg
import pytest

from dlqctl.cluster import start_cluster
from dlqctl.migrate import migrate
from tests.conftest import _require_pg_net
from tests.faults.disk import SmallDisk, small_disk
from tests.faults.handlers import Handlers
from tests.faults.storm import WEIGHTS, Storm, plan
from tests.faults.verdict import Verdict, judge


@dataclass(frozen=True)
class Form:
    """How long a storm is. Times in seconds; `gap` is between two faults, in the mean."""

    entries: int
    faults: int
    gap: float
    storm: float
    calm: float
    wait: bool


SHORT = Form(entries=100, faults=20, gap=0.3, storm=15, calm=20, wait=False)
LONG = Form(entries=1000, faults=230, gap=1.3, storm=540, calm=170, wait=True)
IS_LONG = os.environ.get("DLQCTL_FAULTS") == "long"


@pytest.mark.parametrize("sender", ["net-worker", pytest.param("pg_net", marks=pytest.mark.pg_net)])
def test_whatever_fails_each_webhook_ends_well_or_on_record_and_every_duplicate_is_explained(sender: str) -> None:
    if sender == "pg_net":
        _require_pg_net()
    form = LONG if IS_LONG else SHORT
    seed = int(os.environ.get("DLQCTL_FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"\nstorm with {sender}, seed {seed}; to replay its plan: DLQCTL_FAULTS_SEED={seed} make faults")
    began = time.monotonic()
    with small_disk(400) as disk, start_cluster(pg_net=sender == "pg_net", settings=_SMALL) as cluster:
        without = set()
        if not isinstance(disk, SmallDisk):
            print(f"no disk is filled: {disk}")
            without |= {"the disk is full", "the disk is full for WAL"}
        if not cluster.has_pg_cron:
            print("no launcher dies: pg_cron is not installed")
            without.add("cron's launcher dies")
        migrate(cluster.dsn(), cron=cluster.has_pg_cron, net_worker=sender == "net-worker")
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            conn.execute("create role sender login" + (" in role dlq_net_worker" if sender == "net-worker" else ""))
        with Handlers(seed, cluster.dsn()) as handlers:
            storm = Storm(cluster, handlers, sender == "pg_net", disk if isinstance(disk, SmallDisk) else None, seed)
            storm.set_up(form.entries)
            with storm.running(form.entries, form.storm / 2):
                planned = plan(seed, form.faults, form.gap, frozenset(without))
                storm.rage(planned, time.monotonic() + form.storm)
                raged = time.monotonic() - began
                storm.calm_down(wait=form.wait, seconds=form.calm)
            with psycopg.connect(cluster.dsn()) as conn:
                verdict = judge(conn, form.entries, handlers.calls, storm.faults)
                said = conn.execute(
                    "select left(error_message, 60), count(*) from dlq_processing_log where error_message is not null"
                    " group by 1 order by 2 desc limit 12"
                ).fetchall()
                health = conn.execute("select name, level, detail from dlq.health where level = 'error'").fetchall()
            _report(storm, verdict, said, raged, time.monotonic() - began)

    if verdict.wrong:
        pytest.fail("\n".join(["", *verdict.wrong[:20], f"{len(verdict.wrong)} in all"]), pytrace=False)
    assert not [row for row in health if row[0] in ("answers", "overdue", "sender")], health
    assert len(storm.faults) >= (200 if IS_LONG else form.faults // 4), (
        storm.missed
    )  # a slow machine has time for fewer


# WAL segments are made when they are needed, so that a full disk is felt.
_SMALL = {"max_wal_size": "48MB", "min_wal_size": "32MB", "wal_recycle": "off", "log_min_messages": "fatal"}


def _report(storm: Storm, verdict: Verdict, said: list[tuple[str, int]], raged: float, took: float) -> None:
    def line(title: str, counts: Counter[str]) -> str:
        counted = ", ".join(f"{count} {what}" for what, count in counts.most_common())
        return f"{title} ({counts.total()}): {counted or 'none'}"

    print(line("faults", Counter(fault.kind for fault in storm.faults)))
    print(line("not carried out, since others were in the way", storm.missed))
    print(line("what handlers did", storm.handlers.kinds()))
    print(line("entries", verdict.ends))
    print(line("attempts", verdict.attempts))
    print(line("unanswered, by the fault beside it", verdict.unanswered))
    print(line("taken again", verdict.duplicates))
    print(f"{verdict.late_echoes} echoes that came when their request was gone, and are entries of their own")
    print(f"{verdict.holes} attempts not on record, of entries that a person changed in flight")
    print(line("callers of the engine were told", storm.errors) + f"; {storm.cycles} cycles ended well")
    print("runs said: " + "; ".join(f"{count} {text}" for text, count in said))
    print(f"{raged:.0f} s of storm, {took:.0f} s in all")


def test_a_seed_makes_one_plan_with_every_kind_of_fault_in_it() -> None:
    planned = plan(7, 60, 1, frozenset())
    assert planned == plan(7, 60, 1, frozenset()) != plan(8, 60, 1, frozenset())
    assert {item.kind for item in planned} == set(WEIGHTS)
