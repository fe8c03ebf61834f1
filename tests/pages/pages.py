"""The pages of a checkout as tests see them: their blocks, commands, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlqctl.bundle import ROOT

IS_CHECKOUT = (ROOT / "docs").is_dir()  # a source distribution has no pages but README.md

_HIDDEN = re.compile(r"\.|(build|dist|node_modules)$")
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.M | re.S)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block. `where` is its page and section, as in docs/entries.md#replays."""

    page: str
    section: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}#{self.section}"

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page of the checkout, at its root or in a folder of it."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")] if IS_CHECKOUT else []
    return sorted(path for path in found if path.parent == ROOT or not _HIDDEN.match(path.parent.name))


def blocks(path: Path) -> list[Block]:
    """A page's blocks, except those of plain text."""
    text = path.read_text()
    found = []
    for match in _FENCE.finditer(text):
        before = _without_blocks(text[: match.start()])
        headings = re.findall(r"^#+ (.+)$", before, re.M)
        section = anchor(headings[-1]) if headings else ""
        line = text.count("\n", 0, match.start()) + 1
        body = re.sub(rf"^{match[1]}", "", match[3], flags=re.M)
        found.append(Block(_name(path), section, line, match[2], body))
    return [block for block in found if block.language != "text"]


def blocks_in(where: str, language: str) -> list[str]:
    """The texts of a page's blocks in a language, or those of one section of it."""
    page, _, section = where.partition("#")
    return [b.text for b in blocks(ROOT / page) if b.language == language and section in ("", b.section)]


def commands(text: str) -> Iterator[str]:
    """The commands of a shell block, each with the lines that belong to it. Comments are left out."""
    command, end = "", ""
    for line in text.splitlines(keepends=True):
        if not command and re.match(r"\s*(#|$)", line):
            continue
        command += line
        heredoc = re.search(r"<<-?\s*'?(\w+)'?", line)
        end = end or (heredoc[1] if heredoc else "")
        if line.endswith("\\\n") or (end and line.strip() != end):
            continue
        yield command
        command, end = "", ""


def anchors(path: Path) -> set[str]:
    """What a link to a page may have after its #."""
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", _without_blocks(path.read_text()), re.M)}


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading: its letters, digits, - and _, in lower case, blanks as dashes."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def links(path: Path) -> list[str]:
    """Where a page's links go, those to other hosts left out."""
    found = _LINK.findall(re.sub(r"`[^`\n]*`", "", _without_blocks(path.read_text())))
    return [link for link in found if not re.match(r"\w+:", link)]


def inline_code(path: Path) -> list[str]:
    """What stands between backticks in a page, blocks left out. A line break in it is a blank."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _without_blocks(path.read_text()))]


def _without_blocks(text: str) -> str:
    return _FENCE.sub("", text)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
