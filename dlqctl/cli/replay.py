"""Many entries at a time, and how far they are."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from dlqctl.cli.asking import ask, waiting
from dlqctl.cli.root import Lines, connect, database, output_format
from dlqctl.errors import CannotConnect, DlqctlError, is_interrupted

if TYPE_CHECKING:
    import psycopg

    from dlqctl.replay import Preview, Progress, Taken

_STATUSES = click.Choice(["failed", "pending", "discarded", "reprocessed"])


@click.group(cls=Lines, invoke_without_command=True, subcommand_metavar="[list | watch ID | continue ID | cancel ID]")
@click.option("--reason", help="Why; it goes into dlq.audit_log.")
@click.option("--service", metavar="SERVICE", help="Of this service.")
@click.option("--status", type=_STATUSES, help="failed, unless said. reprocessed: delivered already.")
@click.option("--since", metavar="WHEN", help="Stored then or later: a time, or an age as in '2 hours'.")
@click.option("--until", metavar="WHEN", help="Stored before.")
@click.option("--status-code", type=int, metavar="CODE", help="What the last attempt was answered.")
@click.option("--error-text", metavar="TEXT", help="What the last attempt's error contains.")
@click.option("--phone-number", metavar="NUMBER", help="Whom it concerns.")
@click.option("--max-entries", type=int, metavar="N", help="The oldest so many: 1000, unless said.")
@click.option("--all", "everything", is_flag=True, help="All of them, however many.")
@click.option("--per-minute", type=int, metavar="N", help="So many become due a minute. Else all at once.")
@click.option("--check", is_flag=True, help="Show what it would do, and change nothing; exit 1 if nothing matches.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-watch", is_flag=True, help="Do not wait until each has been tried.")
@database
def replay(
    dsn: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
    everything: bool,
    check: bool,
    yes: bool,
    no_watch: bool,
    **filters: Any,
) -> None:
    """Send many entries again: those to which all the filters apply, the oldest first.

    It shows how many, asks, takes 10,000 at a time, and tells how they go until each has been tried; Ctrl-C ends the
    telling alone. Run again, it goes on with the next.
    """
    from dlqctl import replay as module
    from dlqctl.entries import moment
    from dlqctl.output import say

    ctx = click.get_current_context()
    if ctx.invoked_subcommand:
        given = (reason, since, until, everything, check, yes, no_watch)
        if any(given) or any(value is not None for value in filters.values()):
            raise click.UsageError(f"what belongs to {ctx.invoked_subcommand} follows it")
        ctx.obj["dsn"] = dsn
        return
    if everything and filters["max_entries"] is not None:
        raise click.UsageError("--all and --max-entries exclude each other")
    if not (check or (reason or "").strip()):
        raise click.UsageError("Missing option '--reason': why. It goes into dlq.audit_log.")
    with connect(dsn) as connection:
        filters["created_after"] = since and moment(connection, since)
        filters["created_before"] = until and moment(connection, until)
        if everything:
            filters["max_entries"] = 2**31 - 1
        with waiting("looking"):
            seen = module.preview(connection, filters)
            held = module.held_back(connection, seen.services or {})
        if not seen.entries:
            raise DlqctlError("nothing matches, and nothing was changed", "dlqctl replay list shows what is on its way")
        for line in _told(seen, held, filters):
            click.echo(line) if check else say(line)
        if check:
            return
        if not yes:
            ask(f"Replay {seen.entries:,}?")
        if everything:
            filters["max_entries"] = seen.entries
        taken = _take(connection, module.replay(connection, str(reason), filters))
        _tell_or_watch(connection, taken, no_watch=no_watch)


def _take(connection: psycopg.Connection, parts: Iterator[Taken]) -> Taken:
    """Let a replay take its entries, tell how far it is if that is in parts, and return what it has."""
    taken = None
    with _in_parts(connection) as so_far, waiting("replaying") as tell:
        for taken in parts:
            so_far.words = f"replay {taken.id} has {taken.entries:,} of {taken.wanted:,}"
            so_far.hint = f"dlqctl replay continue {taken.id}; or to end it: {_cancel(taken.id)}"
            if not taken.is_all:
                tell(so_far.words)
    assert taken
    return taken


@dataclass
class _SoFar:
    """How far something is that is done in parts, and how to go on. No hint: nothing has been done."""

    words: str = "nothing was changed"
    hint: str | None = None


@contextlib.contextmanager
def _in_parts(connection: psycopg.Connection) -> Iterator[_SoFar]:
    """Yield where to note how far it is. If it is stopped or fails, that is said."""
    import psycopg

    from dlqctl.output import say

    so_far = _SoFar()
    try:
        yield so_far
    except (KeyboardInterrupt, psycopg.Error) as error:
        if is_interrupted(error):
            say(f"stopped: {so_far.words}", so_far.hint)
            raise SystemExit(130) from None
        if so_far.hint is None:
            raise
        kind = CannotConnect if connection.broken else DlqctlError
        raise kind(f"{so_far.words}, and then: {' '.join(str(error).split())}", so_far.hint) from error


def _tell_or_watch(connection: psycopg.Connection, taken: Taken, *, no_watch: bool) -> None:
    from dlqctl.output import say

    say(f"replay {taken.id}: {taken.entries:,}. To take back what is not yet tried: {_cancel(taken.id)}")
    if no_watch:
        click.echo(taken.id)
    else:
        _watch(connection, taken.id)


def _told(seen: Preview, held: list[tuple[str, str]], filters: dict[str, Any]) -> Iterator[str]:
    """What a replay would do, a line each."""
    services = sorted((seen.services or {}).items(), key=lambda one: (-one[1], one[0]))
    yield f"{seen.entries:,} {filters['status'] or 'failed'}: {', '.join(f'{name} {n:,}' for name, n in services)}"
    yield f"stored from {_time(seen.oldest)} to {_time(seen.newest)}"
    if seen.matched > seen.entries:
        yield f"{seen.matched:,} match, and these are the oldest. Run again, it goes on with the next; or --all"
    if filters["status"] == "reprocessed":
        yield "they were delivered already: their handlers see them once more"
    if filters["per_minute"]:
        yield f"{filters['per_minute']:,} a minute, the last at {_time(seen.ends_at)}"
    else:
        yield "all due now: sent by the next run of the processor, as fast as each endpoint takes them"
    for name, state in held:
        yield f"{name}: {state} -> dlqctl endpoints list"


@replay.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N")
@output_format
@database
def replay_list(dsn: str | None, limit: int, output_format: str) -> None:
    """List replays and how far they are, the last one first."""
    from dlqctl.output import print_rows
    from dlqctl.replay import LISTED, list_replays

    with connect(dsn) as connection:
        print_rows(LISTED, list_replays(connection, limit), output_format)


@replay.command("continue")
@click.argument("replay_id", metavar="ID", type=int)
@click.option("--no-watch", is_flag=True, help="Do not wait until each has been tried.")
@database
def replay_continue(dsn: str | None, replay_id: int, no_watch: bool) -> None:
    """Go on with a replay that was stopped before it had taken all of its entries."""
    from dlqctl import replay as module

    with connect(dsn) as connection:
        _tell_or_watch(connection, _take(connection, module.go_on(connection, replay_id)), no_watch=no_watch)


@replay.command("watch")
@click.argument("replay_id", metavar="ID", type=int)
@database
def replay_watch(dsn: str | None, replay_id: int) -> None:
    """Tell how a replay goes, until each of its entries has been tried."""
    with connect(dsn) as connection:
        _watch(connection, replay_id)


@replay.command("cancel")
@click.argument("replay_id", metavar="ID", type=int)
@click.option("--reason", required=True, help="Why; it goes into dlq.audit_log.")
@database
def replay_cancel(dsn: str | None, replay_id: int, reason: str) -> None:
    """Take back what of a replay has not been tried yet: it is again what it was. Exit 1 if nothing was left.

    10,000 at a time, those that were stored last first. Stopped, and run again, it goes on with the rest.
    """
    from dlqctl import replay as module
    from dlqctl.output import say

    entries = 0
    with connect(dsn) as connection, _in_parts(connection) as so_far, waiting("taking back") as tell:
        for part in module.cancel(connection, replay_id, reason):
            if entries:
                tell(so_far.words)
            if part:
                entries += part
                so_far.words = f"put back: {entries:,} of replay {replay_id}"
                so_far.hint = f"the rest: {_cancel(replay_id)}"
    if not entries:
        raise DlqctlError(f"nothing of replay {replay_id} waits any more", f"dlqctl replay watch {replay_id}")
    say(so_far.words)


def _watch(connection: psycopg.Connection, replay_id: int) -> None:
    """Tell how a replay goes, once a second or, where a look takes long, a fifth of the time."""
    import psycopg

    from dlqctl import replay as module
    from dlqctl.output import say

    try:
        began = time.monotonic()
        seen = module.progress(connection, replay_id)
        with _telling() as tell:
            tell(_words(seen))
            while not seen.is_over:
                time.sleep(max(1, 4 * (time.monotonic() - began)))
                began = time.monotonic()
                seen = module.progress(connection, replay_id)
                tell(_words(seen))
    except KeyboardInterrupt:
        say(
            f"replay {replay_id} goes on. To see it again: dlqctl replay watch {replay_id}; "
            f"to end it: {_cancel(replay_id)}"
        )
        raise SystemExit(130) from None
    except psycopg.OperationalError as error:
        said = " ".join(str(error).split())
        raise CannotConnect(
            f"the connection was lost, and replay {replay_id} goes on: {said}", f"dlqctl replay watch {replay_id}"
        ) from error
    if seen.retrying:
        say("what is to be tried again follows its endpoint's schedule")
    if seen.failed:
        say("to see what failed: dlqctl list --status failed")


def _cancel(replay_id: int) -> str:
    return f"dlqctl replay cancel {replay_id} --reason WHY"


def _time(at: datetime | None) -> str:
    return at.isoformat(sep=" ", timespec="seconds") if at else ""


def _words(seen: Progress) -> str:
    waiting = f"waiting, {seen.due:,} of them due" if seen.due else f"waiting, the last until {_time(seen.last_due_at)}"
    counts = {
        "delivered": seen.reprocessed,
        "failed": seen.failed,
        "to be tried again": seen.retrying,
        "discarded": seen.discarded,
        "put back": seen.put_back,
        "removed": seen.removed,
        "under way": seen.processing,
        waiting: seen.waiting,
    }
    return f"replay {seen.id}, {seen.entries:,}: " + (
        ", ".join(f"{n:,} {what}" for what, n in counts.items() if n) or "none"
    )


@contextlib.contextmanager
def _telling() -> Iterator[Callable[[str], None]]:
    """Yield what shows words: on a terminal in place of those before, elsewhere in a line if they differ."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        last = ""

        def tell(words: str) -> None:
            nonlocal last
            if words != last:
                click.echo(f"{time.strftime('%H:%M:%S')}  {words}")
            last = words

        yield tell
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        yield lambda words: live.update(Text(words), refresh=True)
