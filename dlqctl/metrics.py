"""The metrics in Prometheus' text format, for its textfile collector and for whoever reads it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import psycopg

from dlqctl.errors import DlqctlError

Sample = tuple[str, str, str, dict[str, str], float]


def read(connection: psycopg.Connection) -> list[Sample]:
    """Return the rows of dlq.metrics, those of a name together: name, type, help, labels, value."""
    query = "select name, type, help, labels, value from dlq.metrics order by name, labels ->> 'service', labels::text"
    return connection.execute(query).fetchall()


def exposition(samples: Iterable[Sample]) -> str:
    """Write samples as Prometheus reads them (text format 0.0.4); those of a name must follow one another."""
    lines: list[str] = []
    for (name, kind, words), family in groupby(samples, key=lambda sample: sample[:3]):
        lines += [f"# HELP {name} {_escape(words)}", f"# TYPE {name} {kind}"]
        for *_, labels, value in family:
            written = ",".join(f'{label}="{_escape_value(labels[label])}"' for label in sorted(labels))
            lines.append(f"{name}{{{written}}} {_number(value)}")
    return "".join(f"{line}\n" for line in lines)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_value(text: str) -> str:
    return _escape(text).replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def replace(path: Path, text: str) -> None:
    """Put `text` into the file in one step: whoever reads it sees the old text or the new one, never half.

    Everybody may read it, as the collector runs as somebody else. Raises DlqctlError if it cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise DlqctlError(
            f"cannot write {path}: {error.strerror}", "name a file in a folder that you may write to"
        ) from error
