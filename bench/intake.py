"""Storing a failed webhook: what it costs beside a raw insert into the same table.

    python -m bench.intake [--rounds 7] [--json FILE]

Raw is a copy of the table with its indexes and constraints, as its owner, without triggers and row level
security, each column given. Ours is what users do: role dlq_writer, both on. `copy` is a superuser's, since
PostgreSQL refuses it under row level security. The variants take turns, so that what else the machine does
meets them all; a ratio is the median of the rounds' own.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

from bench.world import World, print_conditions, print_table, world
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

_COLUMNS: LiteralString = "id, created_at, updated_at, next_retry_at, service, status, payload, error_message"
_RAW: LiteralString = f"insert into bench.raw ({_COLUMNS}) select"
_RAW_VALUES: LiteralString = "now(), now(), now() + interval '5 min' * (1 + 0.1 * random())"


@dataclass(frozen=True)
class Variant:
    """One way to store. `run` stores one round's worth and returns webhooks a second."""

    name: str
    floor: str
    run: Callable[[], float]


class Singles:
    """One webhook a transaction, from eight clients of pgbench, prepared."""

    def __init__(self, w: World, role: str, statement: LiteralString) -> None:
        self._command = [
            str(w.box.cluster.binaries.bin_dir / "pgbench"), "--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}",
            "--jobs=2", f"--transactions={SINGLES}", f"--define=payload={PAYLOAD}",
        ]  # fmt: skip
        self._env = {**w.box.cluster.env(), "PGOPTIONS": f"-c role={role}"}
        self._script = statement

    def __call__(self) -> float:
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(self._script)
            file.flush()
            done = subprocess.run(
                [*self._command, f"--file={file.name}"], env=self._env, check=True, capture_output=True, text=True
            )
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        assert found, done.stdout + done.stderr
        return float(found[1])


class Batches:
    """A thousand a transaction, from one connection; what is sent has been written out before."""

    def __init__(self, w: World, role: str, statement: LiteralString, data: Sequence[str] | bytes) -> None:
        self._conn = connect(w.box.cluster.dsn(), autocommit=True)
        self._conn.execute(f"set role {role}".encode())
        self._statement = statement
        self._data = data

    def __call__(self) -> float:
        began = time.perf_counter()
        for _ in range(BATCHES):
            if isinstance(self._data, bytes):
                with self._conn.cursor() as cursor, cursor.copy(self._statement) as copy:
                    copy.write(self._data)
            else:
                self._conn.execute(self._statement, self._data)
        return BATCHES * BATCH / (time.perf_counter() - began)


def _array(values: Sequence[str]) -> str:
    return "{" + ",".join('"' + re.sub(r'(["\\])', r"\\\1", value) + '"' for value in values) + "}"


def _lines(rows: Sequence[Sequence[str]]) -> bytes:
    return "".join("\t".join(value.replace("\\", "\\\\") for value in row) + "\n" for row in rows).encode()


def variants(w: World) -> list[Variant]:
    """What is measured, the floors first. Beside bench.peers, which stores into other people's queues."""
    w.conn.execute("create schema bench authorization dlq_owner")
    w.conn.execute("set role dlq_owner")
    w.conn.execute("create table bench.raw (like public.webhook_dlq including all)")
    w.conn.execute("reset role")
    w.endpoint("shop")

    services, payloads, errors = ["shop"] * BATCH, [PAYLOAD] * BATCH, ["timeout"] * BATCH
    arrays = [_array(services), _array(payloads), _array(errors)]
    elements = [json.dumps({"service": "shop", "payload": _PAYLOAD, "error_message": "timeout"})] * BATCH
    row = ("shop", PAYLOAD, "timeout")
    raw_copy: LiteralString = "copy bench.raw (created_at, updated_at, next_retry_at, status, service, payload, error_message) from stdin"
    time_now = str(w.one("select now()"))
    made = "gen_random_uuid(), " + _RAW_VALUES

    def batches(role: str, statement: LiteralString, data: Sequence[str] | bytes) -> Callable[[], float]:
        return Batches(w, role, statement, data)

    one, many, copied = "raw insert", "raw insert of 1,000", "raw copy of 1,000"
    return [
        Variant(one, one, Singles(w, "dlq_owner", f"{_RAW} {made}, 'shop', 'pending', :payload::jsonb, 'timeout';")),
        Variant("insert", one, Singles(
            w, "dlq_writer", "insert into webhook_dlq (service, payload, error_message) values ('shop', :payload, 'timeout');")),
        Variant("store_dlq_entry", one, Singles(
            w, "dlq_writer", "select store_dlq_entry('shop', :payload, error_message => 'timeout');")),
        Variant(many, many, batches(
            "dlq_owner", f"{_RAW} {made}, u.s, 'pending', u.p, u.e from unnest(%s::text[], %s::jsonb[], %s::text[]) as u (s, p, e)",
            arrays)),
        Variant("store_dlq_entries", many, batches(
            "dlq_writer", "select count(*) from store_dlq_entries(%s::jsonb[])", [_array(elements)])),
        Variant("insert of 1,000", many, batches(
            "dlq_writer",
            "insert into webhook_dlq (service, payload, error_message) select * from unnest(%s::text[], %s::jsonb[], %s::text[])",
            arrays)),
        Variant(copied, copied, batches("dlq_owner", raw_copy, _lines([(time_now, time_now, time_now, "pending", *row)] * BATCH))),
        Variant("copy of 1,000", copied, batches(
            "postgres", "copy webhook_dlq (service, payload, error_message) from stdin", _lines([row] * BATCH))),
    ]  # fmt: skip


def measure(w: World, rounds: int) -> list[dict[str, object]]:
    """Run all variants in turn, once to warm up and then `rounds` times; return one row each."""
    ours = variants(w)
    seen: dict[str, list[float]] = {variant.name: [] for variant in ours}
    for nth in range(rounds + 1):
        for variant in ours:
            rate = variant.run()
            if nth:
                seen[variant.name].append(rate)
    return [
        {
            "how": variant.name,
            "a_second": round(statistics.median(seen[variant.name])),
            "ratio": round(
                statistics.median(
                    rate / floor for rate, floor in zip(seen[variant.name], seen[variant.floor], strict=True)
                ),
                3,
            ),
            "floor": variant.floor,
        }
        for variant in ours
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (7)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    print_conditions(
        f"Payloads of {len(PAYLOAD)} bytes; singles: {CLIENTS} clients, prepared, {SINGLES} transactions each and round; "
        f"batches: one client, {BATCHES} of {BATCH:,} a round; {args.rounds} rounds in turn; fsync off."
    )
    with world("net-worker") as w:
        rows = measure(w, args.rounds)
    print_table(
        ("how", "a second", "of the floor"), [(row["how"], f"{row['a_second']:,}", f"{row['ratio']:.2f}") for row in rows]
    )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
