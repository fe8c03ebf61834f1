"""Every section of the runbook mends what it is about: the state is caused, looked at and mended by the page's own commands."""

from __future__ import annotations

import pytest

from tests.runbook.cases import CASES, Case, given_up
from tests.runbook.desk import Desk
from tests.runbook.page import FIRST, PAGE, Block, blocks, sections

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="not in a checkout")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_section_mends_what_it_is_about(desk: Desk, case: Case) -> None:
    case.cause(desk)
    level, detail = desk.line(case.line, case.user)
    assert level == case.level, detail
    assert case.says in detail

    found = blocks(case.section)
    for block in found:
        if block.part == "Look":
            desk.type_(block, case.typist)
    case.then(desk)
    for what in case.do:
        for block in picked(found, what):
            desk.type_(block, case.typist)
    case.after(desk)

    desk.until(lambda: desk.line(case.line, case.user)[0] == "ok")


def test_what_is_typed_first_answers_when_something_is_wrong(desk: Desk) -> None:
    given_up(11)(desk)
    for block in blocks(FIRST):
        desk.type_(block)


def picked(found: list[Block], what: str) -> list[Block]:
    chosen = [block for block in found if block.part == "Do" and what in block.text]
    assert chosen, f"no block to do contains {what}"
    return chosen


def test_every_block_of_a_section_is_typed() -> None:
    untyped = []
    for section in sections():
        chosen = [block for case in CASES if case.section == section for what in case.do for block in picked(blocks(section), what)]
        looks = any(case.section == section for case in CASES) or section == FIRST
        untyped += [b.text for b in blocks(section) if b not in chosen and not (looks and b.part in ("", "Look"))]
    assert untyped == []
