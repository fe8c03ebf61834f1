"""What commands that change something share: why, whether to go on, and that it takes its time."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from dlqctl.errors import UsageError


def reason(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option --reason, which it needs."""

    def check(_: click.Context, parameter: click.Parameter, value: str) -> str:
        if not value.strip():
            raise click.BadParameter("it is empty", param=parameter)
        return value

    return click.option("--reason", required=True, callback=check, help="Why; it goes into dlq.audit_log.")(command)


yes = click.option("--yes", is_flag=True, help="Do not ask.")


def ask(question: str) -> None:
    """Ask the person. Raises Abort if the answer is no, UsageError if there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nobody can be asked here, and nothing was changed", "the same with --yes")
    click.confirm(question, abort=True, err=True)


@contextlib.contextmanager
def waiting(words: str) -> Iterator[Callable[[str], None]]:
    """Show, on a terminal, that something takes its time, once it has taken a second. A dumb one is told once.

    Yields what replaces the words by others, such as how far it is; not to a terminal it says them in a line.
    """
    if not sys.stderr.isatty():
        yield lambda other: click.echo(other, err=True)
        return
    from threading import Timer

    shown: list[Any] = []

    def change(other: str) -> None:
        nonlocal words
        words = other
        if not shown:
            return
        shown[0].update(words)

    def begin() -> None:
        if os.environ.get("TERM") == "dumb":
            click.echo(words, err=True)
            return
        from rich.console import Console

        status = Console(stderr=True).status(words)
        shown.append(status)
        status.start()

    timer = Timer(1, begin)
    timer.daemon = True
    timer.start()
    try:
        yield change
    finally:
        timer.cancel()
        timer.join()
        for status in shown:
            status.stop()
