"""uninstall takes what is ours, all of it, leaves what is not, says both before, and does nothing by halves."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import dlqctl.migrate
from dlqctl.cluster import Cluster
from dlqctl.migrate import migrate
from tests.migration.migrating import Outcome, ask, do, dump, run

THEIRS = (
    "create table orders (id int primary key, note text)",
    "create function shout(text) returns text language sql as 'select upper($1)'",
    "create view loud as select shout(note) from orders",
)
JOBS = "select array_agg((jobname, schedule, command, database, username, active)::text) from cron.job"


def uninstalled(dsn: str, *words: str) -> Outcome:
    done = run("--dsn", dsn, "uninstall", "--yes", *words)
    assert done.code == 0, done.err
    return done


def test_what_is_left_is_what_was_there_before_and_it_can_be_installed_again(
    empty_database: str, dump_as_installed: str
) -> None:
    do(empty_database, *THEIRS)
    before = dump(empty_database, "--create", "--schema-only")
    migrate(empty_database, cron=False, net_worker=True)
    do(empty_database, "select store_dlq_entry('shop', '{}')")

    uninstalled(empty_database, "--no-cron")

    assert dump(empty_database, "--create", "--schema-only") == before
    again = run("--dsn", empty_database, "uninstall", "--no-cron")
    assert (again.code, again.out, "there is nothing of dlqctl's" in again.err) == (0, "", True)
    migrate(empty_database, cron=False, net_worker=True)
    do(empty_database, "drop view loud", "drop function shout", "drop table orders")
    assert dump(empty_database) == dump_as_installed


def test_the_preview_names_what_is_lost_and_changes_nothing(database: str) -> None:
    do(
        database,
        "insert into webhook_dlq (service, payload) select 'shop', to_jsonb(n) from generate_series(1, 5) as n",
        "update webhook_dlq set status = 'failed', next_retry_at = null, settled_at = now() where payload < '3'",
        "create function mine() returns trigger language plpgsql as 'begin return new; end'",
        "create trigger mine before update on webhook_dlq for each row execute function mine()",
        "create table dlq.kept (id int)",
        "create table given (id int)",
        "alter table given owner to dlq_owner",
    )
    before = dump(database, "--inserts")

    said = run("--dsn", database, "uninstall", "--no-cron", "--check")

    assert said.code == 0
    assert dump(database, "--inserts") == before
    for line in (
        "goes: table public.webhook_dlq, rows: 5 (2 failed, 3 pending)",
        "goes:   of these NOT DELIVERED: 5",
        "goes: table public.given, rows: 0",
        "goes: trigger mine on public.webhook_dlq, which is not dlqctl's but a part of the table",
        "goes: schema net",
        "stays: schema dlq: table dlq.kept",
    ):
        assert line in said.out.splitlines()
    assert "stays: role dlq_owner, used by " in said.out
    assert "database dlq_template" in said.out


def test_without_a_terminal_it_asks_for_yes(database: str) -> None:
    before = dump(database)

    refused = run("--dsn", database, "uninstall", "--no-cron")

    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert dump(database) == before


@pytest.mark.parametrize(("answer", "is_left"), [("n\n", True), ("y\n", False)])
def test_on_a_terminal_it_asks_and_names_what_is_lost(
    database: str, monkeypatch: pytest.MonkeyPatch, answer: str, is_left: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    do(database, "select store_dlq_entry('shop', '{}')")
    monkeypatch.setattr(sys, "stdin", Terminal(answer))

    done = run("--dsn", database, "uninstall", "--no-cron")

    assert "Webhooks that were never delivered are lost: 1." in done.err
    assert ask(database, "select to_regclass('webhook_dlq') is not null") is is_left
    assert done.code == (130 if is_left else 0)


DEPENDENTS = {
    "view public.recent": "create view recent as select id from webhook_dlq",
    "materialized view public.old": "create materialized view old as select id from webhook_dlq",
    "view dlq.more": "create view dlq.more as select * from dlq.entries",
    "table constraint about on public.note": "create table note (entry uuid constraint about references webhook_dlq)",
    "function public.reads(public.webhook_dlq)": (
        "create function reads(webhook_dlq) returns int language sql as 'select 1'"
    ),
    "default value for public.clock.at": "create table clock (at timestamptz default dlq._now())",
    "trigger checks on public.log": (
        "create table log (id int);"
        "create trigger checks before insert on log for each row execute function dlq._accept_entry()"
    ),
}


def test_what_depends_on_ours_is_named_and_nothing_is_dropped(database: str) -> None:
    do(database, *DEPENDENTS.values())
    before = dump(database)

    checked = run("--dsn", database, "uninstall", "--no-cron", "--check")
    refused = run("--dsn", database, "uninstall", "--no-cron", "--yes")

    assert (checked.code, refused.code) == (1, 1)
    found = [line.removeprefix("in the way: ") for line in checked.out.splitlines() if line.startswith("in the way")]
    assert found == sorted(DEPENDENTS)
    assert "recent" in refused.err
    assert dump(database) == before


def test_what_depends_on_ours_since_the_preview_is_named_by_the_server(
    cron_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(cron_database, net_worker=True)
    jobs = ask(cron_database, JOBS)
    do(cron_database, "create view recent as select id from webhook_dlq")
    monkeypatch.setattr("dlqctl.uninstall._IN_THE_WAY", "select where false")

    refused = run("--dsn", cron_database, "uninstall", "--yes")

    assert (refused.code, "view public.recent depends on" in refused.err) == (1, True)
    assert ask(cron_database, JOBS) == jobs
    assert ask(cron_database, "select count(*) from webhook_dlq") == 0


def test_the_users_own_in_our_schemas_stays_and_so_does_the_schema(database: str, dump_as_installed: str) -> None:
    do(
        database,
        "create table dlq.kept as select 1 as n",
        "create function net.kept() returns int language sql as 'select n from dlq.kept'",
    )

    uninstalled(database, "--no-cron")

    assert ask(database, "select net.kept()") == 1
    rest = ask(database, "select array_agg(relname) from pg_class where relnamespace = 'dlq'::regnamespace")
    assert rest == ["kept"]
    migrate(database, cron=False, net_worker=True)
    do(database, "drop function net.kept()", "drop table dlq.kept")
    assert dump(database) == dump_as_installed


def test_the_jobs_go_first_and_pg_cron_stays(cron_database: str) -> None:
    migrate(cron_database, net_worker=True)
    do(
        cron_database,
        "select cron.schedule('theirs', '* * * * *', 'select 1')",
        "create role second login superuser",
        "set role second; select cron.schedule('process-dlq-entries', '*/5 * * * *', 'call dlq.run_cycle()')",
    )

    said = uninstalled(cron_database)

    assert "goes: cron job process-dlq-entries of postgres, in dlq" in said.out
    assert "goes: cron job process-dlq-entries of second, in dlq" in said.out
    assert "goes: cron job dlq-maintain of postgres, in dlq" in said.out
    assert "goes: cron job dlq-alerts of postgres, in dlq" in said.out
    assert "stays: extension pg_cron" in said.out
    assert ask(cron_database, "select array_agg(jobname) from cron.job") == ["theirs"]
    do(cron_database, "drop role second")
    migrate(cron_database, net_worker=True)


def test_a_lock_that_does_not_go_away_leaves_everything_as_it_was(
    cron_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dlqctl.migrate, "_WAITS", (0.1,))
    migrate(cron_database, net_worker=True)
    do(
        cron_database,
        "create role second login superuser",
        "set role second; select cron.schedule('process-dlq-entries', '0 0 * * *', 'select 1')",
        "select cron.alter_job(jobid, active => false) from cron.job where username = 'second'",
    )
    jobs = ask(cron_database, JOBS)
    before = dump(cron_database)
    with psycopg.connect(cron_database) as reader:
        reader.execute("select from webhook_dlq")
        refused = run("--dsn", cron_database, "uninstall", "--yes")

    assert (refused.code, "somebody holds a lock on the queue" in refused.err) == (1, True)
    assert ask(cron_database, JOBS) == jobs
    assert dump(cron_database) == before
    uninstalled(cron_database)
    do(cron_database, "drop role second")


def test_it_waits_for_the_engine(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlqctl.migrate, "_WAITS", (0.1,))
    with psycopg.connect(database) as engine:
        engine.execute("select pg_advisory_xact_lock(6581361)")
        monkeypatch.setattr("time.sleep", lambda _: engine.rollback())

        said = uninstalled(database, "--no-cron")

    assert "trying again" in said.err
    assert ask(database, "select to_regclass('webhook_dlq')") is None


@pytest.fixture
def shop(_cron_cluster: Cluster, cron_database: str) -> Iterator[str]:
    """A database beside pg_cron's."""
    do(cron_database, "create database shop template template0")
    yield _cron_cluster.dsn("shop")
    do(cron_database, "drop database shop with (force)")


