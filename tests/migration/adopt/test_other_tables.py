"""Tables other than the mission's: columns, statuses and services of other names, types and shapes."""

from __future__ import annotations

import psycopg
import pytest

from tests.migration.adopt.adopting import adopt, adopted, flat, refused, rows
from tests.migration.migrating import ask, do, run


def make(dsn: str, table: str, *statements: str) -> None:
    do(dsn, f"create table webhook_dlq ({table})", *statements)


def test_ids_that_are_numbers_become_uuids_and_can_still_be_found(empty_database: str) -> None:
    make(
        empty_database,
        "id bigserial primary key, service text, payload jsonb, status text",
        "insert into webhook_dlq (service, payload, status)"
        " select 'a', to_jsonb(n), case when n < 10 then 'processing' else 'failed' end"
        " from generate_series(1, 1500) as n",
    )

    assert "old_id holds those of now" in flat(adopted(empty_database))

    assert rows(empty_database, "select min(old_id), max(old_id), count(distinct id) from webhook_dlq") == [
        (1, 1500, 1500)
    ]
    assert ask(empty_database, "select payload from webhook_dlq where old_id = 7") == 7
    assert ask(empty_database, "select id::text from webhook_dlq where old_id = 7") == ask(
        empty_database,
        "select overlay(overlay(md5('webhook_dlq_old 7') placing '8' from 13) placing '8' from 17)::uuid::text",
    )


def test_a_body_that_is_text_is_kept_byte_for_byte_and_read_where_it_is_json(empty_database: str) -> None:
    make(
        empty_database,
        "id uuid primary key default gen_random_uuid(), service text, payload text, status text",
        "insert into webhook_dlq (service, payload, status) values"
        """ ('a', '{"n":  1}', 'pending'), ('a', '{oh', 'failed'), ('a', 'é', 'failed')""",
    )

    assert "becomes jsonb" in flat(adopted(empty_database))

    assert rows(
        empty_database, "select payload, convert_from(raw_body, 'UTF8') from webhook_dlq order by raw_body"
    ) == [
        ({"n": 1}, '{"n":  1}'),
        (None, "{oh"),
        (None, "é"),
    ]


def test_without_a_service_the_default_must_be_named_and_holds_for_later_inserts(empty_database: str) -> None:
    make(
        empty_database,
        "id uuid primary key default gen_random_uuid(), payload jsonb, status text",
        "insert into webhook_dlq (payload, status) values ('{}', 'failed')",
    )
    assert "--default-service whatsapp" in flat(refused(empty_database))

    adopted(empty_database, "--default-service", "whatsapp")
    do(empty_database, "insert into webhook_dlq (payload) values ('{}')")

    assert rows(empty_database, "select service, count(*) from webhook_dlq group by 1") == [("whatsapp", 2)]


def test_a_status_that_nobody_knows_must_be_explained(home: str) -> None:
    do(
        home,
        "alter table webhook_dlq drop constraint webhook_dlq_status_check",
        "update webhook_dlq set status = 'Zombie' where status = 'failed'",
        "update webhook_dlq set status = 'completed' where status = 'reprocessed'",
    )
    assert "--status 'Zombie=…'" in flat(refused(home))
    assert "one that is" in flat(refused(home, "--status", "Zombie=undead"))

    said = flat(adopted(home, "--status", "Zombie=discarded"))
    assert adopt(home, "--status", "Zombie=discarded").code == 0  # as it is typed again to go on
    assert adopt(home, "--status", "Zombie=failed").code == 1

    assert "Zombie -> discarded 10" in said
    assert rows(home, "select status, count(*) from webhook_dlq group by 1 order by 1") == [
        ("discarded", 10),
        ("pending", 20),
        ("reprocessed", 10),
    ]


