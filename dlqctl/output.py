"""Output: data to stdout, as a table for people, as JSON or CSV for programs; words to stderr.

On a terminal a table may be as wide as the terminal and wraps; in a pipe it is plain text, and no value
is ever cut.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

# What ends a line, moves the cursor, or turns text round: escaped, wherever people read it. A reason or a reply is
# somebody else's text.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def say(words: str) -> None:
    """Say something to the person, on stderr."""
    click.echo(printable(words), err=True)


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
    for batch in batches(rows):
        objects = [as_json(dict(zip(columns, row, strict=True))) for row in batch]
        click.echo(("," if count else "[") + "\n" + textwrap.indent(",\n".join(objects), "  "), nl=False)
        count += len(batch)
    click.echo("\n]" if count else "[]")
    return count


def _print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    count = 0
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for batch in batches(rows):
        writer.writerows([[text(value) for value in row] for row in batch])
        sys.stdout.flush()
        count += len(batch)
    sys.stdout.flush()
    return count


def _print_plain(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Columns as wide as the rows so far need."""
    count = 0
    widths = [len(name) for name in columns]
    for batch in batches(rows):
        cells = [[printable(text(value)) for value in row] for row in batch]
        widths = [max(width, *(len(row[i]) for row in cells)) for i, width in enumerate(widths)]
        lines = [list(columns)] * (count == 0) + cells
        click.echo("\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines))
        count += len(batch)
    if not count:
        click.echo("  ".join(columns))
    return count


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(text(value))) for value in row))
    Console(highlight=False).print(table)
    return table.row_count


def batches(rows: Iterable[Sequence[Any]], size: int = 1000) -> Iterator[list[Sequence[Any]]]:
    """Yield rows some at a time."""
    rows = iter(rows)
    while batch := list(itertools.islice(rows, size)):
        yield batch


def as_json(value: Any) -> str:
    """JSON for programs: times and ids as text."""
    return json.dumps(value, default=text, indent=2)


def print_checks(rows: Iterable[Sequence[Any]], output_format: str) -> None:
    """Print checks (name, level, detail, remediation): a line each, and under what is wrong what to type."""
    rows = list(rows)
    if output_format != "table":
        print_rows(("name", "level", "detail", "remediation"), rows, output_format)
        return
    indent = max((len(row[0]) for row in rows), default=0) + 11
    width = max(shutil.get_terminal_size((80, 24)).columns, indent + 20)
    in_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for name, level, detail, remediation in rows:
        shown = click.style(f"{level:<9}", fg=_COLOURS[level]) if in_colour else f"{level:<9}"
        lines = wrap(str(detail), width - indent) + [
            ("-> " if first else "   ") + line
            for first, line in _first(wrap(remediation, width - indent - 3) if remediation else [])
        ]
        click.echo(f"{shown}{printable(name):<{indent - 9}}{lines[0]}")
        for line in lines[1:]:
            click.echo(" " * indent + line)


def _first(lines: list[str]) -> list[tuple[bool, str]]:
    return [(number == 0, line) for number, line in enumerate(lines)]


def wrap(text: str, width: int) -> list[str]:
    """Wrap at blanks only: what is to be typed must survive being copied."""
    return textwrap.wrap(
        printable(re.sub(r"[\t\r\n]+", " ", text)), width, break_long_words=False, break_on_hyphens=False
    ) or [""]


def text(value: Any) -> str:
    """A value as people read it: nothing for None, times to the second."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, timedelta):
        return str(timedelta(seconds=round(value.total_seconds(), 1)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return json.dumps(value, default=str)
    return str(value)
