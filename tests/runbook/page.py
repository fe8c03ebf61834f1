"""The runbook as tests see it: a section for each line of health, in four parts, with blocks to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from dlqctl.bundle import ROOT

PAGE = ROOT / "docs" / "runbook.md"
PARTS = ("Means", "Look", "Do", "Over when")
FIRST = "First"  # the section that is about all of them

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_PART = re.compile(rf"^\*\*({'|'.join(PARTS)})\b", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block of a section, `part` being one of PARTS, or empty before the first."""

    section: str
    part: str
    language: str
    text: str

    @property
    def as_superuser(self) -> bool:
        return self.text.startswith("-- as a superuser")

    def commands(self) -> Iterator[tuple[list[str], str | None]]:
        """The words of each command of a shell block, and the file that it reads."""
        for line in self.text.splitlines():
            words = shlex.split(line)
            yield (words[:-2], words[-1]) if "<" in words else (words, None)


def sections() -> dict[str, str]:
    """The text of each section, by its heading."""
    _, *found = re.split(r"^## (.+)\n", PAGE.read_text(), flags=re.M)
    return dict(zip(found[::2], found[1::2], strict=True))


def parts(text: str) -> list[str]:
    """The parts of a section, in their order."""
    return _PART.findall(text)


def blocks(section: str) -> list[Block]:
    """The blocks of a section."""
    text = sections()[section]
    return [Block(section, (["", *parts(text[: m.start()])])[-1], m[1], m[2]) for m in _BLOCK.finditer(text)]
