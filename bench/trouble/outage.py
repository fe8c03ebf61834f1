"""Six hours, 40,000 webhooks: what an outage of one downstream uses up, and how it ends.

    python -m bench.trouble.outage [--sender pg_net|net-worker] [--webhooks 40000] [--max-in-flight 200]

The clock, dlq._now(), is set forward from one run of the cron job to the next, every five minutes; within a
run it goes as the real one. Entries fall due evenly over the outage, as webhooks do that fail as they arrive.
The downstream answers 500 (or 401) all the time, then takes everything. Three healthy services have an entry
due every minute all along.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bench.world import Sender, World, print_conditions, print_table, senders, world

HEALTHY = ("calm-1", "calm-2", "calm-3")

# A table, since replacing a function at each tick would plan everything anew.
_CLOCK = """
create schema bench;
create table bench.clock (ahead interval not null);
grant usage on schema bench to public;
grant select on bench.clock to public;
insert into bench.clock values ('0');
create or replace function dlq._now() returns timestamptz language sql stable
as 'select pg_catalog.now() + (select c.ahead from bench.clock as c)';
"""
_ENTRIES = """
with entries as (
  insert into webhook_dlq (service, payload, created_at, next_retry_at)
  select %(service)s, jsonb_build_object('n', n, 'text', repeat('x', 800)), at, at
  from generate_series(1, %(count)s) as n
    cross join lateral (select dlq._now() + n * %(over)s::interval / %(count)s as at) as t
  returning id, next_retry_at
)
insert into bench.due select id, next_retry_at from entries
"""


@dataclass(frozen=True)
class Outage:
    """What is tried. `status`: what the downstream answers during the outage; None: it has no webhooks at all."""

    sender: Sender
    status: int | None = 500
    webhooks: int = 40_000
    hours: int = 6
    every_minutes: int = 5
    calm_minutes: int = 1
    max_in_flight: int = 20
    cure: bool = True


@dataclass(frozen=True)
class Result:
    """How it went. Times in seconds of the queue's clock; `peak` in requests within one second of the real one."""

    attempts: int
    probes: int
    retries: dict[int, int]  # how many entries had used up so many when the outage ended
    settled: dict[str, int]  # by status, at the end
    first_delivered: float  # after the outage ended
    drained: float
    peak: int
    calm: list[float]  # how long each healthy entry took from due to delivered
    took: float  # in real seconds


def simulate(outage: Outage) -> Result:
    """Go through an outage, and through what follows until everything is settled, for at most a day."""
    with world(outage.sender, cure=outage.cure) as w:
        return _simulate(w, outage)


