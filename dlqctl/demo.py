"""The demo: 200 failed webhooks in a throw-away server, retried by pg_cron while you watch.

Eight services fail in eight ways. Their handlers are played by dlqctl.receiver, on loopback; at the end
what the queue says it has delivered is held against what the handlers say they took.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from dlqctl.connection import connect
from dlqctl.receiver import Behaviour, Receiver, Reply, fail_first, ok, store_again
from dlqctl.sandbox import Sandbox, sandbox

if TYPE_CHECKING:
    from rich.console import RenderableType

_EACH = 25
_WAITS = "{5 s,10 s,20 s}"
_TIMEOUT_MS = 2000
_CRON_EVERY, _STAND_IN_EVERY = 60, 20  # seconds
_LONGEST = 225  # seconds; by then it is nearly always long over


@dataclass(frozen=True)
class _Service:
    name: str
    story: str
    handler: Callable[[str], Behaviour] | None  # is given the DSN; None: nobody listens
    waits: str | None = None  # None: as everybody
    at_once: int = 20


_SERVICES = (
    _Service("whatsapp", "takes everything", lambda dsn: ok()),
    _Service("payments", "fails the first time", lambda dsn: fail_first(1)),
    _Service("orders", "fails the first two times", lambda dsn: fail_first(2, 503)),
    _Service("shipping", "hangs up the first time", lambda dsn: _first(Reply(close=True))),
    _Service("search", "hangs the first time", lambda dsn: _first(Reply(delay=30)), at_once=5),
    _Service("crm", "is down; its last wait is 1 h", None, waits="{5 s,10 s,1 h}"),
    _Service("billing", "stores it again, answers 200", lambda dsn: store_again(dsn)),
    _Service("audit", "the same, by a plain insert", lambda dsn: store_again(dsn, "insert")),
)
_STORED = _EACH * len(_SERVICES)


def _first(reply: Reply) -> Behaviour:
    """Answer so to the first attempt of each entry, then take it."""
    return lambda request, nth: reply if nth == 1 else Reply(200, b"ok")


@dataclass(frozen=True)
class Tally:
    """How many entries stand how. Echoes, handlers' copies of what is being retried, are counted apart."""

    stored: int = 0
    pending: int = 0
    processing: int = 0
    reprocessed: int = 0
    failed: int = 0
    echoes: int = 0
    restless: int = 0  # under way, or due before the demo is over

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Tally)))

    @property
    def waiting(self) -> int:
        """Entries that are not settled."""
        return self.pending + self.processing


@dataclass(frozen=True)
class Run:
    """The last run of the cycle, and how many there were."""

    runs: int = 0
    status: str = ""
    said: str = "none yet"


_TALLIES = """
    select
      service,
      count(*) filter (where duplicate_of is null) as stored,
      count(*) filter (where status = 'pending') as pending,
      count(*) filter (where status = 'processing') as processing,
      count(*) filter (where status = 'reprocessed') as reprocessed,
      count(*) filter (where status = 'failed') as failed,
      count(*) filter (where duplicate_of is not null) as echoes,
      count(*) filter (where status = 'processing' or next_retry_at < now() + interval '10 minutes') as restless
    from public.webhook_dlq group by service
"""
_LAST_RUN = """
    select
      count(*) over ()::int as runs,
      status,
      concat_ws(', ', entries_processed || ' delivered', entries_failed || ' failed',
        round(extract(epoch from duration)) || ' s', error_message) as said
    from public.dlq_processing_log order by id desc limit 1
"""
_CRON_RUNS = """
    select count(*) from cron.job_run_details as d join cron.job as j using (jobid)
    where j.jobname = 'process-dlq-entries' and d.status in ('running', 'succeeded')
"""
_DELIVERED = """
    select
      array_agg(id::text),
      percentile_cont(0.5) within group (order by settled_at - created_at),
      max(settled_at - created_at)
    from public.webhook_dlq where status = 'reprocessed'
"""


