"""Storing a failed webhook: what it costs beside a raw insert into the same table.

    python -m bench.speed.intake [--rounds 9]

Raw is a copy of the table with its indexes and constraints, as its owner, without triggers and row level
security, each column given. Ours is what users do: role dlq_writer, both on. `copy` is a superuser's, since
PostgreSQL refuses it under row level security. The variants take turns, in another order each round, so that
what else the machine does meets them all; a ratio is the median of the rounds' own: by the clock, which is
judged, and of what the server has computed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import LiteralString
from uuid import uuid4

from bench.quiet import Quiet, Stopwatch, children, computed_by_ended, quiet
from bench.report import Report
from dlqctl.connection import connect

CLIENTS = 8
SINGLES = 2000
"""So many transactions a client and round. Of 250, what a new session reads and compiles was a large part."""
BATCH = 1000
BATCHES = 8
"""So many batches a round."""

# As WhatsApp sends one, filled up to 1 KB.
_WORDS = "Does it come in another colour, and could you send it to our new address before Friday? We have moved. "
_PAYLOAD = {
    "object": "whatsapp_business_account",
    "entry": [{"id": "102290129340398", "changes": [{"field": "messages", "value": {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550783881", "phone_number_id": "106540352242922"},
        "contacts": [{"profile": {"name": "Sheena Nelson"}, "wa_id": "16505551234"}],
        "messages": [{
            "from": "16505551234", "id": "wamid.HBgLMTY1MDM4Nzk0MzkVAgASGBQzQTRBNjU5OUFFRTAzODEwMTQ0RgA=",
            "timestamp": "1749416383", "type": "text", "text": {"body": (_WORDS * 6)[:530]},
        }],
    }}]}],
}  # fmt: skip
PAYLOAD = json.dumps(_PAYLOAD, separators=(",", ":"))

Rows = Sequence[Sequence[str]]

_COLUMNS: LiteralString = "id, created_at, updated_at, next_retry_at, service, status, payload, error_message"
# What no client of pgbench can make up: the id, which costs less than our own, and the times.
_RAW_INSERT = f"""
    insert into bench.raw ({_COLUMNS})
    values (gen_random_uuid(), now(), now(), now() + interval '5 min', 'shop', 'pending', :payload, 'timeout');
