"""A copy of production calls nobody, says so, and becomes production when it is told to."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

import pytest

from dlqctl.cluster import Cluster
from dlqctl.migrate import migrate
from dlqctl.receiver import Receiver
from tests.migration.migrating import ask, do, dump, program, run, wait_for
from tests.net_worker import net_worker
from tests.standby import standby_of

ROWS = "select array_agg((id, service, status, payload)::text order by id) from webhook_dlq"
QUEUED = "select count(*) from net.http_request_queue"


@pytest.fixture
def production(database: str, receiver: Receiver) -> str:
    """A queue with something due, something under way that the sender has taken, and something failed."""
    do(
        database,
        f"select dlq.set_endpoint('shop', '{receiver.url('shop')}', allow_http => true, allow_private => true)",
        "insert into webhook_dlq (service, payload, next_retry_at) values ('shop', '1', now())",
        "select process_dlq_entries()",
        "delete from net.http_request_queue",
        "insert into webhook_dlq (service, payload, next_retry_at) select 'shop', to_jsonb(n), now()"
        " from generate_series(2, 4) as n",
        "update webhook_dlq set status = 'failed', next_retry_at = null, settled_at = now() where payload = '4'",
        "create table orders (id int)",
    )
    return database


def restore(source: str, target: str, format_: str, *options: str) -> str:
    """pg_dump one, restore it into the other as a person does, errors and all; return what it complained of."""
    words = [str(program("pg_dump")), f"--format={format_}", *options, source]
    content = subprocess.run(words, check=True, capture_output=True).stdout
    words = (
        [str(program("psql")), "-X", "-q", target]
        if format_ == "plain"
        else [str(program("pg_restore")), f"--dbname={target}"]
    )
    return subprocess.run(words, input=content, check=False, capture_output=True).stderr.decode()


def structure(dsn: str) -> str:
    """What pg_dump says of a database, but for parentheses: a condition that was dumped and restored has more."""
    return re.sub(r"[()]", "", dump(dsn)).replace("deployer", "postgres")


def calls_nobody(copy: str, receiver: Receiver) -> None:
    """Cycles run, and hand nothing to the sender; health says why, and what to type."""
    do(copy, "update dlq.settings set cycle_budget = '1 second'")  # if it does send, nobody will answer
    do(copy, *["update webhook_dlq set next_retry_at = now() where status = 'pending'", "call dlq.run_cycle()"] * 3)
    assert ask(copy, QUEUED) == 0
    assert receiver.requests == []
    health = run("--dsn", copy, "health", "--format", "json")
    (sender,) = (check for check in json.loads(health.out) if check["name"] == "sender")
    assert (health.code, sender["level"]) == (1, "error")
    assert "this is a copy" in sender["detail"]
    assert "dlqctl migrate --this-is-production" in sender["detail"]
    do(copy, "update dlq.settings set cycle_budget = '4 minutes'")
    assert "copy" in str(ask(copy, "select error_message from dlq_processing_log order by id desc limit 1"))


def delivers_each_once(copy: str, receiver: Receiver) -> None:
    """Told that it is production, it sends what is due and what was under way, each entry once."""
    told = run("--dsn", copy, "migrate", "--no-cron", "--this-is-production")
    assert told.code == 0, told.err
    assert "this database is production now" in told.out
    with net_worker(copy):
        do(copy, "update webhook_dlq set next_retry_at = now() where status = 'pending'", "call dlq.run_cycle()")
    assert ask(copy, "select array_agg(payload::text || status order by payload) from webhook_dlq") == [
        "1reprocessed", "2reprocessed", "3reprocessed", "4failed"
    ]  # fmt: skip
    assert sorted(request.body for request in receiver.requests) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("format_", ["plain", "custom"])
def test_a_dump_restored_beside_production_calls_nobody_until_told(
    cluster: Cluster, production: str, receiver: Receiver, other_database: Callable[..., str], format_: str
) -> None:
    copy = other_database()
    before = ask(production, ROWS)

    assert restore(production, copy, format_) == ""

    assert ask(copy, ROWS) == before
    assert structure(copy) == structure(production)
    calls_nobody(copy, receiver)
    assert run("--dsn", copy, "migrate", "--check", "--no-cron").code == 0  # owners, grants and all came along
    delivers_each_once(copy, receiver)
    assert ask(production, ROWS) == before


@pytest.mark.parametrize(
    ("format_", "options"),
    [("custom", ()), ("plain", ()), ("custom", ("--no-owner", "--no-acl"))],
    ids=["custom", "plain", "without-owners-and-grants"],
)
def test_a_dump_restored_on_a_server_without_our_roles_is_mended_by_migrate(
    bare_cluster: Cluster,
    production: str,
    receiver: Receiver,
    format_: str,
    options: tuple[str, ...],
) -> None:
    copy = bare_cluster.dsn()
    assert 'role "dlq_' in restore(production, copy, format_, *options)
    assert ask(copy, "select to_regrole('dlq_owner')") is None

    checked = run("--dsn", copy, "migrate", "--no-cron", "--check")
    assert (checked.code, "owner of everything" in checked.out) == (1, True)
    assert ask(copy, "select to_regrole('dlq_owner')") is None
    mended = run("--dsn", copy, "migrate", "--no-cron")

    assert mended.code == 0, mended.err
    assert structure(copy) == structure(production)
    assert ask(copy, ROWS) == ask(production, ROWS)
    assert run("--dsn", copy, "migrate", "--no-cron", "--check").code == 0
    calls_nobody(copy, receiver)
    if format_ == "custom" and not options:
        delivers_each_once(copy, receiver)
    assert "nothing" not in run("--dsn", copy, "uninstall", "--no-cron", "--yes").err


def test_the_job_comes_along_with_a_dump_of_pg_crons_database_and_sends_nothing(
    cluster: Cluster, cron_database: str, receiver: Receiver
) -> None:
    migrate(cron_database, net_worker=True)
    do(
        cron_database,
        f"select dlq.set_endpoint('shop', '{receiver.url('shop')}', allow_http => true, allow_private => true)",
        "insert into webhook_dlq (service, payload, next_retry_at) values ('shop', '1', now())",
    )
    copy = cluster.dsn()  # pg_cron's database of another server
    try:
        restore(cron_database, copy, "custom")

        assert ask(copy, "select count(*) from cron.job where active") == 3
        calls_nobody(copy, receiver)
        assert run("--dsn", copy, "migrate").code == 0
        calls_nobody(copy, receiver)
    finally:
        do(copy, "drop extension if exists pg_cron", "drop owned by dlq_owner")


def test_a_role_that_is_no_superuser_mends_what_it_has_restored(bare_cluster: Cluster, production: str) -> None:
    do(
        bare_cluster.dsn("postgres"),
        "create role deployer login createrole",
        "create database deployed owner deployer template template0",
    )
    copy = bare_cluster.dsn("deployed", user="deployer")
    restore(production, copy, "custom")

    mended = run("--dsn", copy, "migrate", "--no-cron")

    assert mended.code == 0, mended.err
    assert ask(bare_cluster.dsn("deployed"), "select dlq._is_production()") is False
    assert ask(copy, "select tableowner from pg_tables where tablename = 'orders'") == "deployer"
    assert structure(bare_cluster.dsn("deployed")) == structure(production)


def test_what_is_somebody_elses_is_not_taken_for_a_restored_dump(empty_database: str) -> None:
    do(empty_database, "create schema dlq", "create table dlq.settings (id int)", "create table webhook_dlq (id int)")
    before = dump(empty_database)

    refused = run("--dsn", empty_database, "migrate", "--no-cron", "--net-worker")

    assert (refused.code, "not dlqctl's" in refused.err) == (1, True)
    assert dump(empty_database) == before


def test_a_database_made_from_production_as_its_template_calls_nobody(
    cluster: Cluster, production: str, receiver: Receiver
) -> None:
    do(cluster.dsn("postgres"), f"create database twin template {ask(production, 'select current_database()')}")
    try:
        calls_nobody(cluster.dsn("twin"), receiver)
        # Its net tables are the same by oid, so the request that is nowhere is given a minute. Not here.
        do(cluster.dsn("twin"), "update dlq.in_flight set missing_since = now() - interval '2 minutes'")
        delivers_each_once(cluster.dsn("twin"), receiver)
    finally:
        do(cluster.dsn("postgres"), "drop database twin with (force)")


def test_a_copied_data_folder_is_production_to_itself_so_it_is_paused_before_it_runs(
    bare_cluster: Cluster, receiver: Receiver
) -> None:
    migrate(bare_cluster.dsn(), cron=False, net_worker=True)
    do(
        bare_cluster.dsn(),
        f"select dlq.set_endpoint('shop', '{receiver.url('shop')}', allow_http => true, allow_private => true)",
        "insert into webhook_dlq (service, payload, next_retry_at) values ('shop', '1', now())",
    )
    with standby_of(bare_cluster) as copy:
        # Not waiting inside the call: its snapshot could be what the replay has to wait for.
        do(copy.dsn(), "select pg_promote(wait => false)")
        wait_for(copy.dsn(), "select 1 where not pg_is_in_recovery()")
        # Nothing in it tells it from a standby that was promoted, which has to go on.
        assert ask(copy.dsn(), "select dlq._is_production()") is True
        assert run("--dsn", copy.dsn(), "pause", "--reason", "a copy").code == 0

        do(copy.dsn(), "call dlq.run_cycle()")

        assert ask(copy.dsn(), QUEUED) == 0
        do(copy.dsn(), "update dlq.settings set system_identifier = 0", "select dlq.resume()")
        calls_nobody(copy.dsn(), receiver)
