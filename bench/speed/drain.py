"""Drain: how fast 50,000 due entries of one healthy endpoint are delivered, beside what the sender itself can send.

    python -m bench.speed.drain [--sender pg_net|net-worker] [--entries 50000] [--batch-size 200]

pg_net: ours, whose cap allows two batches, in turn with bare requests posted to the same queue. net-worker: one worker,
two, and one while one request in a hundred hangs until its timeout of 5 s. The handler is nginx, which answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, LiteralString

from bench.fast import fast_handler
from bench.quiet import computed
from bench.report import Report, tell
from bench.world import World, senders, world
from dlqctl.errors import DlqctlError

DEFAULT_OF_PG_NET = 200  # a second: its batch size, as it comes
_SESSIONS: LiteralString = "select pid from pg_stat_activity where application_name = 'dlqctl net-worker'"


def computed_by(w: World) -> dict[str, float]:
    """What each part has used of a processor so far, in seconds."""
    engine = w.one("select pid from pg_stat_activity where query like 'call dlq.run_cycle%'")
    return {
        "the engine": computed(engine or 0),
        "the net-worker": sum(computed(row[0]) for row in w.conn.execute("select pid from dlq.net_workers").fetchall()),
        "its sessions": sum(computed(row[0]) for row in w.conn.execute(_SESSIONS).fetchall()),
    }


def delivered_a_second(w: World, url: str, entries: int, cap: int, most_s: float) -> tuple[float, dict[str, float]]:
    """Deliver so many entries, or as many as go in the time.

    Returns the rate from the first answers settled to the last, and what each part has computed for an entry, in µs.
    """
    w.conn.execute("truncate public.webhook_dlq, dlq.delivery_attempts, net._http_response")
    w.conn.execute("select dlq.set_endpoint('shop', %s, true, true, max_in_flight => %s)", (url, cap))
    w.store(entries, "shop")
    until = time.monotonic() + most_s
    used: dict[str, float] = {}
    with w.cycles(most_s) as thread:
        while not w.one("select count(*) from dlq.delivery_attempts"):
            time.sleep(0.05)
        before = computed_by(w)
        waiting = "select count(*) from webhook_dlq where status = 'pending' and next_retry_at <= now() + '1 minute'"
        while time.monotonic() < until and (w.one(waiting) or w.one("select count(*) from dlq.in_flight")):
            time.sleep(0.2)
        done = int(w.one("select count(*) from dlq.delivery_attempts"))
        used = {part: (now - before[part]) / done * 1e6 for part, now in computed_by(w).items()}
        w.stop(thread)
    w.conn.execute("update dlq_processing_log set error_message = null")
    w._stopped.clear()
    # The first fifth is not counted: plans are made, and connections. Nor is what comes after the last full second.
    rate = float(
        w.one(
            """
            with settled as (
              select a.settled_at as at, row_number() over (order by a.settled_at) as nth, count(*) over () as n
              from dlq.delivery_attempts as a where a.outcome = 'delivered')
            select count(*) / nullif(extract(epoch from max(s.at) - min(s.at)), 0)
            from settled as s where s.nth between s.n / 5 and s.n * 0.95
            """
        )
        or 0
    )
    return rate, used


def sent_a_second(w: World, url: str, requests: int) -> float:
    """What the sender does with as many bare requests, all queued at once: answers a second, the same way."""
    w.conn.execute("truncate net._http_response, net.http_request_queue")
    w.conn.execute(
        """
        select count(net.http_post(%s, jsonb_build_object('n', n, 'text', repeat('x', 870))))
        from generate_series(1, %s) as n
        """,
        (url, requests),
    )
    counts: list[tuple[float, int]] = []
    while not counts or counts[-1][1] < requests:
        counts.append((time.monotonic(), int(w.one("select count(*) from net._http_response"))))
        time.sleep(0.05)
    steady = [(at, n) for at, n in counts if n >= requests / 5]
    return (steady[-1][1] - steady[0][1]) / (steady[-1][0] - steady[0][0])


def with_pg_net(report: Report, entries: int, batch_size: int) -> None:
    with fast_handler() as url, world("pg_net", batch_size=batch_size) as w:
        report.server(w.conn)
        own = [sent_a_second(w, url, entries // 5)]
        ours, _ = delivered_a_second(w, url, entries, 2 * batch_size, 2 * entries / batch_size)
        own.append(sent_a_second(w, url, entries // 5))
    bare = sum(own) / len(own)
    rows = [("bare requests, before", f"{own[0]:,.0f}"), ("ours", f"{ours:,.0f}"), ("bare, after", f"{own[1]:,.0f}")]
    report.table(f"pg_net, batch size {batch_size}, {entries:,} entries", ("", "a second"), rows)
    report.ratio(f"pg_net, batch size {batch_size}: ours over bare requests", ours / bare, at_least=0.95)


def with_net_worker(report: Report, entries: int) -> None:
    rates: dict[str, float] = {}
    used: dict[str, dict[str, float]] = {}
    with fast_handler() as url, world("net-worker") as w:
        report.server(w.conn)
        w.conn.execute("update dlq.settings set max_in_flight = 4000")  # of which one service alone has half
        w.conn.execute("select dlq.set_endpoint('shop', %s, true, true, timeout_ms => 5000)", (url,))
        rates["bare requests, one worker"] = sent_a_second(w, url, entries // 2)
        for name, path, more in (
            ("one worker", "", 0),
            ("one worker, 1 % hang 5 s", "/some-hang", 0),
            ("one worker, again", "", 0),
            ("two workers", "", 1),
        ):
            with more_workers(w, more):
                rates[name], used[name] = delivered_a_second(w, url + path, entries, 10_000, 180)
            tell(f"net-worker, {name}: {rates[name]:,.0f}/s, {used[name]}")
    healthy = (rates["one worker"] + rates["one worker, again"]) / 2
    parts = ("the engine", "the net-worker", "its sessions")
    rows = [
        (name, f"{rate:,.0f}", *(f"{used[name][part]:.0f}" if name in used else "" for part in parts))
        for name, rate in rates.items()
    ]
    report.table(f"net-worker, {entries:,} entries; µs computed for each", ("", "a second", *parts), rows)
    report.ratio("net-worker, one worker: over pg_net's default of 200/s", healthy / DEFAULT_OF_PG_NET, at_least=10)
    hanging = rates["one worker, 1 % hang 5 s"] / healthy
    report.ratio("net-worker, 1 % hang 5 s: of the healthy rate", hanging, at_least=0.8)
    report.ratio("net-worker, two workers: of one", rates["two workers"] / healthy, at_least=1)


@contextlib.contextmanager
def more_workers(w: World, count: int) -> Iterator[None]:
    """So many more processes of dlqctl net-worker, beside the sandbox's own."""
    command = [sys.executable, "-m", "dlqctl", "--dsn", w.box.cluster.dsn(user="sender"), "net-worker"]
    quietly: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(command, **quietly, env={**os.environ, "no_proxy": "*"}) for _ in range(count)]
    listening = "select count(*) from pg_stat_activity where application_name = 'dlqctl net-worker'"
    while count and int(w.one(listening)) <= count:
        time.sleep(0.05)
    try:
        yield
    finally:
        for process in started:
            process.terminate()
            process.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sender", action="append", choices=("net-worker", "pg_net"))
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=200)
    args = parser.parse_args()
    report = Report("drain", "How fast is a backlog delivered, beside what the sender can send?")
    try:
        for sender in senders(args.sender or ("net-worker", "pg_net")):
            if sender == "pg_net":
                with_pg_net(report, args.entries, args.batch_size)
            else:
                with_net_worker(report, args.entries)
    except DlqctlError as error:
        print(f"{error.message}: {error.hint}")
    report.save()


if __name__ == "__main__":
    main()
