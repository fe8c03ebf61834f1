"""A fresh install: the same by every way in, whoever else does it at the same time, and only once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import dlqctl.migrate
from dlqctl.cluster import Cluster
from dlqctl.errors import CannotConnect
from dlqctl.migrate import migrate, print_sql
from tests.migration.migrating import WAITING, ask, do, dump, fingerprint, program, run, wait_for


def pipe(sql: str, dsn: str) -> subprocess.CompletedProcess[str]:
    """Run SQL as a person would: through psql, which stops at the first error."""
    words = [str(program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", dsn]
    return subprocess.run(words, input=sql, check=False, capture_output=True, text=True)


def test_an_install_repeated_changes_nothing(empty_database: str) -> None:
    first = migrate(empty_database, cron=False, net_worker=True)
    installed, touched = dump(empty_database), fingerprint(empty_database)

    again = migrate(empty_database, cron=False, net_worker=True)

    assert first.changed
    assert again.changed == []
    assert dump(empty_database) == installed
    assert fingerprint(empty_database) == touched
    assert run("--dsn", empty_database, "migrate", "--check", "--no-cron").code == 0


def test_an_install_with_cron_repeated_changes_nothing(cron_database: str) -> None:
    jobs = "select array_agg(j::text) from cron.job as j"
    first = migrate(cron_database, net_worker=True)
    installed, touched, scheduled = dump(cron_database), fingerprint(cron_database), ask(cron_database, jobs)

    again = migrate(cron_database, net_worker=True)

    assert {"cron job process-dlq-entries", "cron job dlq-maintain"} <= set(first.changed)
    assert again.changed == []
    assert dump(cron_database) == installed
    assert fingerprint(cron_database) == touched
    assert ask(cron_database, jobs) == scheduled
    assert run("--dsn", cron_database, "migrate", "--check").code == 0


@pytest.mark.parametrize("column", ["schedule => '0 0 * * *'", "command => 'select 1'", "active => false"])
def test_a_cron_job_that_was_changed_is_found_and_repaired(cron_database: str, column: str) -> None:
    jobs = "select array_agg((j.schedule, j.command, j.active)::text) from cron.job as j"
    migrate(cron_database, net_worker=True)
    scheduled = ask(cron_database, jobs)
    do(cron_database, f"select cron.alter_job(jobid, {column}) from cron.job")
    altered = ask(cron_database, jobs)

    found = run("--dsn", cron_database, "migrate", "--check")
    jobs_of_ours = ["cron job dlq-alerts", "cron job dlq-maintain", "cron job process-dlq-entries"]
    assert (found.code, sorted(found.out.splitlines())) == (1, jobs_of_ours)
    assert ask(cron_database, jobs) == altered

    assert sorted(migrate(cron_database).changed) == jobs_of_ours
    assert ask(cron_database, jobs) == scheduled


def test_check_on_an_empty_database_changes_nothing(empty_database: str) -> None:
    before = dump(empty_database)

    found = run("--dsn", empty_database, "migrate", "--check", "--no-cron", "--net-worker")

    assert found.code == 1
    assert "revision" in found.out
    assert dump(empty_database) == before


def test_the_printed_sql_installs_the_same(empty_database: str, dump_as_installed: str) -> None:
    done = pipe(run("migrate", "--sql", "--net-worker", "--no-cron").out, empty_database)

    assert done.returncode == 0, done.stderr
    assert dump(empty_database) == dump_as_installed
    assert migrate(empty_database, cron=False).changed == []


def test_the_printed_sql_installs_the_same_with_cron(cron_database: str) -> None:
    done = pipe(print_sql(net_worker=True), cron_database)

    assert done.returncode == 0, done.stderr
    assert migrate(cron_database).changed == []


def test_the_printed_sql_does_all_or_nothing(empty_database: str) -> None:
    do(empty_database, "create schema net")  # in the way of its last steps
    before = dump(empty_database)

    assert pipe(print_sql(cron=False, net_worker=True), empty_database).returncode != 0
    assert dump(empty_database) == before


def test_printing_the_sql_connects_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg, "connect", lambda *_, **__: pytest.fail("it connects"))

    printed = run("--dsn", "host=/nowhere", "migrate", "--sql")

    assert (printed.code, printed.err) == (0, "")
    assert printed.out.rstrip().endswith("COMMIT;")


def at_once(dsns: list[str]) -> list[tuple[int, str]]:
    """Run one migrate for each of these at the same time, each a process of its own."""
    words = [sys.executable, "-m", "dlqctl", "migrate", "--no-cron", "--net-worker", "--dsn"]
    processes = [subprocess.Popen([*words, dsn], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for dsn in dsns]
    errors = [process.communicate(timeout=60)[1].decode() for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def test_eight_at_once_all_succeed(empty_database: str, dump_as_installed: str) -> None:
    done = at_once([empty_database] * 8)

    assert [code for code, _ in done] == [0] * 8, done
    assert dump(empty_database) == dump_as_installed
    assert sum(", 0 changed" in error for _, error in done) == 7


def test_four_databases_at_once_share_the_roles_that_each_would_make(bare_cluster: Cluster) -> None:
    names = ["a", "b", "c", "d"]
    do(bare_cluster.dsn("postgres"), *(f"create database {name}" for name in names))

    done = at_once([bare_cluster.dsn(name) for name in names])

    assert [code for code, _ in done] == [0] * 4, done


def test_the_settings_of_a_database_change_nothing(
    cluster: Cluster, empty_database: str, dump_as_installed: str
) -> None:
    name = ask(empty_database, "select current_database()")
    do(
        empty_database,
        "create schema mine",
        "create function mine.now() returns timestamptz language sql as 'select null::timestamptz'",
        f"alter database {name} set search_path = mine, dlq, public, pg_catalog",
        f"alter database {name} set default_transaction_isolation = 'serializable'",
        f"alter database {name} set quote_all_identifiers = on",
        f"alter database {name} set intervalstyle = 'iso_8601'",
    )

    migrate(empty_database, cron=False, net_worker=True)

    assert migrate(empty_database, cron=False).changed == []
    do(empty_database, "drop schema mine cascade", *(f"alter database {name} reset all",))
    assert dump(empty_database) == dump_as_installed


def test_a_migrate_that_is_killed_leaves_nothing_half_done(empty_database: str, dump_as_installed: str) -> None:
    empty = dump(empty_database)
    with psycopg.connect(empty_database) as holder, ThreadPoolExecutor(1) as pool:
        # It comes upon this near its end, when tables, functions and views are there.
        holder.execute("create schema net")
        migration = pool.submit(migrate, empty_database, cron=False, net_worker=True)
        pid = wait_for(empty_database, WAITING)
        made = wait_for(empty_database, f"select count(*) from pg_locks where pid = {pid} and locktype = 'relation'")
        do(empty_database, f"select pg_terminate_backend({pid})")
        with pytest.raises(CannotConnect):
            migration.result()
        holder.rollback()

    assert isinstance(made, int)
    assert made > 20
    assert dump(empty_database) == empty
    migrate(empty_database, cron=False, net_worker=True)
    assert dump(empty_database) == dump_as_installed


def test_a_migrate_that_waits_for_the_engine_gives_way_and_tries_again(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dlqctl.migrate, "_WAITS", (0.1,))
    waits: list[str] = []
    with psycopg.connect(empty_database) as engine:
        engine.execute("select pg_advisory_xact_lock(6581361)")

        def let_go(why: str) -> None:
            waits.append(why)
            engine.rollback()

        report = migrate(empty_database, cron=False, net_worker=True, on_wait=let_go)

    assert len(waits) == 1
    assert report.changed


def test_a_copy_is_declared_production_only_when_told(
    cluster: Cluster, template: str, other_database: Callable[..., str]
) -> None:
    copy = other_database()
    migrate(copy, cron=False, net_worker=True)
    do(copy, "update dlq.settings set database_oid = 1")

    assert migrate(copy, cron=False).changed == []
    assert ask(copy, "select dlq._is_production()") is False
    assert migrate(copy, cron=False, this_is_production=True).changed == ["this database is production now"]
    assert ask(copy, "select dlq._is_production()") is True
    assert migrate(copy, cron=False, this_is_production=True).changed == []


def test_an_install_on_another_version_of_postgresql_repeated_changes_nothing(newer: Cluster) -> None:
    do(newer.dsn("postgres"), "create role deployer login createrole", "alter database dlq owner to deployer")
    deployer = newer.dsn(user="deployer")
    migrate(deployer, cron=False, net_worker=True)
    touched = fingerprint(newer.dsn())

    assert migrate(deployer, cron=False).changed == []
    assert migrate(newer.dsn(), cron=False).changed == []
    assert fingerprint(newer.dsn()) == touched


def test_the_real_pg_net_is_used_where_there_is_one(pg_net_cluster: Cluster) -> None:
    dsn = pg_net_cluster.dsn()
    cron = pg_net_cluster.has_pg_cron
    do(dsn, "drop extension if exists pg_net")  # which another test of this session may have needed

    refused = run("--dsn", dsn, "migrate", "--net-worker", *([] if cron else ["--no-cron"]))
    assert refused.code == 1
    assert ask(dsn, "select to_regnamespace('dlq') is null") is True

    first = migrate(dsn, cron=cron)
    touched = fingerprint(dsn)
    assert (first.sender, "extension pg_net" in first.changed) == ("pg_net", True)
    assert migrate(dsn, cron=cron).changed == []
    assert fingerprint(dsn) == touched


def test_the_printed_sql_uses_the_real_pg_net(pg_net_cluster: Cluster) -> None:
    dsn = pg_net_cluster.dsn()
    do(dsn, "drop extension if exists pg_net, pg_cron")
    if ask(dsn, "select to_regrole('dlq_owner') is not null"):
        do(dsn, "drop owned by dlq_owner cascade")

    done = pipe(print_sql(cron=pg_net_cluster.has_pg_cron), dsn)

    assert done.returncode == 0, done.stderr
    assert migrate(dsn, cron=pg_net_cluster.has_pg_cron).changed == []
