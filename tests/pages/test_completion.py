"""Completion as README.md sets it up, in the shells that are here, and what it completes in all three."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.pages.conftest import run
from tests.pages.pages import IS_CHECKOUT, blocks_in

SHELLS = ("bash", "zsh", "fish")
NOWHERE = {"DLQCTL_DATABASE_URL": "host=/nowhere", "HOME": "/"}


def completed(shell: str, typed: str, folder: Path) -> list[str]:
    """What is offered for the last word of a line; without a database."""
    *words, last = typed.split(" ")
    asked = {
        "bash": {"COMP_WORDS": typed, "COMP_CWORD": str(len(words))},
        "zsh": {"COMP_WORDS": typed, "COMP_CWORD": str(len(words))},
        "fish": {"COMP_WORDS": " ".join(words), "COMP_CWORD": last},
    }[shell]
    done = run("dlqctl", folder, {**NOWHERE, **asked, "_DLQCTL_COMPLETE": f"{shell}_complete"})
    assert (done.returncode, done.stderr) == (0, "")
    found = {
        "bash": re.findall(r"^plain,(.*)$", done.stdout, re.M),
        "zsh": done.stdout.splitlines()[1::3],  # its kind, itself, its help
        "fish": re.findall(r"^plain,(\S+)", done.stdout, re.M) or done.stdout.splitlines()[1::3],
    }
    return found[shell]


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_options_and_choices_are_completed(shell: str, tmp_path: Path) -> None:
    assert completed(shell, "dlqctl re", tmp_path) == ["retry", "redeliver", "replay", "resume"]
    assert completed(shell, "dlqctl endpoints re", tmp_path) == ["reset", "remove"]
    assert completed(shell, "dlqctl migrate --ch", tmp_path) == ["--check", "--change-sender"]
    assert completed(shell, "dlqctl list --status re", tmp_path) == ["reprocessed"]


@pytest.mark.skipif(not IS_CHECKOUT, reason="not in a checkout")
@pytest.mark.parametrize("shell", SHELLS)
def test_the_line_of_the_readme_sets_it_up(shell: str, tmp_path: Path) -> None:
    (block,) = blocks_in("README.md#completion", "sh")
    (line,) = (line for line in block.splitlines() if f"{shell}_source" in line)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = {
        "bash": f"{line}\ncomplete -p dlqctl",
        "zsh": f"zsh -fc 'autoload -Uz compinit && compinit -u -d {tmp_path}/dump; {line}; print $_comps[dlqctl]'",
        "fish": f"fish --no-config -c '{line}; complete -C \"dlqctl verify-c\"'",
    }[shell]
    done = run(script, tmp_path, {**NOWHERE, "HOME": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    assert "dlqctl" in done.stdout or "verify-cron" in done.stdout
