"""What is guarded by triggers comes through a dump all the same."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from dlqctl.migrate import migrate
from tests.migration.migrating import Outcome, ask, do, dump, program

LOG = "select array_agg(a::text order by id) from dlq.audit_log as a"


def restore(dsn: str, text: str) -> Outcome:
    words = [str(program("psql")), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={dsn}"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_a_dump_brings_the_audit_log_along(database: str, other_database: Callable[..., str]) -> None:
    do(database, "select dlq.pause('deploying')", "update dlq.settings set jitter = 0.2")
    copy = other_database()

    restored = restore(copy, dump(database, "--format=plain"))

    assert (restored.code, restored.err) == (0, "")

    assert ask(copy, LOG) == ask(database, LOG)
    assert migrate(copy, cron=False, check=True).changed == []


def test_data_alone_needs_the_triggers_disabled_and_migrate_enables_them(
    database: str, other_database: Callable[..., str]
) -> None:
    do(database, "select dlq.pause('deploying')")
    copy = other_database()
    migrate(copy, cron=False, net_worker=True)
    data = dump(database, "--data-only", "--table=dlq.audit_log")

    assert restore(copy, data).code == 3
    do(copy, "alter table dlq.audit_log disable trigger all")
    do(copy, "delete from dlq.audit_log")
    assert restore(copy, data).code == 0

    assert ask(copy, LOG) == ask(database, LOG)
    assert migrate(copy, cron=False).changed == [
        "trigger append_only on dlq.audit_log",
        "trigger written_by_functions on dlq.audit_log",
    ]