def test_a_status_may_be_an_enum(home: str) -> None:
    do(
        home,
        "create type dlq_status as enum ('queued', 'in_progress', 'ok', 'dead')",
        "alter table webhook_dlq drop constraint webhook_dlq_status_check, alter status drop default",
        "drop index idx_webhook_dlq_next_retry",
        "alter table webhook_dlq alter status type dlq_status using"
        " (case status when 'pending' then 'queued' when 'processing' then 'in_progress'"
        " when 'failed' then 'dead' else 'ok' end)::dlq_status",
    )

    adopted(home, "--status", "ok=reprocessed")
    do(home, "insert into webhook_dlq (service, payload, status) values ('a', '{}', 'queued'::dlq_status)")

    assert ask(home, "select cardinality(copied_first) from dlq.adoption") == 10
    assert rows(home, "select status, count(*) from webhook_dlq group by 1 order by 1") == [
        ("failed", 10),
        ("pending", 21),
        ("reprocessed", 10),
    ]


def test_a_status_that_no_row_has_now_can_still_be_stored(home: str) -> None:
    do(home, "alter table webhook_dlq drop constraint webhook_dlq_status_check, alter status set default 'new'")

    adopted(home)
    do(home, "insert into webhook_dlq (service, payload, status) values ('a', '{}', 'New')")

    assert ask(home, "select status from webhook_dlq where service = 'a'") == "pending"


def test_a_service_that_cannot_be_one_of_ours_gets_a_name_and_its_handlers_go_on(home: str) -> None:
    do(home, "update webhook_dlq set service = 'Meta (EU)' where status = 'failed'")
    assert "--service 'Meta (EU)=meta-eu'" in flat(refused(home))

    adopted(home, "--service", "Meta (EU)=meta")
    do(home, "insert into webhook_dlq (service, payload) values ('Meta (EU)', '{}')")
    do(home, "select store_dlq_entry('Meta (EU)', '{}')")

    assert rows(home, "select service, count(*) from webhook_dlq group by 1 order by 1") == [
        ("meta", 12),
        ("whatsapp", 30),
    ]


def test_inserts_that_name_columns_which_ours_lack_go_on(home: str) -> None:
    do(
        home,
        "create type severity as enum ('low', 'high')",
        "alter table webhook_dlq add tenant bigint, add \"Severity\" severity not null default 'high', add notes text,"
        " add seen_at timestamptz default now(), add twice int generated always as (retry_count * 2) stored",
        "update webhook_dlq set tenant = retry_count",
    )

    said = flat(adopted(home, "--leave-aside", "notes"))
    do(home, "insert into webhook_dlq (service, payload, tenant, \"Severity\") values ('new', '{}', 7, 'low')")
    do(home, "insert into webhook_dlq (service, payload) values ('new', '{}')")

    assert "notes text, in webhook_dlq_old alone" in said
    assert "twice integer, in webhook_dlq_old alone" in said
    assert "seen_at loses its default now()" in said
    assert rows(home, "select tenant, \"Severity\"::text from webhook_dlq where service = 'new' order by 1") == [
        (7, "low"),
        (None, "high"),
    ]
    assert ask(home, "select bool_and(e.tenant = o.retry_count) from webhook_dlq e join webhook_dlq_old o using (id)")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        do(home, "insert into webhook_dlq (service, payload, notes) values ('new', '{}', 'a')")
    assert "column notes text is in webhook_dlq_old alone" in adopt(home, "--drop-old").out


OTHER_WORDS = """
    webhook_id uuid primary key default gen_random_uuid(), source varchar(50) not null, body text not null,
    state text default 'queued', error text, attempts smallint default 0, received_at timestamp default now(),
    "Event Type" text
"""


