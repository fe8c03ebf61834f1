"""A stranger's function or operator that stands in front of pg_catalog's is called by no command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.migration.migrating import run
from tests.security.test_shadowing import _OPERATORS, _TYPES, _lay

# What our questions call that pg_catalog has for any type, for the types that they give it: these match better.
_BETTER = {
    "unnest(uuid[])": "setof uuid", "unnest(text[])": "setof text", "cardinality(interval[])": "integer",
    "cardinality(text[])": "integer", "format(text, text)": "text", "format(text, integer)": "text",
    "format(text, text, text)": "text", "to_jsonb(text)": "jsonb",
}  # fmt: skip
# And what it has for the same types.
_SAME = {
    "has_table_privilege(text, text)": "boolean", "count(bigint)": "bigint", "strpos(text, text)": "integer",
    "lower(text)": "text", "octet_length(bytea)": "integer", "jsonb_pretty(jsonb)": "text", "now()": "timestamptz",
    "regexp_replace(text, text, text, text)": "text", "to_regclass(text)": "regclass",
    "current_setting(text)": "text", "pg_is_in_recovery()": "boolean", "encode(bytea, text)": "text",
}  # fmt: skip


@pytest.fixture
def trapped(cluster: object, template: str, database: str) -> Iterator[tuple[str, str]]:
    """The DSN of somebody along whose search_path all of that comes first, and an entry that has failed."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("drop role if exists trapped")
        conn.execute("create role trapped login in role dlq_admin")
        conn.execute("create schema evil")
        conn.execute(
            "create function evil.sprung() returns boolean language plpgsql as $$ begin raise 'sprung'; end $$"
        )
        for signature, returned in (_BETTER | _SAME).items():
            conn.execute(
                f"create function evil.{signature} returns {returned} language plpgsql"
                f" as $$ begin perform evil.sprung(); return{'' if 'setof' in returned else ' null'}; end $$".encode()
            )
        assert _lay(conn, _OPERATORS.replace("TYPES", _TYPES)) > 100
        conn.execute("create view evil.pg_class as select * from pg_catalog.pg_class where evil.sprung()")
        conn.execute("grant usage on schema evil to public")
        conn.execute("grant select on evil.pg_class to public")
        row = conn.execute(
            "insert into webhook_dlq (service, payload, status, phone_number) values"
            " ('shop', '{}', 'failed', '+15550100123') returning id::text"
        ).fetchone()
        assert row is not None
        conn.execute("alter role trapped set search_path = evil, pg_catalog, public, dlq")
    yield make_conninfo(database, user="trapped"), str(row[0])
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("drop owned by trapped")
        conn.execute("drop role trapped")


def test_the_trap_springs_for_whoever_looks_along_that_path(trapped: tuple[str, str]) -> None:
    """Else the next test would show nothing."""
    dsn, _ = trapped
    for query in ("select unnest('{a}'::text[])", "select 1 = 1", "select lower('A'::text)", "select from pg_class"):
        with psycopg.connect(dsn) as conn, pytest.raises(psycopg.errors.RaiseException, match="sprung"):
            conn.execute(query.encode()).fetchall()


def test_no_command_calls_what_is_a_strangers(trapped: tuple[str, str], tmp_path: Path) -> None:
    dsn, entry_id = trapped
    (tmp_path / "payload.json").write_text('{"a": 1}')
    why = ("--reason", "x")
    for words in (
        ("list",), ("verify-signatures",),
        ("list", "--payload", "--service", "shop", "--status", "failed", "--since", "2 hours", "--until", "0 s",
         "--error-text", "x", "--phone-number", "+15550100123", "--status-code", "500"),
        ("show", entry_id), ("show", entry_id[:13], "--payload"),
        ("endpoints", "set", "shop", "https://handler.example/", "--retry-schedule", "1 min,2 min"),
        ("endpoints", "list"), ("endpoints", "reset", "shop", *why),
        ("pause", "shop", *why, "--for", "1 hour"), ("resume", "shop", *why),
        ("retry", entry_id, *why), ("discard", entry_id, *why, "--yes"), ("redeliver", entry_id, *why),
        ("amend", entry_id, str(tmp_path / "payload.json"), *why, "--yes"),
        ("replay", "--check"), ("replay", "--status", "discarded", *why, "--yes", "--no-watch"), ("replay", "list"),
        ("replay", "continue", "1", "--no-watch"), ("replay", "cancel", "1", *why),
        ("erase", "+15550100123", *why, "--yes"),
        ("secrets", "list"), ("secrets", "remove", "NONE"), ("health",), ("verify-cron",), ("process",), ("maintain",),
        ("endpoints", "remove", "shop"),
    ):  # fmt: skip
        done = run("--dsn", dsn, *words)
        assert "sprung" not in done.err, (words, done.err)
        assert done.code in (0, 1), (words, done.err)
