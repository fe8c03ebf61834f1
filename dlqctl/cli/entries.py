"""Entries: find one, understand it, mend it, send it again."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID

import click

from dlqctl.cli.root import connect, database, output_format
from dlqctl.errors import DlqctlError, UsageError

if TYPE_CHECKING:
    import psycopg

    from dlqctl.entries import Found

_STATUSES = click.Choice(["pending", "processing", "reprocessed", "failed", "discarded"])


def _reason(command: Callable[..., Any]) -> Callable[..., Any]:
    def check(_: click.Context, parameter: click.Parameter, value: str) -> str:
        if not value.strip():
            raise click.BadParameter("it is empty", param=parameter)
        return value

    return click.option("--reason", required=True, callback=check, help="Why; it goes into dlq.audit_log.")(command)


_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command("list")
@click.option("--service", metavar="SERVICE", help="Of this service.")
@click.option("--status", type=_STATUSES, help="In this state.")
@click.option("--since", metavar="WHEN", help="Stored then or later: a time, or an age as in '2 hours'.")
@click.option("--until", metavar="WHEN", help="Stored before.")
@click.option("--status-code", type=int, metavar="CODE", help="What the last attempt was answered.")
@click.option("--error-text", metavar="TEXT", help="What the last attempt's error contains.")
@click.option("--phone-number", metavar="NUMBER", help="Whom it concerns.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N")
@output_format
@database
def list_entries(
    dsn: str | None, since: str | None, until: str | None, limit: int, output_format: str, **filters: Any
) -> None:
    """List entries, the newest first: those to which all the filters apply."""
    from dlqctl import entries
    from dlqctl.output import print_rows, say

    with connect(dsn) as connection:
        filters["since"] = None if since is None else entries.moment(connection, since)
        filters["until"] = None if until is None else entries.moment(connection, until)
        with _waiting("looking"):
            found = entries.list_entries(connection, filters, limit)
    if output_format == "table" and sys.stdout.isatty():
        _print_entries(found)
    else:
        print_rows(found.columns, found.rows, output_format)
    if found.more:
        more = f"more than {entries.COUNTED:,}" if found.more > entries.COUNTED else f"{found.more:,}"
        say(f"and {more} more: narrow it down, or --limit {min(limit * 10, limit + found.more)}")
    elif not found.rows:
        say("there is no such entry" if any(value is not None for value in filters.values()) else "there is no entry")


def _print_entries(found: Found) -> None:
    """Print entries on a terminal: as many columns as fit, else entry below entry. No id is cut."""
    from dlqctl.output import printable, wrap

    now = datetime.now(UTC)
    shown = []
    for row in found.rows:
        entry = dict(zip(found.columns, row, strict=True))
        due = entry["next_retry_at"]
        shown.append(
            {
                "id": str(entry["id"]),
                "service": entry["service"],
                "status": entry["status"],
                "answer": str(entry["last_status_code"] or entry["last_outcome"] or ""),
                "age": _age(now - entry["created_at"]),
                "next": "" if due is None else "due" if due <= now else f"in {_age(due - now)}",
                "phone_number": printable(entry.get("phone_number") or ""),
                "error": entry.get("error") or "",
            }
        )
    names = [name for name in shown[0] if any(entry[name] for entry in shown)] if shown else []
    widths = {name: max(len(name), *(len(entry[name]) for entry in shown)) for name in names if name != "error"}
    room = shutil.get_terminal_size((80, 24)).columns
    fitting, left = [], room
    for name, width in widths.items():
        if left < width:
            break
        fitting.append(name)
        left -= width + 2
    if len(fitting) < 3:
        for entry in shown:
            click.echo(entry["id"])
            words = [entry["service"], entry["status"], entry["answer"], f"{entry['age']} old", entry["next"]]
            for line in wrap(", ".join(filter(None, words)), room - 2):
                click.echo(f"  {line}")
        return
    with_error = "error" in names and left >= 20
    click.echo("  ".join([f"{name:<{widths[name]}}" for name in fitting] + ["error"] * with_error).rstrip())
    for entry in shown:
        lines = wrap(entry["error"], left) if with_error else [""]
        click.echo("  ".join([f"{entry[name]:<{widths[name]}}" for name in fitting] + lines[:1]).rstrip())
        for line in lines[1:]:
            click.echo(" " * (room - left) + line)


def _age(age: timedelta) -> str:
    minutes = max(0, int(age.total_seconds() // 60))
    return f"{minutes} m" if minutes < 120 else f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} d"


@click.command()
@click.argument("entry", metavar="ID")
@click.option(
    "--payload", "personal", is_flag=True, help="Also what is personal: body, headers, phone number, errors, replies."
)
@click.option("--format", "output_format", type=click.Choice(["table", "json"]), default="table", show_default=True)
@database
def show(dsn: str | None, entry: str, personal: bool, output_format: str) -> None:
    """Show an entry: what happened to it, why it waits or has ended, and what is next.

    ID is the entry's, or the beginning of it: four digits or more that no other begins with.
    """
    from dlqctl import entries
    from dlqctl.output import as_json

    with connect(dsn) as connection:
        (entry_id,) = entries.find(connection, [entry])
        if personal and not entries.may_read_personal(connection):
            raise DlqctlError(
                f"--payload would show {connection.info.user} what it may not read",
                "leave it out, or ask for a role: grant dlq_admin to ROLE",
            )
        told = entries.tell(connection, entry_id, personal=personal)
    if output_format == "json":
        if told.get("raw_body") is not None:
            import base64

            told["raw_body"] = base64.b64encode(told["raw_body"]).decode()
        click.echo(as_json(told))
    else:
        _print_story(told)


def _print_story(told: dict[str, Any]) -> None:
    """Print what `tell` returns: wrapped on a terminal, under its time where that is narrow; in a pipe a line each."""
    from dlqctl.output import printable, text, wrap

    room = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 100_000
    click.echo(told["id"])
    for name in ("service", "status", "phone_number", "idempotency_key"):
        if told.get(name):
            click.echo(f"{name}: {printable(told[name])}")
    if told.get("headers"):
        click.echo("headers:")
        for name, value in told["headers"].items():
            click.echo(f"  {printable(name)}: {printable(text(value))}")
    if told.get("payload") is not None:
        click.echo("payload:")
        for line in json.dumps(told["payload"], indent=2, ensure_ascii=False).splitlines():
            click.echo(f"  {printable(line)}")
    elif told.get("raw_body") is not None:
        click.echo("raw body:")
        for line in bytes(told["raw_body"]).decode(errors="backslashreplace").splitlines():
            click.echo(f"  {printable(line)}")

    hangs = room >= 100
    indent = max(len(row["what"]) for row in [*told["story"], *told["next"]]) + 29 if hangs else 2
    for title, rows in (("what happened", told["story"]), ("what is next", told["next"])):
        click.echo(f"\n{title}")
        for row in rows:
            head = f"{text(row['at']):<27}" if hangs or row["at"] else ""
            head += printable(row["what"])
            lines = wrap(row["detail"], room - indent)
            if row.get("remediation"):
                lines += wrap(f"-> {row['remediation']}", room - indent)
            if hangs:
                head = f"{head:<{indent}}{lines.pop(0)}"
            click.echo(head)
            for line in lines:
                click.echo(" " * indent + line)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_reason
@_yes
@database
def retry(dsn: str | None, ids: tuple[str, ...], reason: str, yes: bool) -> None:
    """Send entries again that wait, have failed or were discarded: now, and with all their retries."""
    _do(dsn, "retry", ids, reason, yes or len(ids) == 1)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_reason
@_yes
@database
def redeliver(dsn: str | None, ids: tuple[str, ...], reason: str, yes: bool) -> None:
    """Send entries once more that were delivered already."""
    _do(dsn, "redeliver", ids, reason, yes or len(ids) == 1)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_reason
@_yes
@database
def discard(dsn: str | None, ids: tuple[str, ...], reason: str, yes: bool) -> None:
    """Give entries up that wait or have failed: they are not sent any more."""
    _do(dsn, "discard", ids, reason, yes)


_DONE = {"retry": "due now", "redeliver": "due now, once more", "discard": "discarded"}


def _do(dsn: str | None, verb: str, prefixes: Sequence[str], reason: str, yes: bool) -> None:
    """All of them or, if an id is not one, none. What the verb does not apply to is named, and the exit status is 1."""
    from dlqctl import entries
    from dlqctl.output import say

    with connect(dsn) as connection:
        ids = entries.find(connection, prefixes)
        if not yes:
            for entry_id, service, status, _, _ in entries.states(connection, ids):
                say(f"{entry_id}  {service}, {status}")
            _ask(f"{verb.capitalize()} {'this' if len(ids) == 1 else f'these {len(ids)}'}?")
        with _waiting(verb):
            left = entries.apply(connection, verb, ids, reason)
        if len(ids) > len(left):
            done = [str(entry_id) for entry_id in ids if entry_id not in left]
            say(f"{_DONE[verb]}: {done[0] if len(done) == 1 else len(done)}")
        _say_why_not(connection, left)
    raise SystemExit(1 if left else 0)


def _say_why_not(connection: psycopg.Connection, ids: Sequence[UUID]) -> None:
    from dlqctl import entries
    from dlqctl.output import say

    for entry_id, _, status, detail, remediation in entries.states(connection, ids) if ids else ():
        say(f"not {entry_id}, which is {status}: {detail}{f' -> {remediation}' if remediation else ''}")


@click.command()
@click.argument("entry", metavar="ID")
@click.argument("file", metavar="[FILE]", type=click.File("rb"), default="-")
@_reason
@_yes
@database
def amend(dsn: str | None, entry: str, file: IO[bytes], reason: str, yes: bool) -> None:
    """Replace an entry's payload by the JSON in FILE, or on stdin. The old one is kept. Sending it is for retry."""
    from dlqctl import entries
    from dlqctl.output import say

    if file.isatty():
        raise UsageError("no payload is given", f"dlqctl amend {entry} FILE --reason WHY; or give it on stdin")
    payload = _read_json(file)
    with connect(dsn) as connection:
        (entry_id,) = entries.find(connection, [entry])
        difference = entries.difference(connection, entry_id, payload)
        if not difference:
            raise DlqctlError(f"that is the payload of {entry_id} already", "nothing was changed")
        if not yes:  # what is personal is for whoever looks, and not for a log
            for line in difference:
                say(line)
            _ask(f"Amend {entry_id}?")
        if not entries.amend(connection, entry_id, payload, reason):
            _say_why_not(connection, [entry_id])
            raise SystemExit(1)
    say(f"amended: {entry_id}. To send it: dlqctl retry {entry_id} --reason WHY")