def test_pg_cron_in_another_database_is_named_and_its_job_goes(cron_database: str, shop: str) -> None:
    migrate(shop, cron_dsn="dbname=dlq", net_worker=True)
    migrate(cron_database, net_worker=True)

    refused = run("--dsn", shop, "uninstall", "--yes")
    assert (refused.code, "--cron-dsn dbname=dlq" in refused.err) == (1, True)
    assert ask(shop, "select count(*) from webhook_dlq") == 0

    uninstalled(shop, "--cron-dsn", "dbname=dlq")
    assert ask(cron_database, "select array_agg(database) from cron.job") == ["dlq", "dlq", "dlq"]
    assert ask(cron_database, "select to_regclass('webhook_dlq') is not null") is True


def test_the_last_database_takes_the_roles_along_and_no_other_does(bare_cluster: Cluster) -> None:
    server = bare_cluster.dsn("postgres")
    do(server, "create database shop", "create database till", "revoke temporary on database till from public")
    shop, till = bare_cluster.dsn("shop"), bare_cluster.dsn("till")
    for dsn in (shop, till):
        migrate(dsn, cron=False, net_worker=True)
    do(server, "create role ann in role dlq_admin")

    first = uninstalled(shop)
    assert "stays: role dlq_owner, used by database till" in first.out
    # The server takes a role's rights on every database along; the other one needs them.
    assert migrate(till, cron=False).changed == []

    do(till, "create table mine (id int)", "grant select on mine to dlq_reader", "create table dlq.kept (id int)")
    second = uninstalled(till)
    assert "goes: role dlq_admin, from ann" in second.out
    assert "stays: role dlq_reader, used by table public.mine" in second.out
    assert "stays: role dlq_owner, used by what stays here" in second.out
    assert "table public.mine" in second.err
    left = ask(server, "select array_agg(rolname::text order by rolname) from pg_roles where rolname like 'dlq%'")
    assert left == ["dlq_owner", "dlq_reader"]
    assert ask(till, "select has_table_privilege('dlq_reader', 'mine', 'select')") is True

    do(till, "drop table mine", "drop schema dlq cascade")
    assert "goes: role dlq_reader" in uninstalled(till).out


