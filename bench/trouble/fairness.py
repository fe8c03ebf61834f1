"""Fairness: how long ten entries of one service take beside 100,000 due entries of another.

    python -m bench.trouble.fairness [--sender pg_net|net-worker] [--rounds 10]

Cycles run without a pause. In each round ten entries of a service become due; measured is the time until
all ten are delivered. Without the flood; with one that may have 20 requests in flight; with one that may
have 1,000, as many as the sender takes in all; and with one of these whose handler takes four seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from bench.world import Sender, World, print_conditions, print_table, senders, world


def measure(sender: Sender, flood: int, at_once: int, delay: float, rounds: int) -> tuple[list[float], float]:
    """How long ten entries take, in seconds, round by round; and what the flood delivers a second meanwhile."""
    with world(sender) as w:
        w.endpoint("few")
        w.endpoint("flood", max_in_flight=at_once)
        w.handlers.behave("flood", delay=delay)
        if flood:
            w.store(flood, "flood")
        with w.cycles(3600 if flood else 600) as thread:
            time.sleep(5)
            began, before = time.monotonic(), _delivered(w)
            times = [_ten(w, n) for n in range(rounds)]
            rate = (_delivered(w) - before) / (time.monotonic() - began)
            if flood and _delivered(w) >= flood:
                print("the flood is over before the last round", flush=True)
            w.stop(thread)
        return times, rate


def _delivered(w: World) -> int:
    return int(w.one("select count(*) from dlq.delivery_attempts where service = 'flood' and outcome = 'delivered'"))


def _ten(w: World, nth: int) -> float:
    time.sleep(0.7 + 0.13 * nth)  # at any moment of a batch
    began = time.monotonic()
    w.conn.execute(
        """
        insert into webhook_dlq (service, payload, next_retry_at)
        select 'few', jsonb_build_object('round', %s::integer, 'n', n), dlq._now() from generate_series(1, 10) as n
        """,
        (nth,),
    )
    while w.one("select count(*) from webhook_dlq where service = 'few' and status in ('pending', 'processing')"):
        time.sleep(0.01)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sender", action="append", choices=("net-worker", "pg_net"))
    parser.add_argument("--only", default="", help="only the floods whose description has this in it")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    print_conditions(f"Ten entries of one service, {args.rounds} rounds; payloads of 900 bytes.")
    rows = []
    for sender in senders(args.sender or ("net-worker", "pg_net")):
        for name, flood, at_once, delay in (
            ("alone", 0, 20, 0),
            ("beside 100,000 due, 20 in flight", 100_000, 20, 0),
            ("beside 100,000 due, 1,000 in flight", 100_000, 1000, 0),
            ("beside 100,000 due, 1,000 in flight, answered after 4 s", 100_000, 1000, 4),
        ):
            if args.only not in name:
                continue
            times, rate = measure(sender, flood, at_once, delay, args.rounds)
            print(f"  {sender} {name}: {[round(t, 2) for t in times]} {rate:,.0f}/s", file=sys.stderr, flush=True)
            rows.append((sender, name, f"{statistics.median(times):.2f}", f"{max(times):.2f}", f"{rate:,.0f}"))
    print()
    print_table(("sender", "ten entries", "median, s", "most, s", "the flood, a second"), rows)


if __name__ == "__main__":
    main()
