"""The demo: 200 failed webhooks in a throw-away server, retried by pg_cron while you watch.

Eight services fail in eight ways. Their handlers are played by dlqctl.receiver, on loopback; at the end
what the queue says it has delivered is held against what the handlers say they took.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import httpx
import psycopg
from psycopg.types.json import Jsonb
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dlqctl.connection import connect
from dlqctl.receiver import Behaviour, Receiver, Reply, fail_first, ok, store_again
from dlqctl.sandbox import Sandbox, sandbox

_EACH = 25
_COLOURS = {"pending": "yellow", "processing": "cyan", "reprocessed": "green", "failed": "red"}
_WIDTH = min(shutil.get_terminal_size((80, 24)).columns, 80)


@dataclass(frozen=True)
class _Service:
    name: str
    story: str  # its handler ...; at most 28 characters
    handler: Callable[[str], Behaviour] | None  # is given the DSN; None: nobody listens
    waits: str | None = None  # None: as everybody
    at_once: int = 20


def _hang_at_first(calls: int) -> Behaviour:
    """Not at each entry's first try: a probe would hang for every one of them, and minutes go by."""
    nth = itertools.count(1)
    return lambda request, _: Reply(delay=30 * (next(nth) <= calls))


_SERVICES = (
    _Service("whatsapp", "takes everything", lambda dsn: ok()),
    _Service("payments", "fails the first time", lambda dsn: fail_first(1)),
    _Service("orders", "fails the first two times", lambda dsn: fail_first(2, 503)),
    _Service("shipping", "hangs up the first time", lambda dsn: lambda _, nth: Reply(close=nth == 1)),
    _Service("search", "hangs at its first 8 calls", lambda dsn: _hang_at_first(8), at_once=5),
    _Service("crm", "is down; last wait 1 h", None, waits="{5 s,10 s,1 h}"),
    _Service("billing", "stores it again, answers 200", store_again),
    _Service("audit", "the same, by a plain insert", lambda dsn: store_again(dsn, "insert")),
)


@dataclass(frozen=True)
class Tally:
    """How many entries stand how. Echoes, handlers' copies of what is being retried, are counted apart."""

    stored: int = 0
    pending: int = 0
    processing: int = 0
    reprocessed: int = 0
    failed: int = 0
    echoes: int = 0
    waiting: int = 0  # pending or processing
    restless: int = 0  # under way, or due before the demo is over


@dataclass(frozen=True)
class Run:
    """The last run of the cycle, and how many there were."""

    runs: int = 0
    status: str = ""
    said: str = "none yet"

    def next(self, every: int) -> str:
        """Say when the next one is, when one begins `every` so many seconds."""
        return "under way" if self.status == "running" else f"in {seconds_to_next(time.time(), every):.0f} s"


_Tallies = Mapping[str, Tally]
_TALLIES = """
    select service, count(*) filter (where duplicate_of is null),
      count(*) filter (where status = 'pending'), count(*) filter (where status = 'processing'),
      count(*) filter (where status = 'reprocessed'), count(*) filter (where status = 'failed'),
      count(*) filter (where duplicate_of is not null),
      count(*) filter (where status in ('pending', 'processing')),
      count(*) filter (where status = 'processing' or next_retry_at < now() + interval '10 minutes')
    from public.webhook_dlq group by service
"""
_LAST_RUN = """
    select count(*) over (), status, concat_ws(', ', entries_processed || ' delivered',
      entries_failed || ' failed tries', round(extract(epoch from duration)) || ' s', error_message)
    from public.dlq_processing_log order by id desc limit 1
"""
_CRON_RUNS = """
    select count(*) from cron.job_run_details as d join cron.job as j using (jobid)
    where j.jobname = 'process-dlq-entries' and d.status in ('running', 'succeeded')
"""
_DELIVERED = """
    select coalesce(array_agg(id::text), '{}'),
      extract(epoch from percentile_cont(0.5) within group (order by settled_at - created_at)),
      extract(epoch from max(settled_at - created_at)), (select min(error_message) from public.dlq_processing_log)
    from public.webhook_dlq where status = 'reprocessed'
"""


