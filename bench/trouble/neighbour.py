"""A polite neighbour: the rate that other callers of pg_net keep while dlqctl drains through it.

    python -m bench.trouble.neighbour [--seconds 40] [--batch-size 200]

Needs the real pg_net. Closed loop: so many requests of theirs under way at any time. Open loop: so many a
second, whatever becomes of them. Each is measured alone, then while three services of ours drain, each of
which may have 1,000 in flight.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field

import psycopg

from bench.world import World, print_conditions, print_table, senders, world

OURS = ("ours-1", "ours-2", "ours-3")


@dataclass
class Neighbour:
    """Somebody else's calls, in a thread and a connection of their own. `at_once` closed, or `a_second` open."""

    w: World
    at_once: int = 0
    a_second: float = 0
    answered: list[float] = field(default_factory=list)  # when an answer was seen
    waited: list[float] = field(default_factory=list)  # how long each had to be waited for

    def run(self, seconds: float) -> None:
        waiting: dict[int, float] = {}
        began = time.monotonic()
        posted = 0
        url = self.w.handlers.url("theirs")
        with psycopg.connect(self.w.box.cluster.dsn(), autocommit=True) as conn:
            while (now := time.monotonic()) < began + seconds:
                due = self.at_once - len(waiting) if self.at_once else int((now - began) * self.a_second) - posted
                if due > 0:
                    rows = conn.execute(
                        "select net.http_post(%s, '{\"a\": 1}') from generate_series(1, %s)", (url, due)
                    ).fetchall()
                    waiting.update((row[0], now) for row in rows)
                    posted += due
                for row in conn.execute(
                    "select id from net._http_response where created > now() - interval '60 s' and id = any(%s)",
                    (list(waiting),),
                ).fetchall():
                    seen = time.monotonic()
                    self.answered.append(seen)
                    self.waited.append(seen - waiting.pop(row[0]))
                time.sleep(0.02)


def their_rate(w: World, seconds: float, at_once: int, a_second: float) -> tuple[float, float]:
    """Their answers a second, and how long the median one took, after a warm-up of ten seconds."""
    neighbour = Neighbour(w, at_once, a_second)
    thread = threading.Thread(target=neighbour.run, args=(seconds + 10,))
    began = time.monotonic() + 10
    thread.start()
    thread.join()
    steady = [at for at in neighbour.answered if at >= began]
    # From one batch of answers to another.
    rate = sum(at > steady[0] + 0.1 for at in steady) / (steady[-1] - steady[0])
    return rate, statistics.median(neighbour.waited[-len(steady) :])


def measure(batch_size: int, at_once: int, a_second: float, seconds: float) -> tuple[float, float, float, float, float]:
    """Their rate and wait alone, the same beside ours, and our rate."""
    with world("pg_net", batch_size=batch_size) as w:
        alone, wait_alone = their_rate(w, seconds, at_once, a_second)
        for service in OURS:
            w.endpoint(service, max_in_flight=1000)
        w.conn.execute("delete from net.http_request_queue")
        w.store(int(seconds + 30) * batch_size, *OURS)
        with w.cycles(3600) as thread:
            beside, wait_beside = their_rate(w, seconds, at_once, a_second)
            w.stop(thread)
        return alone, wait_alone, beside, wait_beside, our_rate(w)


def our_rate(w: World) -> float:
    """Our deliveries a second, after ten seconds."""
    return float(
        w.one(
            """
            with steady as (
              select settled_at as at from dlq.delivery_attempts
              where settled_at > (select min(settled_at) + interval '10 s' from dlq.delivery_attempts))
            select count(*) / extract(epoch from max(at) - min(at))
            from steady where at > (select min(at) from steady)
            """
        )
        or 0
    )


def measure_ours(batch_size: int, seconds: float) -> tuple[float, float]:
    """pg_net's own rate over a full queue, and ours with nobody beside us."""
    with world("pg_net", batch_size=batch_size) as w:
        alone, _ = their_rate(w, seconds, 20 * batch_size, 0)
        w.conn.execute("delete from net.http_request_queue")
        for service in OURS:
            w.endpoint(service, max_in_flight=10 * batch_size)
        w.store(int(seconds + 30) * batch_size, *OURS)
        with w.cycles(seconds + 10):
            pass
        return alone, our_rate(w)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--batch-size", type=int, default=200)
    args = parser.parse_args()
    if not senders(("pg_net",)):
        return
    size = args.batch_size
    print_conditions(f"pg_net, batch size {size}; {args.seconds:.0f} s each after 10 s; handlers answer at once.")
    rows = []
    for name, at_once, a_second in (
        ("closed, 50", 50, 0), ("closed, 200", 200, 0), ("closed, 1,000", 1000, 0), ("open, 100/s", 0, 100),
    ):  # fmt: skip
        alone, wait_alone, beside, wait_beside, ours = measure(size, at_once, a_second, args.seconds)
        rows.append(
            (name, f"{alone:.0f}", f"{beside:.0f}", f"{beside / alone:.0%}", f"{wait_alone:.1f}", f"{wait_beside:.1f}",
             f"{ours:.0f}")
        )  # fmt: skip
        print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    print()
    heads = ("theirs", "alone, a second", "beside ours", "kept", "wait alone, s", "wait beside, s", "ours, a second")
    print_table(heads, rows)
    print()
    drains = []
    for size in (200, 1000):
        own, ours = measure_ours(size, args.seconds)
        drains.append((size, f"{own:.0f}", f"{ours:.0f}", f"{ours / own:.0%}"))
    print_table(("batch size", "pg_net over a full queue, a second", "our drain, a second", "ratio"), drains)


if __name__ == "__main__":
    main()
