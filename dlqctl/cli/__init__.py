"""The command line. Each command loads what it needs, so that `dlqctl --help` is quick."""

from dlqctl.cli.alerts import alerts
from dlqctl.cli.endpoints import endpoints
from dlqctl.cli.entries import list_entries, show
from dlqctl.cli.install import adopt, export, migrate, uninstall
from dlqctl.cli.look import health, metrics, verify_cron, verify_signatures
from dlqctl.cli.operate import maintain, pause, process, resume
from dlqctl.cli.replay import replay
from dlqctl.cli.root import cli, main
from dlqctl.cli.run import demo, net_worker, sandbox
from dlqctl.cli.secrets import secrets
from dlqctl.cli.verbs import amend, discard, erase, redeliver, retry

# In the order in which a person meets them.
for _command in (
    migrate, adopt, verify_cron, health, metrics, list_entries, show, retry, redeliver, discard, amend, replay, erase,
    process, maintain, pause, resume, endpoints, verify_signatures, secrets, alerts,
    net_worker, uninstall, export, sandbox, demo,
):  # fmt: skip
    cli.add_command(_command)

__all__ = ["cli", "main"]
