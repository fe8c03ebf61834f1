"""pg_cron in another database of the server: scheduled from there, repaired there, and nobody else's job touched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from psycopg.conninfo import make_conninfo

from dlqctl.cluster import Cluster
from dlqctl.migrate import migrate
from tests.migration.migrating import Outcome, ask, do, let_use_our_roles, run

NET = ("--net-worker",)
CRON = ("--cron-dsn", "dbname=dlq")
ALL = {"cron job process-dlq-entries", "cron job dlq-maintain", "cron job dlq-alerts"}
JOBS = """
    select array_agg(concat_ws(' | ', jobname, username, database, schedule, command, active)
      order by database, jobname desc)
    from cron.job
"""
Make = Callable[[str], str]


@pytest.fixture
def app(_cron_cluster: Cluster, cron_database: str) -> Iterator[Make]:
    """Makes a database of this name beside pg_cron's, and returns its DSN."""
    made: list[str] = []

    def make(name: str) -> str:
        do(cron_database, f"create database {name} template template0")
        made.append(name)
        return _cron_cluster.dsn(name)

    yield make
    do(cron_database, *(f"drop database if exists {name} with (force)" for name in made))


def migrated(dsn: str, *words: str) -> list[str]:
    done = run("--dsn", dsn, "migrate", *words)
    assert done.code == 0, done.err
    return done.out.splitlines()


def verify(dsn: str, *words: str) -> Outcome:
    do(dsn, "call dlq.run_cycle()")
    return run("--dsn", dsn, "verify-cron", "--format", "csv", *words)


def test_the_job_is_scheduled_over_there_and_only_once(app: Make, cron_database: str) -> None:
    shop = app("shop")

    assert run("--dsn", shop, "migrate", *NET, *CRON, "--check").code == 1
    assert ask(cron_database, "select to_regclass('cron.job')") is None
    assert set(migrated(shop, *NET, *CRON)) >= ALL
    assert ask(cron_database, JOBS) == [
        "process-dlq-entries | postgres | shop | */5 * * * * | call dlq.run_cycle() | t",
        "dlq-maintain | postgres | shop | 17 3 * * * | call dlq.maintain() | t",
        "dlq-alerts | postgres | shop | * * * * * | select dlq.evaluate_alerts() | t",
    ]
    ids = ask(cron_database, "select array_agg(jobid) from cron.job")
    assert migrated(shop, *CRON) == []
    assert run("--dsn", shop, "migrate", *CRON, "--check").code == 0
    assert ask(cron_database, "select array_agg(jobid) from cron.job") == ids


FAULTS = {
    "select cron.alter_job(jobid, active => false) from cron.job": "switched off",
    "select cron.alter_job(jobid, schedule => '0 0 1 1 *') from cron.job": "0 0 1 1 *",
    "select cron.alter_job(jobid, command => 'select 1') from cron.job": "select 1",
    "update cron.job set nodeport = 1": "",  # which does not matter while pg_cron starts workers itself
    "update cron.job set database = 'gone'": "database gone, which does not exist",
    "select cron.unschedule(jobid) from cron.job": "is not scheduled",
    "drop extension pg_cron": "pg_cron is not in database dlq",
}


def test_what_differs_over_there_is_found_and_repaired(app: Make, cron_database: str) -> None:
    shop = app("shop")
    migrated(shop, *NET, *CRON)
    jobs = ask(cron_database, JOBS)
    for fault, finding in FAULTS.items():
        do(cron_database, fault)

        found = verify(shop, *CRON)
        if finding:
            assert found.code == 1
            assert finding in found.out + found.err
            assert "dlqctl migrate" in found.out + found.err
        assert run("--dsn", shop, "migrate", *CRON, "--check").code == 1
        assert set(migrated(shop, *CRON)) == ALL
        assert ask(cron_database, JOBS) == jobs
        assert verify(shop, *CRON).code == 0


def test_the_checks_are_the_same_rows_as_at_home(app: Make, cron_database: str) -> None:
    shop = app("shop")
    migrated(shop, *NET, *CRON)

    said = verify(shop, *CRON).out

    for check in (
        "extension,ok",
        "database,ok,pg_cron runs in dlq",
        "job process-dlq-entries,ok",
        "owner postgres,ok",
        "last run of process-dlq-entries,warning",
        "last run of dlq-maintain,ok",
        "processor,ok",
        "retention,ok",
    ):
        assert f"\n{check}" in f"\n{said}"


