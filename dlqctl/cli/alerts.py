"""Who is told when something is wrong, and of what."""

from __future__ import annotations

from typing import Any

import click

from dlqctl.cli.asking import reason
from dlqctl.cli.root import Lines, connect, database, output_format
from dlqctl.errors import DlqctlError, UsageError

_SEVERITIES = ("critical", "error", "warning", "info")


@click.group(cls=Lines)
def alerts() -> None:
    """Rules over the lines of health, and the channels that are told: PagerDuty, Slack, any webhook."""


@alerts.command("list")
@output_format
@database
def alerts_list(dsn: str | None, output_format: str) -> None:
    """List the rules, and which are raised. Exit 0, whether or not any is."""
    from dlqctl.alerts import list_rules, who_is_told
    from dlqctl.output import print_rows, say

    with connect(dsn) as connection:
        columns, rows = list_rules(connection, brief=output_format == "table")
        told = who_is_told(connection)
    print_rows(columns, rows, output_format)
    say(told)


@alerts.command("set")
@click.argument("rule")
@click.option(
    "--threshold", metavar="BOUND", help="More than this is not well: 200, or '15 minutes'; overdue: none, too."
)
@click.option("--hold", metavar="INTERVAL", help="Raised once it has been unwell for so long.")
@click.option("--quiet", metavar="INTERVAL", help="Resolved once it has been well for so long.")
@click.option(
    "--severity-at-warning", type=click.Choice([*_SEVERITIES, "none"]), help="While its line of health says warning."
)
@click.option(
    "--severity-at-error",
    type=click.Choice([*_SEVERITIES, "none"]),
    help="While it says error; none: as at a warning.",
)
@click.option("--runbook", metavar="URL", help="What to do about it; sent along as a link.")
@click.option("--enable/--disable", "enabled", default=None, help="A disabled rule raises nothing.")
@database
def alerts_set(dsn: str | None, rule: str, **options: Any) -> None:
    """Change RULE. The threshold is that of its line in health, too."""
    from dlqctl.output import say

    if all(value is None for value in options.values()):
        names = [max(option.opts, key=len) for option in alerts_set.params if option.name in options]
        raise UsageError("nothing is said to be changed", f"say one of {', '.join(names)}, --disable")
    with connect(dsn) as connection:
        connection.execute(
            """
            select dlq.set_alert_rule(
              name => %(rule)s, threshold => %(threshold)s, hold => %(hold)s, quiet => %(quiet)s,
              severity_at_warning => %(severity_at_warning)s, severity_at_error => %(severity_at_error)s,
              enabled => %(enabled)s, runbook => %(runbook)s)
            """,
            {"rule": rule, **options},
        )
    say(f"set: {rule}")


@alerts.command("silence")
@click.argument("rule")
@click.option("--for", "duration", required=True, metavar="INTERVAL", help="As in '2 hours'; at most 30 days.")
@reason
@database
def alerts_silence(dsn: str | None, rule: str, duration: str, reason: str) -> None:
    """Tell nobody of RULE for a while, or of any ('*'). What is raised at the end is told then."""
    from dlqctl.output import say

    with connect(dsn) as connection:
        connection.execute("select dlq.silence(%s, now() + %s::interval, %s)", (rule, duration, reason))
    say(f"silenced: {rule}. To end it: dlqctl alerts unsilence '{rule}'")


@alerts.command("unsilence")
@click.argument("rule")
@click.option("--reason", help="Why; it goes into dlq.audit_log.")
@database
def alerts_unsilence(dsn: str | None, rule: str, reason: str | None) -> None:
    """End the silence of RULE, or the one of all ('*'). Exit 1 if there was none."""
    from dlqctl.output import say

    with connect(dsn) as connection:
        row = connection.execute("select dlq.unsilence(%s, %s)", (rule, reason)).fetchone()
    if not (row and row[0]):
        raise DlqctlError(f"{rule} was not silenced", "dlqctl alerts list")
    say(f"unsilenced: {rule}")


