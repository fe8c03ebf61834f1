"""How adoption is run in these tests, and what they look at."""

from __future__ import annotations

import re

import psycopg
from psycopg.conninfo import make_conninfo

from tests.migration.migrating import Outcome, dump, run

WORDS = ("--no-cron", "--net-worker")


def adopt(dsn: str, *words: str) -> Outcome:
    """Run adopt without asking, where there is neither pg_cron nor pg_net."""
    return run("--dsn", dsn, "adopt", "--yes", *WORDS, *words)


def adopted(dsn: str, *words: str) -> Outcome:
    """The same, and see that all went well, and that migrate finds nothing to do."""
    outcome = adopt(dsn, *words)
    assert outcome.code == 0, outcome
    assert run("--dsn", dsn, "migrate", "--check", "--no-cron").err == "nothing differs\n"
    return outcome


def refused(dsn: str, *words: str) -> Outcome:
    """Run adopt where it must refuse, with and without --check, and see that it has changed nothing."""
    before = dump(make_conninfo(dsn, user="postgres"))
    outcome = adopt(dsn, *words)
    assert outcome.code == 1, outcome
    assert adopt(dsn, "--check", *words) == outcome
    assert dump(make_conninfo(dsn, user="postgres")) == before
    return outcome


def flat(outcome: Outcome) -> str:
    """What was said, without the line breaks for a narrow terminal."""
    return re.sub(r"\s+", " ", outcome.out + outcome.err)


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query.encode()).fetchall()
