"""The acts of people are on record: what the log says of them, and nothing personal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from dlqctl.migrate import migrate
from tests.db.auditing import last, session, since
from tests.db.auditing import log as log
from tests.db.auditing import people as people
from tests.db.conftest import Queue

PERSONAL = {
    "phone_number": "+15550100",
    "payload": '{"text": "our dinner"}',
    "error_message": "no such table: dinners",
    "headers": '{"x-token": "sesame"}',
    "raw_body": "\\x64696e6e6572",
    "idempotency_key": "wamid.HBgL",
}
"""What an entry holds of somebody, by column."""


# What it says.


def test_a_change_by_hand_says_who_what_and_what_was_before(queue: Queue) -> None:
    entry, untouched = queue.store(), queue.store()
    before = last(queue)

    queue.conn.execute("update webhook_dlq set status = 'failed' where id = %s", (entry,))

    (act,) = since(queue, before)
    assert (act["login"], act["role"], act["subject"]) == ("postgres", "postgres", None)
    assert (act["action"], act["object"], act["key"]) == ("update", "public.webhook_dlq", entry)
    assert act["before"]["status"] == "pending"
    assert act["after"]["status"] == "failed"
    assert set(act["after"]) == {"status", "next_retry_at", "settled_at"}
    assert queue.rows("select from dlq.audit_log where key = %s", untouched) == []
    assert queue.one(
        "select at between now() - interval '1 minute' and now() from dlq.audit_log where id = %s", act["id"]
    )


@pytest.mark.parametrize(
    ("claims", "subject"),
    [
        ('{"sub": "a-user", "role": "dlq_admin"}', "a-user"),
        ('{"role": "dlq_admin"}', None),
        ("not JSON", None),
        ("[1]", None),
        ("", None),
        ('{"sub": "%s"}' % ("x" * 1000), "x" * 200),
    ],
)
def test_behind_postgrest_the_role_and_the_token_s_subject_are_told(
    people: str, log: Queue, claims: str, subject: str | None
) -> None:
    entry = log.store()
    with session(people, "alice") as conn:
        conn.execute("set role dlq_admin")
        conn.execute("select set_config('request.jwt.claims', %s, false)", (claims,))
        conn.execute("update webhook_dlq set status = 'discarded' where id = %s", (entry,))

    (act,) = log.rows("select login, role, subject from dlq.audit_log where key = %s", entry)
    assert act == {"login": "alice", "role": "dlq_admin", "subject": subject}


def test_nothing_personal_is_in_it_and_a_secret_not_even_as_a_digest(queue: Queue) -> None:
    queue.conn.execute(
        sql.SQL("insert into webhook_dlq (service, {}) values ('shop', {})").format(
            sql.SQL(", ").join(map(sql.Identifier, PERSONAL)), sql.SQL(", ").join(map(sql.Literal, PERSONAL.values()))
        )
    )
    queue.endpoint(headers=psycopg.types.json.Jsonb({"x-key": "sesame"}))
    queue.conn.execute("select dlq.set_secret('door', 'sesame'), dlq.set_secret('door', 'open sesame')")
    queue.conn.execute("insert into dlq.delivery_attempts select id, now(), now(), 1, 1, 500, false, 'http_error',"
                       " 'shop', 'no such table: dinners', 'sesame' from webhook_dlq")  # fmt: skip
    queue.conn.execute("insert into dlq_processing_log (processed_at, error_message) values (now(), 'sesame')")
    queue.conn.execute("update webhook_dlq set phone_number = '+15550101', payload = '[\"our dinner\"]'")
    queue.conn.execute("delete from webhook_dlq; delete from dlq.delivery_attempts; delete from dlq.secrets")

    text = queue.one("select string_agg(a::text, ' ') from dlq.audit_log as a")
    (gone,) = queue.rows("select before from dlq.audit_log where object = 'public.webhook_dlq' and action = 'delete'")
    for word in ("1555010", "dinner", "sesame", "wamid", "64696e6e6572"):
        assert word not in text
    assert {column for column, value in gone["before"].items() if str(value).startswith("hmac:")} == set(PERSONAL)
    secrets = queue.rows(
        "select action, key, before, after from dlq.audit_log where object = 'dlq.secrets' order by id"
    )
    assert [(act["action"], act["key"]) for act in secrets] == [
        ("insert", "door"),
        ("update", "door"),
        ("delete", "door"),
    ]
    assert all(set(act[side] or {}) <= {"name", "created_at"} for act in secrets for side in ("before", "after"))


def test_digests_are_equal_for_equal_values_and_need_the_key(people: str, log: Queue) -> None:
    entries = [log.store(phone_number=number) for number in ("+15550100", "+15550100", "+15550199")]
    log.conn.execute("update webhook_dlq set phone_number = null where id = any (%s)", (entries,))

    found = [log.one("select before ->> 'phone_number' from dlq.audit_log where key = %s", entry) for entry in entries]
    assert found[0] == found[1] != found[2]
    assert found[0] == log.one("select dlq._keyed_digest('\"+15550100\"') #>> '{}'")
    assert found[0] != "hmac:" + log.one("select encode(sha256('+15550100'), 'hex')")
    assert log.one("select count(distinct get_byte(value, n)) from dlq.audit_key, generate_series(0, 127) as n") > 60
    with session(people, "alice") as conn:
        for query in ("select value from dlq.audit_key", "select dlq._keyed_digest('1')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(query.encode())


def test_a_key_that_is_gone_hides_more_and_no_act(queue: Queue) -> None:
    entry = queue.store(phone_number="+15550100")
    queue.conn.execute("delete from dlq.audit_key")
    queue.conn.execute("delete from webhook_dlq where id = %s", (entry,))

    *_, key, act = since(queue)
    assert (key["object"], key["action"], key["before"]) == ("dlq.audit_key", "delete", {"singleton": None})
    assert (act["key"], act["before"]["phone_number"], act["before"]["status"]) == (entry, None, "pending")


def test_a_bulk_change_is_on_record_entry_by_entry_under_one_time(queue: Queue) -> None:
    queue.store_many(500)
    before = last(queue)

    queue.conn.execute("update webhook_dlq set status = 'discarded'")

    acts = since(queue, before)
    assert {act["key"] for act in acts} == {str(row["id"]) for row in queue.rows("select id from webhook_dlq")}
    assert len(acts) == 500
    assert len({act["at"] for act in acts}) == 1
    queue.conn.execute("analyze dlq.audit_log")
    plan = queue.rows("explain select * from dlq.audit_log where key = %s", acts[0]["key"])
    assert "audit_log_key" in str(plan)


def test_the_queries_of_the_page_find_what_they_say(log: Queue) -> None:
    entry = log.store(phone_number="+15550100")
    log.conn.execute("update webhook_dlq set phone_number = null where id = %s", (entry,))
    page = (Path(__file__).parents[2] / "docs/audit.md").read_text()
    blocks = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)

    *_, become, find, _ = [query for block in blocks for query in block.split(";\n") if query]
    for block in blocks:
        log.conn.execute(block.encode())
    log.conn.execute(become.encode())

    assert entry in [act["key"] for act in log.rows(find)]


def test_what_is_undone_is_not_on_record(queue: Queue) -> None:
    entry, before = queue.store(), last(queue)

    with queue.conn.transaction(force_rollback=True):
        queue.conn.execute("update webhook_dlq set status = 'discarded' where id = %s", (entry,))
        assert len(since(queue, before)) == 1
    assert since(queue, before) == []


# What people do, and how.


def verb(queue: Queue, call: str) -> dict[str, Any]:
    before = last(queue)
    queue.conn.execute(call.encode())
    (act,) = since(queue, before)
    return {name: act[name] for name in ("action", "object", "key", "reason", "before", "after")}


def test_the_verbs_are_on_record_with_their_reasons(queue: Queue) -> None:
    paused = verb(queue, "select dlq.pause('deploying', 'shop')")
    assert (paused["action"], paused["object"], paused["key"]) == ("pause", "dlq.pauses", "shop")
    assert (paused["reason"], paused["before"], paused["after"]["paused_by"]) == ("deploying", None, "postgres")
    again = verb(queue, "select dlq.pause('still deploying', 'shop')")
    assert (again["before"], again["after"]) == ({"reason": "deploying"}, {"reason": "still deploying"})
    assert verb(queue, "select dlq.pause('all of it')")["key"] == "*"
    resumed = verb(queue, "select dlq.resume('shop')")
    assert (resumed["action"], resumed["key"]) == ("resume", "shop")
    assert resumed["before"]["reason"] == "still deploying"
    assert resumed["after"] is None

    before = last(queue)
    assert queue.one("select dlq.resume('shop')") is False
    assert queue.one("select dlq.remove_endpoint('nobody')") is False
    assert since(queue, before) == []


def test_what_configures_is_on_record_through_the_verbs_too(queue: Queue) -> None:
    was = queue.one("select url from dlq.endpoints where service = 'shop'")
    changed = verb(queue, "select dlq.set_endpoint('shop', 'https://other.example/', timeout_ms => 1000)")
    assert (changed["action"], changed["object"], changed["key"]) == ("update", "dlq.endpoints", "shop")
    assert changed["before"] == {"url": was, "timeout_ms": 5000}
    assert changed["after"] == {"url": "https://other.example/", "timeout_ms": 1000}
    assert verb(queue, "select dlq.set_endpoint('new', 'https://new.example/')")["action"] == "insert"
    removed = verb(queue, "select dlq.remove_endpoint('new')")
    assert (removed["action"], removed["before"]["url"]) == ("delete", "https://new.example/")

    for call, action in (
        ("select dlq.set_secret('door', 'a')", "insert"),
        ("select dlq.set_secret('door', 'b')", "update"),
        ("select dlq.remove_secret('door')", "delete"),
    ):
        act = verb(queue, call)
        assert (act["action"], act["object"], act["key"]) == (action, "dlq.secrets", "door")

    act = verb(queue, "update dlq.settings set jitter = 0.5, retry_schedule = '{1 min}'")
    assert (act["object"], act["key"]) == ("dlq.settings", None)
    assert act["before"]["jitter"] == 0.1
    assert act["after"] == {"jitter": 0.5, "retry_schedule": ["00:01:00"]}


def test_migrate_is_on_record_where_it_changed_something(database: str, queue: Queue) -> None:
    installed, *_ = since(queue)
    assert (installed["action"], installed["object"], installed["login"]) == ("migrate", "dlq", "postgres")
    assert "revision 0001" in installed["after"]["changed"]
    before = last(queue)

    migrate(database, cron=False)
    migrate(database, cron=False, check=True)
    assert since(queue, before) == []

    queue.conn.execute("alter function dlq.resume(text, text) stable")
    queue.conn.execute("alter table dlq.settings disable trigger audit")
    queue.conn.execute("update dlq.settings set database_oid = 0")
    assert since(queue, before) == []
    migrate(database, cron=False)
    migrate(database, cron=False, this_is_production=True)

    mended, declared, said = since(queue, before)
    assert mended["after"]["changed"] == ["function dlq.resume", "trigger audit on dlq.settings"]
    assert (declared["object"], declared["role"]) == ("dlq.settings", "dlq_owner")
    assert declared["before"] == {"database_oid": "0"}
    assert said["after"]["changed"] == ["this database is production now"]
