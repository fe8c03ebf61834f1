"""The quick benchmarks: four ratios in under two minutes, each against a bound that only a gross regression breaks.

    python -m bench.quick

A turn of the engine against its floor; the memory of dlqctl over 10,000 entries against 1,000; claim, collect, list
and health over 200,000 settled rows against 2,000; and what an idle cycle writes. Ratios of what the server has
computed, since time is whoever's machine it is. Exits with 1 if one is beyond its bound; `make bench` measures the same
at full size.
"""

from __future__ import annotations

import statistics
import sys

from bench.quiet import quiet
from bench.report import Report
from bench.speed import flat, memory, turn

SMALL, LARGE, WAITING = 2_000, 200_000, 20_000
# About twice what is measured, the machine being busy. What they are to catch is tenfold: a scan instead of an index.
TURN, FLAT = 5.0, 2.0
# 10,000 entries held at once are ten MiB and more, of 37.
MEMORY = 1.1


def main() -> None:
    report = Report("quick", "Has anything become several times as expensive?")
    with quiet() as q:
        report.server(q.conn)
        report.ratio("a turn of 200 over its floor", turn.ratio(turn.measure(q, 200, 12)[0], "cpu"), at_most=TURN)
        few, many = (memory.measure(q, entries, ("list", "export")) for entries in (1_000, 10_000))
        for name in few:
            held = many[name].resident / few[name].resident
            report.ratio(f"{name}: memory over 10,000 entries over 1,000", held, at_most=MEMORY)
    with quiet() as small, quiet() as large:
        servers = {SMALL: small, LARGE: large}
        for settled, q in servers.items():
            flat.prepare(q)
            flat.load(q, flat.Size(settled, WAITING))
        times = flat.measure(servers, 20)
        for what in flat.WHAT:
            least, most = (statistics.median(times[settled].cpu[what]) for settled in (SMALL, LARGE))
            report.ratio(f"{what}: {LARGE:,} settled over {SMALL:,}", most / least, at_most=FLAT)
        inserted, updated, deleted = flat.written_by_an_idle_cycle(large)
    report.ratio("rows that an idle cycle inserts", inserted, at_most=1)
    report.ratio("and updates", updated, at_most=1)
    report.ratio("and deletes", deleted, at_most=0)
    report.save()
    sys.exit(not all(ratio["reached"] for ratio in report.ratios))


if __name__ == "__main__":
    main()
