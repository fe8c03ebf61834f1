"""Nobody gets code of their own run with dlq_owner's rights: not by a search_path, not by what is in pg_temp."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest
from psycopg import sql

from tests.migration.migrating import do
from tests.security.conftest import CLAIM, House

# Says who runs it, if that is the owner. What stands for everything else below calls it.
_TRAP = """
create function evil.sprung() returns boolean
language plpgsql set search_path = pg_catalog as $$
begin
  if current_user = 'dlq_owner' then
    raise warning 'sprung';
  end if;
  return true;
end
$$
"""

# Of pg_catalog, what has a like in ours by name and can be written in plpgsql: functions and operators, each with the
# same arguments, which spring the trap and give null.
_FUNCTIONS = """
select format(
  'create function evil.%I(%s) returns %s language plpgsql as
  $f$ begin perform evil.sprung(); return%s; end $f$',
  p.proname, oidvectortypes(p.proargtypes),
  case when p.proretset then 'setof ' else '' end || format_type(p.prorettype, null),
  case when p.proretset then '' else ' null' end)
from pg_proc as p
where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and p.provariadic = 0
  and not exists (
    select from unnest(p.proargtypes || p.prorettype) as y (oid) join pg_type as t on t.oid = y.oid
    where t.typtype = 'p')
  and exists (
    select from pg_proc as o
    where o.proowner = 'dlq_owner'::regrole and o.prosrc ~ ('\\m' || p.proname || '\\('))
"""
_OPERATORS = """
select format(
  'create function evil.%1$I(%2$s, %3$s) returns %4$s language plpgsql as
   $f$ begin perform evil.sprung(); return null; end $f$;'
  ' create operator evil.%5$s (function = evil.%1$I, leftarg = %2$s, rightarg = %3$s)',
  'operator_' || o.oid, o.oprleft::regtype, o.oprright::regtype, o.oprresult::regtype, o.oprname)
from pg_operator as o
where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprkind = 'b'
  and array[o.oprleft, o.oprright, o.oprresult]::regtype[] <@ '{TYPES}'::regtype[]
