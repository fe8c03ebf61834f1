"""Output: data to stdout, as a table for people, as JSON or CSV for programs; words to stderr.

On a terminal a table that is too wide for it is told name by name; in a pipe it is as wide as it is. No value is ever
cut.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import click

# What ends a line, moves the cursor, or turns text round: escaped, wherever people read it. A reason or a reply is
# somebody else's text.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

# Where a document is to stand in JSON: what no text can contain that does not know it.
_PLACE = f"{uuid4()} "

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def say(words: str, hint: str | None = None) -> None:
    """Say something to the person, on stderr, and what to type: wrapped on a terminal, else on one line."""
    if sys.stderr.isatty():
        room = shutil.get_terminal_size((80, 24)).columns
        click.echo("\n".join([*wrap(words, room), *(advice(hint, room) if hint else [])]), err=True)
    else:
        click.echo(printable(f"{words} -> {hint}" if hint else words), err=True)


def printable(text: str) -> str:
    """Text on one line, with what is not to be printed escaped as in Python."""
    return _UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], output_format: str) -> int:
    """Print rows as a table, as a JSON array of objects, or as CSV with a header, and return how many they were.

    They are printed as they come, some at a time. Where that ends with an error, an array is not closed.
    """
    if output_format == "json":
        return _print_json(columns, rows)
    if output_format == "csv":
        return _print_csv(columns, rows)
    return (_print_table if sys.stdout.isatty() else _print_plain)(columns, rows)


def _print_json(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    count = 0
    for batch in batches(rows, 50):
        objects = [as_json(dict(zip(columns, row, strict=True))) for row in batch]
        click.echo(("," if count else "[") + "\n" + textwrap.indent(",\n".join(objects), "  "), nl=False)
        count += len(batch)
    click.echo("\n]" if count else "[]")
    return count


def _print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    count = 0
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(columns)
    for batch in batches(rows, 50):
        writer.writerows([[text(value) for value in row] for row in batch])
        click.echo(lines.getvalue(), nl=False)
        lines.seek(0)
        lines.truncate()
        count += len(batch)
    click.echo(lines.getvalue(), nl=False)
    return count


def _print_plain(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Columns as wide as the rows so far need."""
    count = 0
    widths = [len(name) for name in columns]
    for batch in batches(rows):
        cells = _cells(batch)
        widths = _widths(widths, cells)
        click.echo("\n".join(_aligned([list(columns)] * (count == 0) + cells, widths)))
        count += len(batch)
    if not count:
        click.echo("  ".join(columns))
    return count


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """A table if the terminal is wide enough for it, else name by name, as psql does with \\x auto."""
    cells = _cells(rows)
    widths = _widths([len(name) for name in columns], cells)
    room = shutil.get_terminal_size((80, 24)).columns
    if sum(widths) + 2 * (len(widths) - 1) <= room:
        click.echo("\n".join(_aligned([list(columns), *cells], widths)))
        return len(cells)
    indent = max(map(len, columns)) + 2
    for number, row in enumerate(cells):
        if number:
            click.echo()
        for name, value in zip(columns, row, strict=True):
            for first, line in _first(wrap(value, room - indent)):
                click.echo(f"{name if first else '':<{indent}}{line}".rstrip())
    return len(cells)


def _cells(rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    return [[printable(text(value)) for value in row] for row in rows]


def _widths(least: list[int], cells: list[list[str]]) -> list[int]:
    return [max(width, *(len(row[i]) for row in cells), 0) for i, width in enumerate(least)]


def _aligned(cells: list[list[str]], widths: list[int]) -> list[str]:
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def batches(rows: Iterable[Sequence[Any]], size: int = 1000) -> Iterator[list[Sequence[Any]]]:
    """Yield rows some at a time."""
    rows = iter(rows)
    while batch := list(itertools.islice(rows, size)):
        yield batch


@dataclass(frozen=True)
class Json:
    """A document as the database writes it: no digit of a number is lost, and no depth is too much."""

    written: str

    def __str__(self) -> str:
        return self.written


def as_json(value: Any) -> str:
    """JSON for programs: times and ids as text, documents as they are, all in ASCII."""
    documents: list[Json] = []

    def as_text(one: Any) -> str:
        if not isinstance(one, Json):
            return text(one)
        documents.append(one)
        return f"{_PLACE}{len(documents) - 1}"

    written = json.dumps(value, default=as_text, indent=2)
    return re.sub(f'"{_PLACE}([0-9]+)"', lambda found: _in_ascii(documents[int(found[1])].written), written)


def _in_ascii(document: str) -> str:
    """Beyond ASCII there is nothing in a document but in its strings."""
    return re.sub("[^\x00-\x7f]+", lambda found: json.dumps(found[0])[1:-1], document)


def print_checks(rows: Iterable[Sequence[Any]], output_format: str) -> None:
    """Print checks (name, level, detail, remediation): a line each, and under what is wrong what to type."""
    rows = list(rows)
    if output_format != "table":
        print_rows(("name", "level", "detail", "remediation"), rows, output_format)
        return
    indent = max((len(row[0]) for row in rows), default=0) + 11
    width = shutil.get_terminal_size((80, 24)).columns
    hangs = width - indent >= 40
    indent = indent if hangs else 2
    in_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for name, level, detail, remediation in rows:
        shown = click.style(f"{level:<9}", fg=_COLOURS[level]) if in_colour else f"{level:<9}"
        lines = wrap(str(detail), width - indent) + (advice(remediation, width - indent) if remediation else [])
        click.echo(f"{shown}{printable(name):<{max(0, indent - 9)}}{lines.pop(0) if hangs else ''}".rstrip())
        for line in lines:
            click.echo(" " * indent + line)


def advice(words: str, width: int) -> list[str]:
    """What to type, wrapped: under an arrow."""
    return [("-> " if first else "   ") + line for first, line in _first(wrap(words, width - 3))]


def _first(lines: list[str]) -> list[tuple[bool, str]]:
    return [(number == 0, line) for number, line in enumerate(lines)]


def wrap(text: str, width: int) -> list[str]:
    """Wrap at blanks only: what is to be typed must survive being copied."""
    return textwrap.wrap(
        printable(re.sub(r"[\t\r\n]+", " ", text)), width, break_long_words=False, break_on_hyphens=False
    ) or [""]


def text(value: Any) -> str:
    """A value as people read it: nothing for None, times to the second, intervals as PostgreSQL reads them."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, timedelta):
        return _interval(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return json.dumps(value, default=text, ensure_ascii=False)
    return str(value)


def _interval(value: timedelta) -> str:
    tenths = round(abs(value) / timedelta(seconds=0.1))
    minutes, tenths = divmod(tenths, 600)
    days, minutes = divmod(minutes, 1440)
    said = f"{days} day{'s' * (days != 1)} " if days else ""
    said += f"{minutes // 60:02}:{minutes % 60:02}:{tenths // 10:02}" + (f".{tenths % 10}" if tenths % 10 else "")
    return said if value >= timedelta(0) else f"-{said}"
