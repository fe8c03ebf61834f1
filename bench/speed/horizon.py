"""A long horizon: 200 entries a second come and go while somebody holds a transaction open: nothing dead can go.

    python -m bench.speed.horizon [--minutes 10] [--rate 200]

Each second: so many are stored, claimed and posted, answered and collected; then pgqueuer does as much, where it can be
installed. A minute without the open transaction comes first, and one after it has ended and the tables are vacuumed.
Four minutes are a cycle, as the cron job's: its first claim looks for everything, and is told of by itself too.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from bench.peers.compare import Side, peers
from bench.quiet import Quiet, Stopwatch, quiet
from bench.report import Report, quantile, tell

WHAT = ("dispatch", "collect", "requeue")
CYCLE = 240
"""So many rounds are one cycle."""
STORE: LiteralString = """
insert into webhook_dlq (service, payload, next_retry_at)
select 'shop', jsonb_build_object('n', n, 'text', repeat('x', 870)), now() from generate_series(1, %s) as n
"""
ENDPOINT: LiteralString = "select dlq.set_endpoint('shop', 'http://127.0.0.1:9/', true, true, max_in_flight => %s)"
SIZES: LiteralString = """
select
  pg_total_relation_size('public.webhook_dlq') / 2 ^ 20,
  (select sum(pg_total_relation_size(c.oid)) / 2 ^ 20 from pg_class as c where c.relname = 'pgqueuer')
"""


@dataclass
class Cycle:
    """What the passes of a cycle hand on, one to the next."""

    rounds: int = 0
    claimed: str | None = None

    def dispatch(self, q: Quiet, run: str) -> None:
        """A dispatch as dlq.run_cycle() has it."""
        text: LiteralString = "select claimed::text from dlq._step(%s, 'dispatch_due', %s::jsonb)"
        self.claimed = q.one(text, int(run), self.claimed if self.rounds % CYCLE else None)
        self.rounds += 1


def one_minute(q: Quiet, peer: Side | None, cycle: Cycle, rate: int, seconds: int) -> tuple[Stopwatch, list[float]]:
    """A round each second, or as fast as it goes. Returns the times of ours, and of the peer's take and settle."""
    watch, theirs = Stopwatch(q.conn), []
    begun = time.monotonic()
    for nth in range(seconds):
        while time.monotonic() < begun + nth:
            time.sleep(0.01)
        q.conn.execute(STORE, (rate,))
        run = str(q.one("select dlq._begin_run()"))
        is_first = cycle.rounds % CYCLE == 0
        watch.time("dispatch", lambda run=run: cycle.dispatch(q, run))  # type: ignore[misc]
        if is_first:
            watch.wall["the first of a cycle"] = watch.wall["dispatch"][-1:]
        q.answer()
        watch.query("requeue", f"select dlq._step({run}, 'requeue_lost')")
        watch.query("collect", f"select dlq._step({run}, 'collect_responses')")
        q.conn.execute("select dlq._end_run(%s)", (int(run),))
        if nth % 5 == 0:  # as a cycle does
            q.conn.execute("select dlq._compact_in_flight()")
        if peer is not None:
            peer.run("store", rate)
            theirs.append(peer.run("turn", rate))
    assert not q.one("select count(*) from webhook_dlq where status <> 'reprocessed'"), "not all were delivered"
    return watch, theirs


def _cell(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:.1f}, {quantile(times, 0.99) * 1e3:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60, help="of each minute")
    parser.add_argument("--alone", action="store_true", help="without a peer")
    args = parser.parse_args()
    report = Report("horizon", "What does a transaction cost that is held open?")
    rows: list[tuple[str, ...]] = []
    watches: list[Stopwatch] = []
    turns: list[list[float]] = []

    def minute(name: str) -> None:
        watch, theirs = one_minute(q, peer, cycle, args.rate, args.seconds)
        size, their_size = q.conn.execute(SIZES).fetchall()[0]
        cells = [f"{_cell(watch.wall[what])} ({statistics.median(watch.cpu[what]) * 1e3:.1f})" for what in WHAT]
        first = watch.wall.get("the first of a cycle")
        cells += [f"{first[0] * 1e3:.1f}" if first else "", *([_cell(theirs)] if theirs else [])]
        rows.append((name, *cells, f"{size:.0f}", *([f"{their_size:.0f}"] if theirs else [])))
        tell(" | ".join(rows[-1]))
        watches.append(watch)
        turns.append(theirs)

    with contextlib.ExitStack() as stack:
        q = stack.enter_context(quiet(settings={"pg_net.batch_size": str(args.rate)}))
        peer = None if args.alone else stack.enter_context(peers(q.cluster.dsn(), q.cluster.url())).get("pgqueuer")
        report.server(q.conn)
        q.conn.execute("update dlq.settings set max_in_flight = %s", (2 * args.rate,))
        q.conn.execute(ENDPOINT, (args.rate,))
        cycle = Cycle()
        one_minute(q, peer, cycle, args.rate, 10)
        q.conn.execute("vacuum analyze")
        minute("before")
        with psycopg.connect(q.cluster.dsn()) as holder:
            holder.execute("set transaction isolation level repeatable read")
            holder.execute("select count(*) from webhook_dlq")
            for nth in range(args.minutes):
                minute(f"held, minute {nth + 1}")
        q.conn.execute("vacuum analyze")
        minute("after, vacuumed")
    heads = ["", "dispatch", "collect", "requeue", "a cycle's first dispatch"]
    heads += [*(["pgqueuer's turn"] if turns[0] else []), "queue, MB"]
    report.table(
        f"{args.rate} entries a second; milliseconds: median, 99 of 100 (median of what the server computed)",
        (*heads, *(["pgqueuer, MB"] if turns[0] else [])),
        rows,
    )
    for what in WHAT:
        for kind, words in (("wall", what), ("cpu", f"{what}, computed")):
            last, first = (getattr(watches[nth], kind)[what] for nth in (-2, 0))
            times = quantile(last, 0.99) / quantile(first, 0.99)
            report.ratio(f"{words}, 99 of 100: the last minute held over the one before", times, at_most=2)
    if turns[0]:
        times = quantile(turns[-2], 0.99) / quantile(turns[0], 0.99)
        print(f"beside it: pgqueuer's turn, 99 of 100: {times:.1f} times as long in the last minute as before")
    report.conditions["minutes_held"] = args.minutes * args.seconds / 60
    report.save()


if __name__ == "__main__":
    main()
