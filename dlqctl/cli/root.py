"""The root of the command line: its options, what commands share, and how errors are told."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dlqctl import __version__
from dlqctl.errors import CannotConnect, DlqctlError, is_interrupted

if TYPE_CHECKING:
    import psycopg

_WIDEST = 100
_FORMATS = click.Choice(["table", "json", "csv"])


class Lines(click.Group):
    """Commands in the order in which a person meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What each does, in its first sentence, whole."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=200)) for name, command in self.commands.items()]
            )


class _Help(click.HelpFormatter):
    """Help for narrow terminals too: what an option does stands under it, where click would give that ten columns."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        if self.width >= 60:
            super().write_dl(rows, col_max, col_spacing)
            return
        for term, does in rows:
            self.write_text(term)
            if does:
                with self.indentation():
                    self.write_text(does)


click.Context.formatter_class = _Help


class _PipeClosed(Exception):
    """Whoever reads our output has seen enough. Not a BrokenPipeError, which click would make an exit status of 1."""


class _Dlqctl(Lines):
    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        options.setdefault("terminal_width", min(shutil.get_terminal_size((80, 24)).columns, _WIDEST) - 2)
        try:
            return super().make_context(*arguments, **options)
        except BrokenPipeError as error:
            raise _PipeClosed from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _PipeClosed from error


@click.group(cls=_Dlqctl, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDEST})
@click.option("--dsn", metavar="DSN", help="Connection string. Else DLQCTL_DATABASE_URL, DATABASE_URL, or libpq's own.")
@click.option("--debug", is_flag=True, help="Show the trace of an error.")
@click.version_option(__version__, message="dlqctl %(version)s")
@click.pass_context
def cli(ctx: click.Context, dsn: str | None, debug: bool) -> None:
    """A dead-letter queue for webhooks that lives in PostgreSQL.

    Failed webhooks are rows of webhook_dlq; pg_cron retries them through pg_net. This command installs that,
    verifies it, and asks how it is. Exit status: 0 ok, 1 the answer is no, 2 usage, 3 cannot connect.
    """
    ctx.obj = {"dsn": dsn, "debug": debug}


def database(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option --dsn, before or after its name, as the argument `dsn`."""

    @click.option("--dsn", metavar="DSN", help="As before the command.")
    @click.pass_context
    @wraps(command)
    def with_dsn(ctx: click.Context, /, dsn: str | None, **arguments: Any) -> Any:
        return command(dsn=dsn or ctx.obj["dsn"], **arguments)

    return with_dsn


def output_format(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--format", "output_format", type=_FORMATS, default="table", show_default=True)(command)


def connect(dsn: str | None) -> psycopg.Connection:
    from dlqctl import connection

    return connection.connect(dsn, autocommit=True)


def print_checks(dsn: str | None, query: str, output_format: str) -> NoReturn:
    from dlqctl.patience import bounded

    with connect(dsn) as connection, bounded(connection):
        rows = connection.execute(query.encode()).fetchall()
    print_rows_of_checks(rows, output_format)


def print_rows_of_checks(rows: list[tuple[Any, ...]], output_format: str) -> NoReturn:
    from dlqctl.output import print_checks

    print_checks(rows, output_format)
    raise SystemExit(1 if any(row[1] == "error" for row in rows) else 0)


def _explain(error: Exception) -> DlqctlError | None:
    """Put an error of the database into words for a person; None for what is no such error."""
    if isinstance(error, DlqctlError):
        return error
    if isinstance(error, OSError):
        return DlqctlError(": ".join(filter(None, [error.filename, error.strerror or str(error)])))
    psycopg = sys.modules.get("psycopg")
    if psycopg is None or not isinstance(error, psycopg.Error):
        return None
    said = error.diag.message_primary or " ".join(str(error).split())
    errors = psycopg.errors
    undefined = errors.InvalidSchemaName, errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction
    if isinstance(error, undefined):
        return DlqctlError(f"dlqctl is not, or not wholly, in this database: {said}", "dlqctl migrate")
    if isinstance(error, errors.InsufficientPrivilege):
        return DlqctlError(
            said, "ask for a role: grant dlq_admin to ROLE (or dlq_reader, to look); with one: dlqctl migrate --check"
        )
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return DlqctlError(f"{said}: this is a standby, or a read-only session", "connect to the primary")
    if isinstance(error, errors.QueryCanceled):
        return DlqctlError(said, "more time for it: PGOPTIONS='-c statement_timeout=10min', before the same")
    if isinstance(error, errors.LockNotAvailable):
        return DlqctlError(said, "the same again; who is at work: select * from pg_stat_activity where state <> 'idle'")
    if isinstance(error, errors.InvalidDatetimeFormat):
        return DlqctlError(said, error.diag.message_hint or "for example '2 hours', or a time: '2026-03-04 10:35'")
    # 57P: somebody has ended it, or the server; 25P03: it was idle for too long, as while a list is read page by page
    state = error.diag.sqlstate
    if (isinstance(error, psycopg.OperationalError) and state is None) or (state or "").startswith(("57P", "25P03")):
        return CannotConnect(f"the connection was lost: {said}", "run it again")
    return DlqctlError(said, error.diag.message_hint)


def _legible(word: str) -> str:
    """A word of the command line, which in a locale that has not its letters is UTF-8 that Python could not read."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return os.fsencode(word).decode(errors="backslashreplace")
    return word


def _tell_nagios(words: str, *, debug: bool = False) -> None:
    """End a `--nagios` as unknown, whatever went wrong: an exit status of 1 or 2 would be a finding."""
    if "--nagios" not in sys.argv:
        return
    from dlqctl.nagios import UNKNOWN, line

    if debug:
        traceback.print_exc()
    click.echo(line(UNKNOWN, words))
    raise SystemExit(UNKNOWN)


def _drop_what_is_not_printed() -> None:
    with contextlib.suppress(OSError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run the command line and exit. An error is one line that names what to type next."""
    debug = "--debug" in sys.argv
    if sys.stdout is None:  # it is closed: nothing else may become file 1
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding has not is escaped
            stream.reconfigure(errors="backslashreplace")
    # Cut short by Ctrl-C, a connection complains of its way out; that goes nowhere, unless somebody listens.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    try:
        result = cli.main(list(map(_legible, sys.argv[1:])), standalone_mode=False)
        raise SystemExit(result if isinstance(result, int) else 0)
    except click.ClickException as error:
        _tell_nagios(error.format_message())
        error.show()
        raise SystemExit(2) from None
    except (click.Abort, KeyboardInterrupt):
        click.echo("dlqctl: stopped", err=True)
        raise SystemExit(130) from None
    except _PipeClosed:
        _drop_what_is_not_printed()
        raise SystemExit(0) from None
    except Exception as error:
        from dlqctl.output import say

        if not isinstance(error, DlqctlError) and is_interrupted(error):
            say("dlqctl: stopped")
            raise SystemExit(130) from None

        if isinstance(error, OSError):  # perhaps the disk is full that this goes to
            _drop_what_is_not_printed()
        explained = _explain(error)
        _tell_nagios(explained.message if explained else f"{type(error).__name__}: {error}", debug=debug)
        if debug or explained is None:
            raise
        say(f"dlqctl: {explained.message.rstrip('.')}", explained.hint)
        raise SystemExit(explained.exit_code) from None