def test_handlers_and_processors_go_on_in_their_own_words(empty_database: str) -> None:
    dsn = empty_database
    do(dsn, f"alter database {ask(dsn, 'select current_database()')} set timezone = 'Asia/Tokyo'")
    make(
        dsn,
        OTHER_WORDS,
        "insert into webhook_dlq (source, body, state, error, attempts, received_at) values"
        " ('a', '[1]', 'success', 'x', 1, '2020-01-01 12:00'), ('a', '[2]', 'in_progress', 'x', 2, '2020-01-01 12:00')",
    )

    said = flat(adopted(dsn, "--map", "Event Type=correlation_id"))
    do(
        dsn,
        "insert into webhook_dlq (source, body, state, error, \"Event Type\") values ('a', '{oh', 'queued', 'y', 'e')",
    )
    (under_way,) = rows(dsn, "select webhook_id from webhook_dlq where unanswered_count = 1")[0]
    do(dsn, f"update webhook_dlq set state = 'success', attempts = 3 where webhook_id = '{under_way}'")

    assert "body -> payload" in said
    assert "source -> service" in said
    assert "webhook_dlq_dialect()" in said
    found = rows(
        dsn,
        "select service, status, error_message, retry_count, created_at at time zone 'UTC' < '2021-01-01', payload,"
        " convert_from(raw_body, 'UTF8'), correlation_id from webhook_dlq order by raw_body",
    )
    assert found == [
        ("a", "reprocessed", "x", 1, True, [1], "[1]", None),
        ("a", "reprocessed", "x", 3, True, [2], "[2]", None),
        ("a", "pending", "y", 0, False, None, "{oh", "e"),
    ]
    assert ask(dsn, "select count(*) from webhook_dlq where coalesce(source, body, state, error) is not null") == 0
    assert str(ask(dsn, "select min(created_at) at time zone 'UTC' from webhook_dlq")) == "2020-01-01 12:00:00"
    assert ask(dsn, "select count(*) from webhook_dlq as e join webhook_dlq_old as o on e.id = o.webhook_id") == 2
    assert ask(dsn, "select count(*) from webhook_dlq where webhook_id = id") == 3
    do(dsn, "drop function webhook_dlq_dialect() cascade")
    assert run("--dsn", dsn, "migrate", "--check", "--no-cron").err == "nothing differs\n"


def test_a_row_that_cannot_be_converted_stays_is_named_and_follows_when_it_is_mended(home: str) -> None:
    do(home, "alter table webhook_dlq alter payload drop not null, alter retry_count type bigint")
    (broken, huge, below) = (row[0] for row in rows(home, "select id from webhook_dlq order by id limit 3"))
    do(
        home,
        f"update webhook_dlq set payload = null where id = '{broken}'",
        f"update webhook_dlq set retry_count = 2^40 where id = '{huge}'",
        f"update webhook_dlq set retry_count = -1 where id = '{below}'",
    )

    first = adopt(home)
    assert first.code == 1
    assert f"left in webhook_dlq_old: {broken}: 23514" in first.err
    assert f"left in webhook_dlq_old: {huge}: 22003" in first.err
    assert ask(home, "select count(*) from webhook_dlq") == 38
    assert ask(home, f"select retry_count from webhook_dlq where id = '{below}'") == 0
    assert "alone" in adopt(home, "--drop-old").err
    assert adopt(home).code == 1

    do(home, f"update webhook_dlq_old set payload = '{{}}' where id = '{broken}'")
    assert adopt(home).code == 1
    do(home, f"delete from webhook_dlq_old where id = '{huge}'")

    assert adopt(home).code == 0
    assert ask(home, "select count(*) from webhook_dlq") == 39
    assert adopt(home, "--drop-old").code == 0


def test_of_two_rows_with_one_idempotency_key_both_are_kept(home: str) -> None:
    do(
        home,
        "alter table webhook_dlq add idempotency_key text",
        "update webhook_dlq set idempotency_key = error_message",
    )

    adopted(home)

    assert rows(home, "select count(*), count(idempotency_key) from webhook_dlq") == [(40, 1)]


def test_a_log_without_ids_is_copied_and_runs_that_cannot_be_read_stay(home: str) -> None:
    do(
        home,
        "alter table dlq_processing_log drop id, alter processed_at drop not null, alter entries_failed drop default",
        "insert into dlq_processing_log (processed_at, status) values (null, 'success')",
    )

    assert "4 of 5 runs" in adopted(home).err

    assert rows(home, "select count(*), sum(entries_failed) from dlq_processing_log") == [(4, 0)]
