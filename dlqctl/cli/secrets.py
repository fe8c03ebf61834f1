"""The secrets that sign and let in."""

from __future__ import annotations

import click

from dlqctl.cli.root import Lines, connect, database, output_format
from dlqctl.errors import DlqctlError


@click.group(cls=Lines)
def secrets() -> None:
    """What retries are signed with, and what proves that a webhook is genuine."""


@secrets.command("list")
@output_format
@database
def secrets_list(dsn: str | None, output_format: str) -> None:
    """List the secrets by name, whether each is there, and the endpoints that use it. Exit 1 if one is missing."""
    from dlqctl.output import print_rows

    with connect(dsn) as connection:
        rows = connection.execute("select name, is_there, used_by from dlq.list_secrets()").fetchall()
    if output_format == "table":
        rows = [(name, is_there, ", ".join(used_by)) for name, is_there, used_by in rows]
    print_rows(("name", "is_there", "used_by"), rows, output_format)
    raise SystemExit(0 if all(is_there for _, is_there, _ in rows) else 1)


@secrets.command("set")
@click.argument("name")
@database
def secrets_set(dsn: str | None, name: str) -> None:
    """Keep a secret as NAME. Its value is asked for, or read from stdin: never given as an argument."""
    from dlqctl import secrets as module
    from dlqctl.output import say

    value = module.ask_for(name)
    with connect(dsn) as connection:
        module.set_secret(connection, name, value)
    say(f"set: {name}")


@secrets.command("remove")
@click.argument("name")
@database
def secrets_remove(dsn: str | None, name: str) -> None:
    """Forget the secret NAME. Endpoints that use it wait until there is one again."""
    from dlqctl.output import say

    with connect(dsn) as connection:
        row = connection.execute("select dlq.remove_secret(%s)", (name,)).fetchone()
    if not (row and row[0]):
        raise DlqctlError(f"there is no secret {name} in dlq.secrets", "dlqctl secrets list")
    say(f"removed: {name}")
