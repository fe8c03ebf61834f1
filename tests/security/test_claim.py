"""Signed-in users: with the admin claim what the API has of dlq_admin's rights, without it nothing."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from dlqctl.migrate import migrate
from tests.migration.migrating import do
from tests.security.conftest import CLAIM, House

NOT_THE_CLAIM: list[Any] = [
    None,
    {},
    {"role": "service_role"},
    {"app_metadata": None},
    {"app_metadata": {}},
    {"app_metadata": {"dlq_admin": False}},
    {"app_metadata": {"dlq_admin": None}},
    {"app_metadata": {"dlq_admin": "true"}},
    {"app_metadata": {"dlq_admin": 1}},
    {"app_metadata": {"dlq_admin": [True]}},
    {"app_metadata": {"dlq_admin": {"dlq_admin": True}}},
    {"app_metadata": {"DLQ_ADMIN": True, "roles": ["dlq_admin"]}},
    {"app_metadata": [{"dlq_admin": True}]},
    {"user_metadata": {"dlq_admin": True}},
    {"user_metadata": {"app_metadata": {"dlq_admin": True}}},
    {"dlq_admin": True},
    {"raw_app_meta_data": {"dlq_admin": True}},
    [{"app_metadata": {"dlq_admin": True}}],
    "app_metadata",
]


@pytest.mark.parametrize("claims", NOT_THE_CLAIM, ids=json.dumps)
def test_nothing_but_the_claim_admits(house: House, claims: Any) -> None:
    with house.as_("authenticated", claims) as conn:
        for seen in ("select from webhook_dlq", "select from dlq_processing_log", "delete from webhook_dlq",
                     "update webhook_dlq set status = 'failed'"):  # fmt: skip
            assert conn.execute(seen.encode()).rowcount == 0, seen
        for refused in ("select administer_dlq('health')", "select administer_dlq('process')",
                        "insert into webhook_dlq (service, payload) values ('shop', '{}')"):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
                conn.execute(refused.encode())


@pytest.mark.parametrize("text", ["", "null", "true"])
def test_claims_that_are_none_admit_nobody(house: House, text: str) -> None:
    with house.as_("authenticated") as conn:
        conn.execute("select set_config('request.jwt.claims', %s, true)", (text,))
        assert conn.execute("select from webhook_dlq").rowcount == 0


def test_claims_that_cannot_be_read_are_an_error(house: House) -> None:
    with house.as_("authenticated") as conn:
        conn.execute("select set_config('request.jwt.claims', '{', true)")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            conn.execute("select from webhook_dlq")


def test_an_administrator_reads_and_writes_the_queue(house: House) -> None:
    with house.as_("authenticated", CLAIM) as conn:
        insert = "insert into webhook_dlq (service, payload) values ('shop', '1') returning id"
        (entry_id,) = conn.execute(insert).fetchone() or (None,)
        update = "update webhook_dlq set status = 'failed' where id = %s returning status, settled_at is not null"
        assert conn.execute(update, (entry_id,)).fetchone() == ("failed", True)
        assert conn.execute("select from webhook_dlq").rowcount == 2
        assert conn.execute("select from dlq_processing_log").rowcount >= 1
        assert conn.execute("delete from webhook_dlq where id = %s", (entry_id,)).rowcount == 1


def test_an_administrator_asks_for_health_and_processes(house: House) -> None:
    with house.as_("authenticated", CLAIM) as conn:
        (health,) = conn.execute("select administer_dlq('health')").fetchone() or ({},)
        assert health["service"] == "dlq-processor"
        (run,) = conn.execute("select administer_dlq(act => 'process')").fetchone() or ({},)
        assert run["status"] == "ok"
        for unknown in ("'drop'", "null"):
            with pytest.raises(psycopg.DatabaseError) as caught, conn.transaction():
                conn.execute(f"select administer_dlq({unknown})".encode())
            assert caught.value.sqlstate == "WD002"


def test_the_claim_is_worth_nothing_to_other_roles(house: House) -> None:
    for role in ("anon", "dlq_reader", "dlq_writer", "dlq_net_worker", "stranger"):
        with house.as_(role, CLAIM) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select administer_dlq('process')")
    with house.as_("dlq_reader", CLAIM) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("select payload from webhook_dlq")


def test_a_function_of_the_users_may_still_process_and_store(house: House) -> None:
    """A trigger or RPC of theirs runs with its owner's rights, whoever called it: who that was must not matter."""
    do(
        house.superuser,
        "create function public.theirs() returns void language sql security definer set search_path = '' as"
        " $$ select public.process_dlq_entries(), public.store_dlq_entry('shop', '9') $$",
        "alter function public.theirs() owner to postgres",
    )
    try:
        with house.as_("authenticated", {}) as conn:
            conn.execute("select public.theirs()")
    finally:
        do(house.superuser, "drop function public.theirs()")


def test_migrate_finds_and_mends_what_somebody_changed(house: House) -> None:
    """And each of them by itself: the policies differ one by one, the grants as a whole."""
    dsn = house.cluster.dsn()
    all_of = "policy claimants_do_everything on public.webhook_dlq"
    read = "policy claimants_read on public.dlq_processing_log"
    alter = "alter policy claimants_do_everything on webhook_dlq"
    for damage, found in (
        ((f"{alter} using (true)", "drop policy claimants_read on dlq_processing_log"), [all_of, read]),
        ((f"{alter} to public", "grant select on dlq.endpoints to authenticated"), ["grants", all_of]),
        (("grant execute on function dlq_health() to anon",), ["grants"]),
    ):
        do(house.superuser, *damage)
        assert migrate(dsn, cron=False).changed == found
    assert migrate(dsn, cron=False, check=True).changed == []


def test_where_there_is_no_such_role_nothing_is_laid_down_for_it(database: str) -> None:
    with psycopg.connect(database) as conn:
        assert conn.execute("select from pg_policy where polname like 'claimants%'").rowcount == 0
    assert migrate(database, cron=False, check=True).changed == []
