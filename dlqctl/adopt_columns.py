"""How an old queue's columns, statuses and services are read as ours. No database is asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from psycopg.sql import Identifier, Literal

QUEUE = "webhook_dlq"
LOG = "dlq_processing_log"

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_CONSTANT = re.compile(r"(?:'(?:[^']|'')*'|-?[0-9.]+|true|false|NULL)(?:::[\w\s.\"\[\](),]+)?", re.I)
STATUSES = ("pending", "processing", "reprocessed", "failed", "discarded")

OTHER_STATUSES = {
    **dict.fromkeys(("success", "succeeded", "completed", "done", "delivered", "resolved", "processed"), "reprocessed"),
    **dict.fromkeys(("dead", "exhausted", "error", "errored"), "failed"),
    **dict.fromkeys(("new", "queued", "retrying", "retry", "waiting"), "pending"),
    **dict.fromkeys(("in_progress", "running", "sending"), "processing"),
    **dict.fromkeys(("cancelled", "canceled", "ignored", "skipped"), "discarded"),
}

KINDS = {
    "service": "text",
    "status": "text",
    "payload": "body",
    "raw_body": "bytes",
    "headers": "json",
    "phone_number": "text",
    "error_message": "text",
    "idempotency_key": "text",
    "correlation_id": "text",
    "retry_count": "integer",
    "next_retry_at": "time",
    "last_retry_at": "time",
    "settled_at": "time",
    "created_at": "time",
    "updated_at": "time",
}
"""The columns of ours that can be filled from old ones, and what each holds."""

_OTHER_NAMES = {
    "service": "source webhook_type provider function_name handler",
    "status": "state",
    "payload": "body data webhook_payload event_payload request_body",
    "raw_body": "raw_payload",
    "headers": "request_headers webhook_headers",
    "phone_number": "phone from_number",
    "error_message": "error last_error error_details error_reason",
    "correlation_id": "trace_id request_id",
    "retry_count": "retries attempts attempt_count",
    "next_retry_at": "next_retry next_attempt_at retry_at retry_after",
    "last_retry_at": "last_retry last_attempt_at last_attempt",
    "settled_at": "resolved_at completed_at reprocessed_at",
    "created_at": "inserted_at received_at moved_at",
    "updated_at": "modified_at",
}

KEPT_FOR_OURS = ("id", "duplicate_of", "unanswered_count", "attempt_count")
"""Columns of ours that no old column fills by its name alone."""


@dataclass(frozen=True)
class Options:
    """How a person told adopt to read the old queue. The mappings go from old to new."""

    columns: Mapping[str, str] = field(default_factory=dict)
    statuses: Mapping[str, str] = field(default_factory=dict)
    services: Mapping[str, str] = field(default_factory=dict)
    default_service: str | None = None
    leave_aside: tuple[str, ...] = ()
    grants: bool = True
    grace_minutes: int = 15


@dataclass(frozen=True)
class Column:
    """A column of an old table. `category` is pg_type.typcategory; `default` is SQL, or None."""

    name: str
    type: str
    category: str
    default: str | None = None
    is_generated: bool = False

    @property
    def quoted(self) -> str:
        return ident(self.name)

    def __str__(self) -> str:
        return f"{self.name} {self.type}"


@dataclass(frozen=True)
class Table:
    """An old table. `key` is its one column that is unique and never null, if it has one."""

    name: str
    oid: int
    kind: str
    owner: str
    columns: tuple[Column, ...]
    key: Column | None
    has_row_security: bool

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True)
class Problem:
    """Something in the way, and what to type."""

    what: str
    hint: str


@dataclass
class Reading:
    """How the old queue's columns are read: `sources` from ours to theirs, `extra` those that ours gets as well."""

    table: Table
    sources: dict[str, Column] = field(default_factory=dict)
    extra: list[Column] = field(default_factory=list)
    aside: list[Column] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def renamed(self) -> dict[str, Column]:
        """Sources whose names ours do not have: inserts that use them must be translated."""
        return {new: column for new, column in self.sources.items() if column.name not in (*KINDS, *KEPT_FOR_OURS)}

    @property
    def old_id(self) -> str | None:
        """The column of ours that holds an old id too. None if the old one is a uuid called id."""
        key = self.table.key
        if key is None or (key.name, key.type) == ("id", "uuid"):
            return None
        if key.name != "id":
            return key.name
        return "old_id" if self.table.column("old_id") is None else f"{QUEUE}_old_id"


def ident(name: str) -> str:
    """A name as SQL."""
    return Identifier(name).as_string(None)


def literal(value: object) -> str:
    """A value as SQL."""
    return Literal(value).as_string(None)


