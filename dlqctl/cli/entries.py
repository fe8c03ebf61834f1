"""Entries: find one, and understand it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

from dlqctl.cli.asking import waiting
from dlqctl.cli.root import connect, database, output_format
from dlqctl.errors import DlqctlError

_STATUSES = click.Choice(["pending", "processing", "reprocessed", "failed", "discarded"])


@click.command("list")
@click.option("--service", metavar="SERVICE", help="Of this service.")
@click.option("--status", type=_STATUSES, help="In this state.")
@click.option("--since", metavar="WHEN", help="Stored then or later: a time, or an age as in '2 hours'.")
@click.option("--until", metavar="WHEN", help="Stored before.")
@click.option("--status-code", type=int, metavar="CODE", help="What the last attempt was answered.")
@click.option("--error-text", metavar="TEXT", help="What the last attempt's error contains.")
@click.option("--phone-number", metavar="NUMBER", help="Whom it concerns.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="So many: 20, unless said.")
@click.option("--all", "everything", is_flag=True, help="All of them, however many.")
@click.option("--payload", "personal", is_flag=True, help="Also what is personal: phone number, error, body.")
@output_format
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Into a file, once it is whole.")
@database
def list_entries(
    dsn: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    everything: bool,
    personal: bool,
    output_format: str,
    output: Path | None,
    **filters: Any,
) -> None:
    """List entries, the newest first: those to which all the filters apply."""
    from dlqctl import entries
    from dlqctl.output import print_rows, say

    if everything and limit:
        raise click.UsageError("--all and --limit exclude each other")
    most = None if everything else limit or 20
    with connect(dsn) as connection:
        filters["since"] = None if since is None else entries.moment(connection, since)
        filters["until"] = None if until is None else entries.moment(connection, until)
        found = entries.list_entries(connection, filters, most, personal=personal)
        with contextlib.closing(found.rows) as rows:
            with waiting("looking"):
                first = list(itertools.islice(rows, 1))
            with _into(output) as told:
                on_terminal = output_format == "table" and sys.stdout.isatty()
                shown = (_print_entries if on_terminal else partial(print_rows, output_format=output_format))(
                    found.columns, told(itertools.chain(first, rows))
                )
        with waiting("counting"):
            more = entries.count_more(connection, filters, most) if most and shown == most else 0
    if output:
        say(f"{shown:,} in {output}")
    if more:
        words = f"more than {entries.COUNTED:,}" if more > entries.COUNTED else f"{more:,}"
        say(f"and {words} more: narrow it down, or --limit {min(shown * 10, shown + more)}, or --all")
    elif not shown:
        say("there is no such entry" if any(value is not None for value in filters.values()) else "there is no entry")


@contextlib.contextmanager
def _into(path: Path | None) -> Iterator[Callable[[Iterable[Sequence[Any]]], Iterable[Sequence[Any]]]]:
    """Have what is printed in a file instead, and yield what tells how many rows have passed through it.

    It is another file until all of it is written: what is cut off leaves none, and the old one as it was. Nobody else
    may read it, for it may hold what is personal.
    """
    if path is None:
        yield lambda rows: rows
        return
    path = path.resolve()  # a link stays one
    part = path.with_name(f"{path.name}.part")
    try:
        if path.exists() and not path.is_file():
            raise DlqctlError(f"{path} is no file that another could take the place of", f"> {path}")
        part.unlink(missing_ok=True)
        new = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(new, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file), waiting("writing") as tell:
            yield partial(_counted, tell=tell)
        part.replace(path)
    except OSError as error:
        raise DlqctlError(f"cannot write {path}: {error.strerror}", "another --output, or > FILE") from error
    finally:
        part.unlink(missing_ok=True)


def _counted(rows: Iterable[Sequence[Any]], *, tell: Callable[[str], None]) -> Iterator[Sequence[Any]]:
    for number, row in enumerate(rows, 1):
        yield row
        if number % 50_000 == 0:
            tell(f"{number:,} entries so far")


def _print_entries(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Print entries on a terminal, and return how many: as many columns as fit, or entry below entry. No id is cut.

    What is personal has no column of its own, as it has no width that could be told.
    """
    from dlqctl.output import batches

    now = datetime.now(UTC)
    room = shutil.get_terminal_size((80, 24)).columns
    widths: dict[str, int] = {}
    count = 0
    for batch in batches(rows):
        found = [dict(zip(columns, row, strict=True)) for row in batch]
        shown = [_in_short(entry, now) for entry in found]
        fitting: list[str] = []
        for name in shown[0]:
            widest = max(len(name), *(len(entry[name]) for entry in shown))
            widths[name] = max(widest if any(entry[name] for entry in shown) else 0, widths.get(name, 0))
            if widths[name] and sum(widths[n] + 2 for n in fitting) + widths[name] <= room:
                fitting.append(name)
        if len(fitting) >= 3 and "payload" not in columns:
            for cells in [dict(zip(fitting, fitting, strict=True))] * (count == 0) + shown:
                click.echo("  ".join(f"{cells[name]:<{widths[name]}}" for name in fitting).rstrip())
        else:
            for entry, cells in zip(found, shown, strict=True):
                _print_below(entry, cells, room)
        count += len(batch)
    return count


def _print_below(entry: dict[str, Any], cells: dict[str, str], room: int) -> None:
    from dlqctl.entries import PERSONAL
    from dlqctl.output import text, wrap

    words = [cells["service"], cells["status"], cells["answer"], f"{cells['age']} old", cells["next"]]
    personal = [f"{name}: {text(entry.get(name))}" for name in PERSONAL if text(entry.get(name))]
    click.echo(cells["id"])
    for said in [", ".join(filter(None, words)), *personal]:
        for line in wrap(said, room - 2):
            click.echo(f"  {line}")


def _in_short(entry: dict[str, Any], now: datetime) -> dict[str, str]:
    due = entry["next_retry_at"]
    return {
        "id": str(entry["id"]),
        "service": entry["service"],
        "status": entry["status"],
        "answer": str(entry["last_status_code"] or entry["last_outcome"] or ""),
        "age": _age(now - entry["created_at"]),
        "next": "" if due is None else "due" if due <= now else f"in {_age(due - now)}",
    }


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
        if personal:
            entries.need_personal(connection, "--payload")
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
    from dlqctl.output import advice, printable, text, wrap

    room = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 100_000
    click.echo(told["id"])
    for name in ("service", "status", "phone_number", "idempotency_key"):
        if told.get(name):
            click.echo(f"{name}: {printable(told[name])}")
    if told.get("headers"):
        click.echo("headers:")
        for name, value in json.loads(told["headers"].written).items():
            click.echo(f"  {printable(name)}: {printable(text(value))}")
    if told.get("payload") is not None:
        click.echo("payload:")
        for line in told["payload"].written.splitlines():
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
                lines += advice(row["remediation"], room - indent)
            if hangs:
                head = f"{head:<{indent}}{lines.pop(0)}"
            click.echo(head)
            for line in lines:
                click.echo(" " * indent + line)