@alerts.command("test")
@click.argument("channel", required=False)
@output_format
@database
def alerts_test(dsn: str | None, channel: str | None, output_format: str) -> None:
    """Send CHANNEL, or each, an alert and its resolution, for real, and tell what was answered. Exit 1 unless taken."""
    from dataclasses import asdict

    from dlqctl.alerts import channel_names, try_channel
    from dlqctl.output import print_rows

    with connect(dsn) as connection:
        names = [channel] if channel else channel_names(connection)
        if not names:
            raise DlqctlError("there is no channel", "dlqctl alerts channel set pager --kind pagerduty --secret NAME")
        answers = [asdict(answer) for name in names for answer in try_channel(connection, name)]
    print_rows(list(answers[0]), [list(answer.values()) for answer in answers], output_format)
    if any(answer["status"] != "delivered" for answer in answers):
        raise DlqctlError("not all of it was taken", "dlqctl alerts channel list; dlqctl secrets list")


@alerts.command("evaluate")
@output_format
@database
def alerts_evaluate(dsn: str | None, output_format: str) -> None:
    """Evaluate the rules now: what the cron job does each minute."""
    from dlqctl.output import print_rows

    with connect(dsn) as connection:
        cursor = connection.execute("select raised, changed, resolved, sent from dlq.evaluate_alerts()")
        rows = cursor.fetchall()
    print_rows(("raised", "changed", "resolved", "sent"), rows, output_format)
    if rows[0][0] is None:
        raise DlqctlError(
            "nothing was evaluated: another does it now, or this is a copy of production", "dlqctl health"
        )


@alerts.group("channel", cls=Lines)
def channel() -> None:
    """Who is told."""


@channel.command("list")
@output_format
@database
def channel_list(dsn: str | None, output_format: str) -> None:
    """List the channels, and what is wrong with them. Exit 1 if anything is."""
    from dlqctl.alerts import CHANNEL_COLUMNS, list_channels
    from dlqctl.output import print_rows

    with connect(dsn) as connection:
        rows = list_channels(connection)
    shown = [(*row[:4], ", ".join(row[4]), *row[5:]) for row in rows] if output_format == "table" else rows
    print_rows(CHANNEL_COLUMNS, shown, output_format)
    raise SystemExit(1 if any(row[-1] for row in rows) else 0)


@channel.command("set")
@click.argument("name")
@click.option("--kind", type=click.Choice(["pagerduty", "slack", "webhook"]), help="Needed for a new one.")
@click.option("--url", metavar="URL", help="Where to; {secret} stands for the secret. PagerDuty and Slack have theirs.")
@click.option("--secret", metavar="NAME", help="Its secret, by name: dlqctl secrets set NAME.")
@click.option(
    "--severity",
    "severities",
    multiple=True,
    type=click.Choice(_SEVERITIES),
    help="Told of these; repeatable. Else all.",
)
@click.option("--allow-http/--https-only", default=None, help="Whether the URL may be http.")
@click.option("--allow-private/--public-only", default=None, help="Whether the URL's host may be loopback or private.")
@click.option("--enable/--disable", "enabled", default=None, help="A disabled channel is told nothing.")
@database
def channel_set(dsn: str | None, name: str, severities: tuple[str, ...], **options: Any) -> None:
    """Say who is told. What is left out stays as it is."""
    from dlqctl.output import say

    with connect(dsn) as connection:
        connection.execute(
            """
            select dlq.set_alert_channel(
              name => %(name)s, kind => %(kind)s, url => %(url)s, secret => %(secret)s, severities => %(severities)s,
              enabled => %(enabled)s, allow_http => %(allow_http)s, allow_private => %(allow_private)s)
            """,
            {"name": name, "severities": list(severities) or None, **options},
        )
    say(f"set: {name}. To try it: dlqctl alerts test {name}")


@channel.command("remove")
@click.argument("name")
@database
def channel_remove(dsn: str | None, name: str) -> None:
    """Tell NAME nothing any more. Exit 1 if there is no such channel."""
    from dlqctl.output import say

    with connect(dsn) as connection:
        row = connection.execute("select dlq.remove_alert_channel(%s)", (name,)).fetchone()
    if not (row and row[0]):
        raise DlqctlError(f"there is no channel {name}", "dlqctl alerts channel list")
    say(f"removed: {name}")