def test_without_the_option_all_else_is_installed_and_the_statement_works(app: Make, cron_database: str) -> None:
    shop = app("shop")
    do(cron_database, "create extension pg_cron")

    done = run("--dsn", shop, "migrate", *NET)

    assert done.code == 0
    assert ask(shop, "select count(*) from webhook_dlq") == 0
    assert "--cron-dsn dbname=dlq" in done.err
    statement = re.search(r"select cron\.schedule_in_database\(.*\);", done.err)
    assert statement
    do(cron_database, statement[0])
    assert verify(shop, *CRON).code == 0
    assert migrated(shop, *CRON) == []


def test_without_the_option_verify_cron_says_where_to_look_and_judges_by_what_arrives(
    app: Make, cron_database: str
) -> None:
    shop = app("shop")
    migrated(shop, *NET)

    arriving = verify(shop)
    do(shop, "update dlq_processing_log set processed_at = processed_at - interval '11 minutes'")
    silent = run("--dsn", shop, "verify-cron", "--format", "csv")

    assert (arriving.code, silent.code) == (0, 1)
    for outcome in (arriving, silent):
        assert "dlqctl verify-cron --cron-dsn dbname=dlq" in outcome.out
    assert "dlqctl migrate --cron-dsn dbname=dlq" in silent.out


def test_without_any_pg_cron_verify_cron_says_what_to_do(bare_cluster: Cluster) -> None:
    migrated(bare_cluster.dsn(), *NET, "--no-cron")

    said = verify(bare_cluster.dsn())

    assert (said.code, "pg_cron is not installed in this database" in said.out) == (1, True)
    assert "dlqctl process and maintain from any scheduler" in said.out


def test_two_databases_of_one_user_each_keep_their_job(app: Make, cron_database: str) -> None:
    shop, till = app("shop"), app("till")
    migrated(shop, *NET, *CRON)
    of_shop = ask(cron_database, "select array_agg(jobid) from cron.job")

    assert "cron job process-dlq-entries@till" in migrated(till, *NET, *CRON)

    assert ask(cron_database, JOBS) == [
        "process-dlq-entries | postgres | shop | */5 * * * * | call dlq.run_cycle() | t",
        "dlq-maintain | postgres | shop | 17 3 * * * | call dlq.maintain() | t",
        "dlq-alerts | postgres | shop | * * * * * | select dlq.evaluate_alerts() | t",
        "process-dlq-entries@till | postgres | till | */5 * * * * | call dlq.run_cycle() | t",
        "dlq-maintain@till | postgres | till | 17 3 * * * | call dlq.maintain() | t",
        "dlq-alerts@till | postgres | till | * * * * * | select dlq.evaluate_alerts() | t",
    ]
    assert ask(cron_database, "select array_agg(jobid) from cron.job where database = 'shop'") == of_shop
    for dsn in (shop, till):
        assert migrated(dsn, *CRON) == []
        assert verify(dsn, *CRON).code == 0


def test_pg_crons_own_database_leaves_the_job_of_another_alone(app: Make, cron_database: str) -> None:
    shop = app("shop")
    migrated(shop, *NET, *CRON)
    of_shop = ask(cron_database, "select array_agg(jobid) from cron.job")

    assert "cron job process-dlq-entries@dlq" in migrated(cron_database, *NET)

    assert ask(cron_database, "select array_agg(jobid) from cron.job where database = 'shop'") == of_shop
    unscheduled = ask(cron_database, "select array_agg(j order by j) from dlq.unschedule_jobs() as j")
    assert unscheduled == ["dlq-alerts@dlq", "dlq-maintain@dlq", "process-dlq-entries@dlq"]
    assert ask(cron_database, "select array_agg(jobid) from cron.job") == of_shop


def test_a_database_that_was_renamed_has_one_job_again(app: Make, cron_database: str) -> None:
    migrated(app("shop"), *NET, *CRON)
    do(cron_database, "alter database shop rename to store")
    store = make_conninfo(cron_database, dbname="store")
    try:
        assert "which does not exist" in verify(store, *CRON).out
        assert set(migrated(store, *CRON)) == ALL
        assert ask(cron_database, "select array_agg(database) from cron.job") == ["store"] * 3
    finally:
        do(cron_database, "drop database store with (force)")