def _simulate(w: World, outage: Outage) -> Result:
    began = time.monotonic()
    w.conn.execute(_CLOCK)
    w.conn.execute("create table bench.due (id uuid primary key, at timestamptz not null)")
    w.endpoint("down", max_in_flight=outage.max_in_flight)
    w.handlers.behave("down", status=outage.status or 200)
    minutes = outage.hours * 60
    if outage.status is not None:
        w.conn.execute(_ENTRIES, {"service": "down", "count": outage.webhooks, "over": f"{minutes} min"})
    for service in HEALTHY:
        w.endpoint(service)
        over = minutes + 120
        w.conn.execute(_ENTRIES, {"service": service, "count": over // outage.calm_minutes, "over": f"{over} min"})
    w.conn.execute("vacuum analyze webhook_dlq")
    start = w.one("select dlq._now()")

    def run_at(minute: int) -> int:
        """Set the clock to that minute, if it is not later by now, and run the job. Returns the next one's minute."""
        w.conn.execute(
            "update bench.clock set ahead = greatest(ahead, %s + make_interval(mins => %s) - clock_timestamp())",
            (start, minute),
        )
        w.conn.execute("call dlq.run_cycle()")
        passed = w.one("select extract(epoch from dlq._now() - %s) / 60", start)
        return (int(passed) // outage.every_minutes + 1) * outage.every_minutes

    minute = 0
    while minute < minutes:
        minute = run_at(minute)
    retries = _counts(w, "retry_count")
    attempts, probes = w.conn.execute(
        "select count(*), count(*) filter (where is_probe) from dlq.delivery_attempts where service = 'down'"
    ).fetchall()[0]
    w.handlers.behave("down")
    well_since = time.time()
    while minute < minutes + 24 * 60:
        minute = run_at(minute)
        if not w.one("select count(*) from webhook_dlq where service = 'down' and status in ('pending', 'processing')"):
            break
    end = w.one("select %s + make_interval(mins => %s)", start, minutes)
    first, last = w.conn.execute(
        """
        select extract(epoch from min(settled_at) - %(end)s), extract(epoch from max(settled_at) - %(end)s)
        from webhook_dlq where service = 'down' and status = 'reprocessed'
        """,
        {"end": end},
    ).fetchall()[0]
    calm = w.conn.execute(
        """
        select extract(epoch from coalesce(e.settled_at, dlq._now()) - d.at)
        from webhook_dlq as e join bench.due as d using (id)
        where e.service <> 'down'
          and d.at < (select max(l.processed_at) + min(c.ahead) from dlq_processing_log as l, bench.clock as c)
        """
    ).fetchall()
    return Result(
        attempts=attempts,
        probes=probes,
        retries=retries,
        settled=_counts(w, "status"),
        first_delivered=float(first or 0),
        drained=float(last or 0),
        peak=_peak([at for at in w.handlers.seen("down") if at > well_since]),
        calm=sorted(float(row[0]) for row in calm),
        took=time.monotonic() - began,
    )


def _counts(w: World, column: str) -> dict[Any, int]:
    rows = w.conn.execute(
        f"select {column}, count(*) from webhook_dlq where service = 'down' group by 1 order by 1".encode()
    )
    return {value: int(count) for value, count in rows}


def _peak(times: list[float]) -> int:
    """The most requests within any one second that begins at a full tenth."""
    tenths = Counter(int(at * 10) for at in times)
    return max((sum(tenths[t + n] for n in range(10)) for t in tenths), default=0)


def report(setups: dict[str, Outage]) -> None:
    rows = []
    for name, setup in setups.items():
        r = simulate(setup)
        print(f"  {name}: {r}"[:400], file=sys.stderr, flush=True)
        quantiles = statistics.quantiles(r.calm, n=20)
        rows.append(
            (
                name,
                f"{r.attempts:,} ({r.probes} probes)",
                ", ".join(f"{used}: {count:,}" for used, count in r.retries.items()),
                r.settled.get("failed", 0),
                f"{r.first_delivered / 60:.1f}",
                f"{r.drained / 60:.1f}",
                r.peak,
                f"{quantiles[9]:.0f} / {quantiles[18]:.0f} / {r.calm[-1]:.0f}",
                f"{r.took:.0f}",
            )
        )
    print()
    print_table(
        (
            "", "attempts in the outage", "retries used: entries", "failed at the end", "first delivered, min after",
            "drained, min after", "peak, requests/s", "healthy: median / 95 % / most, s from due", "took, s",
        ),
        rows,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sender", action="append", choices=("net-worker", "pg_net"))
    parser.add_argument("--webhooks", type=int, default=40_000)
    parser.add_argument("--max-in-flight", type=int, help="of the downstream; default: 20 (net-worker), 200 (pg_net)")
    parser.add_argument("--without", action="store_true", help="also without the circuit breaker: takes long")
    args = parser.parse_args()
    print_conditions(f"An outage of 6 hours, {args.webhooks:,} webhooks due evenly over it; a run every 5 minutes.")
    for sender in senders(args.sender or ("net-worker", "pg_net")):
        most = args.max_in_flight or (20 if sender == "net-worker" else 200)
        down = {
            f"{sender}, HTTP {status}": Outage(sender, status, args.webhooks, max_in_flight=most)
            for status in (500, 401)
        }
        none = {f"{sender}, no outage": Outage(sender, None)}
        worse = Outage(sender, 500, args.webhooks, max_in_flight=most, cure=False)
        report(none | down | ({f"{sender}, HTTP 500, no breaker": worse} if args.without else {}))


if __name__ == "__main__":
    main()
