"""Secrets on their way into the database: by a road that the server's log does not record."""

from __future__ import annotations

import sys

import psycopg

from dlqctl.errors import DlqctlError, UsageError


def ask_for(name: str) -> str:
    """Return a secret's value: asked for without an echo, or all of stdin, without the line's end, in UTF-8.

    Raises UsageError if that is not text.
    """
    import click

    if sys.stdin.isatty():
        return str(click.prompt(name, hide_input=True, err=True))
    try:
        value = sys.stdin.buffer.read().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        value = "\0"
    if "\0" in value:
        raise UsageError("the value on stdin is not text in UTF-8", "keep bytes in base64 or hexadecimal")
    return value


def set_secret(connection: psycopg.Connection, name: str, value: str) -> None:
    """Keep a secret under a name: dlq.set_secret(), with the value sent as COPY's data.

    With log_statement or log_min_duration_statement the server writes the text of statements and what is bound to them
    into its log, and only a superuser can switch that off; what is copied in it does not write. Raises psycopg.Error
    (WD002: no value, or not a name), and DlqctlError if the role may not make the temporary table for it.
    """
    with connection.transaction():
        try:
            connection.execute("create temporary table dlqctl_secret (value text) on commit drop")
        except psycopg.errors.InsufficientPrivilege as error:
            raise DlqctlError(
                f"{error.diag.message_primary}: a secret goes through one, so that no log has it",
                f"grant temporary on database {connection.info.dbname} to {connection.info.user}",
            ) from error
        with connection.cursor().copy("copy pg_temp.dlqctl_secret from stdin") as copy:
            copy.write_row((value,))
        connection.execute("select dlq.set_secret(%s, (select s.value from pg_temp.dlqctl_secret as s))", (name,))
