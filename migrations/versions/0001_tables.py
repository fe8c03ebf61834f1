"""The tables."""

from dlqctl.definitions import run_frozen_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_frozen_sql(__file__)
