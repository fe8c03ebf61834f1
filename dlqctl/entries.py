"""Entries as people look for them and do something with them. The verbs are SQL functions; this calls them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import dict_row

from dlqctl.errors import DlqctlError, UsageError
from dlqctl.output import Json

COUNTED = 10_000
"""How far entries are counted that are not shown."""

_COLUMNS = (
    "id", "service", "status", "created_at", "retry_count", "attempt_count", "next_retry_at", "last_outcome",
    "last_status_code",
)  # fmt: skip
PERSONAL = {  # by --payload alone
    "error": "coalesce((select a.error from dlq.delivery_attempts as a where a.entry_id = e.id"
    " order by a.attempt desc limit 1), w.error_message)",
    "phone_number": "w.phone_number",
    "payload": "w.payload",
    "raw_body": "case when w.payload is null then translate(encode(w.raw_body, 'base64'), E'\\n', '') end",
}
_FILTERS = {
    "service": "e.service = %(service)s",
    "status": "e.status = %(status)s",
    "since": "e.created_at >= %(since)s",
    "until": "e.created_at < %(until)s",
    "status_code": "e.last_status_code = %(status_code)s",
    "error_text": "strpos((select lower(a.error) from dlq.delivery_attempts as a where a.entry_id = e.id"
    " order by a.attempt desc limit 1), lower(%(error_text)s)) > 0",
    "phone_number": r"regexp_replace(w.phone_number, '\D', '', 'g') = regexp_replace(%(phone_number)s, '\D', '', 'g')",
}


class _AsWritten(Loader):
    """Reads jsonb as its text: Python's numbers have 17 digits, and its parser a depth."""

    def load(self, data: Buffer) -> Json:
        return Json(bytes(data).decode())


@dataclass(frozen=True)
class Found:
    """Entries, newest first: a row each in the order of `columns`, read as they are iterated over, once."""

    columns: tuple[str, ...]
    rows: Generator[tuple[Any, ...], None, None]


def list_entries(
    connection: psycopg.Connection, filters: dict[str, Any], limit: int | None, *, personal: bool = False
) -> Found:
    """Return the newest entries to which all the filters apply that are not None: so many, or all of them.

    Their names are those of `dlqctl list`; since and until are what `moment` returns. The rows are one snapshot, in a
    transaction that ends with them, and only some of them are held in memory. Raises DlqctlError if the role may not
    read what is personal and asks for it, or filters by it.
    """
    if personal:
        need_personal(connection, "--payload")
    for name in ("error_text", "phone_number"):
        if filters.get(name) is not None:
            need_personal(connection, "--" + name.replace("_", "-"))
    columns = (*_COLUMNS, *(PERSONAL if personal else ()))
    selected = ", ".join(f"{PERSONAL.get(name, f'e.{name}')} as {name}" for name in columns)
    source, given = _filtered(filters, personal=personal)
    query = f"select {selected} from {source} order by e.created_at desc, e.id desc limit %(limit)s"

    def rows() -> Generator[tuple[Any, ...], None, None]:
        with connection.transaction(), connection.cursor("listed") as cursor:
            cursor.itersize = 50 if personal else 1000  # a payload may be large
            cursor.adapters.register_loader("jsonb", _AsWritten)
            yield from cursor.execute(query.encode(), {**given, "limit": limit})

    return Found(columns, rows())


def count_more(connection: psycopg.Connection, filters: dict[str, Any], limit: int) -> int:
    """Return how many entries beyond the limit the filters apply to: COUNTED + 1 if more than COUNTED."""
    source, given = _filtered(filters)
    row = connection.execute(
        f"select count(*) from (select from {source} limit %(limit)s) as e".encode(),
        {**given, "limit": limit + COUNTED + 1},
    ).fetchone()
    return max(0, row[0] - limit) if row else 0


def _filtered(filters: dict[str, Any], *, personal: bool = False) -> tuple[str, dict[str, Any]]:
    """What of a query follows from, and its parameters."""
    given = {name: value for name, value in filters.items() if value is not None}
    where = " and ".join(_FILTERS[name] for name in given) or "true"
    joined = " join public.webhook_dlq as w on w.id = e.id" if personal or "w." in where else ""
    return f"dlq.entries as e{joined} where {where}", given


def need_personal(connection: psycopg.Connection, option: str) -> None:
    """Raise DlqctlError if an option would tell the role what it may not read.

    What is personal is body, headers, phone number, error texts and replies. It is shown by --payload alone, and
    without the right to read it nothing can be looked for by it.
    """
    row = connection.execute("select has_table_privilege('public.webhook_dlq', 'select')").fetchone()
    if not (row and row[0]):
        raise DlqctlError(
            f"{option} would tell {connection.info.user} what it may not read: what is personal",
            "leave it out, or ask for a role: grant dlq_admin to ROLE",
        )