def main() -> int:
    """Run the demo, on a terminal as a live table, else as lines. Return 0 if it adds up, else 1."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    _say("Starting a throw-away PostgreSQL; it is gone afterwards.")
    with sandbox(cycle_minutes=1) as box, Receiver() as receiver, connect(box.dsn, autocommit=True) as conn:
        every = 60 if box.has_cron else 20
        _say(*_introduction(box, every))
        _store(conn, box.dsn, receiver)
        if not box.has_cron:
            threading.Thread(target=_stand_in_for_cron, args=(box.dsn, every), daemon=True).start()
        with _screen(began, every) as show:
            calm = 0
            while calm < 5 and time.monotonic() < began + 225:
                tallies, run = _look(conn)
                show(tallies, run)
                at_rest = not add(tallies).restless and run.runs >= 2 and run.status != "running"
                calm = calm + 1 if at_rest else 0
                time.sleep(0.25)
        return _conclude(conn, box, receiver, tallies, run)


def _introduction(box: Sandbox, every: int) -> list[str]:
    cron = "pg_cron runs the cycle at every full minute"
    if not box.has_cron:
        cron = f"pg_cron is missing: a loop in this program stands in for it, every {every} s (to see the real one:"
        cron += " apt-get install postgresql-15 postgresql-15-cron on Debian 12, 17 on Debian 13)"
    sender = "pg_net sends" if box.sender == "pg_net" else "pg_net is missing: the net worker sends in its place"
    return [
        f"PostgreSQL {box.cluster.binaries.major}. {cron}; {sender}.",
        "The schedule is shortened so that you can watch: retries after 5, 10 and 20 s instead of 5 min to 12 h, and an"
        " endpoint is taken for broken for good after 20 s instead of 3 days.",
    ]


def _store(conn: psycopg.Connection, dsn: str, receiver: Receiver) -> None:
    """Set the endpoints, which decide the first wait, then store what failed, one of each service in turn."""
    conn.execute(
        "update dlq.settings set retry_schedule = '{5 s,10 s,20 s}', probe_schedule = '{2 s}', outage_patience = '20 s'"
    )
    for service in _SERVICES:
        if service.handler:
            receiver.behave(service.name, service.handler(dsn))
        url = receiver.url(service.name) if service.handler else receiver.down(service.name)
        conn.execute(
            "select dlq.set_endpoint(service => %s, url => %s, allow_http => true, allow_private => true,"
            " timeout_ms => 3000, max_in_flight => %s, retry_schedule => %s::interval[])",
            (service.name, url, service.at_once, service.waits),
        )
    conn.cursor().executemany(
        "select public.store_dlq_entry(service => %s, payload => %s, error_message => 'the handler failed')",
        [(s.name, Jsonb({"service": s.name, "message": number})) for number in range(_EACH) for s in _SERVICES],
    )


def _stand_in_for_cron(dsn: str, every: int) -> None:
    """Do what pg_cron would, more often, for as long as the server is there."""
    with contextlib.suppress(psycopg.Error), connect(dsn, autocommit=True) as conn:
        while True:
            time.sleep(seconds_to_next(time.time(), every))
            conn.execute("call dlq.run_cycle()")


def seconds_to_next(now: float, every: int) -> float:
    """Return how long it is from `now` (Unix time) to the next whole multiple of so many seconds."""
    return every - now % every


def _look(conn: psycopg.Connection) -> tuple[_Tallies, Run]:
    run = Run(*conn.execute(_LAST_RUN).fetchone() or ())
    rows = {service: Tally(*counts) for service, *counts in conn.execute(_TALLIES)}
    return {service.name: rows.get(service.name, Tally()) for service in _SERVICES}, run


def add(tallies: _Tallies) -> Tally:
    """Return the tally of all services together."""
    return Tally(*(sum(counts) for counts in zip(*map(astuple, tallies.values()), strict=True)))


@contextlib.contextmanager
def _screen(began: float, every: int) -> Iterator[Callable[[_Tallies, Run], None]]:
    """Yield what shows how things stand: a live table on a terminal, elsewhere lines, one a second at most."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        console = Console(highlight=False)
        with Live(console=console, auto_refresh=False) as live:
            yield lambda tallies, run: live.update(_picture(tallies, run, began, every, console.width), refresh=True)
        return
    shown, at = "", 0.0

    def print_line(tallies: _Tallies, run: Run) -> None:
        nonlocal shown, at
        total, now = add(tallies), time.monotonic()
        counts = "  ".join(f"{getattr(total, status):3} {status}" for status in _COLOURS)
        if now - at >= (15 if counts == shown else 1):
            print(f"{now - began:4.0f} s  {counts}  run {run.next(every)}", flush=True)
            shown, at = counts, now

    yield print_line


