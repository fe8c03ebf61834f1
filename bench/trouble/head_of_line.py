"""Head of line: what an endpoint that hangs costs the nine others, and what 1 % of calls that hang cost all.

    python -m bench.trouble.head_of_line [--sender pg_net|net-worker] [--seconds 90] [--only one|random|settings]

Each endpoint has more due than can be sent in the time; the rate is what one cycle delivers a second, after
its first ten. Each figure stands beside the one without trouble and the one without the cure (no circuit
breaker, no slow lane). A call that hangs is never answered: it ends at the endpoint's timeout.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, replace

from bench.world import Sender, print_conditions, print_table, senders, spread, world

NINE = [f"well-{n}" for n in range(1, 10)]
WARM_UP = 10


@dataclass(frozen=True)
class Setup:
    """What is tried. `trouble`: none, one (the tenth endpoint hangs on every call), random (1 % of all calls hang)."""

    sender: Sender
    trouble: str = "none"
    cure: bool = True
    timeout_ms: int = 5000
    max_in_flight: int = 20
    batch_size: int | None = None


def measure(setup: Setup, seconds: int) -> float:
    """What is delivered for the nine, a second."""
    with world(setup.sender, cure=setup.cure, batch_size=setup.batch_size) as w:
        services = [*NINE, "hangs"] if setup.trouble == "one" else NINE
        for service in services:
            w.endpoint(service, timeout_ms=setup.timeout_ms, max_in_flight=setup.max_in_flight)
            w.handlers.behave(service, hang=1 if service == "hangs" else 0.01 if setup.trouble == "random" else 0)
        fastest = 300 if setup.sender == "net-worker" else (setup.batch_size or 200) / 8  # of each, a second
        w.store(int(seconds * fastest), *services)
        with w.cycles(seconds):
            pass
        left = w.one("select count(distinct service) from webhook_dlq where status = 'pending' and service <> 'hangs'")
        if left < len(NINE):
            print(f"{setup}: they ran out of work, and the figure is too low", flush=True)
        if error := w.one("select min(error_message) from dlq_processing_log"):
            print(f"{setup}: {error}", flush=True)
        return float(w.one(_RATE, WARM_UP) or 0)


# From one settling to another, since pg_net answers in batches.
_RATE = """
with delivered as (
  select a.settled_at as at
  from dlq.delivery_attempts as a
  where a.outcome = 'delivered' and a.service <> 'hangs'
    and a.settled_at >= (select min(b.dispatched_at) from dlq.delivery_attempts as b) + make_interval(secs => %s)
),
bounds as (select min(d.at) as first, max(d.at) as last from delivered as d)
select count(*) / nullif(extract(epoch from max(b.last) - max(b.first)), 0)
from delivered as d, bounds as b
where d.at > b.first
"""


def report(title: str, setups: dict[str, Setup], seconds: int, runs: int) -> None:
    """Measure the setups in turn, so often, and print them beside the first."""
    rates: dict[str, list[float]] = {name: [] for name in setups}
    for _ in range(runs):
        for name, setup in setups.items():
            rates[name].append(measure(setup, seconds))
            print(f"  {name}: {rates[name][-1]:,.0f}/s", file=sys.stderr, flush=True)
    whole = statistics.median(next(iter(rates.values())))
    print(f"\n{title}; {runs} runs of {seconds} s each, in turn: the nine's deliveries a second, median and spread\n")
    print_table(
        ("", "a second", "ratio"),
        [(name, spread(values), f"{statistics.median(values) / whole:.0%}") for name, values in rates.items()],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sender", action="append", choices=("net-worker", "pg_net"))
    parser.add_argument("--only", action="append", choices=("one", "random", "settings"))
    parser.add_argument("--seconds", type=int, default=90)
    parser.add_argument("--timeout-ms", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    parts = args.only or ["one", "random", "settings"]
    print_conditions(
        f"Nine endpoints, and a tenth that hangs; payloads of 900 bytes; timeout {args.timeout_ms} ms and at most 20 in"
        " flight each, unless told otherwise."
    )
    for sender in senders(args.sender or ("net-worker", "pg_net")):
        calm = Setup(sender, timeout_ms=args.timeout_ms)
        if "one" in parts:
            one = replace(calm, trouble="one")
            setups = {"no trouble": calm, "one hangs": one, "one hangs, without the cure": replace(one, cure=False)}
            report(f"{sender}: a tenth endpoint hangs on every call", setups, args.seconds, args.runs)
        if "random" in parts:
            for most in (20, 100) if sender == "net-worker" else (20,):
                base = replace(calm, max_in_flight=most)
                random = replace(base, trouble="random")
                bare = replace(random, cure=False)
                setups = {"no trouble": base, "1 % hang": random, "1 % hang, without the cure": bare}
                report(f"{sender}: 1 % of all calls hang, max_in_flight {most}", setups, args.seconds, args.runs)
        if "settings" in parts and sender == "pg_net":
            for batch_size, most in ((20, 4), (200, 20), (1000, 111)):
                base = replace(calm, batch_size=batch_size, max_in_flight=most)
                setups = {"no trouble": base}
                for ms in (5000, 1000, 500, 250):
                    setups[f"1 % hang, timeout {ms} ms"] = replace(base, trouble="random", timeout_ms=ms)
                report(f"pg_net: batch size {batch_size}, max_in_flight {most}", setups, args.seconds, 1)


if __name__ == "__main__":
    main()
