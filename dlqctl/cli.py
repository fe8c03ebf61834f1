"""The command line. Each command loads what it needs, so that `dlqctl --help` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dlqctl import __version__
from dlqctl.errors import CannotConnect, DlqctlError, UsageError

if TYPE_CHECKING:
    import psycopg

_FORMATS = click.Choice(["table", "json", "csv"])


class _Lines(click.Group):
    """Commands in the order in which a person meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class _PipeClosed(Exception):
    """Whoever reads our output has seen enough. Not a BrokenPipeError, which click would make an exit status of 1."""


class _Dlqctl(_Lines):
    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **options)
        except BrokenPipeError as error:
            raise _PipeClosed from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _PipeClosed from error


@click.group(cls=_Dlqctl, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


def _database(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option --dsn, before or after its name, as the argument `dsn`."""

    @click.option("--dsn", metavar="DSN", help="As before the command.")
    @click.pass_context
    @wraps(command)
    def with_dsn(ctx: click.Context, /, dsn: str | None, **arguments: Any) -> Any:
        return command(dsn=dsn or ctx.obj["dsn"], **arguments)

    return with_dsn


def _format(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--format", "output_format", type=_FORMATS, default="table", show_default=True)(command)


@cli.command()
@click.option("--sql", "as_sql", is_flag=True, help="Print everything as SQL, and connect to nothing.")
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if anything would change.")
@click.option(
    "--no-cron", is_flag=True, help="Do not schedule: another scheduler runs `dlqctl process` and `maintain`."
)
@click.option("--cron-dsn", metavar="DSN", help="Where pg_cron is, if in another database: dbname=postgres, say.")
@click.option("--net-worker", is_flag=True, help="There is no pg_net: `dlqctl net-worker` sends.")
@click.option("--change-sender", is_flag=True, help="Let pg_net send from now on; with --net-worker, that again.")
@click.option("--this-is-production", is_flag=True, help="This database is not a copy, or not any more: send from it.")
@_database
def migrate(
    dsn: str | None,
    as_sql: bool,
    check: bool,
    no_cron: bool,
    cron_dsn: str | None,
    net_worker: bool,
    change_sender: bool,
    this_is_production: bool,
) -> None:
    """Install or upgrade, and schedule. Run again, it repairs."""
    from dlqctl import migrate as module
    from dlqctl.output import say

    if no_cron and cron_dsn:
        raise click.UsageError("--no-cron and --cron-dsn exclude each other")
    if as_sql and cron_dsn:
        raise click.UsageError("--sql prints for one database: say --no-cron, and schedule from pg_cron's own")
    if as_sql:
        click.echo(module.print_sql(cron=not no_cron, net_worker=net_worker), nl=False)
        return
    report = module.migrate(
        dsn,
        cron=not no_cron,
        cron_dsn=cron_dsn,
        net_worker=net_worker,
        check=check,
        this_is_production=this_is_production,
        change_sender=change_sender,
        on_wait=say,
    )
    for change in report.changed:
        click.echo(change)
    if check:
        for table in report.locked:
            say(f"would lock {table}: others wait for it, and it gives way after two seconds")
        say(f"{len(report.changed)} differ: dlqctl migrate" if report.changed else "nothing differs")
        raise SystemExit(1 if report.changed else 0)
    say(f"revision {report.revision}, {len(report.changed)} changed; sender: {report.sender}")
    if report.sender == "net-worker":
        say("keep this running: dlqctl net-worker")
    elif change_sender and report.changed:
        say("stop this now: dlqctl net-worker")
    if report.statement:
        say(
            f"pg_cron runs in database {report.cron_database}, and its jobs cannot be seen from here: dlqctl migrate "
            f"--cron-dsn dbname={report.cron_database}; or, if they are not there, run this there: {report.statement}"
        )
    if not report.cron:
        say("run these from a scheduler: dlqctl process every five minutes, dlqctl maintain once a day")


def _pairs(_: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """OLD=NEW, several times, as a dictionary."""
    for pair in pairs:
        if "=" not in pair:
            raise click.BadParameter(f"{pair!r} is not OLD=NEW", param=parameter)
    return {old: new for old, _, new in (pair.rpartition("=") for pair in pairs)}


@cli.command()
@click.option("--check", is_flag=True, help="Show the plan and change nothing; exit 1 if something is in the way.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--map", "columns", multiple=True, callback=_pairs, metavar="OLD=NEW", help="Which column is which.")
@click.option("--status", "statuses", multiple=True, callback=_pairs, metavar="OLD=NEW", help="What a status means.")
@click.option("--service", "services", multiple=True, callback=_pairs, metavar="OLD=NEW", help="A service's new name.")
@click.option("--default-service", metavar="SERVICE", help="Where none is given, now and from then on.")
@click.option("--leave-aside", multiple=True, metavar="COLUMN", help="Not taken over; repeatable, as those above.")
@click.option("--no-grants", is_flag=True, help="The roles that used the old queue get nothing.")
@click.option(
    "--grace", "grace_minutes", type=click.IntRange(0), default=15, show_default=True, metavar="MINUTES",
    help="Entries that are processing are not retried before.",
)  # fmt: skip
@click.option("--drop-old", is_flag=True, help="Drop the old tables, when all of them is copied.")
@click.option("--no-cron", is_flag=True, help="As for migrate.")
@click.option("--net-worker", is_flag=True, help="As for migrate.")
@_database
def adopt(
    dsn: str | None,
    check: bool,
    yes: bool,
    drop_old: bool,
    no_cron: bool,
    net_worker: bool,
    no_grants: bool,
    **read: Any,
) -> None:
    """Take over a home-made queue: its tables, rows, functions and job. Run again, it goes on.

    The old tables are renamed and stay until --drop-old. Exit 1 if any row could not be copied.
    """
    from dlqctl.adopt import main as run
    from dlqctl.adopt_columns import Options

    options = Options(**read, grants=not no_grants)
    code = run(dsn, options, check=check, yes=yes, drop=drop_old, cron=not no_cron, net_worker=net_worker)
    raise SystemExit(code)


@cli.command("verify-cron")
@click.option("--cron-dsn", metavar="DSN", help="Where pg_cron is, if in another database: dbname=postgres, say.")
@_format
@_database
def verify_cron(dsn: str | None, cron_dsn: str | None, output_format: str) -> None:
    """Check pg_cron and our jobs: row by row, and whether they run. Exit 1 if anything is wrong."""
    if cron_dsn is None:
        _print_checks(dsn, "select * from dlq.cron_checks()", output_format)
    from dlqctl.cron import checks

    _print_rows_of_checks(checks(dsn, cron_dsn), output_format)


@cli.command()
@_format
@_database
def health(dsn: str | None, output_format: str) -> None:
    """How the queue is, one line a check. Exit 1 if anything is wrong."""
    _print_checks(dsn, "select name, level, detail, remediation from dlq.health", output_format)


@cli.command()
@_format
@_database
def process(dsn: str | None, output_format: str) -> None:
    """Run a cycle now: what the cron job does."""
    from dlqctl import process as module
    from dlqctl.output import print_rows

    run = module.process(dsn)
    print_rows(list(run), [list(run.values())], output_format)
    if run["status"] != "ok":
        raise DlqctlError(f"the cycle ended with an error: {run['error_message']}", "dlqctl health")


@cli.command()
@_format
@_database
def maintain(dsn: str | None, output_format: str) -> None:
    """Remove what is old, by dlq.settings: what the second cron job does. Exit 1 if something could not go."""
    from dlqctl import process as module
    from dlqctl.output import print_rows, say

    run = module.maintain(dsn)
    print_rows(list(run), [list(run.values())], output_format)
    if run["status"] == "error":
        raise DlqctlError(f"not all of it could be removed: {run['error_message']}", "dlqctl health")
    if run["status"] == "partial":
        left = "more than 10000" if run["left_over"] > 10000 else run["left_over"]
        say(f"the time was up; entries left for the next run: {left}")
    elif run["status"] == "interrupted":
        say("another run has taken over")


@cli.command()
@click.argument("service", required=False)
@click.option("--reason", required=True, help="Why; whoever is on call next reads it.")
@_database
def pause(dsn: str | None, service: str | None, reason: str) -> None:
    """Stop sending to SERVICE, or to all. Webhooks still come in, and use up no retries."""
    from dlqctl.output import say

    with _connection(dsn) as connection:
        connection.execute("select dlq.pause(%s, %s)", (reason, service))
    say(f"paused: {service or 'everything'}. To go on: dlqctl resume{' ' + service if service else ''}")


@cli.command()
@click.argument("service", required=False)
@_database
def resume(dsn: str | None, service: str | None) -> None:
    """Send to SERVICE again, or end the pause of everything. Exit 1 if there was no pause."""
    from dlqctl.output import say

    with _connection(dsn) as connection:
        row = connection.execute("select dlq.resume(%s)", (service,)).fetchone()
    if not (row and row[0]):
        raise DlqctlError(f"{service or 'everything'} was not paused", "dlqctl health shows what is")
    say(f"resumed: {service or 'everything'}")


@cli.group(cls=_Lines)
def endpoints() -> None:
    """Where each service's webhooks are retried."""


@endpoints.command("list")
@_format
@_database
def endpoints_list(dsn: str | None, output_format: str) -> None:
    """List the endpoints. * is the template for services without one of their own."""
    from dlqctl.endpoints import COLUMNS, list_endpoints
    from dlqctl.output import print_rows

    with _connection(dsn) as connection:
        print_rows(COLUMNS, list_endpoints(connection), output_format)


@endpoints.command("set")
@click.argument("service")
@click.argument("url")
@click.option("--allow-http/--https-only", default=None, help="Whether the URL may be http: in the clear.")
@click.option(
    "--allow-private/--public-only",
    default=None,
    help="Whether the URL's host may be loopback, private or link-local.",
)
@click.option("--timeout", "timeout_ms", type=int, metavar="MS", help="1 to 30000; 5000 unless set.")
@click.option("--max-in-flight", type=int, metavar="N", help="Requests under way at once; 20 unless set.")
@click.option(
    "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Sent with every attempt; repeatable."
)
@click.option(
    "--signing",
    type=click.Choice(["x-hub-signature-256", "standard-webhooks", "none"]),
    help="How its webhooks are signed, in both directions.",
)
@click.option("--secret", "secret_names", multiple=True, metavar="NAME", help="Secret that signs; repeat it to rotate.")
@click.option("--auth", type=click.Choice(["bearer", "apikey", "both", "none"]), help="How --auth-secret is sent.")
@click.option("--auth-secret", metavar="NAME", help="Secret that is sent with every attempt.")
@click.option("--body", type=click.Choice(["json", "raw"]), help="raw: the bytes and headers that came in.")
@click.option("--retry-schedule", metavar="WAITS", help="As in '5 min,15 min,1 h'. Else the one in dlq.settings.")
@click.option("--enable/--disable", "enabled", default=None, help="A disabled endpoint's entries wait.")
@_database
def endpoints_set(
    dsn: str | None,
    service: str,
    url: str,
    headers: tuple[str, ...],
    secret_names: tuple[str, ...],
    retry_schedule: str | None,
    **options: Any,
) -> None:
    """Say where SERVICE is retried. SERVICE * is the template; its URL contains {service}."""
    from psycopg.types.json import Jsonb

    from dlqctl.output import say

    parsed = dict(_header(header) for header in headers)
    with _connection(dsn) as connection:
        connection.execute(
            """
            select dlq.set_endpoint(
              service => %(service)s, url => %(url)s, allow_http => %(allow_http)s,
              allow_private => %(allow_private)s, timeout_ms => %(timeout_ms)s,
              max_in_flight => %(max_in_flight)s, headers => %(headers)s,
              retry_schedule => string_to_array(%(retry_schedule)s, ',')::interval[], enabled => %(enabled)s,
              signing => %(signing)s, secret_names => %(secret_names)s, auth => %(auth)s,
              auth_secret => %(auth_secret)s, body => %(body)s)
            """,
            {
                "service": service,
                "url": url,
                "headers": Jsonb(parsed) if parsed else None,
                "retry_schedule": retry_schedule,
                "secret_names": list(secret_names) or None,
                **options,
            },
        )
    say(f"set: {service}. To try it: dlqctl endpoints test {'SERVICE' if service == '*' else service}")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(f"{text!r} is not 'NAME: VALUE'", param_hint="--header")
    return name.strip(), value.strip()


@endpoints.command("remove")
@click.argument("service")
@_database
def endpoints_remove(dsn: str | None, service: str) -> None:
    """Remove SERVICE's endpoint. Its entries follow the template, or wait."""
    from dlqctl.output import say

    with _connection(dsn) as connection:
        row = connection.execute("select dlq.remove_endpoint(%s)", (service,)).fetchone()
    if not (row and row[0]):
        raise DlqctlError(f"{service} has no endpoint of its own", "dlqctl endpoints list")
    say(f"removed: {service}")


@endpoints.command("test")
@click.argument("service")
@_format
@_database
def endpoints_test(dsn: str | None, service: str, output_format: str) -> None:
    """Store a marked entry for SERVICE, send it now, and tell how it went. Exit 1 unless it was taken."""
    from dataclasses import asdict

    from dlqctl.endpoints import try_endpoint
    from dlqctl.output import print_rows

    with _connection(dsn) as connection:
        trial = asdict(try_endpoint(connection, service))
    trial["seconds"] = round(trial["seconds"], 1)
    if output_format == "table":
        print_rows(("what", "answer"), trial.items(), output_format)
    else:
        print_rows(list(trial), [list(trial.values())], output_format)
    if trial["outcome"] != "delivered":
        raise DlqctlError(f"{service} did not take it", "the test entry is discarded; nothing is left to retry")


@cli.command("verify-signatures")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@click.option("--include-valid", is_flag=True, help="Send what is rightly signed, too. The handler takes it.")
@click.option(
    "--auth-from-env", "key_names", multiple=True, metavar="NAME",
    help="Send this --auth-secret, from the environment variable of its name; repeatable.",
)  # fmt: skip
@_format
@_database
def verify_signatures(
    dsn: str | None, services: tuple[str, ...], include_valid: bool, key_names: tuple[str, ...], output_format: str
) -> None:
    """Call handlers with what they must refuse, and tell which do. Exit 1 unless all verify.

    Each enabled endpoint, or those of each SERVICE, is sent marked bodies: unsigned, wrongly signed, altered after they
    were signed, and with standard-webhooks too old. No secret leaves the database.
    """
    from dlqctl import verify_signatures as module
    from dlqctl.output import print_rows, say

    keys = {name: os.environ.get(name, "") for name in key_names}
    if not all(keys.values()):
        raise UsageError(f"not in the environment: {', '.join(name for name in keys if not keys[name])}")
    with _connection(dsn) as connection:
        handlers = module.find_handlers(connection, services)
        coverage = module.verify_signatures(connection, handlers, include_valid=include_valid, keys=keys)
        stored = module.discard_stored(connection, handlers)
    probes = [*module.PROBES, *([module.VALID] if include_valid else [])]
    print_rows(
        ("handler", "verdict", "method", *probes, "detail"),
        [(c.service, c.verdict, c.method, *map(c.answers.get, probes), c.detail) for c in coverage],
        output_format,
    )
    if stored:
        say(f"discarded what handlers stored of it as failed webhooks: {stored}")
    verified = sum(c.verdict == "verifies" for c in coverage)
    say(f"{verified}/{len(coverage)} handlers verify")
    raise SystemExit(0 if verified == len(coverage) else 1)


@cli.group(cls=_Lines)
def secrets() -> None:
    """What retries are signed with, and what proves that a webhook is genuine."""


@secrets.command("list")
@_format
@_database
def secrets_list(dsn: str | None, output_format: str) -> None:
    """List the secrets by name, whether each is there, and the endpoints that use it. Exit 1 if one is missing."""
    from dlqctl.output import print_rows

    with _connection(dsn) as connection:
        rows = connection.execute("select name, is_there, used_by from dlq.list_secrets()").fetchall()
    if output_format == "table":
        rows = [(name, is_there, ", ".join(used_by)) for name, is_there, used_by in rows]
    print_rows(("name", "is_there", "used_by"), rows, output_format)
    raise SystemExit(0 if all(is_there for _, is_there, _ in rows) else 1)


@secrets.command("set")
@click.argument("name")
@_database
def secrets_set(dsn: str | None, name: str) -> None:
    """Keep a secret as NAME. Its value is asked for, or read from stdin: never given as an argument."""
    from dlqctl import secrets as module
    from dlqctl.output import say

    value = module.ask_for(name)
    with _connection(dsn) as connection:
        module.set_secret(connection, name, value)
    say(f"set: {name}")


@secrets.command("remove")
@click.argument("name")
@_database
def secrets_remove(dsn: str | None, name: str) -> None:
    """Forget the secret NAME. Endpoints that use it wait until there is one again."""
    from dlqctl.output import say

    with _connection(dsn) as connection:
        row = connection.execute("select dlq.remove_secret(%s)", (name,)).fetchone()
    if not (row and row[0]):
        raise DlqctlError(f"there is no secret {name} in dlq.secrets", "dlqctl secrets list")
    say(f"removed: {name}")


@cli.command("net-worker")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option(
    "--concurrency", type=click.IntRange(1), default=1000, show_default=True, help="Requests at a time, each."
)
@_database
def net_worker(dsn: str | None, workers: int, concurrency: int) -> None:
    """Send requests in the place of pg_net, until stopped. Several may run side by side."""
    from dlqctl.net_worker import run

    run(dsn, workers=workers, concurrency=concurrency)


@cli.command()
@click.option("--check", is_flag=True, help="Show what goes and what stays, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-cron", is_flag=True, help="Nothing is scheduled in pg_cron, or it is seen to.")
@click.option("--cron-dsn", metavar="DSN", help="Where pg_cron is, if in another database: dbname=postgres, say.")
@_database
def uninstall(dsn: str | None, check: bool, yes: bool, no_cron: bool, cron_dsn: str | None) -> None:
    """Take dlqctl out of this database, with all that is stored. It shows what goes, and asks."""
    from dlqctl import uninstall as module
    from dlqctl.output import say

    with module.connected(dsn, cron_dsn, use_cron=not no_cron) as (ours, there, plan):
        database = ours.info.dbname
        if not plan.goes:
            say(f"there is nothing of dlqctl's in {database}")
            return
        for title, lines in (("goes", plan.goes), ("stays", plan.stays), ("in the way", plan.in_the_way)):
            for line in lines:
                click.echo(f"{title}: {line}")
        if check:
            raise SystemExit(1 if plan.in_the_way else 0)
        if not (yes or plan.in_the_way):
            if not sys.stdin.isatty():
                raise UsageError("nobody can be asked here, and nothing was changed", "dlqctl uninstall --yes")
            lost = f" Webhooks that were never delivered are lost: {plan.undelivered}." if plan.undelivered else ""
            click.confirm(f"Drop all that goes from {database}?{lost}", abort=True, err=True)
        for line in module.uninstall(ours, there, plan, say):
            say(line)
        say(
            f"dlqctl is not in {database} any more. Stop what called it: handlers, dlqctl net-worker, process, maintain"
        )


@cli.group(cls=_Lines)
def export() -> None:
    """Install by the migrations of another tool, such as Supabase."""


@export.command("supabase")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--no-cron", is_flag=True, help="Do not schedule: another scheduler runs `dlqctl process` and `maintain`."
)
def export_supabase(folder: Path, no_cron: bool) -> None:
    """Write migrations for `supabase db push` into DIR: supabase/migrations. Run again, only what is new."""
    from dlqctl import export as module
    from dlqctl.output import say

    written = module.export_supabase(folder, cron=not no_cron)
    for path in written:
        click.echo(path)
    say(f"{len(written)} written. To apply: supabase db push" if written else f"nothing new: all of it is in {folder}")


@cli.command(context_settings={"ignore_unknown_options": True})
@click.option("--cycle-minutes", type=click.IntRange(1, 30), default=5, show_default=True, help="pg_cron's interval.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def sandbox(cycle_minutes: int, command: tuple[str, ...]) -> None:
    """A throw-away server with everything installed: print its DSN, or run COMMAND in it.

    COMMAND finds it through the PG* variables. Afterwards the server is gone.
    """
    from dlqctl.sandbox import main as run

    raise SystemExit(run(command, cycle_minutes=cycle_minutes))


@cli.command()
def demo() -> None:
    """200 failed webhooks, retried by pg_cron in a throw-away server, in under four minutes."""
    from dlqctl.demo import main as run

    raise SystemExit(run())


def _connection(dsn: str | None) -> psycopg.Connection:
    from dlqctl.connection import connect

    return connect(dsn, autocommit=True)


def _print_checks(dsn: str | None, query: str, output_format: str) -> NoReturn:
    with _connection(dsn) as connection:
        rows = connection.execute(query.encode()).fetchall()
    _print_rows_of_checks(rows, output_format)


def _print_rows_of_checks(rows: list[tuple[Any, ...]], output_format: str) -> NoReturn:
    from dlqctl.output import print_checks

    print_checks(rows, output_format)
    raise SystemExit(1 if any(row[1] == "error" for row in rows) else 0)


def _explain(error: Exception) -> DlqctlError | None:
    """Put an error of the database into words for a person; None for what is no such error."""
    if isinstance(error, DlqctlError):
        return error
    psycopg = sys.modules.get("psycopg")
    if psycopg is None or not isinstance(error, psycopg.Error):
        return None
    said = error.diag.message_primary or " ".join(str(error).split())
    errors = psycopg.errors
    if isinstance(error, errors.InvalidSchemaName | errors.UndefinedTable | errors.UndefinedFunction):
        return DlqctlError(f"dlqctl is not, or not wholly, in this database: {said}", "dlqctl migrate")
    if isinstance(error, errors.InsufficientPrivilege):
        return DlqctlError(said, "ask for a role: grant dlq_admin to ROLE (or dlq_reader, to look)")
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return DlqctlError(f"{said}: this is a standby, or a read-only session", "connect to the primary")
    if isinstance(error, psycopg.OperationalError) and error.diag.sqlstate is None:
        return CannotConnect(f"the connection was lost: {said}", "run it again")
    return DlqctlError(said, error.diag.message_hint)


def main() -> None:
    """Run the command line and exit. An error is one line that names what to type next."""
    debug = "--debug" in sys.argv
    try:
        result = cli.main(standalone_mode=False)
        raise SystemExit(result if isinstance(result, int) else 0)
    except click.ClickException as error:
        error.show()
        raise SystemExit(2) from None
    except (click.Abort, KeyboardInterrupt):
        click.echo("dlqctl: stopped", err=True)
        raise SystemExit(130) from None
    except _PipeClosed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        from dlqctl.output import say

        explained = _explain(error)
        if debug or explained is None:
            raise
        hint = f" -> {explained.hint}" if explained.hint else ""
        say(f"dlqctl: {explained.message.rstrip('.')}{hint}")
        raise SystemExit(explained.exit_code) from None