def _picture(tallies: _Tallies, run: Run, began: float, every: int, width: int) -> Group:
    """Draw the live table: with all columns where there is room, else with the three that add up."""
    shown = [*_COLOURS] if width >= 80 else ["waiting", "reprocessed", "failed"]
    total = add(tallies)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), show_footer=True)
    table.add_column("service", "all", no_wrap=True)
    if width >= 80:
        table.add_column("its handler", no_wrap=True, style="dim")
    for status in shown:
        table.add_column(status, str(getattr(total, status)), justify="right", no_wrap=True)
    for service in _SERVICES:
        counts = [(getattr(tallies[service.name], status), _COLOURS.get(status, "yellow")) for status in shown]
        cells = [Text(str(count), style=colour if count else "dim") for count, colour in counts]
        table.add_row(service.name, *([service.story] if width >= 80 else []), *cells)
    bar, settled = Text(), 0
    for status in ("reprocessed", "failed", "processing", "pending"):
        settled += getattr(total, status)
        bar.append("\u2501" * (settled * min(width, 79) // total.stored - len(bar)), style=_COLOURS[status])
    words = f"last run  {run.said}\nnext run  {run.next(every)}\nechoes    {total.echoes}, not retried"
    return Group("", table, bar, "", f"{words}\nelapsed   {time.monotonic() - began:.0f} s")


def _conclude(conn: psycopg.Connection, box: Sandbox, receiver: Receiver, tallies: _Tallies, run: Run) -> int:
    """Print the summary, what it shows, and the line for programs. Return the exit code."""
    received = httpx.get(f"http://127.0.0.1:{receiver.port}/summary", trust_env=False).json()
    cron_runs = conn.execute(_CRON_RUNS).fetchall()[0][0] if box.has_cron else 0
    delivered, median, slowest, error = conn.execute(_DELIVERED).fetchall()[0]
    total, taken = add(tallies), received["accepted"]
    faults = find_faults(total, delivered, receiver.accepted, cron_runs if box.has_cron else run.runs, error)

    print("", *summary(tallies, received["services"], _WIDTH), sep="\n")
    findings = ["It does not add up:", *faults] if faults else _lessons(tallies, taken)
    _say("Received and taken are the receiver's own counts, asked over HTTP.", "", *findings)
    if delivered:
        _say(f"From store to reprocessed: median {median:.1f} s, slowest {slowest:.1f} s.")
    counts = f"stored={total.stored} reprocessed={total.reprocessed} failed={total.failed} waiting={total.waiting}"
    print(f"demo: {counts} receiver={taken} cron_runs={cron_runs}", flush=True)
    return 1 if faults else 0


def find_faults(total: Tally, delivered: Collection[str], taken: set[str], runs: int, error: str | None) -> list[str]:
    """Return what is not as it must be, a sentence each. `delivered`: the ids here; `taken`: at the receiver."""
    all_of_them, counted = _EACH * len(_SERVICES), total.reprocessed + total.failed + total.waiting
    unseen = sorted(set(delivered) - taken)
    musts = (
        (total.stored == all_of_them, f"{total.stored} are stored, echoes not counted, and not {all_of_them}."),
        (total.stored == counted, f"{total.stored} are stored, but {counted} reprocessed, failed or waiting."),
        (not unseen, f"{len(unseen)} are reprocessed that the receiver never took: {', '.join(unseen[:3])}"),
        (total.reprocessed > 0, "None was reprocessed."),
        (runs >= 2, f"The cycle ran fewer than two times: {runs}."),
        (error is None, f"A run of the cycle ended with an error: {error}"),
    )
    return [words for holds, words in musts if not holds]


def summary(tallies: _Tallies, received: Mapping[str, Any], width: int) -> list[str]:
    """Return the counts by service, the queue's and the receiver's, as lines of at most `width`, from 40 up."""
    heads, gap = ("stored", "reprocessed", "failed", "waiting", "received", "taken"), "  "
    if width < 80:
        heads, gap = ("stored", "repr", "fail", "wait", "recv", "take"), " "
    lines = [gap.join(["service ", *heads])]
    for service, tally in tallies.items():
        its = received.get(service, {"requests": 0, "accepted": 0})
        counts = (tally.stored, tally.reprocessed, tally.failed, tally.waiting, its["requests"], its["accepted"])
        cells = (f"{count:{len(head)}}" for count, head in zip(counts, heads, strict=True))
        lines.append(gap.join([f"{service:8}", *cells]))
    return lines


def _lessons(tallies: _Tallies, taken: int) -> list[str]:
    """Say what the counts show, once it is known that they add up."""
    total = add(tallies)
    waiting = " and ".join(service for service, tally in tallies.items() if tally.waiting)
    echoing = " and ".join(service for service, tally in tallies.items() if tally.echoes)
    parts = f"{total.reprocessed} reprocessed + {total.failed} failed + {total.waiting} waiting"
    return [
        f"Nothing is lost: {total.stored} stored = {parts}.",
        f"Nothing is only claimed: all {total.reprocessed} are among the {taken} that the receiver took.",
        f"Nothing is given up early: {total.waiting} ({waiting or 'none'}) wait for their next retry.",
        f"Nothing goes round in circles: {total.echoes} times a handler ({echoing or 'none'}) stored a retry again and"
        " answered 200. No such echo is a delivery, and none a new entry to retry.",
    ]


def _say(*paragraphs: str) -> None:
    """Print words, wrapped, at once."""
    for words in paragraphs:
        print(textwrap.fill(words, _WIDTH, break_long_words=False, break_on_hyphens=False), flush=True)
