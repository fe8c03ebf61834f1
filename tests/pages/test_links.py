"""What the pages, the hints and the remediations name is there: pages, sections, commands, options, objects."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import psycopg
import pytest

from dlqctl.bundle import ROOT, SQL
from dlqctl.cli import cli
from tests.pages.pages import IS_CHECKOUT, anchors, blocks, commands, inline_code, links, pages

pytestmark = pytest.mark.skipif(not IS_CHECKOUT, reason="not in a checkout")

PAGES = pytest.mark.parametrize("page", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())


def missing(target: str, folder: Path) -> str | None:
    """What is not there of a path with, perhaps, a section."""
    name, _, section = target.partition("#")
    path = (folder / name).resolve() if name else folder
    if not path.exists():
        return f"{target}: no such file"
    return f"{target}: no such section" if section and section not in anchors(path) else None


@PAGES
def test_every_link_and_its_section_is_there(page: Path) -> None:
    found = [missing(page.name + link if link.startswith("#") else link, page.parent) for link in links(page)]
    assert [words for words in found if words] == []


def test_every_page_that_hints_and_remediations_name_is_there() -> None:
    named = {
        (path.relative_to(ROOT).as_posix(), target)
        for folder in (SQL, ROOT / "dlqctl")
        for path in folder.rglob("*.*")
        if path.suffix in (".sql", ".py")
        for target in re.findall(r"\bdocs/[\w-]+\.\w+(?:#[\w-]+)?", path.read_text())
    }
    assert named, "or this looks for something else than they say"
    assert [(path, words) for path, target in sorted(named) if (words := missing(target, ROOT))] == []


def test_every_error_of_ours_has_a_section() -> None:
    raised = {code for path in SQL.rglob("*.sql") for code in re.findall(r"errcode = '(WD\d+)'", path.read_text())}
    assert raised == {name.upper() for name in anchors(ROOT / "docs/errors.md") if name.startswith("wd")}


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs/README.md"
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {*links(index)} == {"README.md"}


@PAGES
def test_every_command_that_is_named_is_one(page: Path) -> None:
    typed = [code for code in inline_code(page) if code.startswith("dlqctl ")]
    typed += [c for b in blocks(page) if b.language == "sh" for c in commands(b.text) if c.startswith("dlqctl ")]
    assert [found for command in typed if (found := unknown(command))] == []


def unknown(command: str) -> str | None:
    """What of a command's words is neither a command nor an option of it."""
    words = shlex.split(command.replace("…", "").partition(" << ")[0], comments=True)[1:]
    current: click.Command = cli
    options = {"-h", "--help"}
    while True:
        options |= {name for option in current.params for name in (*option.opts, *option.secondary_opts)}
        if not words or not isinstance(current, click.Group) or words[0].startswith("-") or words[0].isupper():
            break
        found = current.commands.get(words.pop(0))
        if found is None:
            return f"{command}: no such command"
        current = found
    if current.name == "sandbox":
        return None
    given = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]
    strange = [option for option in given if option not in options]
    return f"{command}: {strange}" if strange else None


def test_every_object_that_the_pages_name_is_there(database: str) -> None:
    """`dlq.name`, with its column perhaps, and `dlq.name(…)`."""
    named = {
        (page.name, name)
        for page in pages()
        if page.name != "CHANGELOG.md"  # which tells what was
        for code in (*inline_code(page), *(block.text for block in blocks(page) if block.language == "sql"))
        for name in re.findall(r"(?<![\w.@/'])dlq\.\w+(?:\.\w+)?\b", code)
    }
    with psycopg.connect(database) as conn:
        known = {
            name
            for (name,) in conn.execute(
                """
                select 'dlq.' || c.relname from pg_class as c where c.relnamespace = 'dlq'::regnamespace
                union select 'dlq.' || p.proname from pg_proc as p where p.pronamespace = 'dlq'::regnamespace
                union select 'dlq.' || c.relname || '.' || a.attname
                from pg_class as c join pg_attribute as a on a.attrelid = c.oid
                where c.relnamespace = 'dlq'::regnamespace and a.attnum > 0
                """
            )
        }
    # An adoption makes them, and they go with the old tables.
    known |= {"dlq.adoption", "dlq.adoption_left"}
    known |= {"dlq.alert.raised"}  # what the body of an alert says it is
    assert sorted(name for name in named if name[1] not in known) == []
