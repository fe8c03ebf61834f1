"""Nobody who stores a webhook waits for a migrate for long, and a migrate that changes nothing waits for nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import psycopg
import pytest

import dlqctl.migrate
from dlqctl.migrate import migrate
from tests.migration.conftest import Release
from tests.migration.migrating import WAITING, ask, do, dump, run, wait_for

LONGEST = 2.0
"""Seconds for which a try waits for a lock."""
SLACK = 0.7
INSERT = "insert into webhook_dlq (service, payload) values ('a', '{}')"


@contextmanager
def inserting(dsn: str) -> Iterator[list[float]]:
    """Store webhooks, 200 a second at most, until the block ends; yield how long each took, in seconds."""
    took: list[float] = []
    done = Event()

    def store() -> None:
        with psycopg.connect(dsn, autocommit=True) as writer:
            while not done.is_set():
                started = time.monotonic()
                writer.execute(INSERT.encode())
                took.append(time.monotonic() - started)
                time.sleep(0.005)

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(store)
        try:
            yield took
        finally:
            done.set()
        writer.result()


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not to be had at once is not to be had."""
    monkeypatch.setattr(dlqctl.migrate, "_WAITS", ())


@pytest.mark.usefixtures("one_try")
@pytest.mark.parametrize("check", [False, True])
def test_a_migrate_that_changes_nothing_needs_no_lock_but_a_reader_s(database: str, check: bool) -> None:
    with psycopg.connect(database) as holder:
        # Lets those pass that only read, and nobody else.
        holder.execute("lock table webhook_dlq, dlq_processing_log, dlq.settings, dlq.in_flight in exclusive mode")

        assert migrate(database, cron=False, check=check).changed == []


@pytest.mark.usefixtures("one_try")
def test_functions_views_and_grants_are_repaired_under_everybody_s_locks(database: str) -> None:
    do(
        database,
        "alter function dlq.resume(text, text) stable",
        "comment on view dlq.entries is null",
        "drop view dlq.upcoming",
        "grant select on webhook_dlq to public",
    )
    with psycopg.connect(database) as holder:
        holder.execute("lock table webhook_dlq, dlq_processing_log, dlq.settings, dlq.in_flight in exclusive mode")

        assert len(migrate(database, cron=False).changed) == 4


@pytest.mark.usefixtures("one_try")
def test_a_reader_s_lock_that_is_not_to_be_had_ends_the_try_and_changes_nothing(database: str) -> None:
    # To say what a view or a policy is, the server itself locks the tables it reads, as a select does.
    before = dump(database)
    with psycopg.connect(database) as holder:
        holder.execute("lock table webhook_dlq in access exclusive mode")
        started = time.monotonic()
        refused = run("--dsn", database, "migrate", "--check", "--no-cron")
        took = time.monotonic() - started

    assert refused.code == 1
    assert "pg_stat_activity" in refused.err
    assert took < LONGEST + SLACK
    assert dump(database) == before


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("select count(*) from webhook_dlq", id="a long select"),
        pytest.param("select from webhook_dlq for update", id="locked rows"),
    ],
)
def test_a_migrate_that_needs_the_queue_to_itself_gives_way_and_tries_again(
    database: str, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dlqctl.migrate, "_WAITS", (0.5, 0.5, 0.5, 0.5))
    do(
        database,
        "insert into webhook_dlq (service, payload) values ('a', '{}')",
        "drop policy readers_read on webhook_dlq",
    )
    waits: list[str] = []

    with psycopg.connect(database) as holder:
        holder.execute(statement.encode())

        def let_go(why: str) -> None:
            waits.append(why)
            holder.rollback()

        with inserting(database) as took:
            report = migrate(database, cron=False, on_wait=let_go)

    assert report.changed == ["policy readers_read on public.webhook_dlq"]
    assert len(waits) == 1
    assert LONGEST / 2 < max(took) < LONGEST + SLACK


@pytest.mark.parametrize("lock", ["cron.job in access exclusive mode", "dlq.settings in row exclusive mode"])
def test_the_queue_is_locked_after_all_else_that_may_have_to_be_waited_for(cron_database: str, lock: str) -> None:
    migrate(cron_database, net_worker=True)
    do(cron_database, "drop policy readers_read on webhook_dlq", "drop policy readers_read on dlq.settings")
    with psycopg.connect(cron_database) as holder, ThreadPoolExecutor(1) as pool:
        holder.execute(f"lock table {lock}".encode())
        migration = pool.submit(migrate, cron_database)
        pid = wait_for(cron_database, WAITING)
        held = ask(
            cron_database,
            f"select array_agg(distinct mode) from pg_locks where pid = {pid} and relation = 'webhook_dlq'::regclass",
        )
        holder.rollback()
        migration.result()

    assert held == ["AccessShareLock"]


def test_check_names_what_a_migrate_would_lock_and_locks_nothing(database: str, release: Release) -> None:
    assert "would lock" not in run("--dsn", database, "migrate", "--check", "--no-cron").err
    do(database, "drop policy readers_read on webhook_dlq", "drop trigger accept_entry on webhook_dlq")
    with psycopg.connect(database) as holder:
        holder.execute("lock table webhook_dlq in exclusive mode")

        said = run("--dsn", database, "migrate", "--check", "--no-cron").err

    assert "would lock public.webhook_dlq (access exclusive)" in said
    assert "would lock public.webhook_dlq (share row exclusive)" in said

    release.add_revision("0002", "0001", "alter table dlq.settings add column more text;\ncreate table dlq.new ();\n")

    said = run("--dsn", database, "migrate", "--check", "--no-cron").err

    assert [line for line in said.splitlines() if "would lock" in line] == [
        "would lock dlq.settings (access exclusive): others wait for it, and it gives way after two seconds"
    ]


def test_webhooks_come_in_while_a_revision_alters_the_queue_and_all_code_is_laid_down(
    database: str, release: Release
) -> None:
    release.add_revision("0002", "0001", "alter table public.webhook_dlq add column more text;\n")
    for file in (release.sql / "engine").glob("*.sql"):
        file.write_text(
            file.read_text().replace(
                "search_path = pg_catalog, pg_temp\n", "search_path = pg_catalog, pg_temp cost 99\n"
            )
        )

    with inserting(database) as took:
        report = migrate(database, cron=False)

    assert "revision 0002" in report.changed
    assert sum("function" in change for change in report.changed) > 15
    print(f"{len(took)} stored meanwhile, the longest wait {max(took):.2f} s")  # pytest -rP shows it
    assert max(took) < LONGEST
