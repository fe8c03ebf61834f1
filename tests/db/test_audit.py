"""The acts of people are on record, whatever they set or build; the queue's own are not, and cost nothing to leave out.

alice and bob are people: two logins, alice with the rights of dlq_admin. `queue` is driven by the superuser postgres.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dlqctl.cluster import Cluster
from dlqctl.migrate import migrate
from tests.conftest import _database
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


@pytest.fixture(scope="module")
def people(cluster: Cluster, template: str) -> Iterator[str]:
    """The DSN of a database shared by this module, and the logins alice and bob."""
    with _database(cluster, template) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create role alice login in role dlq_admin")
        conn.execute("create role bob login")
        conn.execute("create schema hers authorization alice")
        yield dsn
        conn.execute("drop owned by alice cascade")
        conn.execute("drop role alice, bob")


@pytest.fixture
def log(people: str) -> Iterator[Queue]:
    """That database as its superuser, who looks at the log."""
    with psycopg.connect(people, autocommit=True) as conn:
        yield Queue(conn)


@contextmanager
def session(dsn: str, login: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(make_conninfo(dsn, user=login), autocommit=True) as conn:
        yield conn


def run(conn: psycopg.Connection, statements: str, **names: Any) -> None:
    """Run statements, each in a message of its own; `{id}` and the like are put in as literals."""
    for statement in statements.split(";;"):
        conn.execute(sql.SQL(statement).format(**{name: sql.Literal(value) for name, value in names.items()}))


def since(queue: Queue, last: int = 0) -> list[dict[str, Any]]:
    return queue.rows("select * from dlq.audit_log where id > %s order by id", last)


def last(queue: Queue) -> int:
    return int(queue.one("select coalesce(max(id), 0) from dlq.audit_log"))


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


ON_AN_ENTRY = {
    "an update": "update webhook_dlq set status = 'discarded' where id = {id}",
    "a delete": "delete from webhook_dlq where id = {id}",
    "an upsert": (
        "insert into webhook_dlq (id, service, payload) values ({id}, 'shop', '1')"
        " on conflict (id) do update set status = 'failed'"
    ),
    "a merge": (
        "merge into webhook_dlq as e using (select {id}::uuid as id) as m on m.id = e.id"
        " when matched then update set status = 'failed'"
    ),
    "a merge that deletes": (
        "merge into webhook_dlq as e using (select {id}::uuid as id) as m on m.id = e.id when matched then delete"
    ),
    "a writable CTE": ("with gone as (delete from webhook_dlq where id = {id} returning id) select count(*) from gone"),
    "a cursor": (
        "begin;; declare c cursor for select * from webhook_dlq where id = {id} for update;; fetch c;;"
        "update webhook_dlq set status = 'failed' where current of c;; commit"
    ),
    "an error that is caught": (
        "do $$ begin begin update webhook_dlq set status = 'failed' where id = {id}; perform 1; exception"
        " when others then null; end; end $$"
    ),
    "an updatable view of their own": (
        "create temp view mine as select * from webhook_dlq;; update mine set status = 'failed' where id = {id}"
    ),
    "a rule of their own": (
        "create temp view ruled as select 1 as n;; create rule r as on update to ruled do instead"
        " delete from webhook_dlq where id = {id};; update ruled set n = 2"
    ),
    "a definer function of their own": (
        "create or replace function hers.drop_it(id uuid) returns void language sql security definer as"
        " 'delete from public.webhook_dlq as e where e.id = $1';; select hers.drop_it({id})"
    ),
    "a definer function that looks like one of ours": (
        "create or replace function hers._settle(id uuid) returns void language sql security definer"
        " set search_path = pg_catalog, pg_temp as"
        " 'update public.webhook_dlq as e set retry_count = 0 where e.id = $1';; select hers._settle({id})"
    ),
    "a role of theirs": "set role dlq_admin;; delete from webhook_dlq where id = {id}",
    "settings of their own": (
        "set dlq.audit = 'off';; set audit.enabled = 'off';; set request.jwt.claims = 'no JSON';;"
        "set transform_null_equals = on;; set standard_conforming_strings = off;; set bytea_output = 'escape';;"
        "set intervalstyle = 'sql_standard';; set datestyle = 'german';;"
        "set default_transaction_isolation = 'serializable';;"
        "delete from webhook_dlq where id = {id}"
    ),
    "names of theirs in front of ours": (
        "create temp table audit_log (like dlq.audit_log);;"
        "create function pg_temp._audit_change() returns trigger language plpgsql as 'begin return null; end';;"
        "create function pg_temp.current_setting(text) returns text language sql as 'select ''none''';;"
        "create function pg_temp.statement_timestamp() returns timestamptz language sql as 'select now()';;"
        "set search_path = pg_temp, hers, dlq, public, pg_catalog;; delete from webhook_dlq where id = {id}"
    ),
}
"""Ways to change an entry, `;;` between statements. Each as somebody with the rights of dlq_admin."""

AS_SUPERUSER = {
    "session_replication_role": (
        "set session_replication_role = replica;; update webhook_dlq set retry_count = 3 where id = {id}"
    ),
    "the owner's role": "set role dlq_owner;; delete from webhook_dlq where id = {id}",
    "the owner's role, for a transaction": (
        "begin;; set local role dlq_owner;; delete from webhook_dlq where id = {id};; commit"
    ),
    "the owner's role, set by a function": (
        "create or replace function public.as_owner(id uuid) returns void language sql set role = dlq_owner as"
        " 'delete from public.webhook_dlq as e where e.id = $1';; select public.as_owner({id})"
    ),
    "both": ("set session_replication_role = replica;; set role dlq_owner;; delete from webhook_dlq where id = {id}"),
}


@pytest.mark.parametrize("way", ON_AN_ENTRY)
def test_an_entry_cannot_be_changed_off_the_record(people: str, log: Queue, way: str) -> None:
    entry = log.store()
    with session(people, "alice") as conn:
        run(conn, ON_AN_ENTRY[way], id=entry)

    (act,) = log.rows("select login, role, object from dlq.audit_log where key = %s", entry)
    assert act["login"] == "alice"
    assert act["role"] == ("dlq_admin" if "set role" in ON_AN_ENTRY[way] else "alice")
    assert act["object"] == "public.webhook_dlq"


@pytest.mark.parametrize("way", AS_SUPERUSER)
def test_not_even_a_superuser_does_so_unawares(people: str, log: Queue, way: str) -> None:
    entry = log.store()
    with session(people, "postgres") as conn:
        run(conn, AS_SUPERUSER[way], id=entry)

    (act,) = log.rows("select login, role from dlq.audit_log where key = %s", entry)
    assert act == {"login": "postgres", "role": "dlq_owner" if "dlq_owner" in AS_SUPERUSER[way] else "postgres"}


def test_whoever_calls_another_s_function_is_the_one_on_record(people: str, log: Queue) -> None:
    entry = log.store()
    with session(people, "alice") as conn:
        run(conn, ON_AN_ENTRY["a definer function of their own"].partition(";;")[0])
        conn.execute("grant usage on schema hers to bob")
    with session(people, "bob") as conn:
        run(conn, "select hers.drop_it({id})", id=entry)

    (act,) = log.rows("select login, role from dlq.audit_log where key = %s", entry)
    assert act == {"login": "bob", "role": "bob"}


OTHER_TABLES = {
    "dlq.endpoints": "insert into dlq.endpoints (service, url) values ('mine', 'https://mine.example/')",
    "dlq.pauses": "insert into dlq.pauses (service, paused_at, paused_by, reason) values ('mine', now(), 'x', 'y')",
    "dlq.endpoint_state": "insert into dlq.endpoint_state (service, cap) values ('mine', 1)",
    "dlq.settings": "update dlq.settings set jitter = 0.2",
    "dlq.alert_rules": "update dlq.alert_rules set quiet = '1 minute' where name = 'pending'",
    "dlq.alert_channels": (
        "insert into dlq.alert_channels (name, kind, url) values ('mine', 'webhook', 'https://mine.example/')"
    ),
    "dlq.alert_silences": "insert into dlq.alert_silences values (now(), now(), 'pending', 'me', 'why')",
    "dlq.alerts": "insert into dlq.alerts (since, rule, severity, detail) values (now(), 'mine', 'info', 'what')",
    "dlq.alert_deliveries": (
        "insert into dlq.alert_deliveries (created_at, next_try_at, alert_id, edge, rule, channel, event)"
        " values (now(), now(), 1, 1, 'mine', 'mine', 'raised')"
    ),
    "dlq.alert_requests": "insert into dlq.alert_requests values (1, 1, now(), null, 1, 1, 1, 'mine', 'mine')",
    "dlq.secrets": "insert into dlq.secrets (name, value) values ('mine', 'v')",
    "dlq.audit_key": "update dlq.audit_key set value = value",
    "dlq.attempt_counts": (
        "insert into dlq.attempt_counts (hour, service, outcome, attempts, seconds, seconds_max)"
        " values (now(), 'mine', 'delivered', 1, 0, 0)"
    ),
    "dlq.amendments": (
        "insert into dlq.amendments (entry_id, amended_at, amended_by, reason)"
        " values (gen_random_uuid(), now(), 'me', 'why')"
    ),
    "dlq.replays": (
        "insert into dlq.replays (replayed_at, replayed_by, reason, matched, entries, filters)"
        " values (now(), 'me', 'why', 1, 1, '{}')"
    ),
    "dlq.replayed_entries": (
        "insert into dlq.replayed_entries"
        " (entry_id, replay_id, due_at, retry_count, unanswered_count, attempt_count, status)"
        " values (gen_random_uuid(), 1, now(), 0, 0, 0, 'failed')"
    ),
    "dlq.in_flight": (
        "insert into dlq.in_flight (entry_id, request_id, dispatched_at, net_oid, attempt, timeout_ms, service, digest)"
        " values (gen_random_uuid(), 1, now(), 1, 1, 1, 'mine', 'd')"
    ),
    "dlq.delivery_attempts": (
        "insert into dlq.delivery_attempts (entry_id, attempt, dispatched_at, settled_at, outcome, service)"
        " values (gen_random_uuid(), 1, now(), now(), 'delivered', 'mine')"
    ),
    "public.dlq_processing_log": "insert into dlq_processing_log (processed_at) values (now())",
    "dlq.maintenance_log": "insert into dlq.maintenance_log (began_at) values (now())",
    "public.webhook_dlq": "update webhook_dlq set retry_count = 1",
}


@pytest.mark.parametrize("replica", [False, True])
def test_every_table_of_ours_is_watched(queue: Queue, replica: bool) -> None:
    tables = queue.rows(
        "select c.oid::regclass::text as name, n.nspname || '.' || c.relname as qualified"
        " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
        " where c.relowner = 'dlq_owner'::regrole and n.nspname in ('dlq', 'public') and c.relkind in ('r', 'p')"
        # net_workers and alert_evaluation hold heartbeats, and nothing happened that they would be the record of
        "  and c.oid <> all ('{dlq.alembic_version,dlq.audit_log,dlq.net_workers,dlq.alert_evaluation}'::regclass[])"
    )
    assert {table["qualified"] for table in tables} == set(OTHER_TABLES)
    queue.store()
    if replica:
        queue.conn.execute("set session_replication_role = replica")
    for table, statement in OTHER_TABLES.items():
        for act in (statement, f"delete from {table}", f"truncate {table}"):
            before = last(queue)
            queue.conn.execute(act.encode())
            recorded = {(row["object"], row["action"]) for row in since(queue, before)}
            assert recorded == {(table, act.split()[0])}


def test_rows_that_are_copied_in_are_on_record(queue: Queue) -> None:
    before = last(queue)
    queue.conn.execute("set session_replication_role = replica")
    with queue.conn.cursor().copy("copy dlq.endpoints (service, url) from stdin") as copy:
        copy.write("one\thttps://one.example/\ntwo\thttps://two.example/\n")

    assert [(act["action"], act["key"]) for act in since(queue, before)] == [("insert", "one"), ("insert", "two")]


# What is recorded stays, and nothing is put beside it.

MEDDLING = {
    "delete": "delete from dlq.audit_log",
    "update": "update dlq.audit_log set login = 'bob'",
    "truncate": "truncate dlq.audit_log",
    "truncate with others": "truncate dlq.endpoints, dlq.audit_log",
    "insert": (
        "insert into dlq.audit_log (at, login, role, action, object)"
        " values (now(), 'bob', 'bob', 'delete', 'webhook_dlq')"
    ),
    "copy": "copy dlq.audit_log (at, login, role, action, object) from stdin",
    "merge": (
        "merge into dlq.audit_log as a using dlq.audit_log as b on a.id = b.id"
        " when matched then update set login = 'bob'"
    ),
    "merge that inserts": (
        "merge into dlq.audit_log as a using (select 1) as b on false when not matched then"
        " insert (at, login, role, action, object) values (now(), 'bob', 'bob', 'delete', 'webhook_dlq')"
    ),
    "a CTE": "with gone as (delete from dlq.audit_log returning id) select count(*) from gone",
    "a delete of nothing": "delete from dlq.audit_log where false",
}

WRITES = ("insert", "copy", "merge that inserts")


def meddle(conn: psycopg.Connection, statement: str) -> None:
    if statement.startswith("copy"):
        with conn.cursor().copy(statement.encode()) as copy:
            copy.write("2020-01-01\tbob\tbob\tdelete\twebhook_dlq\n")
    else:
        conn.execute(statement.encode())


@pytest.mark.parametrize(
    ("who", "pretext"),
    [
        ("alice", "select"),
        ("postgres", "select"),
        ("postgres", "set session_replication_role = replica"),
        ("postgres", "set role dlq_owner"),
    ],
)
def test_nobody_meddles_with_the_log(people: str, log: Queue, who: str, pretext: str) -> None:
    log.conn.execute("select dlq.pause('so that there is something')")
    acts = since(log)
    with session(people, who) as conn:
        conn.execute(pretext.encode())
        for name, statement in MEDDLING.items():
            if "dlq_owner" in pretext and name in WRITES:
                continue  # whom the triggers and verbs run as, may: so may who becomes dlq_owner
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                meddle(conn, statement)
            assert since(log) == acts, name


@pytest.mark.parametrize(
    "statement",
    [
        "alter table dlq.audit_log disable trigger all",
        "alter table webhook_dlq disable trigger audit",
        "drop trigger audit on webhook_dlq",
        "create trigger mine before insert on dlq.audit_log for each row"
        " execute function suppress_redundant_updates_trigger()",
        "create rule mine as on insert to dlq.audit_log do instead nothing",
        "set session_replication_role = replica",
        "set role dlq_owner",
        "set session authorization bob",
        "select dlq._audit('delete', 'public.webhook_dlq')",
        "create or replace function dlq._audit_change() returns trigger language plpgsql as 'begin return null; end'",
    ],
)
def test_an_admin_can_neither_switch_it_off_nor_speak_for_it(people: str, log: Queue, statement: str) -> None:
    acts = since(log)
    with session(people, "alice") as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(statement.encode())
    assert since(log) == acts


def test_admins_read_it_and_others_do_not(people: str, log: Queue) -> None:
    log.conn.execute("select dlq.pause('so that there is something')")
    with session(people, "alice") as conn:
        assert conn.execute("select from dlq.audit_log").rowcount == len(since(log))
    for role in ("dlq_reader", "dlq_writer", "dlq_net_worker", "bob"):
        with session(people, "postgres") as conn:
            conn.execute(f"set role {role}".encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute("select at from dlq.audit_log")


def test_what_is_old_can_be_removed_by_a_function_of_the_queue_s(queue: Queue) -> None:
    queue.conn.execute("""
        create function dlq.forget() returns void language sql security definer set search_path = pg_catalog, pg_temp as
          'delete from dlq.audit_log as a where a.at < now()';
        alter function dlq.forget() owner to dlq_owner
    """)
    queue.conn.execute("select dlq.forget()")

    assert since(queue) == []


# What the queue does itself.


def test_the_queue_s_own_work_is_not_on_record(queue: Queue) -> None:
    queue.store_many(4)
    before = last(queue)

    queue.store_many(3)
    with queue.conn.cursor().copy("copy webhook_dlq (service, payload, next_retry_at) from stdin") as copy:
        copy.write("shop\t1\t2020-01-01\n")
    assert queue.dispatch() == 8
    good, bad, echoed, *_ = (row["entry_id"] for row in queue.rows("select entry_id from dlq.in_flight"))
    queue.answer(good, 200)
    queue.answer(bad, 500)
    queue.store(payload={"again": 1}, headers=psycopg.types.json.Jsonb({"webhook-id": str(echoed)}))
    queue.answer(echoed, 200)
    assert queue.collect() == (1, 2, 0)
    queue.store(payload={"late": 1}, headers=psycopg.types.json.Jsonb({"webhook-id": str(good)}))
    assert queue.entry(good)["status"] == "pending"
    assert queue.one("select process_dlq_entries()")["status"] == "ok"
    queue.conn.execute("update dlq.settings set cycle_budget = '1 second'")
    queue.conn.execute("call dlq.run_cycle()")
    assert queue.one("select dlq_health() ->> 'service'") == "dlq-processor"

    queue.conn.execute("truncate dlq.in_flight")
    assert queue.one("select unanswered from dlq.requeue_lost()") > 0

    assert [(act["object"], act["action"]) for act in since(queue, before)] == [
        ("dlq.settings", "update"),
        ("dlq.in_flight", "truncate"),
    ]


# What the triggers say of themselves.

SHOWN = """
    select c.oid::regclass::text as "table", n.nspname || '.' || c.relname as qualified,
      string_to_array(regexp_replace(encode(t.tgargs, 'escape'), '\\\\000$', ''), '\\000') as shown
    from pg_trigger as t
      join pg_class as c on c.oid = t.tgrelid
      join pg_namespace as n on n.oid = c.relnamespace
    where t.tgfoid = 'dlq._audit_change()'::regprocedure and t.tgname = 'audit'
