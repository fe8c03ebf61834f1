"""Install, take over, take out: what changes the database itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dlqctl.cli.root import Lines, database
from dlqctl.errors import UsageError


@click.command()
@click.option("--sql", "as_sql", is_flag=True, help="Print everything as SQL, and connect to nothing.")
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if anything would change.")
@click.option("--no-cron", is_flag=True, help="Do not schedule: another scheduler runs `dlqctl process`.")
@click.option("--cron-dsn", metavar="DSN", help="Where pg_cron is, if in another database: dbname=postgres, say.")
@click.option("--net-worker", is_flag=True, help="There is no pg_net: `dlqctl net-worker` sends.")
@click.option("--change-sender", is_flag=True, help="Let pg_net send from now on; with --net-worker, that again.")
@click.option("--this-is-production", is_flag=True, help="This database is not a copy, or not any more: send from it.")
@database
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
            f"--cron-dsn dbname={report.cron_database}; or, if the job is not there, run this there: {report.statement}"
        )
    if not report.cron:
        say("run this every five minutes from a scheduler: dlqctl process")


def _pairs(_: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """OLD=NEW, several times, as a dictionary."""
    for pair in pairs:
        if "=" not in pair:
            raise click.BadParameter(f"{pair!r} is not OLD=NEW", param=parameter)
    return {old: new for old, _, new in (pair.rpartition("=") for pair in pairs)}


@click.command()
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
@database
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


@click.command()
@click.option("--check", is_flag=True, help="Show what goes and what stays, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-cron", is_flag=True, help="Nothing is scheduled in pg_cron, or it is seen to.")
@click.option("--cron-dsn", metavar="DSN", help="Where pg_cron is, if in another database: dbname=postgres, say.")
@database
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
        say(f"dlqctl is not in {database} any more. Stop what called it: handlers, dlqctl net-worker, dlqctl process")


@click.group(cls=Lines)
def export() -> None:
    """Install by the migrations of another tool, such as Supabase."""


@export.command("supabase")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--no-cron", is_flag=True, help="Do not schedule: another scheduler runs `dlqctl process`.")
def export_supabase(folder: Path, no_cron: bool) -> None:
    """Write migrations for `supabase db push` into DIR: supabase/migrations. Run again, only what is new."""
    from dlqctl import export as module
    from dlqctl.output import say

    written = module.export_supabase(folder, cron=not no_cron)
    for path in written:
        click.echo(path)
    say(f"{len(written)} written. To apply: supabase db push" if written else f"nothing new: all of it is in {folder}")