"""
_INSERT = "insert into public.webhook_dlq (service, payload, error_message) values ('shop', :payload, 'timeout');"
_STORE = "select public.store_dlq_entry('shop', :payload, error_message => 'timeout');"
_RAW_BATCH: LiteralString = f"""
    insert into bench.raw ({_COLUMNS})
    select *
    from unnest(%s::uuid[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[],
      %s::text[], %s::text[], %s::jsonb[], %s::text[])
"""
_BATCH: LiteralString = """
    insert into public.webhook_dlq (service, payload, error_message)
    select * from unnest(%s::text[], %s::jsonb[], %s::text[])
"""
_STORE_MANY: LiteralString = "select public.store_dlq_entries(%s::jsonb[])"
_COPY: LiteralString = "copy public.webhook_dlq (service, payload, error_message) from stdin"


@dataclass(frozen=True)
class Took:
    """Seconds for a webhook: by the clock, all clients together, and what the server has computed."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Variant:
    """One way to store. `run` stores one round's worth, and returns what a webhook took."""

    name: str
    floor: str
    run: Callable[[], Took]


class Singles:
    """One webhook a transaction, from eight clients of pgbench, prepared."""

    def __init__(self, q: Quiet, role: str, script: str) -> None:
        self._command = [
            str(q.cluster.binaries.bin_dir / "pgbench"), "--no-vacuum", "--protocol=prepared",
            f"--client={CLIENTS}", "--jobs=2", f"--transactions={SINGLES}", f"--define=payload={PAYLOAD}",
        ]  # fmt: skip
        self._env = {**os.environ, **q.cluster.env(), "PGOPTIONS": f"-c role={role}"}
        self._script = script
        self._server = q.cluster.postmaster_pid

    def __call__(self) -> Took:
        others = children(self._server)
        before = computed_by_ended(self._server)
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(self._script)
            file.flush()
            command = [*self._command, f"--file={file.name}"]
            done = subprocess.run(command, env=self._env, check=True, capture_output=True, text=True)
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        assert found, done.stdout + done.stderr
        while children(self._server) > others:  # what the backends have computed is known when they have ended
            time.sleep(0.01)
        return Took(1 / float(found[1]), (computed_by_ended(self._server) - before) / (CLIENTS * SINGLES))


class Batches:
    """A thousand a transaction, from one connection. What is sent is written out beforehand."""

    def __init__(self, q: Quiet, role: str, statement: LiteralString, rows: Callable[[], Rows]) -> None:
        self._conn = connect(q.cluster.dsn(), autocommit=True)
        self._conn.execute(f"set role {role}".encode())
        self._statement = statement
        self._rows = rows

    def __call__(self) -> Took:
        watch = Stopwatch(self._conn)
        for _ in range(BATCHES):
            if self._statement.startswith("copy"):
                lines = "".join("\t".join(row) + "\n" for row in self._rows()).replace("\\", r"\\").encode()
                watch.time("", partial(self._copy, lines))
            else:
                arrays = [_array(column) for column in zip(*self._rows(), strict=True)]
                watch.time("", partial(self._conn.execute, self._statement, arrays))
        return Took(sum(watch.wall[""]) / (BATCHES * BATCH), sum(watch.cpu[""]) / (BATCHES * BATCH))

    def _copy(self, lines: bytes) -> None:
        with self._conn.cursor() as cursor, cursor.copy(self._statement) as copy:
            copy.write(lines)


def _array(values: Sequence[str]) -> str:
    return "{" + ",".join('"' + re.sub(r'(["\\])', r"\\\1", value) + '"' for value in values) + "}"


def variants(q: Quiet) -> list[Variant]:
    """What is measured, each floor before those that are measured against it."""
    q.conn.execute("create schema bench authorization dlq_owner")
    q.conn.execute("set role dlq_owner")
    q.conn.execute("create table bench.raw (like public.webhook_dlq including all)")
    q.conn.execute("reset role")
    q.conn.execute("select dlq.set_endpoint('shop', 'http://127.0.0.1:9/shop', true, true)")
    element = json.dumps({"service": "shop", "payload": json.loads(PAYLOAD), "error_message": "timeout"})

    def given() -> Rows:
        return [("shop", PAYLOAD, "timeout")] * BATCH

    def elements() -> Rows:
        return [(element,)] * BATCH

    def whole() -> Rows:
        now = str(datetime.now(UTC))
        return [(str(uuid4()), now, now, now, "shop", "pending", PAYLOAD, "timeout") for _ in range(BATCH)]

    one, many, copied = "raw insert", "raw insert of 1,000", "raw copy of 1,000"
    return [
        Variant(one, one, Singles(q, "dlq_owner", _RAW_INSERT)),
        Variant("insert", one, Singles(q, "dlq_writer", _INSERT)),
        Variant("store_dlq_entry", one, Singles(q, "dlq_writer", _STORE)),
        Variant(many, many, Batches(q, "dlq_owner", _RAW_BATCH, whole)),
        Variant("insert of 1,000", many, Batches(q, "dlq_writer", _BATCH, given)),
        Variant("store_dlq_entries of 1,000", many, Batches(q, "dlq_writer", _STORE_MANY, elements)),
        Variant(copied, copied, Batches(q, "dlq_owner", f"copy bench.raw ({_COLUMNS}) from stdin", whole)),
        Variant("copy of 1,000", copied, Batches(q, "postgres", _COPY, given)),
    ]


GOALS = {"insert": 0.75, "store_dlq_entry": 0.75, "store_dlq_entries of 1,000": 0.85, "copy of 1,000": 0.85}


def measure(report: Report, q: Quiet, rounds: int) -> None:
    """Run all variants in turn, once to warm up and then `rounds` times."""
    ours = variants(q)
    seen: dict[str, list[Took]] = {variant.name: [] for variant in ours}
    for nth in range(rounds + 1):
        for variant in ours if nth % 2 else ours[::-1]:
            took = variant.run()
            if nth:
                seen[variant.name].append(took)
    rows, ratios = [], dict[str, float]()
    for v in ours:
        pairs = list(zip(seen[v.name], seen[v.floor], strict=True))
        clock = sorted(floor.wall / took.wall for took, floor in pairs)
        cpu = sorted(floor.cpu / took.cpu if took.cpu else 0.0 for took, floor in pairs)
        rows.append((
            v.name,
            f"{1 / statistics.median(took.wall for took in seen[v.name]):,.0f}",
            f"{statistics.median(clock):.2f}", f"{clock[0]:.2f}, {clock[-1]:.2f}",
            f"{statistics.median(took.cpu for took in seen[v.name]) * 1e6:.0f}",
            f"{statistics.median(cpu):.2f}", f"{cpu[0]:.2f}, {cpu[-1]:.2f}",
        ))  # fmt: skip
        if v.name in GOALS:
            ratios[v.name] = statistics.median(clock)
    heads = ("how", "a second", "of raw", "least, most", "computed, us", "of raw", "least, most")
    report.table("Storing", heads, rows)
    for name, ratio in ratios.items():
        report.ratio(f"{name}, of the raw floor", ratio, at_least=GOALS[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured (9)")
    args = parser.parse_args()
    report = Report("intake", "What does storing cost, beside a raw insert into the same table?")
    report.conditions |= {
        "payload": f"{len(PAYLOAD)} bytes", "rounds": args.rounds,
        "one by one": f"{CLIENTS} clients, prepared, {SINGLES} each and round",
        "together": f"{BATCH:,} by one client, {BATCHES} times a round",
    }  # fmt: skip
    with quiet("net-worker", settings={"autovacuum": "off"}) as q:
        report.server(q.conn)
        measure(report, q, args.rounds)
    report.save()


if __name__ == "__main__":
    main()
