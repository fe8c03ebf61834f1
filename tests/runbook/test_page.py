"""The runbook has a section for each line that can be red, and for nothing else."""

from __future__ import annotations

import psycopg
import pytest

from tests.runbook.page import FIRST, PAGE, PARTS, parts, sections

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="not in a checkout")

# Lines of the schedule whose name goes on with a job's or a role's.
_NAMED = ("job", "owner", "last run")


def test_every_line_has_a_section_and_every_section_is_of_a_line(conn: psycopg.Connection) -> None:
    lines = {name for (name,) in conn.execute("select name from dlq.health")}
    source = str((conn.execute("select prosrc from pg_proc where proname = 'cron_checks'").fetchone() or ("",))[0])
    schedule = {name for name in ("extension", "database", *_NAMED) if f"'{name}" in source}

    assert set(sections()) - {FIRST} == lines | schedule


def test_the_runbook_of_every_rule_is_a_section(conn: psycopg.Connection) -> None:
    places: dict[str, str] = dict(conn.execute("select name, runbook from dlq.alert_rules").fetchall())
    assert places == {name: f"docs/runbook.md#{name}" for name in places}
    assert set(places) <= set(sections())


@pytest.mark.parametrize("section", [section for section in (sections() if PAGE.exists() else ()) if section != FIRST])
def test_every_section_says_what_it_means_how_to_look_what_to_do_and_when_it_is_over(section: str) -> None:
    assert tuple(parts(sections()[section])) == PARTS