"""


# Of which a reader sees nothing at all, and which hold nothing personal but a secret's value and a replay's filters.
NOT_READERS = ("dlq.secrets", "dlq.replays", "dlq.replayed_entries")


def test_nothing_is_shown_that_a_reader_may_not_see(queue: Queue) -> None:
    for table in queue.rows(SHOWN):
        for column in filter(None, table["shown"]):
            readable = queue.one(
                "select has_column_privilege('dlq_reader', %s, %s, 'select')", table["qualified"], column
            )
            assert readable or (table["qualified"] in NOT_READERS and column != "filters"), (table["qualified"], column)


def test_what_a_reader_sees_of_the_configuration_is_shown(queue: Queue) -> None:
    """A column that is new here is named in sql/audit/triggers.sql too, else it is shown as a digest."""
    shown = {table["qualified"]: set(table["shown"]) for table in queue.rows(SHOWN)}
    for table in ("dlq.endpoints", "dlq.settings", "dlq.pauses", "dlq.endpoint_state"):
        columns = queue.rows(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
            " and has_column_privilege('dlq_reader', attrelid, attnum, 'select')",
            table,
        )
        assert {str(column["attname"]) for column in columns} - {"updated_at", "host", "singleton"} == shown[table] - {
            ""
        }


def test_they_fire_always(queue: Queue) -> None:
    fire = queue.rows(
        "select tgrelid::regclass::text, tgname, tgenabled from pg_trigger"
        " where tgfoid = any ('{dlq._audit_change(),dlq._refuse()}'::regprocedure[])"
    )
    assert len(fire) == 2 * len(OTHER_TABLES) + 2
    assert {trigger["tgenabled"] for trigger in fire} == {"A"}


def test_the_engine_is_spared_the_call(queue: Queue) -> None:
    """The condition is looked at where the row is changed: nothing is queued for what the queue does itself."""
    queue.conn.execute("""
        create or replace function dlq._audit_change() returns trigger language plpgsql
          as 'begin raise exception ''called''; end'
    """)
    queue.store_many(2)
    assert queue.dispatch() == 2
    for entry in [row["entry_id"] for row in queue.rows("select entry_id from dlq.in_flight")]:
        queue.answer(entry)
    assert queue.collect() == (2, 0, 0)
    with pytest.raises(psycopg.errors.RaiseException):
        queue.conn.execute("delete from webhook_dlq")
