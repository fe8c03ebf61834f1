"""Storing a failed webhook: what it costs beside a raw insert into the same table.

    python -m bench.speed.intake [--rounds 7]

Raw is a copy of the table with its indexes and constraints, as its owner, without triggers and row level
security, each column given. Ours is what users do: role dlq_writer, both on. `copy` is a superuser's, since
PostgreSQL refuses it under row level security. The variants take turns, so that what else the machine does
meets them all; a ratio is the median of the rounds' own.
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
from typing import LiteralString
from uuid import uuid4

from bench.report import Report
from bench.world import World, world
from dlqctl.connection import connect

CLIENTS = 8
SINGLES = 250
"""So many transactions a client and round."""
BATCH = 1000
BATCHES = 4
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
class Variant:
    """One way to store. `run` stores one round's worth and returns webhooks a second."""

    name: str
    floor: str
    run: Callable[[], float]


class Singles:
    """One webhook a transaction, from eight clients of pgbench, prepared."""

    def __init__(self, w: World, role: str, script: str) -> None:
        self._command = [
            str(w.box.cluster.binaries.bin_dir / "pgbench"), "--no-vacuum", "--protocol=prepared",
            f"--client={CLIENTS}", "--jobs=2", f"--transactions={SINGLES}", f"--define=payload={PAYLOAD}",
        ]  # fmt: skip
        self._env = {**os.environ, **w.box.cluster.env(), "PGOPTIONS": f"-c role={role}"}
        self._script = script

    def __call__(self) -> float:
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(self._script)
            file.flush()
            command = [*self._command, f"--file={file.name}"]
            done = subprocess.run(command, env=self._env, check=True, capture_output=True, text=True)
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        assert found, done.stdout + done.stderr
        return float(found[1])


class Batches:
    """A thousand a transaction, from one connection. What is sent is written out beforehand."""

    def __init__(self, w: World, role: str, statement: LiteralString, rows: Callable[[], Rows]) -> None:
        self._conn = connect(w.box.cluster.dsn(), autocommit=True)
        self._conn.execute(f"set role {role}".encode())
        self._statement = statement
        self._rows = rows

    def __call__(self) -> float:
        took = 0.0
        for _ in range(BATCHES):
            if self._statement.startswith("copy"):
                lines = "".join("\t".join(row) + "\n" for row in self._rows()).replace("\\", r"\\").encode()
                began = time.perf_counter()
                with self._conn.cursor() as cursor, cursor.copy(self._statement) as copy:
                    copy.write(lines)
            else:
                arrays = [_array(column) for column in zip(*self._rows(), strict=True)]
                began = time.perf_counter()
                self._conn.execute(self._statement, arrays)
            took += time.perf_counter() - began
        return BATCHES * BATCH / took


def _array(values: Sequence[str]) -> str:
    return "{" + ",".join('"' + re.sub(r'(["\\])', r"\\\1", value) + '"' for value in values) + "}"


def variants(w: World) -> list[Variant]:
    """What is measured, each floor before those that are measured against it."""
    w.conn.execute("create schema bench authorization dlq_owner")
    w.conn.execute("set role dlq_owner")
    w.conn.execute("create table bench.raw (like public.webhook_dlq including all)")
    w.conn.execute("reset role")
    w.endpoint("shop")
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
        Variant(one, one, Singles(w, "dlq_owner", _RAW_INSERT)),
        Variant("insert", one, Singles(w, "dlq_writer", _INSERT)),
        Variant("store_dlq_entry", one, Singles(w, "dlq_writer", _STORE)),
        Variant(many, many, Batches(w, "dlq_owner", _RAW_BATCH, whole)),
        Variant("insert of 1,000", many, Batches(w, "dlq_writer", _BATCH, given)),
        Variant("store_dlq_entries of 1,000", many, Batches(w, "dlq_writer", _STORE_MANY, elements)),
        Variant(copied, copied, Batches(w, "dlq_owner", f"copy bench.raw ({_COLUMNS}) from stdin", whole)),
        Variant("copy of 1,000", copied, Batches(w, "postgres", _COPY, given)),
    ]


GOALS = {"insert": 0.75, "store_dlq_entry": 0.75, "store_dlq_entries of 1,000": 0.85, "copy of 1,000": 0.85}


def measure(report: Report, w: World, rounds: int) -> None:
    """Run all variants in turn, once to warm up and then `rounds` times."""
    ours = variants(w)
    seen: dict[str, list[float]] = {variant.name: [] for variant in ours}
    for nth in range(rounds + 1):
        for variant in ours:
            rate = variant.run()
            if nth:
                seen[variant.name].append(rate)
    ratios = {
        v.name: sorted(rate / floor for rate, floor in zip(seen[v.name], seen[v.floor], strict=True)) for v in ours
    }
    report.table(
        "Storing",
        ("how", "a second", "of the floor", "least and most"),
        [
            (name, f"{rate:,.0f}", f"{statistics.median(of):.2f}", f"{of[0]:.2f}, {of[-1]:.2f}")
            for name, of in ratios.items()
            for rate in [statistics.median(seen[name])]
        ],
    )
    for name, goal in GOALS.items():
        report.ratio(f"{name}, of the raw floor", statistics.median(ratios[name]), at_least=goal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (7)")
    args = parser.parse_args()
    report = Report("intake", "What does storing cost, beside a raw insert into the same table?")
    report.conditions |= {
        "payload": f"{len(PAYLOAD)} bytes", "rounds": args.rounds,
        "one by one": f"{CLIENTS} clients, prepared, {SINGLES} each and round",
        "together": f"{BATCH:,} by one client, {BATCHES} times a round",
    }  # fmt: skip
    with world("net-worker") as w:
        report.server(w.conn)
        measure(report, w, args.rounds)
    report.save()


if __name__ == "__main__":
    main()
