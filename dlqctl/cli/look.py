"""Is all as it should be? These change nothing."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dlqctl.cli.root import connect, database, output_format, print_checks, print_rows_of_checks
from dlqctl.errors import UsageError


@click.command("verify-cron")
@click.option("--cron-dsn", metavar="DSN", help="Where pg_cron is, if in another database: dbname=postgres, say.")
@output_format
@database
def verify_cron(dsn: str | None, cron_dsn: str | None, output_format: str) -> None:
    """Check pg_cron and our jobs: row by row, and whether they run. Exit 1 if anything is wrong."""
    if cron_dsn is None:
        print_checks(dsn, "select * from dlq.cron_checks()", output_format)
    from dlqctl.cron import checks

    print_rows_of_checks(checks(dsn, cron_dsn), output_format)


@click.command()
@click.option("--watch", "watching", is_flag=True, help="Look again and again, until Ctrl-C; then exit 0.")
@click.option(
    "--interval", type=click.FloatRange(0.1), metavar="SECONDS", help="With --watch: 2 on a terminal, else 5."
)
@click.option("--probe", "probing", is_flag=True, help="The whole chain: what health cannot see by itself, too.")
@click.option("--nagios", is_flag=True, help="One line and performance data for Nagios; exit 0, 1, 2 or 3.")
@click.option("-w", "--warning", multiple=True, metavar="LABEL=RANGE", help="With --nagios: pending=1000, say.")
@click.option("-c", "--critical", multiple=True, metavar="LABEL=RANGE", help="With --nagios: last_run=600, say.")
@output_format
@database
def health(
    dsn: str | None,
    watching: bool,
    interval: float | None,
    probing: bool,
    nagios: bool,
    warning: tuple[str, ...],
    critical: tuple[str, ...],
    output_format: str,
) -> None:
    """How the queue is, one line a check. Exit 1 if anything is wrong.

    What --nagios takes for LABEL and RANGE: docs/views.md.
    """
    if watching + probing + nagios > 1:
        raise click.UsageError("one of --watch, --probe and --nagios")
    if (warning or critical) and not nagios:
        raise click.UsageError("--warning and --critical go with --nagios")
    if nagios:
        from dlqctl.nagios import check, parse_thresholds

        if output_format != "table":
            raise click.UsageError("--nagios has a format of its own")
        state, line = check(dsn, parse_thresholds(warning), parse_thresholds(critical))
        click.echo(line)
        raise SystemExit(state)
    if probing:
        from dlqctl.probe import probe

        with connect(dsn) as connection:
            rows = probe(connection)
        print_rows_of_checks(rows, output_format)
    if watching:
        if output_format != "table":
            raise click.UsageError("--watch is for people: it takes no --format")
        from dlqctl.watch import watch

        watch(dsn, interval)
        return
    if interval is not None:
        raise click.UsageError("--interval goes with --watch")
    print_checks(dsn, "select name, level, detail, remediation from dlq.health", output_format)


@click.command()
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Into this file, replaced in one step: FILE.prom, for the textfile collector.",
)  # fmt: skip
@database
def metrics(dsn: str | None, output: Path | None) -> None:
    """The metrics of dlq.metrics as Prometheus reads them. Exit 0 whatever they say."""
    from dlqctl.metrics import exposition, read, replace

    with connect(dsn) as connection:
        text = exposition(read(connection))
    if output is None:
        click.echo(text, nl=False)
    else:
        replace(output, text)


@click.command("verify-signatures")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@click.option("--include-valid", is_flag=True, help="Send what is rightly signed, too. The handler takes it.")
@click.option(
    "--auth-from-env", "key_names", multiple=True, metavar="NAME",
    help="Send this --auth-secret, from the environment variable of its name; repeatable.",
)  # fmt: skip
@output_format
@database
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
        missing = [name for name in keys if not keys[name]]
        raise UsageError(
            f"not in the environment: {', '.join(missing)}", f"read -rs {missing[0]} && export {missing[0]}"
        )
    with connect(dsn) as connection:
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
