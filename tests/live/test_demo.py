"""The demo: it ends by itself, it adds up, and whatever ends it early leaves nothing behind.

It is slow, since it waits for full minutes: one run serves all tests that read its words.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dlqctl.cluster import find_server
from dlqctl.demo import Run, Tally, add, find_faults, seconds_to_next, summary

COMMAND = [sys.executable, "-m", "dlqctl", "demo"]
LAST_LINE = re.compile(
    r"demo: stored=(\d+) reprocessed=(\d+) failed=(\d+) waiting=(\d+) receiver=(\d+) cron_runs=(\d+)"
)


@dataclass(frozen=True)
class Finished:
    """What a run of the demo left: its words, and how it ended."""

    stdout: str
    stderr: str
    exit_code: int
    seconds: float

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    @property
    def words(self) -> str:
        return " ".join(self.stdout.split())

    @property
    def counts(self) -> tuple[int, ...]:
        match = LAST_LINE.fullmatch(self.lines[-1])
        assert match, self.stdout
        return tuple(map(int, match.groups()))


@pytest.fixture(scope="module")
def finished() -> Finished:
    began = time.monotonic()
    demo = subprocess.run(COMMAND, capture_output=True, text=True, timeout=300)
    return Finished(demo.stdout, demo.stderr, demo.returncode, time.monotonic() - began)


def test_it_ends_well_and_in_under_four_minutes(finished: Finished) -> None:
    assert (finished.exit_code, finished.stderr) == (0, ""), finished.stdout
    assert finished.seconds < 240


def test_its_last_line_adds_up(finished: Finished) -> None:
    stored, reprocessed, failed, waiting, receiver, cron_runs = finished.counts
    assert stored == 200 == reprocessed + failed + waiting
    assert receiver >= reprocessed > 0
    assert cron_runs >= 2 if find_server().has_pg_cron else cron_runs == 0


def test_each_service_ends_as_its_handler_lets_it(finished: Finished) -> None:
    rows = {cells[0]: tuple(map(int, cells[1:])) for line in finished.lines if (cells := line.split())[1:2] == ["25"]}
    delivered, refused, waiting = (25, 25, 0, 0), (25, 0, 25, 0), (25, 0, 0, 25)
    assert {service: row[:4] for service, row in rows.items()} == {
        **dict.fromkeys(["whatsapp", "payments", "orders", "shipping", "search"], delivered),
        **dict.fromkeys(["billing", "audit"], refused),
        "crm": waiting,
    }
    taken = {service: row[5] for service, row in rows.items()}
    assert taken == {service: row[1] for service, row in rows.items()}


def test_it_says_what_is_not_as_in_real_life(finished: Finished) -> None:
    assert "The schedule is shortened so that you can watch" in finished.words
    binaries = find_server()
    assert ("pg_cron is missing" in finished.words) is not binaries.has_pg_cron
    assert ("pg_net is missing" in finished.words) is not binaries.has_pg_net


def test_in_a_pipe_it_is_plain_lines_of_80_columns(finished: Finished) -> None:
    assert finished.stdout.isascii()
    assert "\x1b" not in finished.stdout
    assert max(map(len, finished.lines)) <= 80
    seconds = [int(line.split()[0]) for line in finished.lines if " pending " in line]
    assert len(seconds) == len(set(seconds)) >= 5, "one a second at most"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for temporary files that the server's user may enter, with a path short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="demo-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def start(folder: Path) -> subprocess.Popen[str]:
    """Start the demo, its temporary files in `folder`, and return when it has begun to watch."""
    demo = subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)}
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if " pending " in line:
            return demo
    raise AssertionError(demo.communicate()[1])


def nothing_is_left(folder: Path) -> bool:
    """Whether the folder is empty, and no process has to do with it."""
    named = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder) in _read(path)]
    return not named and not list(folder.iterdir())


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "SIGTERM"])
def test_stopped_it_leaves_nothing(folder: Path, signum: signal.Signals) -> None:
    with start(folder) as demo:
        assert not nothing_is_left(folder)
        demo.send_signal(signum)
        _, stderr = demo.communicate(timeout=30)
    assert (demo.returncode, stderr.strip()) == (130, "dlqctl: stopped")
    assert nothing_is_left(folder)


def test_when_nobody_reads_on_it_ends_in_silence(folder: Path) -> None:
    with start(folder) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        demo.stdout.close()
        demo.wait(timeout=60)  # it notices with its next line
        assert demo.stderr.read() == ""
    assert nothing_is_left(folder)


GOOD = Tally(stored=200, pending=25, reprocessed=125, failed=50, waiting=25)


def test_what_adds_up_has_no_faults() -> None:
    assert find_faults(GOOD, ["a", "b"], {"a", "b", "taken, and the answer was lost"}, 2, None) == []


@pytest.mark.parametrize(
    ("total", "taken", "runs", "error", "words"),
    [
        (replace(GOOD, stored=201, failed=51), {"a", "b"}, 2, None, "201 are stored"),
        (replace(GOOD, failed=49), {"a", "b"}, 2, None, "199 reprocessed, failed or waiting"),
        (replace(GOOD, reprocessed=0, failed=175), {"a", "b"}, 2, None, "None was reprocessed"),
        (GOOD, {"a"}, 2, None, "the receiver never took: b"),
        (GOOD, {"a", "b"}, 1, None, "fewer than two times: 1"),
        (GOOD, {"a", "b"}, 2, "58P01 no such file", "58P01 no such file"),
    ],
)
def test_what_does_not_add_up_is_named(total: Tally, taken: set[str], runs: int, error: str | None, words: str) -> None:
    (fault,) = find_faults(total, ["a", "b"], taken, runs, error)
    assert words in fault


def test_tallies_add_up_column_by_column() -> None:
    tallies = {"a": Tally(1, 2, 3, 4, 5, 6, 7, 8), "b": Tally(10, 20, 30, 40, 50, 60, 70, 80)}
    assert add(tallies) == Tally(11, 22, 33, 44, 55, 66, 77, 88)
    assert add({}) == Tally()


@pytest.mark.parametrize("width", [80, 40])
def test_the_summary_fits(width: int) -> None:
    lines = summary({"whatsapp": GOOD, "crm": Tally()}, {"whatsapp": {"requests": 1234, "accepted": 125}}, width)
    assert max(map(len, lines)) <= width
    assert [line.split() for line in lines[1:]] == [
        ["whatsapp", "200", "125", "50", "25", "1234", "125"],
        ["crm", "0", "0", "0", "0", "0", "0"],
    ]


@pytest.mark.parametrize(("now", "every", "seconds"), [(119.5, 60, 0.5), (120, 60, 60), (121, 20, 19)])
def test_runs_begin_at_whole_multiples(now: float, every: int, seconds: float) -> None:
    assert seconds_to_next(now, every) == seconds
    assert Run(runs=1, status="running").next(every) == "under way"
