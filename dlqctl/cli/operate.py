"""What a person does with the queue."""

from __future__ import annotations

import click

from dlqctl.cli.root import connect, database, output_format
from dlqctl.errors import DlqctlError


@click.command()
@output_format
@database
def process(dsn: str | None, output_format: str) -> None:
    """Run a cycle now: what the cron job does."""
    from dlqctl import process as module
    from dlqctl.output import print_rows

    run = module.process(dsn)
    print_rows(list(run), [list(run.values())], output_format)
    if run["status"] != "ok":
        raise DlqctlError(f"the cycle ended with an error: {run['error_message']}", "dlqctl health")


@click.command()
@output_format
@database
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


@click.command()
@click.argument("service", required=False)
@click.option("--reason", required=True, help="Why; whoever is on call next reads it.")
@click.option("--for", "duration", metavar="INTERVAL", help="As in '2 hours'. Else until it is resumed.")
@database
def pause(dsn: str | None, service: str | None, reason: str, duration: str | None) -> None:
    """Stop sending to SERVICE, or to all. Webhooks still come in, and use up no retries."""
    from dlqctl.output import say

    with connect(dsn) as connection:
        is_known = connection.execute("select from dlq.circuits where service = %s", (service,)).rowcount or not service
        connection.execute("select dlq.pause(%s, %s, now() + %s::interval)", (reason, service, duration))
    resume = f"dlqctl resume{' ' + service if service else ''}"
    say(f"paused: {service or 'everything'}. To go on: {resume}")
    if not is_known:
        say(f"there is neither an endpoint nor an entry of {service}: if that is not its name", resume)


@click.command()
@click.argument("service", required=False)
@click.option("--reason", help="Why; it goes into dlq.audit_log.")
@database
def resume(dsn: str | None, service: str | None, reason: str | None) -> None:
    """Send to SERVICE again, or end the pause of everything. Exit 1 if there was no pause."""
    from dlqctl.output import say

    with connect(dsn) as connection:
        row = connection.execute("select dlq.resume(%s, %s)", (service, reason)).fetchone()
    if not (row and row[0]):
        raise DlqctlError(
            f"{service} was not paused" if service else "there is no pause of everything", "dlqctl health"
        )
    say(f"resumed: {service or 'everything'}")