def deployed(cluster: Cluster) -> str:
    """A database of a role that is no superuser, with dlqctl installed by it; its DSN for that role."""
    do(
        cluster.dsn("postgres"),
        "create role deployer login createrole",
        "create database deployed owner deployer template template0",
    )
    dsn = cluster.dsn("deployed", user="deployer")
    do(dsn, *THEIRS)
    return dsn


def test_a_role_that_is_no_superuser_uninstalls_the_same(bare_cluster: Cluster) -> None:
    dsn = deployed(bare_cluster)
    before = dump(bare_cluster.dsn("deployed"))
    migrate(dsn, cron=False, net_worker=True)

    uninstalled(dsn)

    assert dump(bare_cluster.dsn("deployed")) == before
    assert ask(dsn, "select count(*) from pg_roles where rolname like 'dlq%'") == 0


def test_a_role_that_may_not_is_told_so(database: str, cluster: Cluster) -> None:
    do(database, "drop role if exists bystander", "create role bystander login")
    before = dump(database)

    refused = run("--dsn", make_conninfo(database, user="bystander"), "uninstall", "--no-cron", "--yes")

    assert refused.code == 1
    assert "connect as the role that installed dlqctl" in refused.err
    assert dump(database) == before
    do(database, "drop role bystander")


def test_a_standby_is_refused(standby: Cluster) -> None:
    refused = run("--dsn", standby.dsn("postgres"), "uninstall", "--check")
    assert (refused.code, "standby" in refused.err) == (1, True)


def test_on_another_version_of_postgresql_nothing_is_left_either(newer: Cluster) -> None:
    objects = "select array_agg(oid::regclass::text order by oid) from pg_class where oid >= 16384"
    dsn = deployed(newer)
    before = ask(dsn, objects)
    migrate(dsn, cron=False, net_worker=True)

    uninstalled(dsn)

    assert ask(dsn, objects) == before
    assert ask(dsn, "select count(*) from pg_roles where rolname like 'dlq%'") == 0
    migrate(dsn, cron=False, net_worker=True)