def read_columns(table: Table, options: Options) -> Reading:
    """Decide for each column of an old queue what becomes of it. No database is asked."""
    reading = Reading(table)
    for name in (*options.columns, *options.leave_aside):
        if table.column(name) is None:
            reading.problems.append(Problem(f"there is no column {name}", f"leave out what names it; \\d {table.name}"))
    for old, new in options.columns.items():
        if new not in KINDS:
            known = ", ".join(KINDS)
            reading.problems.append(Problem(f"--map {old}={new}: old columns can fill none of that name", known))

    wanted = {old: new for old, new in options.columns.items() if new in KINDS}
    free = [c for c in table.columns if c != table.key and c.name not in options.leave_aside]
    for column in free:
        if column.name in KINDS and column.name not in wanted and column.name not in wanted.values():
            wanted[column.name] = column.name
    for new, names in _OTHER_NAMES.items():
        for name in names.split():
            if new not in wanted.values() and name not in wanted and any(c.name == name for c in free):
                wanted[name] = new

    for column in free:
        target = wanted.get(column.name)
        if target and expression(target, column, "o"):
            reading.sources[target] = column
        elif target and column.name in options.columns:
            reading.problems.append(
                Problem(f"{column} cannot be read as {target}", f"leave out --map {column.name}={target}")
            )
        elif column.is_generated or column.name in (*KINDS, *KEPT_FOR_OURS):
            reading.aside.append(column)
        else:
            reading.extra.append(column)
    reading.aside += [c for c in table.columns if c.name in options.leave_aside and c != table.key]

    if table.key is None:
        reading.problems.append(
            Problem(
                f"no column of {table.name} alone is unique and never null, and rows are copied in the order of one",
                f"alter table public.{table.name} add primary key (id); or, if there is no id: "
                f"alter table public.{table.name} add column id bigint generated always as identity primary key",
            )
        )
    if not {"payload", "raw_body"} & reading.sources.keys():
        reading.problems.append(
            Problem("no column is known to hold the webhook's body", "say which one does: --map COLUMN=payload")
        )
    if "service" not in reading.sources and options.default_service is None:
        reading.problems.append(
            Problem(
                "no column is known to hold the service",
                "--default-service whatsapp; or say which: --map COLUMN=service",
            )
        )
    if options.default_service is not None and not SLUG.fullmatch(options.default_service):
        reading.problems.append(_no_slug(options.default_service, "--default-service"))
    for old, new in options.services.items():
        if SLUG.fullmatch(old):
            reading.problems.append(Problem(f"--service {old}={new}: {old} is a good name and stays", "leave it out"))
        if not SLUG.fullmatch(new):
            reading.problems.append(_no_slug(new, f"--service {old}={new}"))
    for old, new in options.statuses.items():
        if new not in STATUSES or old in STATUSES:
            reading.problems.append(
                Problem(f"--status {old}={new}: a status that is not ours becomes one that is", ", ".join(STATUSES))
            )
    return reading


def _no_slug(name: str, where: str) -> Problem:
    return Problem(
        f"{where}: {name!r} cannot be a service's name",
        "1 to 63 of a-z, 0-9, _ and -, beginning with a letter or a digit",
    )


def expression(new: str, column: Column, row: str) -> str | None:
    """SQL for the value of ours, from the old column of `row`; None if it cannot be read as that."""
    return read_as(KINDS[new], column, row)


def read_as(kind: str, column: Column, row: str) -> str | None:
    """SQL for the old column of `row` as text, body, bytes, json, integer or time; None if that cannot be."""
    value = f"{row}.{column.quoted}"
    is_text = column.category in "SE"
    match kind:
        case "text":
            return f"{value}::text"
        case "body" if body_column(column) == "payload":
            return f"{value}::jsonb"
        case "body" | "bytes":
            return value if column.type == "bytea" else f"convert_to({value}::text, 'UTF8')"
        case "json" if is_text or column.type in ("json", "jsonb"):
            return f"{value}::text::jsonb"
        case "integer" if is_text or column.category == "N":
            return f"{value}::text::numeric::integer"
        case "time" if column.category == "D" and not re.match(r"time\b", column.type):
            return f"{value}::timestamptz"
        case "time" if is_text:
            return f"{value}::text::timestamptz"
    return None


def body_column(column: Column) -> str:
    """Where the body goes. What is not JSON by its type goes in as bytes, and is read on the way in if it can be."""
    return "payload" if column.type in ("json", "jsonb") else "raw_body"


def values(reading: Reading, row: str, only: Iterable[str] | None = None) -> dict[str, str]:
    """SQL for each column of ours that old columns fill, without what statuses and services are translated to."""
    result: dict[str, str] = {}
    for new, column in reading.sources.items():
        if only is not None and new not in only:
            continue
        sql = expression(new, column, row)
        assert sql
        target = body_column(column) if new == "payload" else new
        result[target] = f"coalesce({result[target]}, {sql})" if target in result else sql
    return result


def translated(value: str, words: Mapping[str, str]) -> str:
    """SQL for a value with these words replaced."""
    if not words:
        return value
    whens = [f"when {literal(old)} then {literal(new)}" for old, new in words.items()]
    return "\n    ".join([f"case {value}", *whens, f"else {value}", "end"])


def status_words(options: Options) -> dict[str, str]:
    """The statuses that are not ours and are known, in lower case, and ours for each."""
    return {**OTHER_STATUSES, **{old.lower(): new for old, new in options.statuses.items()}}


def our_status(status: str, options: Options) -> str:
    """What a status is for us. One that is not known stays what it is."""
    return status_words(options).get(status.lower(), status.lower())


def in_our_words(status: str, options: Options) -> str:
    """The same as SQL, for a value."""
    whens = []
    for ours in STATUSES:
        theirs = ", ".join(literal(old) for old, new in status_words(options).items() if new == ours)
        if theirs:
            whens.append(f"when lower({status}) in ({theirs}) then '{ours}'")
    return "\n    ".join(["case", *whens, f"else lower({status})", "end"])


def is_constant(default: str) -> bool:
    """Whether a default is the same for every row."""
    return _CONSTANT.fullmatch(default) is not None