def moment(connection: psycopg.Connection, text: str) -> datetime:
    """Return the time that a person means: a time as PostgreSQL reads it, or an age as in '2 hours'.

    An age names its unit: PostgreSQL would take 10:00 for ten hours and 2026 for seconds. The connection must be in
    autocommit. Raises UsageError if it is neither.
    """
    meant = text.strip().removesuffix(" ago").rstrip()
    for query in ("select %s::timestamptz", "select dlq._now() - %s::interval"):
        if "interval" in query and not any(map(str.isalpha, meant)):
            break
        try:
            row = connection.execute(query.encode(), (meant,)).fetchone()
        except psycopg.DataError:
            continue
        if row and isinstance(row[0], datetime):
            return row[0]
    raise UsageError(f"{text!r} is neither a time nor an age", "write it as '2 hours', yesterday or '2026-03-01 12:00'")


def find(connection: psycopg.Connection, prefixes: Sequence[str]) -> list[UUID]:
    """Return the ids that begin so, in order, each once. Raises psycopg.Error (WD002) if one is none, or several."""
    found = set()
    for prefix in prefixes:
        row = connection.execute("select dlq.find_entry(%s)", (prefix,)).fetchone()
        assert row is not None
        found.add(row[0])
    return sorted(found)


def tell(connection: psycopg.Connection, entry_id: UUID, *, personal: bool = False) -> dict[str, Any]:
    """Return the entry's columns, and as lists of rows `story` and `next`: dlq.story() and dlq.what_next().

    personal: also what is personal, for a role that may read it; raises psycopg.Error otherwise.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        told = cursor.execute("select * from dlq.entries where id = %s", (entry_id,)).fetchone()
        if told is None:
            raise DlqctlError(f"entry {entry_id} is gone meanwhile", "dlqctl list")
        if personal:
            kept = cursor.execute(
                "select phone_number, idempotency_key, error_message, headers::text,"
                " pg_catalog.jsonb_pretty(payload) as payload, raw_body from public.webhook_dlq where id = %s",
                (entry_id,),
            ).fetchone()
            documents = {"headers", "payload"}
            told.update({n: Json(v) if n in documents and v is not None else v for n, v in (kept or {}).items()})
        told["story"] = cursor.execute("select * from dlq.story(%s, %s)", (entry_id, personal)).fetchall()
        told["next"] = cursor.execute("select * from dlq.what_next(%s)", (entry_id,)).fetchall()
    return told


def states(connection: psycopg.Connection, ids: Sequence[UUID]) -> list[tuple[UUID, str, str, str, str | None]]:
    """Return id, service, status, and what becomes of it: detail and remediation, for each entry."""
    return connection.execute(
        """
        select e.id, e.service, e.status, n.detail, n.remediation
        from dlq.entries as e
          cross join lateral (select n.* from dlq.what_next(e.id) as n limit 1) as n
        where e.id = any (%s)
        order by e.id
        """,
        (list(ids),),
    ).fetchall()


def apply(connection: psycopg.Connection, verb: str, ids: Sequence[UUID], reason: str) -> list[UUID]:
    """Retry, redeliver or discard entries, in one transaction, and return those to which it does not apply."""
    rows = connection.execute(
        f"select i.id, dlq.{verb}(i.id, %s) from pg_catalog.unnest(%s::uuid[]) as i (id)".encode(),
        (reason, sorted(ids)),
    ).fetchall()
    return [entry_id for entry_id, done in rows if not done]


def difference(connection: psycopg.Connection, entry_id: UUID, payload: str) -> list[str]:
    """Return what a new payload, JSON text, changes: lines as diff -u has them. None: it is the payload already."""
    from difflib import unified_diff

    row = connection.execute(
        "select jsonb_pretty(e.payload), octet_length(e.raw_body), jsonb_pretty(%s::jsonb)"
        " from public.webhook_dlq as e where e.id = %s",
        (payload, entry_id),
    ).fetchone()
    if row is None:
        raise DlqctlError(f"entry {entry_id} is gone meanwhile", "dlqctl list")
    before, raw, after = row
    old = before.splitlines() if before is not None else [f"({raw} bytes that are not JSON)"]
    return list(unified_diff(old, after.splitlines(), "payload", "amended", lineterm=""))


def amend(connection: psycopg.Connection, entry_id: UUID, payload: str, reason: str) -> bool:
    """Replace an entry's payload by another, JSON text. Return whether it could be."""
    row = connection.execute("select dlq.amend(%s, %s::jsonb, %s)", (entry_id, payload, reason)).fetchone()
    return bool(row and row[0])


def erase(connection: psycopg.Connection, phone_number: str, reason: str, *, dry_run: bool = False) -> dict[str, int]:
    """Erase what is kept of a phone number, and return how much of what. dry_run: and roll it back again."""
    with connection.transaction(force_rollback=dry_run):
        row = connection.execute("select dlq.erase(%s, %s)", (phone_number, reason)).fetchone()
    assert row is not None
    return dict(row[0])