def _read_json(file: IO[bytes]) -> str:
    """Return a file's text, which is JSON. Raises UsageError, saying where it is not."""
    name = getattr(file, "name", "stdin")
    try:
        read = file.read().decode("utf-8-sig")
        json.loads(read, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8: byte {error.start}", "nothing was changed") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"{name} is not JSON: {error.msg}, {where}", "nothing was changed") from error
    except RecursionError:
        pass  # the server says whether it is too deep
    return read


def _no_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no JSON", "", 0)


@click.command()
@click.argument("phone_number", metavar="PHONE_NUMBER")
@_reason
@_yes
@database
def erase(dsn: str | None, phone_number: str, reason: str, yes: bool) -> None:
    """Erase what is kept of a person, for good: whatever has this phone number. What happened stays, without who.

    With - as PHONE_NUMBER it is asked for, or read from stdin, so that no list of processes and no history has it.
    """
    from dlqctl import entries
    from dlqctl.output import say

    if phone_number == "-":
        asked = sys.stdin.isatty()
        phone_number = str(click.prompt("phone number", err=True)) if asked else sys.stdin.readline().strip()
    with connect(dsn) as connection:
        if not yes:
            with _waiting("reading the whole queue"):
                found = entries.erase(connection, phone_number, reason, dry_run=True)
            say(_counted(found))
            if not any(found.values()):
                return
            _ask("Erase what they hold of this number? It cannot be undone.")
        with _waiting("reading the whole queue"):
            erased = entries.erase(connection, phone_number, reason)
    say(f"erased: {_counted(erased)}")


def _counted(erased: dict[str, int]) -> str:
    return ", ".join(f"{what} {count}" for what, count in erased.items())


def _ask(question: str) -> None:
    """Ask the person. Raises Abort if the answer is no, UsageError if there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nobody can be asked here, and nothing was changed", "the same with --yes")
    click.confirm(question, abort=True, err=True)


@contextlib.contextmanager
def _waiting(words: str) -> Iterator[None]:
    """Show, on a terminal, that something takes its time, once it has taken a second."""
    if not sys.stderr.isatty():
        yield
        return
    from threading import Timer

    shown: list[Any] = []

    def begin() -> None:
        from rich.console import Console

        status = Console(stderr=True).status(words)
        shown.append(status)
        status.start()

    timer = Timer(1, begin)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for status in shown:
            status.stop()