def test_a_role_that_is_no_superuser_schedules_with_the_grants_it_is_told(app: Make, cron_database: str) -> None:
    shop = app("shop")
    do(cron_database, "create role clerk login createrole", "alter database shop owner to clerk")
    let_use_our_roles(cron_database, "clerk")
    clerk = make_conninfo(shop, user="clerk")
    try:
        refused = run("--dsn", clerk, "migrate", *NET, *CRON)
        assert refused.code == 1
        assert ask(shop, "select to_regnamespace('dlq') is null") is True
        statements = re.search(r"as a superuser, in dlq: (.*)\. Nothing", refused.err)
        assert statements
        do(cron_database, *statements[1].split("; "))

        assert "cron job process-dlq-entries" in migrated(clerk, *NET, *CRON)
        assert ask(cron_database, "select array_agg(username) from cron.job") == ["clerk"] * 3
        assert migrated(clerk, *CRON) == []
        assert verify(clerk, *CRON).code == 0
        # A superuser's own would be a second one.
        assert "scheduled 2 times" not in verify(shop, *CRON).out
    finally:
        do(cron_database, "drop extension pg_cron", "drop owned by clerk")
        do(shop, "drop owned by clerk cascade")
        do(cron_database, "drop database shop with (force)", "drop role clerk")


def test_a_job_whose_owner_could_not_run_it_is_not_scheduled(app: Make, cron_database: str) -> None:
    shop = app("shop")
    do(
        cron_database,
        "create extension pg_cron",
        "create role runner login",
        "grant usage on schema cron to runner",
        "grant execute on function cron.schedule_in_database(text,text,text,text,text,boolean) to runner",
    )
    runner = ("--cron-dsn", "dbname=dlq user=runner")
    try:
        refused = run("--dsn", shop, "migrate", *NET, *runner)
        assert (refused.code, "grant dlq_admin to runner" in refused.err) == (1, True)
        assert ask(cron_database, "select count(*) from cron.job") == 0

        do(shop, "grant dlq_admin to runner")
        assert set(migrated(shop, *runner)) == ALL
        assert verify(shop, *runner).code == 0
    finally:
        do(cron_database, "drop extension pg_cron", "drop owned by runner", "drop role runner")


def test_a_cron_dsn_that_cannot_be_right_changes_nothing(app: Make, cron_database: str, cluster: Cluster) -> None:
    shop = app("shop")
    for words, finding in (
        (("--cron-dsn", "dbname=postgres"), "--cron-dsn dbname=dlq"),
        (("--cron-dsn", cluster.dsn()), "two servers"),
    ):
        refused = run("--dsn", shop, "migrate", *NET, *words)
        assert refused.code == 1
        assert finding in refused.err
        assert ask(shop, "select to_regnamespace('dlq') is null") is True
    assert run("--dsn", shop, "migrate", *NET, "--cron-dsn", "dbname=nowhere").code == 3
    for word in ("--no-cron", "--sql"):
        assert run("--dsn", shop, "migrate", *NET, word, *CRON).code == 2


@pytest.mark.parametrize("name", ["process-dlq-entries", "dlq-maintain", "dlq-alerts"])
def test_a_home_made_job_over_there_is_left_alone(app: Make, cron_database: str, name: str) -> None:
    shop = app("shop")
    do(
        cron_database,
        "create extension pg_cron",
        f"select cron.schedule_in_database('{name}', '0 0 1 1 *', 'select process_dlq_entries()', 'shop')",
    )
    jobs = ask(cron_database, JOBS)

    refused = run("--dsn", shop, "migrate", *NET, *CRON)

    assert (refused.code, "that dlqctl did not make" in refused.err) == (1, True)
    assert ask(cron_database, JOBS) == jobs
    assert ask(shop, "select to_regnamespace('dlq') is null") is True


def test_who_may_not_see_the_jobs_over_there_is_told_so(app: Make, cron_database: str) -> None:
    shop = app("shop")
    migrate(shop, cron_dsn="dbname=dlq", net_worker=True)
    do(cron_database, "create role onlooker login")
    do(shop, "grant dlq_reader to onlooker")
    onlooker = make_conninfo(shop, user="onlooker")
    try:
        refused = run("--dsn", onlooker, "verify-cron", *CRON)
        assert (refused.code, "grant usage on schema cron to onlooker" in refused.err) == (1, True)
        do(cron_database, "grant usage on schema cron to onlooker")
        assert "cannot see the jobs of others" in run("--dsn", onlooker, "verify-cron", "--format", "csv", *CRON).out
    finally:
        do(cron_database, "drop owned by onlooker", "drop role onlooker")
