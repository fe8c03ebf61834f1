"""What has become of a storm's webhooks: the database's word held against the handlers' own log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from tests.faults.handlers import Call
from tests.faults.storm import Fault

# What can cost an attempt its answer.
_CAUSES = {
    "a backend is killed", "the server is killed", "the server is stopped immediately", "the disk is full for WAL",
    "the disk is full", "the sender is killed", "the sender's tables are emptied", "answers are deleted",
    "ids start again", "ids jump",
}  # fmt: skip
_LASTS = {"ids start again": 400, "ids jump": 400, "the sender's tables are emptied": 400}  # seconds


@dataclass
class Verdict:
    """What is wrong, which should be nothing, and the figures."""

    wrong: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    holes: int = 0
    late_echoes: int = 0


def judge(conn: psycopg.Connection, entries: int, calls: Iterable[Call], faults: list[Fault]) -> Verdict:
    """Hold everything that is on record against what the handlers say."""
    verdict = Verdict()
    wrong = verdict.wrong
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "select e.*, cardinality(s.retry_schedule) as retries, s.max_unanswered"
            " from webhook_dlq as e, dlq.settings as s"
        ).fetchall()
        tried: dict[UUID, dict[int, dict[str, Any]]] = defaultdict(dict)
        for attempt in cursor.execute("select * from dlq.delivery_attempts").fetchall():
            tried[attempt["entry_id"]][attempt["attempt"]] = attempt
            verdict.attempts[attempt["outcome"]] += 1
            if attempt["outcome"] == "unanswered":
                cause = _cause(attempt, faults)
                verdict.unanswered[cause] += 1
                if cause == "unexplained":
                    wrong.append(f"{attempt['entry_id']}: attempt {attempt['attempt']} is unanswered, unexplained")
        touched: dict[UUID, set[str]] = defaultdict(set)  # by a person, to which status
        for act in cursor.execute(
            "select key::uuid, after ->> 'status' as status from dlq.audit_log where object = 'public.webhook_dlq'"
        ).fetchall():
            touched[act["key"]].add(act["status"] or "")
        running = cursor.execute("select count(*) as n from dlq_processing_log where status = 'running'").fetchone()
        in_flight = cursor.execute("select count(*) as n from dlq.in_flight").fetchone()
    if (running or {})["n"]:
        wrong.append(f"{(running or {})['n']} runs are running for ever")
    if (in_flight or {})["n"]:
        wrong.append(f"{(in_flight or {})['n']} requests are in flight for ever")

    keys = Counter(row["idempotency_key"] for row in rows if row["idempotency_key"])
    wrong += [f"k{n} is there {keys[f'k{n}']} times" for n in range(entries) if keys[f"k{n}"] != 1]
    heard: dict[UUID, list[Call]] = defaultdict(list)
    for call in calls:
        heard[call.entry_id].append(call)
    wrong += [f"{entry_id} was sent and is not there" for entry_id in heard.keys() - {row["id"] for row in rows}]

    for row in rows:
        entry_id, mine = row["id"], tried[row["id"]]
        if row["duplicate_of"] is not None:
            verdict.ends["discarded, an echo"] += 1
            continue
        if row["idempotency_key"] is None:
            verdict.late_echoes += 1
            if not any(call.kind == "echo by insert" for calls in heard.values() for call in calls):
                wrong.append(f"{entry_id} is an entry that nobody has stored")
        wrong += _end(verdict, row, mine, touched[entry_id])

        numbers = set(mine)
        missing = set(range(1, row["attempt_count"] + 1)) - numbers
        if numbers - set(range(1, row["attempt_count"] + 1)):
            wrong.append(f"{entry_id} has attempts on record beyond its count: {sorted(numbers)}")
        if missing and not touched[entry_id]:
            wrong.append(f"{entry_id}: attempts {sorted(missing)} of {row['attempt_count']} are not on record")
        verdict.holes += len(missing)
        beyond = {call.attempt for call in heard[entry_id]} - set(range(1, row["attempt_count"] + 1))
        if beyond:
            wrong.append(f"{entry_id}: the handler has seen attempts {sorted(beyond)} that were never counted")
        wrong += [
            f"{entry_id}: attempt {number} is on record as delivered, and the handler never said 2xx to it"
            for number, attempt in mine.items()
            if attempt["outcome"] == "delivered"
            and not any(call.attempt == number and 200 <= (call.status or 0) < 300 for call in heard[entry_id])
        ]
        taken = sorted((call for call in heard[entry_id] if call.took), key=lambda call: (call.attempt, call.at))
        if row["status"] == "reprocessed" and not taken:
            wrong.append(f"{entry_id} is reprocessed, and no handler took it: lost")
        for before, after in pairwise(taken):
            why = _why_again(before, after, mine, heard[entry_id], touched[entry_id], faults)
            verdict.duplicates[why] += 1
            if why.startswith("unexplained"):
                wrong.append(f"{entry_id} was taken by attempts {before.attempt} and {after.attempt}, {why}: {before}")
    return verdict


def _end(verdict: Verdict, row: dict[str, Any], mine: dict[int, dict[str, Any]], acts: set[str]) -> list[str]:
    """Count how an entry ended, and say if it may not end so."""
    status = row["status"]
    last = mine.get(max(mine, default=0), {})
    if status == "reprocessed":
        verdict.ends["reprocessed"] += 1
    elif status == "discarded" and "discarded" in acts:
        verdict.ends["discarded by a person"] += 1
    elif status == "failed" and row["retry_count"] >= row["retries"]:
        verdict.ends["failed, retries used up"] += 1
    elif status == "failed" and last.get("status_code") == 410:
        verdict.ends["failed, 410"] += 1
    elif status == "failed" and row["unanswered_count"] >= row["max_unanswered"]:
        verdict.ends["failed, unanswered too often"] += 1
        if last.get("outcome") != "unanswered":
            return [f"{row['id']} failed without an answer, and its last attempt is {last}"]
    else:
        verdict.ends[f"{status}, which is wrong"] += 1
        return [
            f"{row['id']} ({row['service']}, {row['idempotency_key']}) is {status}: {row['retry_count']} retries,"
            f" {row['unanswered_count']} unanswered, next {row['next_retry_at']}, last attempt {last}"
        ]
    return []


def _cause(attempt: dict[str, Any], faults: list[Fault]) -> str:
    """The fault that an attempt lost its answer to: the last before that was noticed.

    That takes a minute at most; and for a minute new ids may be those of older answers.
    """
    if "not unique" in (attempt["error"] or ""):
        return "an id that is not unique"
    noticed = attempt["settled_at"].timestamp()
    suspects = [
        fault
        for fault in faults
        if fault.kind in _CAUSES and noticed - _LASTS.get(fault.kind, 90) < fault.ended and fault.began < noticed
    ]
    return max(suspects, key=lambda fault: fault.began).kind if suspects else "unexplained"


def _why_again(
    before: Call, after: Call, mine: dict[int, dict[str, Any]], heard: list[Call], acts: set[str], faults: list[Fault]
) -> str:
    """Why a webhook was sent again that had been taken."""
    if before.attempt == after.attempt:
        return "the sender sent one attempt twice"
    attempt = mine.get(before.attempt)
    if attempt is None:
        return "made due by a person, and the answer lost" if acts else "unexplained: no attempt on record"
    if attempt["outcome"] == "unanswered":
        return f"unanswered: {_cause(attempt, faults)}"
    if attempt["outcome"] == "network_error":
        return "the answer came too late" if before.kind == "take too late" else "the connection broke after the answer"
    if "pending" in acts:
        return "made due by a person"
    if any(call.kind.startswith("echo") for call in heard):
        return "an echo took it back"
    return f"unexplained: {attempt['outcome']}"
