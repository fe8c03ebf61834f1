"""The pictures in these pages: `make pictures`. Each is of the real thing, after a minute of real retries.

A throw-away server, handlers that take, fail and refuse, and the engine itself; then what a terminal (tmux) shows of
`dlqctl`, and what Prometheus, which scrapes it with the files of monitoring/, shows in a browser (chromium).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from rich.console import Console
from rich.text import Text

from dlqctl.bundle import ROOT
from dlqctl.receiver import Behaviour, Receiver, always, fail_first, ok
from dlqctl.sandbox import Sandbox, command_env, sandbox
from tests.monitoring import scraping

PICTURES = ROOT / "docs" / "pictures"
WIDTH = 96
SERVICES: dict[str, tuple[Behaviour, int]] = {
    "whatsapp": (ok(), 40),
    "payments": (fail_first(1), 30),
    "orders": (always(503), 60),
    "crm": (always(410), 12),
    "shipping": (ok(), 8),
}
FONT_FACE = re.compile(r"\s*@font-face \{.*?\}", re.S)


def main() -> int:
    PICTURES.mkdir(exist_ok=True)
    with sandbox(net_worker=True) as box, Receiver() as receiver, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dlqctl").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dlqctl "$@"\n')
        (folder / "dlqctl").chmod(0o755)
        with scraping(box, folder) as url, psycopg.connect(box.dsn, autocommit=True) as conn:
            _retry_for_a_minute(conn, receiver)
            _terminal(box, folder, "health", "dlqctl health")
            _terminal(box, folder, "watch", "dlqctl health --watch", ends=False)
            _browser("prometheus", f"{url}/graph?g0.expr=dlq_entries_pending&g0.tab=0&g0.range_input=75s", 1100, 890)
            _browser("alerts", f"{url}/classic/alerts", 1100, 840)  # where Debian's has it
    return 0


def _retry_for_a_minute(conn: psycopg.Connection, receiver: Receiver) -> None:
    conn.execute("update dlq.settings set cycle_budget = '10 seconds'")
    for service, (behaviour, entries) in SERVICES.items():
        receiver.behave(service, behaviour)
        conn.execute(
            "select dlq.set_endpoint(%s, %s, allow_http => true, allow_private => true,"
            " retry_schedule => '{8 s,20 s,1 h}')",
            (service, receiver.url(service)),
        )
        conn.execute(
            "insert into webhook_dlq (service, payload, next_retry_at)"
            " select %s, jsonb_build_object('n', n), now() + n * interval '0.7 s' from generate_series(1, %s) as n",
            (service, entries),
        )
    conn.execute("insert into webhook_dlq (service, payload) values ('legacy', '1'), ('legacy', '2')")
    conn.execute("select dlq.pause('the carrier moves house', 'shipping')")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        conn.execute("call dlq.run_cycle()")


def _terminal(box: Sandbox, folder: Path, name: str, command: str, *, ends: bool = True) -> None:
    """Type a command into a terminal, and draw what stands there once it has ended, or after it has shown something."""
    tmux = ["tmux", "-L", f"pictures-{os.getpid()}", "-f", "/dev/null"]
    path = f"{folder}:{os.environ['PATH']}"
    env = command_env(box) | {"TERM": "xterm-256color", "PATH": path, "PYTHONPATH": str(ROOT)}
    shell = "exec env PS1='$ ' bash --norc"
    subprocess.run([*tmux, "new-session", "-d", "-x", str(WIDTH), "-y", "50", shell], env=env, check=True)
    try:

        def capture() -> str:
            return subprocess.check_output([*tmux, "capture-pane", "-e", "-p"], text=True).rstrip()

        _until(lambda: capture() == "$")
        subprocess.run([*tmux, "send-keys", command, "Enter"], check=True)
        _until(lambda: capture().endswith("\n$") if ends else capture().count("\n") > 12)
        shown = capture().removesuffix("\n$")
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.from_ansi(shown))
    svg = console.export_svg(title="dlqctl", unique_id=name)
    (PICTURES / f"{name}.svg").write_text(FONT_FACE.sub("", svg))


def _browser(name: str, url: str, width: int, height: int) -> None:
    """Draw a page once it has had ten seconds to draw itself."""
    words = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=10000"]
    words += [f"--screenshot={PICTURES / name}.png", f"--window-size={width},{height}", url]
    subprocess.run(words, check=True, capture_output=True, timeout=120)


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, "the terminal does not show it"
        time.sleep(0.1)


if __name__ == "__main__":
    raise SystemExit(main())