def main() -> int:
    """Run the demo, on a terminal as a live table, else as lines. Return 0 if it adds up, else 1."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    _say("Starting a throw-away PostgreSQL; it is gone afterwards.")
    with contextlib.ExitStack() as stack:
        box = stack.enter_context(sandbox(cycle_minutes=1))
        receiver = stack.enter_context(Receiver())
        conn = stack.enter_context(connect(box.dsn, autocommit=True))
        _say(*_introduction(box))
        _store(conn, box.dsn, receiver)
        if not box.has_cron:
            stack.enter_context(_stand_in_for_cron(box.dsn))
        every = _CRON_EVERY if box.has_cron else _STAND_IN_EVERY
        with _screen(every, began) as show:
            while True:
                tallies, run = _look(conn)
                show(tallies, run)
                at_rest = not _total(tallies).restless and run.runs >= 2 and run.status != "running"
                if at_rest or time.monotonic() > began + _LONGEST:
                    break
                time.sleep(0.25)
        return _conclude(conn, box, receiver, tallies, run.runs)


def _introduction(box: Sandbox) -> list[str]:
    if box.has_cron:
        cron = "pg_cron runs the cycle at every full minute."
    else:
        cron = (
            f"pg_cron is missing: a loop in this program stands in for it, every {_STAND_IN_EVERY} s. To see "
            "pg_cron do it: apt-get install postgresql-15 postgresql-15-cron (Debian 12; 17 on Debian 13)."
        )
    sender = (
        "pg_net sends." if box.sender == "pg_net" else "pg_net is not installed: the net worker sends in its place."
    )
    return [
        f"PostgreSQL {box.cluster.binaries.major}. {cron} {sender}",
        "The schedule is shortened so that you can watch: retries after 5, 10 and 20 s instead of 5 min to 12 h.",
    ]


def _store(conn: psycopg.Connection, dsn: str, receiver: Receiver) -> None:
    """Set the endpoints, which decide the first wait, then store what failed, one of each service in turn."""
    conn.execute("update dlq.settings set retry_schedule = %s::interval[]", (_WAITS,))
    for service in _SERVICES:
        if service.handler is None:
            url = receiver.down(service.name)
        else:
            url = receiver.url(service.name)
            receiver.behave(service.name, service.handler(dsn))
        conn.execute(
            "select dlq.set_endpoint(service => %s, url => %s, allow_http => true, timeout_ms => %s,"
            " max_in_flight => %s, retry_schedule => %s::interval[])",
            (service.name, url, _TIMEOUT_MS, service.at_once, service.waits),
        )
    for number in range(1, _EACH + 1):
        for service in _SERVICES:
            payload = Jsonb({"service": service.name, "message": number})
            conn.execute(
                "select public.store_dlq_entry(service => %s, payload => %s, error_message => %s)",
                (service.name, payload, "the handler failed"),
            )


@contextlib.contextmanager
def _stand_in_for_cron(dsn: str) -> Iterator[None]:
    """Do what pg_cron would, more often, until the block ends."""
    over = threading.Event()
    with connect(dsn, autocommit=True) as conn:

        def loop() -> None:
            with contextlib.suppress(psycopg.Error):  # the end cancels it, and a run's own error is in its row
                while not over.wait(seconds_to_next(time.time(), _STAND_IN_EVERY)):
                    conn.execute("call dlq.run_cycle()")

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            conn.cancel_safe()
            thread.join()


def seconds_to_next(now: float, every: int) -> float:
    """Return how long it is from `now` (Unix time) to the next run, when there is one `every` so many seconds."""
    return every - now % every


def _look(conn: psycopg.Connection) -> tuple[dict[str, Tally], Run]:
    tallies = {row[0]: Tally(*row[1:]) for row in conn.execute(_TALLIES)}
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return tallies, cursor.execute(_LAST_RUN).fetchone() or Run()


def _total(tallies: Mapping[str, Tally]) -> Tally:
    return sum(tallies.values(), Tally())


_Show = Callable[[Mapping[str, Tally], Run], None]


@contextlib.contextmanager
def _screen(every: int, began: float) -> Iterator[_Show]:
    """Yield what shows how things stand: a live table on a terminal, elsewhere lines, one a second at most."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        last_counts, last_time = "", 0.0

        def print_line(tallies: Mapping[str, Tally], run: Run) -> None:
            nonlocal last_counts, last_time
            counts, now = progress(_total(tallies)), time.monotonic()
            silence = now - last_time
            if (counts != last_counts and silence >= 1) or silence >= 15:
                print(f"{now - began:4.0f} s  {counts}  {_next_run(run, every)}", flush=True)
                last_counts, last_time = counts, now

        yield print_line
        return

    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        yield lambda tallies, run: live.update(
            _picture(tallies, run, _next_run(run, every), time.monotonic() - began, console.width), refresh=True
        )


