"""What holds of every file under sql/, and of what they make of a database."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from dlqctl import definitions
from dlqctl.bundle import SQL
from dlqctl.definitions import Definition
from dlqctl.migrate import migrate
from tests.migration.migrating import ask, do

# These hold statements rather than one object: the same for every database.
NOT_ONE_OBJECT = {
    "access/authenticated.sql",
    "access/grants.sql",
    "access/pg_net.sql",
    "access/policies.sql",
    "access/roles.sql",
    "access/service_role.sql",
    "adopt/adoption.sql",
    "adopt/adoption_left.sql",
    "audit/triggers.sql",
    "net/_http_response.sql",
    "net/grants.sql",
    "net/http_request_queue.sql",
    "net/schema.sql",
}
FILES = {str(path.relative_to(SQL)): path for path in sorted(SQL.rglob("*.sql"))}
OBJECTS = [name for name in FILES if name not in NOT_ONE_OBJECT]
DEFINITIONS = [*definitions.load(), *definitions.load_net()]

_PROMISE = r"(?:-- .*\n|--\n)+"
_COMMENT = r"\n\ncomment on (?:.|\n)*;\n"
_ROUTINE = (
    _PROMISE
    + r"create or replace (?:function|procedure) [\w.]+\((?:.*|\n(?:  .*\n)+)\)\n"
    + r"(?:returns (?:.*|table \(\n(?:  .*\n)+\))\n)?"
    + r"language (?:sql|plpgsql)(?: (?:immutable|stable|volatile))?(?: strict)?(?: parallel safe)?"
    + r"(?: security definer)?(?: set search_path = pg_catalog, pg_temp)?"
    + r"(?: set jit = off)?(?: set plan_cache_mode = force_(?:custom|generic)_plan)?(?: set enable_\w+ = off)*\n"
    + r"as \$\$\n(?:.*\n)+\$\$;"
    + _COMMENT
)
_VIEW = _PROMISE + r"create or replace view [\w.]+\n(?:with \(.*\)\n)?as\n(?:.*\n)*.*;" + _COMMENT
_TRIGGER = (
    rf"(?:{_PROMISE})?"
    r"create or replace trigger \w+\n(?:before|after) .* on [\w.]+\n(?:.*\n)*.*execute function [\w.]+\(\);" + _COMMENT
)
ORDER = {"function": _ROUTINE, "procedure": _ROUTINE, "view": _VIEW, "trigger": _TRIGGER}


def defined_in(file: str) -> Definition:
    found = [d for d in DEFINITIONS if d.sql == FILES[file].read_text()]
    assert len(found) == 1, f"{file} is not read as one object"
    return found[0]


@pytest.mark.parametrize("file", OBJECTS)
def test_a_file_holds_one_object_and_is_named_like_it(file: str) -> None:
    definition = defined_in(file)

    assert len(re.findall(r"^create ", definition.sql, re.M)) == 1
    assert Path(file).stem in (definition.name, definition.name.rpartition(".")[2])
    assert definition.name.startswith("net.") == file.startswith("net/")


@pytest.mark.parametrize("file", OBJECTS)
def test_a_file_follows_the_order_of_the_house(file: str) -> None:
    definition = defined_in(file)

    assert re.fullmatch(ORDER[definition.kind], definition.sql), definition.sql
    assert re.search(rf"^comment on {definition.kind} {re.escape(definition.name)}\b", definition.sql, re.M)


def test_every_policy_is_read() -> None:
    policies = [d for d in DEFINITIONS if d.kind == "policy"]

    assert len(policies) == (SQL / "access/policies.sql").read_text().count("create policy")
    assert len({(d.name, d.table) for d in policies}) == len(policies)


def test_every_trigger_of_the_audit_is_read() -> None:
    text = (SQL / "audit/triggers.sql").read_text()
    triggers = [d for d in DEFINITIONS if d.kind == "trigger" and d.sql.strip() in text]

    assert len(triggers) == text.count("create or replace trigger") == text.count("enable always trigger")


def test_every_definition_has_a_name_of_its_own() -> None:
    names = [(d.name, d.table) for d in DEFINITIONS]

    assert len(set(names)) == len(names)


RULES = {
    "what runs with its owner's rights has a search_path nobody can add to": """
        select p.oid::regprocedure::text
        from pg_proc as p
        where p.proowner = 'dlq_owner'::regrole and p.prosecdef
          and p.proconfig[1] is distinct from 'search_path=pg_catalog, pg_temp'""",
    "so has every other, but what commits or is to be inlined, and these set nothing": """
        select p.oid::regprocedure::text
        from pg_proc as p join pg_language as l on l.oid = p.prolang
        where p.proowner = 'dlq_owner'::regrole
          and p.proconfig[1] is distinct from 'search_path=pg_catalog, pg_temp'
          and not (p.proconfig is null and (l.lanname = 'sql' or p.prokind = 'p'))""",
    "nothing may be executed by PUBLIC": """
        select p.oid::regprocedure::text
        from pg_proc as p
        where p.proowner = 'dlq_owner'::regrole
          and exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) where grantee = 0)""",
    "nothing of a table, view, sequence or column is PUBLIC's": """
        select c.oid::regclass::text
        from pg_class as c
        where c.relowner = 'dlq_owner'::regrole
          and (exists (select from aclexplode(c.relacl) where grantee = 0)
            or exists (select from pg_attribute as a, aclexplode(a.attacl) as x
                       where a.attrelid = c.oid and x.grantee = 0))""",
    "no schema of ours is PUBLIC's": """
        select n.nspname from pg_namespace as n, aclexplode(n.nspacl) as a
        where n.nspowner = 'dlq_owner'::regrole and a.grantee = 0""",
    "row level security is on for every table, and forced on none": """
        select c.oid::regclass::text
        from pg_class as c
        where c.relowner = 'dlq_owner'::regrole and c.relkind in ('r', 'p')
          and c.relnamespace in ('dlq'::regnamespace, 'public'::regnamespace)
          and (not c.relrowsecurity or c.relforcerowsecurity)""",
    "everything in our schemas is dlq_owner's": """
        select c.oid::regclass::text from pg_class as c
        where c.relnamespace in ('dlq'::regnamespace, 'net'::regnamespace) and c.relowner <> 'dlq_owner'::regrole
        union all
        select p.oid::regprocedure::text from pg_proc as p
        where p.pronamespace in ('dlq'::regnamespace, 'net'::regnamespace) and p.proowner <> 'dlq_owner'::regrole""",
    "every table, view and column of a table says what it is": """
        select c.oid::regclass || coalesce('.' || a.attname, '')
        from pg_class as c
          left join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and c.relkind = 'r'
        where c.relowner = 'dlq_owner'::regrole and c.relkind in ('r', 'v')
          and c.oid <> 'dlq.alembic_version'::regclass
          and (obj_description(c.oid, 'pg_class') is null
            or c.relkind = 'r' and col_description(c.oid, a.attnum) is null)""",
    "every function says what it is": """
        select p.oid::regprocedure::text from pg_proc as p
        where p.proowner = 'dlq_owner'::regrole and obj_description(p.oid, 'pg_proc') is null""",
    "our roles may not log in, and are no superusers": """
        select r.rolname from pg_roles as r
        where r.rolname in ('dlq_owner', 'dlq_admin', 'dlq_reader', 'dlq_writer', 'dlq_net_worker')
          and (r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolbypassrls)""",
    "no index is there twice": """
        select min(indexrelid::regclass::text) from pg_index as i join pg_class as c on c.oid = i.indrelid
        where c.relowner = 'dlq_owner'::regrole
        group by indrelid, indkey, indexprs::text, indpred::text having count(*) > 1""",
}


@pytest.mark.parametrize("rule", RULES)
def test_after_an_install(conn: psycopg.Connection, rule: str) -> None:
    assert [name for (name,) in conn.execute(RULES[rule].encode())] == []


def test_plpgsql_check_finds_nothing(cron_database: str) -> None:
    if not ask(cron_database, "select exists (select from pg_available_extensions where name = 'plpgsql_check')"):
        pytest.skip("plpgsql_check is not installed")
    migrate(cron_database, net_worker=True)
    do(cron_database, "create extension plpgsql_check")
    # What is written for Supabase's Vault can only be checked beside one.
    do(
        cron_database,
        """
        create schema vault;
        create view vault.decrypted_secrets (id, name, decrypted_secret) as select null::uuid, null::text, null::text;
        create function vault.create_secret(text, text) returns uuid language sql as 'select null::uuid';
        create function vault.update_secret(uuid, text) returns void language sql as 'select';
        """,
    )

    with psycopg.connect(cron_database) as conn:
        found = conn.execute(
            """
            select p.oid::regprocedure::text, c.lineno, c.level, c.message, c.detail
            from pg_proc as p
              join pg_language as l on l.oid = p.prolang and l.lanname = 'plpgsql'
              left join pg_trigger as t on t.tgfoid = p.oid
              cross join lateral plpgsql_check_function_tb(
                p.oid, coalesce(t.tgrelid, 0), fatal_errors => false, other_warnings => false,
                extra_warnings => false, performance_warnings => false, security_warnings => true) as c
            where p.proowner = 'dlq_owner'::regrole
            """
        ).fetchall()
    assert found == []
