"""Who may install: a role that is no superuser can, and one that lacks a right is told each statement that gives it."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from dlqctl.cluster import Cluster
from dlqctl.migrate import migrate
from tests.migration.migrating import ask, do, dump, run

WITHOUT_CRON = ("migrate", "--no-cron", "--net-worker")


def refused(dsn: str, *words: str) -> list[str]:
    """Run migrate where rights are missing, see that it changes nothing, and return what a superuser is to run."""
    superuser = make_conninfo(dsn, user="postgres")
    before, roles = dump(superuser), ask(superuser, "select array_agg(r::text order by oid) from pg_roles as r")
    outcome = run("--dsn", dsn, *words)
    assert outcome.code == 1, outcome
    assert dump(superuser) == before
    assert ask(superuser, "select array_agg(r::text order by oid) from pg_roles as r") == roles
    _, _, rest = outcome.err.partition("as a superuser, in this database: ")
    statements, _, _ = rest.partition(". Then run it again")
    assert statements, outcome.err
    return statements.split("; ")


@pytest.fixture
def deployer(bare_cluster: Cluster) -> str:
    """The DSN of an empty database as its owner, who has CREATEROLE, on a server that has none of our roles."""
    do(
        bare_cluster.dsn("postgres"),
        "create role deployer login createrole",
        "create database deployed owner deployer",
    )
    return bare_cluster.dsn("deployed", user="deployer")


def test_an_owner_with_createrole_installs_what_a_superuser_does(
    bare_cluster: Cluster, deployer: str, dump_as_installed: str
) -> None:
    migrate(deployer, cron=False, net_worker=True)

    assert migrate(deployer, cron=False).changed == []
    assert dump(bare_cluster.dsn("deployed")) == dump_as_installed
    assert run("--dsn", deployer, "process").code == 0


def test_an_owner_that_inherits_nothing_installs_too(
    bare_cluster: Cluster, deployer: str, dump_as_installed: str
) -> None:
    do(bare_cluster.dsn("postgres"), "alter role deployer noinherit")
    if bare_cluster.binaries.major < 16:  # there it is asked to; later versions inherit grant by grant
        do(bare_cluster.dsn("deployed"), *refused(deployer, *WITHOUT_CRON))

    migrate(deployer, cron=False, net_worker=True)

    assert migrate(deployer, cron=False).changed == []
    assert dump(bare_cluster.dsn("deployed")) == dump_as_installed


@pytest.mark.parametrize("attributes", ["", "createrole"])
def test_what_a_role_lacks_is_named_and_enough(
    bare_cluster: Cluster, deployer: str, attributes: str, dump_as_installed: str
) -> None:
    do(bare_cluster.dsn("postgres"), f"create role nobody_special login {attributes}")
    dsn = make_conninfo(deployer, user="nobody_special")

    statements = refused(dsn, *WITHOUT_CRON)
    do(bare_cluster.dsn("deployed"), *statements)

    assert run("--dsn", dsn, *WITHOUT_CRON).code == 0
    assert migrate(dsn, cron=False).changed == []
    assert dump(bare_cluster.dsn("deployed")) == dump_as_installed


def test_roles_that_another_database_made_are_found_and_asked_for(
    bare_cluster: Cluster, deployer: str, dump_as_installed: str
) -> None:
    migrate(deployer, cron=False, net_worker=True)
    do(bare_cluster.dsn("postgres"), "create role other login", "create database another owner other")
    dsn = bare_cluster.dsn("another", user="other")

    statements = refused(dsn, *WITHOUT_CRON)
    assert [statement.split(" to ")[0] for statement in statements[:2]] == ["grant dlq_owner", "grant dlq_admin"]
    do(bare_cluster.dsn("another"), *statements)

    migrate(dsn, cron=False, net_worker=True)
    assert migrate(dsn, cron=False).changed == []
    # The roles of a policy come in the order of their oids.
    there, fresh = (
        text.replace("TO dlq_reader, dlq_admin USING", "TO dlq_admin, dlq_reader USING")
        for text in (dump(bare_cluster.dsn("another")), dump_as_installed)
    )
    assert there == fresh


@pytest.mark.parametrize("attribute", ["login", "superuser"])
def test_an_owner_that_somebody_could_be_is_refused(bare_cluster: Cluster, deployer: str, attribute: str) -> None:
    do(bare_cluster.dsn("postgres"), f"create role dlq_owner {attribute}")

    said = run("--dsn", deployer, *WITHOUT_CRON)

    assert said.code == 1
    assert "alter role dlq_owner nologin nosuperuser" in said.err


def test_a_schema_public_that_was_closed_is_opened_for_the_owner_only(bare_cluster: Cluster, deployer: str) -> None:
    do(
        bare_cluster.dsn("deployed"),
        "revoke all on schema public from public",
        "revoke temporary on database deployed from public",
    )

    migrate(deployer, cron=False, net_worker=True)

    assert migrate(deployer, cron=False).changed == []
    assert ask(bare_cluster.dsn("deployed"), "select has_schema_privilege('dlq_reader', 'public', 'usage')") is False


def test_with_pg_cron_too_and_from_whom_its_settings_are_hidden(cron_database: str) -> None:
    name = ask(cron_database, "select current_database()")
    do(
        cron_database,
        "drop role if exists deployer",
        "create role deployer login createrole",
        f"alter database {name} owner to deployer",
    )
    dsn = make_conninfo(cron_database, user="deployer")
    # The roles of this server may be those of an earlier test: then they are asked for as well.
    try:
        statements = refused(dsn, "migrate", "--net-worker")
        assert statements[-2:] == ["create extension pg_cron", "grant usage on schema cron to deployer"]
        do(cron_database, *statements[:-1])
        assert refused(dsn, "migrate", "--net-worker") == ["grant usage on schema cron to deployer"]
        do(cron_database, statements[-1])

        assert "cron job process-dlq-entries" in migrate(dsn, net_worker=True).changed
        assert migrate(dsn).changed == []
        assert run("--dsn", dsn, "verify-cron").code == 0

        # Whoever runs migrate next finds the job, and does not schedule another; a superuser mends it as his own.
        jobs = "select array_agg(username || ' ' || schedule order by jobname) from cron.job"
        assert migrate(cron_database).changed == []
        assert ask(cron_database, jobs) == ["deployer * * * * *", "deployer 17 3 * * *", "deployer */5 * * * *"]
        do(cron_database, "select cron.alter_job(jobid, schedule => '0 0 * * *') from cron.job")
        jobs_of_ours = ["cron job dlq-alerts", "cron job dlq-maintain", "cron job process-dlq-entries"]
        assert sorted(migrate(cron_database).changed) == jobs_of_ours
        assert ask(cron_database, jobs) == ["postgres * * * * *", "postgres 17 3 * * *", "postgres */5 * * * *"]
    finally:
        do(
            cron_database,
            f"alter database {name} owner to postgres",
            "drop extension if exists pg_cron",
            "drop owned by deployer",
        )
        with psycopg.connect(cron_database, autocommit=True) as conn:
            conn.execute("drop role deployer")
