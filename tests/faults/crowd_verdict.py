"""What the crowd did, held against what the handlers say: are the attempts on record, is each repeat explained?"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row


@dataclass
class Call:
    """One request as a handler dealt with it, in real time."""

    entry_id: str
    attempt: int
    kind: str
    status: int
    began: float
    ended: float = 0.0


@dataclass
class Figures:
    """What everybody did, and how long they took: of each act how often, and the longest in seconds."""

    acts: Counter[str] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    said: Counter[str] = field(default_factory=Counter)  # what passes answered
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)  # of senders
    ended: set[int] = field(default_factory=set)  # sessions
    snapshots: int = 0
    sent: int = 0  # transactions that sent anything
    just_lowered: int = 0
    stored: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))  # from, until
    duplicates: Counter[str] = field(default_factory=Counter)
    overlaps: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    own_echoes: int = 0


def judge(dsn: str, figures: Figures, calls: list[Call]) -> None:
    """Hold what is on record against what the handlers say, and note in `figures` what is wrong."""
    with psycopg.connect(dsn, row_factory=dict_row) as conn:

        def rows(query: str) -> list[dict[str, Any]]:
            return conn.execute(query.encode()).fetchall()

        entries = {str(row["id"]): row for row in rows("select * from webhook_dlq where service <> 'old'")}
        deleted = {str(row["entry_id"]) for row in rows("select entry_id from watch.deleted")}
        erased = {entry_id for entry_id, row in entries.items() if row["payload"] == {"erased": True}}
        touched = erased | {
            row["key"] for row in rows("select key from dlq.audit_log where object = 'public.webhook_dlq'")
        }
        tried: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for row in rows("select * from dlq.delivery_attempts"):
            tried[str(row["entry_id"])][row["attempt"]] = row
        left = rows("select count(*) as n from dlq.in_flight union all select count(*) from net.http_request_queue")
        (deadlocks,) = rows("select deadlocks as n from pg_stat_database where datname = current_database()")
        (sent,) = rows("select count(distinct began) as n from watch.dispatches")
    figures.sent = sent["n"]
    if deadlocks["n"]:
        figures.wrong.append(f"{deadlocks['n']} deadlocks")
    if any(row["n"] for row in left):
        figures.wrong.append(f"left in flight and queued: {left}")
    gone = figures.stored.keys() - entries.keys() - deleted
    figures.wrong += [f"{entry_id} was stored and is not there" for entry_id in gone]
    figures.ends = Counter(row["status"] for row in entries.values())

    heard: dict[str, list[Call]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: call.began):
        heard[call.entry_id].append(call)
    for entry_id in (heard.keys() | entries.keys()) - deleted:
        _judge_one(figures, entry_id, entries.get(entry_id), tried[entry_id], heard[entry_id], entry_id in touched)
    for entry_id in heard.keys() & deleted:
        _judge_repeats(figures, entry_id, heard[entry_id], tried[entry_id], True)
    figures.own_echoes = sum(
        row["idempotency_key"] is None and row["duplicate_of"] is None and row["headers"] is not None
        for row in entries.values()
    )


def _judge_one(
    figures: Figures,
    entry_id: str,
    row: dict[str, Any] | None,
    tried: dict[int, dict[str, Any]],
    heard: list[Call],
    is_touched: bool,
) -> None:
    wrong = figures.wrong
    if row is None:
        wrong.append(f"{entry_id} was sent and is not there")
        return
    numbers = {call.attempt for call in heard}
    if tried.keys() != set(range(1, row["attempt_count"] + 1)):
        wrong.append(f"{entry_id} has made {row['attempt_count']} attempts, on record are {sorted(tried)}")
    if numbers - tried.keys():
        wrong.append(f"{entry_id}: attempts {sorted(numbers - tried.keys())} came, and are not on record")
    # A request of which the handler knows nothing was not answered by it.
    for number, attempt in tried.items():
        outcome = attempt["outcome"]
        statuses = {call.status for call in heard if call.attempt == number}
        if outcome in ("delivered", "http_error") and attempt["status_code"] not in statuses:
            wrong.append(f"{entry_id}: attempt {number} is {outcome} with {attempt['status_code']}, not {statuses}")
        if outcome == "unanswered" and row["payload"] != {"erased": True}:
            wrong.append(f"{entry_id}: attempt {number} is unanswered: {attempt['error']}")
    if row["status"] == "reprocessed" and not any(a["outcome"] == "delivered" for a in tried.values()):
        wrong.append(f"{entry_id} is reprocessed, and was never delivered")
    if row["status"] == "failed" and not is_touched:
        is_gone = tried[max(tried)]["status_code"] == 410
        if row["retry_count"] < 6 and not is_gone:
            wrong.append(f"{entry_id} failed with {row['retry_count']} retries used up")
    _judge_repeats(figures, entry_id, heard, tried, is_touched)


def _judge_repeats(
    figures: Figures, entry_id: str, heard: list[Call], tried: dict[int, dict[str, Any]], is_touched: bool
) -> None:
    """Why a handler saw an entry twice at once, and why one took it again that had taken it."""

    def was_killed(before: Call, after: Call) -> bool:
        return any(before.began - 0.5 < kill < after.began + 0.5 for kill in figures.kills)

    def was_stored_again(before: Call, after: Call) -> bool:
        """By its key, while its answer was being read: as a handler does that fails."""
        return any(began < after.began and ended > before.began for began, ended in figures.stored.get(entry_id, []))

    def was_sent_again(call: Call) -> bool:
        again = [other for other in heard if other.attempt == call.attempt and other is not call]
        return bool(again) and was_killed(call, again[-1])

    for before, after in itertools.pairwise(heard):
        if after.began >= before.ended:
            continue
        outcome = tried.get(before.attempt, {}).get("outcome")
        if before.attempt == after.attempt and was_killed(before, after):
            figures.overlaps["its sender was killed meanwhile"] += 1
        elif outcome == "network_error":
            figures.overlaps["its sender had given it up"] += 1
        elif was_sent_again(before):
            figures.overlaps["its sender had been killed, and another had sent it again"] += 1
        else:
            figures.wrong.append(f"{entry_id} twice at once, and the first is {outcome}: {before}, {after}")

    taken = [call for call in heard if call.kind.startswith("take")]
    for before, after in itertools.pairwise(taken):
        outcome = tried.get(before.attempt, {}).get("outcome")
        if before.attempt == after.attempt:
            why = "its sender was killed" if was_killed(before, after) else "unexplained"
        elif outcome == "network_error":
            why = "the answer came too late"
        elif outcome != "delivered" and was_sent_again(before):
            why = "its sender was killed, and the handler refused it the second time"
        elif is_touched:
            why = "a person made it due again"
        elif outcome == "echoed" or any(call.kind.startswith("echo") for call in heard):
            why = "an echo took it back"
        elif was_stored_again(before, after):
            why = "it was stored again by its key, which took it back"
        else:
            why = "unexplained"
        figures.duplicates[why] += 1
        if why == "unexplained":
            figures.wrong.append(f"{entry_id} was taken again, unexplained: {before} ({outcome}), {after}")


def lock_waits(log_path: Path) -> Counter[str]:
    """Who waited for a lock for longer than deadlock_timeout, by the server's log."""
    lines = log_path.read_text(errors="replace").splitlines()
    found = (re.match(r"(\S*) LOG:  process \d+ still waiting for (\w+) on (\w+)", line) for line in lines)
    return Counter(f"{match[1]}, {match[2]} on {match[3]}" for match in found if match)
