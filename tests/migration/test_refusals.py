"""Where migrate cannot finish, it says so, names what to type, and has changed nothing."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from dlqctl.cluster import Cluster, start_cluster
from dlqctl.migrate import migrate
from tests.migration.migrating import Outcome, ask, do, dump, run

WITHOUT_CRON = ("migrate", "--no-cron", "--net-worker")


def refused(dsn: str, *words: str) -> Outcome:
    """Run migrate where it must refuse, and see that it has changed nothing."""
    as_superuser = make_conninfo(dsn, user="postgres")
    before = dump(as_superuser)
    outcome = run("--dsn", dsn, *words)
    assert (outcome.code, outcome.out) == (1, ""), outcome
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert dump(as_superuser) == before
    return outcome


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("create table webhook_dlq (id int)", "table public.webhook_dlq"),
        ("create view webhook_dlq as select 1", "view public.webhook_dlq"),
        ("create table dlq_processing_log (id int)", "table public.dlq_processing_log"),
        (
            "create function process_dlq_entries() returns int language sql as 'select 1'",
            "function public.process_dlq_entries()",
        ),
        (
            "create function store_dlq_entry(text, jsonb) returns int language sql as 'select 1'",
            "function public.store_dlq_entry(pg_catalog.text,pg_catalog.jsonb)",
        ),
        ("create function dlq_health() returns int language sql as 'select 1'", "function public.dlq_health()"),
        ("create schema dlq", "schema dlq"),
        ("create schema net", "schema net"),
    ],
)
def test_a_name_that_is_taken_is_left_alone(empty_database: str, statement: str, name: str) -> None:
    do(empty_database, statement)

    assert name in refused(empty_database, *WITHOUT_CRON).err


def test_a_whole_home_made_queue_is_named_in_one_go(empty_database: str) -> None:
    do(
        empty_database,
        "create table webhook_dlq (id int)",
        "create table dlq_processing_log (id int)",
        "create function process_dlq_entries() returns int language sql as 'select 1'",
    )

    said = refused(empty_database, *WITHOUT_CRON).err

    for name in ("webhook_dlq", "dlq_processing_log", "process_dlq_entries()"):
        assert name in said


@pytest.mark.parametrize("name", ["process-dlq-entries", "dlq-maintain", "dlq-alerts"])
def test_a_home_made_cron_job_is_left_alone(cron_database: str, name: str) -> None:
    do(
        cron_database,
        "create extension pg_cron",
        f"select cron.schedule('{name}', '0 0 1 1 *', 'select process_dlq_entries()')",
    )
    jobs = "select array_agg(j::text) from cron.job as j"
    before = ask(cron_database, jobs)

    said = refused(cron_database, "migrate", "--net-worker").err

    assert f"cron job {name} (select process_dlq_entries())" in said
    assert ask(cron_database, jobs) == before


@pytest.mark.parametrize(
    ("statement", "advice"),
    [
        (
            "alter function process_dlq_entries() owner to postgres",
            "alter function public.process_dlq_entries() owner to dlq_owner",
        ),
        ("alter table webhook_dlq owner to postgres", "alter table public.webhook_dlq owner to dlq_owner"),
        ("alter view dlq.entries owner to postgres", "alter view dlq.entries owner to dlq_owner"),
        ("alter function dlq.resume(text, text) owner to postgres", "alter function dlq.resume owner to dlq_owner"),
    ],
)
def test_what_was_given_to_another_owner_is_asked_back(database: str, statement: str, advice: str) -> None:
    do(database, statement)

    assert advice in refused(database, "migrate", "--no-cron").err

    do(database, advice)
    assert run("--dsn", database, "migrate", "--no-cron").code == 0


def test_another_function_of_the_same_name_is_not_dropped(database: str) -> None:
    do(database, "create function dlq.pause(int) returns int language sql as 'select 1'")

    assert "dlq.pause" in refused(database, "migrate", "--no-cron").err


def test_without_pg_cron_on_the_server_it_names_the_package_and_the_setting(bare_cluster: Cluster) -> None:
    dsn = bare_cluster.dsn()

    said = refused(dsn, "migrate", "--net-worker").err

    assert f"postgresql-{bare_cluster.binaries.major}-cron" in said
    assert "shared_preload_libraries" in said
    assert "--no-cron" in said
    assert run("--dsn", dsn, *WITHOUT_CRON).code == 0


def test_where_pg_cron_is_not_loaded_it_names_the_setting(cluster: Cluster) -> None:
    if not cluster.has_pg_cron:
        pytest.skip("pg_cron is not installed")
    with start_cluster(pg_net=False, settings={"shared_preload_libraries": ""}) as unloaded:
        said = refused(unloaded.dsn(), "migrate", "--net-worker").err

        assert "shared_preload_libraries = 'pg_cron'" in said
        assert "cron.database_name = 'dlq'" in said
        assert run("--dsn", unloaded.dsn(), *WITHOUT_CRON).code == 0


def test_where_pg_cron_was_loaded_once_and_is_no_more_it_names_the_setting(cluster: Cluster) -> None:
    if not cluster.has_pg_cron:
        pytest.skip("pg_cron is not installed")
    with start_cluster(pg_net=False) as unloaded:
        migrate(unloaded.dsn(), net_worker=True)
        with (unloaded.data_dir / "postgresql.conf").open("a") as file:
            file.write("shared_preload_libraries = ''\n")
        unloaded.restart()

        assert "shared_preload_libraries = 'pg_cron'" in refused(unloaded.dsn(), "migrate").err


def test_without_pg_net_the_net_worker_must_be_asked_for(empty_database: str) -> None:
    assert "--net-worker" in refused(empty_database, "migrate", "--no-cron").err


def test_a_newer_database_is_left_alone(database: str) -> None:
    do(database, "update dlq.alembic_version set version_num = '9999'")

    assert "9999" in refused(database, "migrate", "--no-cron").err
    assert "9999" in refused(database, "migrate", "--no-cron", "--check").err


def test_a_standby_is_refused(standby: Cluster) -> None:
    assert "standby" in refused(standby.dsn(), *WITHOUT_CRON).err
    assert "standby" in refused(standby.dsn(), *WITHOUT_CRON, "--check").err


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_an_encoding_that_cannot_hold_every_webhook_is_refused(
    cluster: Cluster, other_database: Callable[..., str], encoding: str
) -> None:
    dsn = other_database(f"encoding '{encoding}' locale 'C'")

    assert encoding in refused(dsn, *WITHOUT_CRON).err


def _connects(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_wrong_password_is_exit_3_and_is_not_repeated(
    cluster: Cluster, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = cluster.data_dir / "pg_hba.conf"
    as_it_was = access.read_text()
    do(empty_database, "drop role if exists locked", "create role locked login password 'right'")
    access.write_text("local all locked scram-sha-256\n" + as_it_was)
    try:
        do(empty_database, "select pg_reload_conf()")
        while _connects(make_conninfo(empty_database, user="locked", password="wr0ng-one")):
            pass  # until the server has read it
        outcome = run("--dsn", make_conninfo(empty_database, user="locked", password="wr0ng-one"), *WITHOUT_CRON)
    finally:
        access.write_text(as_it_was)
        do(empty_database, "select pg_reload_conf()", "drop role locked")

    assert outcome.code == 3
    assert "wr0ng-one" not in outcome.err


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_a_server_that_is_not_there_is_exit_3(check: list[str]) -> None:
    assert run("--dsn", "host=/nowhere dbname=none", *WITHOUT_CRON, *check).code == 3


def test_the_real_pg_net_loaded_for_another_database_is_refused(pg_net_cluster: Cluster) -> None:
    assert "pg_net.database_name" in refused(pg_net_cluster.dsn("postgres"), "migrate", "--no-cron").err


def test_the_real_pg_net_and_a_schema_net_of_somebody_is_refused(pg_net_cluster: Cluster) -> None:
    do(pg_net_cluster.dsn("postgres"), "create schema net")
    try:
        assert "schema net" in refused(pg_net_cluster.dsn("postgres"), "migrate", "--no-cron").err
    finally:
        do(pg_net_cluster.dsn("postgres"), "drop schema net")
