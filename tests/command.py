"""`dlqctl` in this process, as in a pipe: what another start of Python would prove is proved elsewhere.

What only a process has (a terminal, signals, a locale, memory, what is loaded) is tested with one; and in
tests/live/test_cli.py every command line is.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from unittest.mock import patch

from dlqctl import cli


def dlqctl(
    *words: str, stdin: str | bytes | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line with this environment and standard input (ours), and return what a process would."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    file = sys.stdin if given is None else io.TextIOWrapper(io.BytesIO(given), "utf-8")
    with (
        patch.object(sys, "argv", ["dlqctl", *words]),
        patch.object(sys, "stdin", file),
        patch.dict(os.environ, {"COLUMNS": "80", "LINES": "24", **(os.environ if env is None else env)}, clear=True),
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")) as out,
        contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO(), "utf-8")) as err,
    ):
        code = _exit_code()
        said = [_text(stream) for stream in (out, err)]
    return subprocess.CompletedProcess(["dlqctl", *words], code, *said)


def _exit_code() -> int:
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()
