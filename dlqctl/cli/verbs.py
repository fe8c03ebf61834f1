"""What a person does with entries: mend one, send it again, give it up, erase it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING
from uuid import UUID

import click

from dlqctl.cli.asking import ask, reason, waiting, yes
from dlqctl.cli.root import connect, database
from dlqctl.errors import DlqctlError, UsageError

if TYPE_CHECKING:
    import psycopg


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@reason
@yes
@database
def retry(dsn: str | None, ids: tuple[str, ...], reason: str, yes: bool) -> None:
    """Send entries again that wait, have failed or were discarded: now, and with all their retries."""
    _do(dsn, "retry", ids, reason, yes or len(ids) == 1)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@reason
@yes
@database
def redeliver(dsn: str | None, ids: tuple[str, ...], reason: str, yes: bool) -> None:
    """Send entries once more that were delivered already."""
    _do(dsn, "redeliver", ids, reason, yes or len(ids) == 1)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@reason
@yes
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
            ask(f"{verb.capitalize()} {'this' if len(ids) == 1 else f'these {len(ids)}'}?")
        with waiting(verb):
            left = entries.apply(connection, verb, ids, reason)
        if len(ids) > len(left):
            done = [str(entry_id) for entry_id in ids if entry_id not in left]
            say(f"{_DONE[verb]}: {done[0] if len(done) == 1 else len(done)}")
        _say_why_not(connection, left)
    raise SystemExit(1 if left else 0)


def _say_why_not(connection: psycopg.Connection, ids: Sequence[UUID]) -> None:
    from dlqctl import entries
    from dlqctl.output import say

    seen = entries.states(connection, ids) if ids else []
    for gone in sorted({*ids} - {row[0] for row in seen}):
        say(f"not {gone}, which is gone meanwhile")
    for entry_id, _, status, detail, remediation in seen:
        say(f"not {entry_id}, which is {status}: {detail}", remediation)


@click.command()
@click.argument("entry", metavar="ID")
@click.argument("file", metavar="[FILE]", type=click.File("rb"), default="-")
@reason
@yes
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
            ask(f"Amend {entry_id}?")
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
@reason
@yes
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
            with waiting("reading the whole queue"):
                found = entries.erase(connection, phone_number, reason, dry_run=True)
            if not any(found.values()):
                say("nothing is kept of that number")
                return
            say(_counted(found))
            ask("Erase what they hold of this number? It cannot be undone.")
        with waiting("reading the whole queue"):
            erased = entries.erase(connection, phone_number, reason)
    say(f"erased: {_counted(erased)}")


def _counted(erased: dict[str, int]) -> str:
    return ", ".join(f"{what} {count}" for what, count in erased.items())