def progress(total: Tally) -> str:
    """Return the counts by status in words, always of the same width."""
    statuses = ("pending", "processing", "reprocessed", "failed")
    return "  ".join(f"{getattr(total, status):3} {status}" for status in statuses)


def _next_run(run: Run, every: int) -> str:
    if run.status == "running":
        return f"run {run.runs}"
    return f"next in {seconds_to_next(time.time(), every):.0f} s"


def _picture(tallies: Mapping[str, Tally], run: Run, next_run: str, elapsed: float, width: int) -> RenderableType:
    """Draw the live table: every column where there is room, else the three that add up."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colours = {"pending": "yellow", "processing": "cyan", "waiting": "yellow", "reprocessed": "green", "failed": "red"}
    is_wide = width >= 79
    shown = ("pending", "processing", "reprocessed", "failed") if is_wide else ("waiting", "reprocessed", "failed")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_footer=True)
    total = _total(tallies)
    table.add_column("service", "all", no_wrap=True)
    if is_wide:
        table.add_column("and its handler", no_wrap=True, style="dim")
    for status in shown:
        table.add_column(status, str(getattr(total, status)), justify="right", no_wrap=True)
    for service in _SERVICES:
        tally = tallies.get(service.name, Tally())
        counts = [(getattr(tally, status), colours[status]) for status in shown]
        cells = [Text(str(count), style=colour if count else "dim") for count, colour in counts]
        table.add_row(service.name, *([service.story] if is_wide else []), *cells)

    bar, drawn, seen = Text(no_wrap=True), 0, 0
    for status in ("reprocessed", "failed", "processing", "pending"):
        seen += getattr(total, status)
        cells_now = seen * min(width, 78) // max(total.stored, 1)
        bar.append("\u2501" * (cells_now - drawn), style=colours[status])
        drawn = cells_now
    lines = (
        f"last run: {run.said}\nnext run: {next_run}\nechoes:   {total.echoes} recognised\ntime:     {elapsed:.0f} s"
    )
    return Group(table, bar, Text(lines))


def _conclude(
    conn: psycopg.Connection, box: Sandbox, receiver: Receiver, tallies: Mapping[str, Tally], runs: int
) -> int:
    """Print the summary, what it shows, and the line for programs. Return the exit code."""
    import httpx

    # Asked over HTTP, as anybody could; no proxy of the user's stands between.
    counts = httpx.get(f"http://127.0.0.1:{receiver.port}/summary", trust_env=False).json()
    cron_runs = _one(conn, _CRON_RUNS)[0] if box.has_cron else 0
    delivered, median, slowest = _one(conn, _DELIVERED)
    total = _total(tallies)
    faults = find_faults(total, delivered or [], receiver.accepted, cron_runs if box.has_cron else runs)

    print()
    print(*summary(tallies, counts["services"], _width()), sep="\n")
    _say("received and taken: what the receiver says, asked over HTTP: requests that came, entries that it took.", "")
    if faults:
        _say("It does not add up:", *faults)
    else:
        _say(*_lessons(tallies, counts["accepted"]))
    if delivered:
        _say(f"From store to reprocessed: {_seconds(median)} in the middle, {_seconds(slowest)} at most.")
    print(
        f"demo: stored={total.stored} reprocessed={total.reprocessed} failed={total.failed} waiting={total.waiting}"
        f" receiver={counts['accepted']} cron_runs={cron_runs}",
        flush=True,
    )
    return 1 if faults else 0


def find_faults(total: Tally, delivered: Sequence[str], taken: set[str], runs: int) -> list[str]:
    """Return what is not as it must be, one sentence each. `delivered`: ids here; `taken`: ids at the receiver."""
    faults = []
    if total.stored != _STORED:
        faults.append(f"{total.stored} entries are stored that are no echoes, not {_STORED}.")
    if total.stored != total.reprocessed + total.failed + total.waiting:
        faults.append(
            f"{total.stored} are stored, but {total.reprocessed + total.failed + total.waiting} accounted for."
        )
    if len(delivered) != total.reprocessed:
        faults.append(f"{total.reprocessed} were reprocessed, and a moment later {len(delivered)}.")
    if lost := sorted(set(delivered) - taken):
        faults.append(f"{len(lost)} are reprocessed that the receiver never took, {lost[0]} for one.")
    if runs < 2:
        faults.append(f"The cycle should have run twice in this time, and did {runs} times.")
    return faults


def summary(tallies: Mapping[str, Tally], received: Mapping[str, Any], width: int) -> list[str]:
    """Return the counts service by service, the queue's and the receiver's, as lines of at most `width`, from 40 up."""
    wide = ("service", "stored", "reprocessed", "failed", "waiting", "received", "taken")
    narrow = ("service", "stored", "repr", "fail", "wait", "recv", "take")
    heads, gap = (wide, "  ") if width >= 80 else (narrow, " ")
    lines = [gap.join([f"{heads[0]:<8}", *heads[1:]])]
    for service in _SERVICES:
        tally, its = tallies.get(service.name, Tally()), received.get(service.name, {})
        counts = (tally.stored, tally.reprocessed, tally.failed, tally.waiting)
        counts += (its.get("requests", 0), its.get("accepted", 0))
        cells = [f"{count:>{len(head)}}" for head, count in zip(heads[1:], counts, strict=True)]
        lines.append(gap.join([f"{service.name:<8}", *cells]))
    return lines


def _lessons(tallies: Mapping[str, Tally], taken: int) -> list[str]:
    """Say what the counts show, once it is known that they add up."""
    total = _total(tallies)
    waiting = " and ".join(name for name, tally in sorted(tallies.items()) if tally.waiting)
    echoing = " and ".join(name for name, tally in sorted(tallies.items()) if tally.echoes)
    lessons = [
        f"Nothing is lost: {total.stored} stored = {total.reprocessed} reprocessed + {total.failed} failed"
        f" + {total.waiting} waiting.",
        f"Nothing is claimed: each of the {total.reprocessed} is among the {taken} that the receiver took.",
    ]
    if waiting:
        lessons.append(
            f"Nothing is given up early: {waiting} cannot be reached, and {total.waiting} wait for their next retry."
        )
    if echoing:
        lessons.append(
            f"Nothing goes round in circles: {echoing} answered 200 and stored the failure again, {total.echoes} times."
            " Each is known for an echo: no delivery, and no new entry."
        )
    return lessons


def _seconds(time: timedelta) -> str:
    return f"{time.total_seconds():.1f} s"


def _one(conn: psycopg.Connection, query: LiteralString) -> tuple[Any, ...]:
    row = conn.execute(query).fetchone()
    assert row is not None
    return row


def _width() -> int:
    return min(shutil.get_terminal_size((80, 24)).columns, 80)


def _say(*paragraphs: str) -> None:
    """Print words, wrapped, at once."""
    for words in paragraphs:
        print(textwrap.fill(words, _width(), break_long_words=False, break_on_hyphens=False), flush=True)
