"""What a role may not read it does not learn by another road: a leaky function, an error's text, a plan, statistics."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.security.conftest import CLAIM, NO_CLAIM, SECRETS, House
from tests.security.test_shadowing import calls


def overheard(house: House, role: str, statements: list[str], claims: dict[str, Any] | None = None) -> tuple[str, int]:
    """All that a role gets to see of statements, rows, notices and errors with every field; and how many worked."""
    said: list[str] = []
    worked = 0
    with house.as_(role, claims) as conn:
        conn.add_notice_handler(lambda notice: said.append(f"{notice.message_primary} {notice.message_detail}"))
        conn.execute("set local client_min_messages = debug1")
        for name, of in (("leak", "text"), ("leak_row", "record")):
            conn.execute(
                f"create function pg_temp.{name}({of}) returns boolean language plpgsql cost 0.0000001 as"
                " 'begin raise notice ''%'', $1; return true; end'".encode()
            )
        conn.execute("savepoint attempt")
        for statement in statements:
            try:
                cursor = conn.execute(statement.encode())
                if cursor.description:
                    said.extend(map(str, cursor.fetchall()))
                worked += 1
            except psycopg.Error as error:
                fields = ("message_primary", "message_detail", "message_hint", "context", "internal_query")
                said.extend(str(getattr(error.diag, field)) for field in fields)
            conn.execute("rollback to savepoint attempt")
    return "\n".join(said), worked


def found_in(said: str) -> list[str]:
    """Which of the secrets stand in it, as text or as bytes."""
    return [secret for secret in SECRETS if secret in said or secret.encode().hex() in said]


def _peeking(relations: dict[str, list[str]]) -> list[str]:
    """Attempts at every column of every relation, seen and unseen."""
    statements = []
    for relation, columns in relations.items():
        statements += [
            f"select * from {relation}",
            f"table {relation}",
            f"select r from {relation} as r",
            f"select to_jsonb(r) from {relation} as r",
            f"select count(*) from {relation} as r where pg_temp.leak(r::text)",
            f"select count(*) from {relation} as r where pg_temp.leak_row(r)",
            f"delete from {relation} returning *",
            f"select xmin, ctid, tableoid from {relation}",
        ]
        for column in columns:
            statements += [
                f"select {column} from {relation}",
                f"select count(*) from {relation} where pg_temp.leak({column}::text)",
                f"select count(*) from {relation} where {column}::text::integer = 1",
                f"select 1 from {relation} order by {column}",
                f"select count({column}) from {relation}",
                f"explain (analyze, verbose) select 1 from {relation} where {column}::text like '%OF-ANOTHER'",
                f"update {relation} set {column} = {column} returning {column}",
                f"select a.{column} from {relation} as a join {relation} as b using ({column})",
            ]
    return statements


@pytest.fixture(scope="module")
def relations(house: House) -> dict[str, list[str]]:
    """Every table and view of ours and its columns."""
    with psycopg.connect(house.superuser) as conn:
        return dict(
            conn.execute(
                "select c.oid::regclass::text, array_agg(a.attname::text) from pg_class as c"
                " join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
                " where c.relowner = 'dlq_owner'::regrole and c.relkind in ('r', 'v') group by 1"
            ).fetchall()
        )


# What is told of the entry that is there; calls() asks for one that is not.
OF_THE_ENTRY = [
    f"select t.* from dlq.entries as e, dlq.{call} as t"
    for call in (
        "story(e.id)",
        "story(e.id, true)",
        "what_next(e.id)",
        "_words_of(e.id)",
        "_words_of(e.id, 0)",
        "_acts_on(e.id)",
    )
]


@pytest.mark.parametrize("role", ["dlq_reader", "dlq_writer", "anon", "authenticated", "stranger"])
def test_no_attempt_shows_what_is_hidden(house: House, relations: dict[str, list[str]], role: str) -> None:
    with psycopg.connect(house.superuser) as conn:
        statements = [*_peeking(relations), *calls(conn, role), *OF_THE_ENTRY]
    said, worked = overheard(house, role, statements, NO_CLAIM if role == "authenticated" else None)

    assert found_in(said) == []
    if role == "dlq_reader":
        assert worked > 100
        assert "shop" in said  # by the leaky function too: that there was something to be leaked


def test_the_attempts_show_it_to_whom_it_is_not_hidden(house: House, relations: dict[str, list[str]]) -> None:
    """Else the test above would show nothing."""
    said, _ = overheard(house, "dlq_admin", _peeking({"webhook_dlq": relations["webhook_dlq"]}))
    assert {"+31612345678", "PAYLOAD-OF-ANOTHER", "TEXT-OF-ANOTHER"} <= set(found_in(said))
    said, worked = overheard(house, "dlq_admin", OF_THE_ENTRY)
    assert {"PAYLOAD-OF-ANOTHER", "TEXT-OF-ANOTHER"} == set(found_in(said))
    assert worked == len(OF_THE_ENTRY)


def test_a_secret_is_shown_to_nobody(house: House, relations: dict[str, list[str]]) -> None:
    for role in ("dlq_admin", "service_role", "authenticated"):
        with psycopg.connect(house.superuser) as conn:
            statements = [*_peeking(relations), *calls(conn, role)]
        said, _ = overheard(house, role, statements, CLAIM if role == "authenticated" else None)
        assert "VALUE-OF-A-SECRET" not in said, role


@pytest.mark.parametrize("role", ["dlq_reader", "dlq_writer", "anon", "authenticated", "stranger"])
def test_statistics_show_no_values(house: House, role: str) -> None:
    with psycopg.connect(house.superuser) as conn:
        assert (
            conn.execute("select from pg_stats where tablename = 'webhook_dlq' and attname = 'payload'").rowcount == 1
        )
    with house.as_(role) as conn:
        tables = "('webhook_dlq', 'delivery_attempts', 'endpoints', 'secrets', 'http_request_queue')"
        assert conn.execute(f"select from pg_stats where tablename in {tables}".encode()).rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select * from pg_statistic")


STORING = (
    # What fails on a constraint, in a trigger, in the body's reading, on a key that is there already.
    "insert into webhook_dlq (service, payload) values ('Not A Slug', '{}')",
    "insert into webhook_dlq (service) values ('shop')",
    "insert into webhook_dlq (service, payload, headers) values ('shop', '{}', '[]')",
    "insert into webhook_dlq (service, payload, headers) values ('shop', '{}', '{\"webhook-id\": \"ID\"}')",
    "insert into webhook_dlq (service, payload, idempotency_key) values ('shop', '{}', 'KEY-OF-ANOTHER')",
    "insert into webhook_dlq (service, payload, idempotency_key) values ('shop', '{}', 'KEY-OF-ANOTHER')"
    " on conflict do nothing",
    "insert into webhook_dlq (service, payload) values ('shop', '{}') returning *",
    "insert into webhook_dlq (service, raw_body) values ('shop', '\\xff')",
    "insert into webhook_dlq (service, raw_body) values ('shop', repeat('[', 100000)::bytea)",
    "insert into webhook_dlq (id, service, payload) values ('ID', 'shop', '{}')",
    "select store_dlq_entry('shop', '{}', idempotency_key => 'KEY-OF-ANOTHER')",
    "select store_dlq_entry('shop', '{}', headers => '{\"webhook-id\": \"ID\"}')",
    "select store_dlq_entry('shop', '{}', headers => '{\"dlq-entry\": \"ID\"}')",
    "select store_dlq_entry('shop')",
    "select store_dlq_entry('Not A Slug', '{}')",
    "select store_dlq_entry(null, '{}')",
    "select store_dlq_entry('shop', '{}', headers => '7')",
    "select dlq.verify_signature('x', '{\"x-hub-signature-256\": \"sha256=00\"}', '{TOKEN}')",
    "select dlq.verify_signature('x', '{}', '{TOKEN}', 'standard-webhooks')",
    "select dlq.verify_signature('x', '{}', '{NO_SUCH}')",
    "select dlq.receive_webhook('shop', 'x', '{}')",
)


@pytest.mark.parametrize("role", ["dlq_writer", "authenticated"])
def test_no_error_tells_of_another_entry(house: House, role: str) -> None:
    with psycopg.connect(house.superuser) as conn:
        (entry_id,) = conn.execute("select id from webhook_dlq").fetchone() or (None,)
    statements = [statement.replace("ID", str(entry_id)) for statement in STORING]
    said, worked = overheard(house, role, statements, NO_CLAIM if role == "authenticated" else None)

    # The key it has said itself; not what is kept under it.
    assert found_in(said.replace("KEY-OF-ANOTHER", "")) == []
    assert (worked > 5) == (role == "dlq_writer")


def test_an_error_in_the_engine_tells_a_reader_no_payload(house: House) -> None:
    """What ends a step is in dlq_processing_log, for readers too: its message, and not its detail."""
    with psycopg.connect(house.superuser) as conn:
        conn.execute("alter table dlq.in_flight add constraint c check (attempt > 9) not valid")
        conn.execute("update webhook_dlq set status = 'pending', next_retry_at = now()")
        conn.execute("delete from dlq.in_flight")
        conn.execute("select process_dlq_entries()")
        conn.execute("set local role dlq_reader")
        rows = conn.execute("select error_message from dlq_processing_log where status = 'error'").fetchall()
        health = str(conn.execute("select * from dlq.health").fetchall())
        conn.rollback()
    assert len(rows) == 1
    assert found_in(str(rows) + health) == []


def test_nobody_sees_what_others_store(house: House) -> None:
    """Nor by row locks, which a role with no right to update cannot take."""
    with house.as_("dlq_reader") as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("select id from webhook_dlq for update")
    with house.as_("dlq_writer") as conn:
        conn.execute("insert into webhook_dlq (service, payload) values ('shop', %s)", (Jsonb({"a": 1}),))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select id from webhook_dlq")
