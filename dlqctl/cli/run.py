"""What runs until it is stopped: the sender, a sandbox, the demo."""

from __future__ import annotations

import click

from dlqctl.cli.root import database


@click.command("net-worker")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option(
    "--concurrency", type=click.IntRange(1), default=1000, show_default=True, help="Requests at a time, each."
)
@database
def net_worker(dsn: str | None, workers: int, concurrency: int) -> None:
    """Send requests in the place of pg_net, until stopped. Several may run side by side."""
    from dlqctl.net_worker import run

    run(dsn, workers=workers, concurrency=concurrency)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--cycle-minutes", type=click.IntRange(1, 30), default=5, show_default=True, help="pg_cron's interval.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def sandbox(cycle_minutes: int, command: tuple[str, ...]) -> None:
    """A throw-away server with everything installed: print its DSN, or run COMMAND in it.

    COMMAND finds it through the PG* variables. Afterwards the server is gone.
    """
    from dlqctl.sandbox import main as run

    raise SystemExit(run(command, cycle_minutes=cycle_minutes))


@click.command()
def demo() -> None:
    """200 failed webhooks, retried by pg_cron in a throw-away server, in under four minutes."""
    from dlqctl.demo import main as run

    raise SystemExit(run())
