"""Every command, statement and program of every page is run as it stands there, or places.py says where, or why not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dlqctl.bundle import ROOT
from dlqctl.sandbox import command_env
from tests.pages import places
from tests.pages.conftest import Place, run
from tests.pages.pages import IS_CHECKOUT, Block, blocks, commands, pages

pytestmark = pytest.mark.skipif(not IS_CHECKOUT, reason="not in a checkout")

BLOCKS = [block for path in pages() for block in blocks(path)]


def names(block: Block) -> set[str]:
    """By what places.py may name a block."""
    wheres = (block.page, block.where)
    return {*wheres, *(f"{where} {block.language}" for where in wheres)}


def is_run_here(block: Block) -> bool:
    return not names(block) & (places.ELSEWHERE.keys() | places.NOT_RUN.keys())


@pytest.mark.parametrize("block", [block for block in BLOCKS if is_run_here(block)], ids=str)
def test_a_block_does_what_it_says(block: Block, place: Place, tmp_path: Path) -> None:
    assert block.language in RUN, "name it in tests/pages/places.py, with the test that runs it or why none does"
    for name, content in places.FILES.items():
        (tmp_path / name).write_text(content)
    place.fill()
    RUN[block.language](block, place, tmp_path)


def commands_are_typed(block: Block, place: Place, folder: Path) -> None:
    left = [c for c in commands(block.text) if not c.startswith(tuple(places.COMMANDS_NOT_RUN))]
    script = "".join(as_here(command, place) for command in left)

    done = run(script, folder, command_env(place.box))

    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"


def as_here(command: str, place: Place) -> str:
    """A command with its examples replaced by what is there."""
    for pattern, meant in places.IN_SHELL.items():
        command = re.sub(pattern, meant, command)
    command = command.replace("{handlers}", place.receiver.url(""))
    if "{replay}" in command:
        command = command.replace("{replay}", str(place.replay()))
    state = "reprocessed" if "dlqctl redeliver" in command else "failed"
    return re.sub(r"\bID\b", lambda _: place.entry(state), command)


def statements_are_run(block: Block, place: Place, folder: Path) -> None:
    """In one transaction that is rolled back; what is for psql, or commits by itself, as psql does it."""
    user = "postgres" if block.text.startswith(places.AS_SUPERUSER) else "oncall"
    if "cron." in block.text and not place.box.has_cron:
        pytest.skip("pg_cron is not installed")
    if not re.search(r"^(\\|call |begin\b|vacuum\b)", block.text, re.M):
        with psycopg.connect(place.box.cluster.dsn(user=user)) as conn:
            conn.execute(block.text.encode())
            conn.rollback()
        return
    if shutil.which("psql") is None:
        pytest.skip("psql is not installed")
    (folder / "block.sql").write_text(block.text)
    done = run(f"psql -qX -v ON_ERROR_STOP=1 -U {user} -f block.sql", folder, command_env(place.box))
    assert done.returncode == 0, done.stderr


def a_program_is_run(block: Block, place: Place, folder: Path) -> None:
    (folder / "block.py").write_text(block.text)
    done = run("python block.py", folder, command_env(place.box))
    assert done.returncode == 0, done.stderr


def a_document_is_read(block: Block, place: Place, folder: Path) -> None:
    json.loads(block.text)


RUN: dict[str, Callable[[Block, Place, Path], None]] = {
    "sh": commands_are_typed,
    "sql": statements_are_run,
    "python": a_program_is_run,
    "json": a_document_is_read,
}


def test_places_names_only_what_there_is() -> None:
    known = {name for block in BLOCKS for name in names(block)}
    assert {*places.ELSEWHERE, *places.NOT_RUN} - known == set()
    texts = [command for block in BLOCKS if block.language == "sh" for command in commands(block.text)]
    assert [start for start in places.COMMANDS_NOT_RUN if not any(t.startswith(start) for t in texts)] == []
    sql = [block.text for block in BLOCKS if block.language == "sql"]
    assert [start for start in places.AS_SUPERUSER if not any(t.startswith(start) for t in sql)] == []


@pytest.mark.parametrize(("where", "test"), places.ELSEWHERE.items())
def test_what_is_run_elsewhere_is_taken_from_the_page_there(where: str, test: str) -> None:
    page = where.partition(" ")[0].partition("#")[0]
    assert Path(page).name in (ROOT / test).read_text()
