"""Where webhooks are retried."""

from __future__ import annotations

from typing import Any

import click

from dlqctl.cli.root import Lines, connect, database, output_format
from dlqctl.errors import DlqctlError


@click.group(cls=Lines)
def endpoints() -> None:
    """Where each service's webhooks are retried."""


@endpoints.command("list")
@output_format
@database
def endpoints_list(dsn: str | None, output_format: str) -> None:
    """List the endpoints. * is the template for services without one of their own."""
    from dlqctl.endpoints import COLUMNS, list_endpoints
    from dlqctl.output import print_rows

    with connect(dsn) as connection:
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
@click.option("--health-url", metavar="URL", help="Asked by health --probe, which must not send a webhook; or none.")
@click.option("--body", type=click.Choice(["json", "raw"]), help="raw: the bytes and headers that came in.")
@click.option("--retry-schedule", metavar="WAITS", help="As in '5 min,15 min,1 h'. Else the one in dlq.settings.")
@click.option("--enable/--disable", "enabled", default=None, help="A disabled endpoint's entries wait.")
@database
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
    with connect(dsn) as connection:
        connection.execute(
            """
            select dlq.set_endpoint(
              service => %(service)s, url => %(url)s, allow_http => %(allow_http)s,
              allow_private => %(allow_private)s, timeout_ms => %(timeout_ms)s,
              max_in_flight => %(max_in_flight)s, headers => %(headers)s,
              retry_schedule => string_to_array(%(retry_schedule)s, ',')::interval[], enabled => %(enabled)s,
              signing => %(signing)s, secret_names => %(secret_names)s, auth => %(auth)s,
              auth_secret => %(auth_secret)s, body => %(body)s,
              health_url => %(health_url)s)
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


@endpoints.command("reset")
@click.argument("service")
@click.option("--reason", required=True, help="Why; it goes into dlq.audit_log.")
@database
def endpoints_reset(dsn: str | None, service: str, reason: str) -> None:
    """Send to SERVICE at full rate again, without waiting for a probe. Exit 1 if it was not held back."""
    from dlqctl.output import say

    with connect(dsn) as connection:
        row = connection.execute("select dlq.reset_endpoint(%s, %s)", (service, reason)).fetchone()
    if not (row and row[0]):
        raise DlqctlError(f"nothing holds {service} back", "dlqctl endpoints list; dlqctl health")
    say(f"reset: {service}. Its circuit opens again if it still fails: dlqctl endpoints list")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(f"{text!r} is not 'NAME: VALUE'", param_hint="--header")
    return name.strip(), value.strip()


@endpoints.command("remove")
@click.argument("service")
@database
def endpoints_remove(dsn: str | None, service: str) -> None:
    """Remove SERVICE's endpoint. Its entries follow the template, or wait."""
    from dlqctl.output import say

    with connect(dsn) as connection:
        row = connection.execute("select dlq.remove_endpoint(%s)", (service,)).fetchone()
    if not (row and row[0]):
        raise DlqctlError(f"{service} has no endpoint of its own", "dlqctl endpoints list")
    say(f"removed: {service}")


@endpoints.command("test")
@click.argument("service")
@output_format
@database
def endpoints_test(dsn: str | None, service: str, output_format: str) -> None:
    """Store a marked entry for SERVICE, send it now, and tell how it went. Exit 1 unless it was taken."""
    from dataclasses import asdict

    from dlqctl.endpoints import try_endpoint
    from dlqctl.output import print_rows

    with connect(dsn) as connection:
        trial = asdict(try_endpoint(connection, service))
    trial["seconds"] = round(trial["seconds"], 1)
    if output_format == "table":
        print_rows(("what", "answer"), trial.items(), output_format)
    else:
        print_rows(list(trial), [list(trial.values())], output_format)
    if trial["outcome"] != "delivered":
        raise DlqctlError(f"{service} did not take it", "the test entry is discarded; nothing is left to retry")
