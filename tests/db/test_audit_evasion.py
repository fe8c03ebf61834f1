"""Nothing that people set or build keeps an act off the record, and what is recorded stays as it is."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.db.auditing import log as log
from tests.db.auditing import people as people
from tests.db.auditing import session, since
from tests.db.conftest import Queue


def run(conn: psycopg.Connection, statements: str, **names: Any) -> None:
    """Run statements, each in a message of its own; `{id}` and the like are put in as literals."""
    for statement in statements.split(";;"):
        conn.execute(sql.SQL(statement).format(**{name: sql.Literal(value) for name, value in names.items()}))


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
