"""${message}"""

from dlqctl.definitions import run_frozen_sql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    run_frozen_sql(__file__)