"""
_TYPES = "text,jsonb,uuid,bytea,boolean,integer,bigint,timestamptz,interval,name,oid,double precision,text[],numeric"
_CATALOGS = (
    "pg_class", "pg_database", "pg_extension", "pg_namespace", "pg_trigger", "pg_proc", "pg_roles", "pg_settings",
    "pg_constraint",
)  # fmt: skip
_OURS = (
    "webhook_dlq",
    "dlq_processing_log",
    "endpoints",
    "settings",
    "in_flight",
    "secrets",
    "health",
    "pauses",
    "endpoint_state",
    "maintenance_log",
    "delivery_attempts",
    "attempt_counts",
)


def _lay(conn: psycopg.Connection, query: str) -> int:
    """Run the statements that a query gives, and return how many could be."""
    laid = 0
    for (statement,) in conn.execute(query.encode()).fetchall():
        try:
            with conn.transaction():
                conn.execute(statement)
            laid += 1
        except psycopg.Error:
            pass
    return laid


@pytest.fixture(scope="module")
def trapped(house: House) -> Iterator[House]:
    """The server with a schema that has something of its own for everything that our code calls."""
    with psycopg.connect(house.superuser) as conn:
        conn.execute("create schema evil")
        conn.execute(_TRAP.encode())
        assert _lay(conn, _FUNCTIONS) > 60
        assert _lay(conn, _OPERATORS.replace("TYPES", _TYPES)) > 100
        for name in ("interval", "jsonb", "uuid", "bytea", "regclass", "oid", "regprocedure", "record_of"):
            base = f"pg_catalog.{name}" if name != "record_of" else "pg_catalog.text"
            conn.execute(f"create domain evil.{name} as {base} check (evil.sprung())".encode())
        conn.execute("grant usage on schema evil to public")
    yield house
    do(house.superuser, "drop schema evil cascade")


@contextmanager
def ambush(house: House, role: str) -> Iterator[tuple[psycopg.Connection, list[str]]]:
    """A transaction in a role with all of it in the way, in front and in pg_temp, and what has sprung."""
    sprung: list[str] = []
    with house.as_(role, CLAIM if role == "authenticated" else None) as conn:
        conn.add_notice_handler(lambda said: sprung.extend(["sprung"] * (said.message_primary == "sprung")))
        for name in (*_CATALOGS, *_OURS):
            of = f"pg_catalog.{name}" if name in _CATALOGS else "(select 1 as id) as own"
            conn.execute(f"create temp view {name} as select * from {of} where evil.sprung()".encode())
            conn.execute(f"grant select on {name} to public".encode())
        for name in ("interval", "jsonb", "regclass"):
            conn.execute(f"create domain pg_temp.{name} as pg_catalog.{name} check (evil.sprung())".encode())
        for name, type_ in (("now()", "timestamptz"), ("_now()", "timestamptz"), ("sha256(bytea)", "bytea")):
            body = f"select evil.sprung(); select null::pg_catalog.{type_}"
            conn.execute(f"create function pg_temp.{name} returns {type_} language sql as '{body}'".encode())
        conn.execute("set local search_path = evil, pg_temp, pg_catalog, public, dlq")
        yield conn, sprung


_VALUES = {
    "text": "'shop'", "jsonb": "'{}'", "bytea": "'x'", "integer": "1", "bigint": "1", "boolean": "true",
    "uuid": "'00000000-0000-0000-0000-000000000000'", "interval": "'1 minute'",
    "timestamp with time zone": "'2030-01-01'", "text[]": "'{TOKEN}'", "interval[]": "'{1 min}'",
    "oid": "10", "uuid[]": "'{}'", "bytea[]": "'{}'", "integer[]": "'{}'", "regnamespace[]": "'{}'",
    "jsonb[]": "array['{\"service\": \"shop\", \"payload\": {}}']",
}  # fmt: skip

_PLAIN = {"integer": "int4", "bigint": "int8", "boolean": "bool", "timestamp with time zone": "timestamptz"}
_PLAIN["integer[]"] = "int4[]"


def calls(conn: psycopg.Connection, role: str) -> list[str]:
    """A call of every function that a role may execute, with something for every argument."""
    found = conn.execute(
        """
        select p.oid::regproc::text, p.prokind,
          array(select format_type(t, null) from unnest(p.proargtypes) with ordinality as a (t, nth) order by nth)
        from pg_proc as p
        where p.proowner = 'dlq_owner'::regrole and p.pronamespace <> 'net'::regnamespace
          and p.prorettype <> 'trigger'::regtype and has_function_privilege(%s, p.oid, 'execute')
        order by 1
        """,
        (role,),
    ).fetchall()
    made = []
    for name, kind, types in found:
        named = name if "." in name else f"public.{name}"
        arguments = ", ".join(f"{_VALUES[t]}::pg_catalog.{_PLAIN.get(t, t)}" for t in types)
        made.append(f"{'call' if kind == 'p' else 'select * from'} {named}({arguments})")
    return made


_ELSE = (
    "select pg_catalog.count(*) from dlq.health",
    "select pg_catalog.count(*) from dlq.entries",
    "select pg_catalog.count(*) from dlq.backlog",
    "insert into public.webhook_dlq (service, raw_body, headers) values ('shop', '{}', '{\"webhook-id\": \"x\"}')",
    "update public.webhook_dlq set status = 'failed'",
    "update public.webhook_dlq set status = 'pending', retry_count = 0",
    "select public.store_dlq_entry('shop', raw_body => '{}', idempotency_key => 'k')",
    "select public.process_dlq_entries()",
    "select public.administer_dlq('health')",
    "select public.administer_dlq('process')",
)


@pytest.mark.parametrize("role", ["dlq_admin", "dlq_reader", "dlq_writer", "authenticated"])
def test_nothing_of_the_callers_runs_with_the_owners_rights(trapped: House, role: str) -> None:
    with psycopg.connect(trapped.superuser) as conn:
        statements = [*calls(conn, role), *_ELSE]
    done = 0
    with ambush(trapped, role) as (conn, sprung):
        for statement in statements:
            before = len(sprung)
            try:
                with conn.transaction():
                    conn.execute(statement.encode())
                done += 1
            except psycopg.Error:
                pass
            assert sprung[before:] == [], statement
    assert done >= 3  # or nothing was tried


@pytest.mark.parametrize("path", ["", "set search_path = ''", "set search_path = pg_catalog"])
def test_the_trap_springs_where_a_function_is_not_safe(trapped: House, path: str) -> None:
    """Else the test above would show nothing. The others look safe: pg_temp comes first unless it is named."""
    with psycopg.connect(trapped.superuser) as conn:
        conn.execute(
            sql.SQL(
                "create function dlq._unsafe() returns boolean language plpgsql security definer {} as"
                " 'begin return exists (select from pg_roles) and (select count(*) from webhook_dlq) >= 0; end'"
            )
            .format(sql.SQL(path))
            .as_bytes(conn)
        )
        conn.execute("alter function dlq._unsafe() owner to dlq_owner")
        conn.execute("grant execute on function dlq._unsafe() to dlq_reader")
    try:
        with ambush(trapped, "dlq_reader") as (conn, sprung):
            with suppress(psycopg.Error):
                conn.execute("select dlq._unsafe()")
            assert sprung != []
    finally:
        do(trapped.superuser, "drop function dlq._unsafe()")


def test_what_fixes_no_search_path_has_no_more_than_its_callers_rights(house: House) -> None:
    with psycopg.connect(house.superuser) as conn:
        found = conn.execute(
            "select p.oid::regproc::text from pg_proc as p where p.proowner = 'dlq_owner'::regrole"
            " and p.proconfig[1] is distinct from 'search_path=pg_catalog, pg_temp' and p.prosecdef"
        ).fetchall()
    assert found == []
