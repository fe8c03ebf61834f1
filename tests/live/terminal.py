"""A command in a real terminal: what it shows, what is typed into it, how it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence

_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9])")


class Terminal:
    """A process whose terminal this is. `shown` is all that it has written, without escape sequences."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self._raw = b""

    @property
    def raw(self) -> str:
        return self._raw.decode(errors="backslashreplace")

    @property
    def shown(self) -> str:
        return _ESCAPES.sub("", self.raw).replace("\r\n", "\n").replace("\r", "\n")

    def wait_for(self, pattern: str, *, after: int = 0, seconds: float = 30) -> int:
        """Wait until it shows this, and return where in `shown` that ends."""
        deadline = time.monotonic() + seconds
        while (found := re.compile(pattern).search(self.shown, after)) is None:
            assert self._read(deadline - time.monotonic()), f"{pattern} was not shown: {self.shown}"
        return found.end()

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def interrupt(self) -> int:
        """Type Ctrl-C until the process has ended, and return its exit status.

        One that comes between the question and Python's read of the answer, which no person is quick enough for,
        is noticed only with the next.
        """
        for _ in range(10):
            self.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.end(2)
        raise AssertionError(f"Ctrl-C does not end it: {self.shown}")

    def end(self, seconds: float = 30) -> int:
        """Wait until the process has ended, and return its exit status."""
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not select.select([self._master], [], [], 0.1)[0]:
            if time.monotonic() > deadline or self.process.poll() is not None:
                return False
        try:
            read = os.read(self._master, 65536)
        except OSError:  # nobody has the other end open any more
            return False
        self._raw += read
        return bool(read)


@contextlib.contextmanager
def terminal(
    words: Sequence[str],
    env: Mapping[str, str],
    *,
    columns: int = 80,
    lines: int = 24,
    no_color: bool = False,
    term: str = "xterm",
) -> Iterator[Terminal]:
    """Run `dlqctl WORDS` in a terminal of this size until the block ends."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    name = os.ttyname(slave)
    env = {key: value for key, value in env.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")} | {"TERM": term}
    env |= {"NO_COLOR": "1"} if no_color else {}
    # Whoever leads a session and opens a terminal has its Ctrl-C sent to it.
    command = ["sh", "-c", f'exec "$@" <{name} >{name} 2>&1', "sh", sys.executable, "-m", "dlqctl", *words]
    process = subprocess.Popen(command, env=env, start_new_session=True)
    shown = Terminal(master, process)
    try:
        yield shown
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        os.close(slave)  # kept open meanwhile: what is written last is lost with the last who has it open
        os.close(master)
