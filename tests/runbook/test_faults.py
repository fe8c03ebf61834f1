"""docs/faults.md: what sees each fault. The table is what the tests do, and names every fault that a storm has."""

from __future__ import annotations

import re

import pytest

from dlqctl.bundle import ROOT
from tests.faults.heals import HEALS
from tests.faults.storm import WEIGHTS
from tests.runbook.cases import CASES
from tests.runbook.page import sections

_PAGE = ROOT / "docs" / "faults.md"

pytestmark = pytest.mark.skipif(not _PAGE.exists(), reason="not in a checkout")

# What other tests cause, since it needs a server or a time of its own: what sees it, after how long, and the test.
_HERE, _STORM = "tests/runbook/test_sections.py", "tests/faults/test_storm.py"
_BY_A_PERSON = ("nobody: a person did it, and it is in `dlq.audit_log`", "", "tests/db/test_audit.py")
ELSEWHERE = {
    "the server cannot be reached": ("`dlqctl health` exits 3", "at once", "tests/live/test_cli.py"),
    "a table is locked against reading": (
        "`dlqctl health` says whose lock it is",
        "at once",
        "tests/live/test_health.py",
    ),
    "a standby is asked": ("[server](runbook.md#server)", "at once", _HERE),
    "the head of pg_net's queue is bad": ("[answers](runbook.md#answers)", "5 minutes", _HERE),
    "the disk is full": ("[processor](runbook.md#processor), if it lasts", "10 minutes", _STORM),
    "the disk is full for WAL": ("the server falls, and is back once there is room", "", _STORM),
    "entries are made due": _BY_A_PERSON,
    "entries are discarded": _BY_A_PERSON,
    "two of everything at once": (
        "heals by itself: each is delivered once",
        "",
        "tests/faults/test_two_of_everything.py",
    ),
    "a promoted standby": ("heals by itself: unanswered, then delivered", "the next run", "tests/live/test_standby.py"),
    "a function of ours is changed by hand": (
        "`dlqctl migrate --check` exits 1",
        "at once",
        "tests/migration/test_repair.py",
    ),
}


def expected() -> dict[str, tuple[str, str]]:
    """What the table must say of each fault."""
    rows = {fault: (sees, after) for fault, (sees, after, _) in ELSEWHERE.items()}
    for case in CASES:
        anchor = case.section.replace(" ", "-")
        rows[case.fault] = (f"[{case.section}](runbook.md#{anchor}), {case.level}", case.within)
    for heal in HEALS:
        rows[heal.fault] = (f"heals by itself: {heal.left[0]}", "the next run")
    return rows


def test_the_table_is_what_the_tests_do() -> None:
    rows = [
        tuple(map(str.strip, line.strip("|").split("|")))
        for line in _PAGE.read_text().splitlines()
        if line.startswith("|")
    ]
    assert {row[0]: row[1:] for row in rows[2:]} == expected()


def test_every_fault_of_the_storm_is_in_it() -> None:
    assert [kind for kind in WEIGHTS if not any(fault.startswith(kind) for fault in _words())] == []


def test_what_is_shown_elsewhere_is_there() -> None:
    assert [test for *_, test in ELSEWHERE.values() if not (ROOT / test).exists()] == []


def test_every_section_sees_something() -> None:
    seen = set(re.findall(r"runbook\.md#([\w-]+)", _PAGE.read_text()))
    assert {name.replace(" ", "-") for name in sections()} - seen == {"First"}


def _words() -> list[str]:
    return [fault.replace("pg_net's queue", "the queue") for fault in expected()]
