"""Every cell of the table in docs/access.md, against the catalog and by trying. An object without a row fails."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from dlqctl.bundle import ROOT
from tests.security.conftest import CLAIM, NO_CLAIM, House

_PAGE = ROOT / "docs" / "access.md"
pytestmark = pytest.mark.skipif(not _PAGE.exists(), reason="not in a checkout")

COLUMNS = {
    "dlq_admin": 0, "service_role": 0, "authenticated": 1, "dlq_reader": 2, "dlq_writer": 3, "dlq_net_worker": 4,
}  # fmt: skip
NOBODY = ("anon", "stranger")
EVERYTHING = ("dlq_owner", "postgres")
LETTERS = {"select": "r", "insert": "a", "update": "w", "delete": "d"}

OBJECTS = """
    select 'schema' as kind, n.nspname::text as name, n.oid
    from pg_namespace as n where n.nspowner = 'dlq_owner'::regrole
    union all
    select case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass::text, c.oid
    from pg_class as c where c.relowner = 'dlq_owner'::regrole and c.relkind not in ('i', 't', 'c')
    union all
    select 'function', p.oid::regproc::text, p.oid
    from pg_proc as p where p.proowner = 'dlq_owner'::regrole
"""


def _rows(after: str) -> list[list[str]]:
    """The cells of the page's table whose first line begins like this."""
    page = _PAGE.read_text()
    lines = page[page.index(after) :].splitlines()[2:]
    cells = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip("|").split("|")])
    return cells


def documented() -> dict[tuple[str, str], str]:
    """What each role may do with each object: {(object, role): letters}. A schema is "schema x"."""
    table: dict[tuple[str, str], str] = {}
    for names, *cells in _rows("| object |"):
        for name in re.findall(r"`([^`]+)`", names):
            for role, column in COLUMNS.items():
                key = ("schema " * names.startswith("schema ") + name, role)
                assert key not in table, f"{key} is there twice"
                table[key] = cells[column]
    return table


def documented_columns() -> dict[tuple[str, str, str], set[str]]:
    """What a role may not do with which columns of a table of which it may do it with others."""
    return {
        (role, re.findall(r"`([^`]+)`", table)[0], letter): set(re.findall(r"`([^`]+)`", columns))
        for role, table, letter, columns in _rows("| role | table |")
    }


TABLE = documented() if _PAGE.exists() else {}
SOME = documented_columns() if _PAGE.exists() else {}


@pytest.fixture(scope="module")
def objects(house: House) -> list[tuple[str, str, int]]:
    with psycopg.connect(house.superuser) as conn:
        return conn.execute(OBJECTS).fetchall()


def test_every_object_of_ours_has_a_row_and_every_row_an_object(objects: list[tuple[str, str, int]]) -> None:
    found = {"schema " * (kind == "schema") + name for kind, name, _ in objects}
    assert found == {name for name, _ in TABLE}
    assert len(found) == len(objects), "two functions of one name"


_PRIVILEGES = {
    "schema": {"usage": "U", "create": "C"},
    "table": LETTERS | {"truncate": "D", "references": "x", "trigger": "t"},
    "sequence": {"select": "r", "update": "w", "usage": "U"},
    "function": {"execute": "X"},
}


def _rights(conn: psycopg.Connection, role: str, kind: str, oid: int) -> str:
    """The letters, in the order of the page; those that hold for some columns only in parentheses."""
    letters = ""
    for privilege, letter in _PRIVILEGES[kind].items():
        if _one(conn, f"select has_{kind}_privilege(%s, %s::oid, %s)", role, oid, privilege):
            letters += letter
        elif (
            kind == "table"
            and privilege in ("select", "insert", "update", "references")
            and _one(conn, "select has_any_column_privilege(%s, %s::oid, %s)", role, oid, privilege)
        ):
            letters += f"({letter})"
    return letters


def _one(conn: psycopg.Connection, query: str, *parameters: Any) -> Any:
    row = conn.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("role", [*COLUMNS, *NOBODY, *EVERYTHING])
def test_the_catalog_says_what_the_table_says(house: House, objects: list[tuple[str, str, int]], role: str) -> None:
    wrong = []
    with psycopg.connect(house.superuser) as conn:
        for kind, name, oid in objects:
            key = "schema " * (kind == "schema") + name
            expected = TABLE.get((key, role), "")
            if role in EVERYTHING:
                expected = "".join(_PRIVILEGES[kind].values())
            found = _rights(conn, role, kind, oid)
            if found != expected:
                wrong.append(f"{key}: {found!r}, and the page says {expected!r}")
    assert wrong == []


def test_the_columns_are_those_of_the_table(house: House, objects: list[tuple[str, str, int]]) -> None:
    found: dict[tuple[str, str, str], set[str]] = {}
    with psycopg.connect(house.superuser) as conn:
        for (name, role), letters in TABLE.items():
            for letter in re.findall(r"\((\w)\)", letters):
                (privilege,) = (word for word, of in LETTERS.items() if of == letter)
                columns = conn.execute(
                    "select a.attname from pg_attribute as a where a.attrelid = %s::regclass and a.attnum > 0"
                    " and not a.attisdropped and not has_column_privilege(%s, a.attrelid, a.attnum, %s)",
                    (name, role, privilege),
                )
                found[role, name, letter] = {column for (column,) in columns}
    assert found == SOME


def _first_column(conn: psycopg.Connection, relation: str, role: str, privilege: str) -> str | None:
    row = conn.execute(
        "select a.attname from pg_attribute as a"
        " where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attidentity = ''"
        " and a.attgenerated = '' and has_column_privilege(%s, a.attrelid, a.attnum, %s) limit 1",
        (relation, role, privilege),
    ).fetchone()
    return row[0] if row else None


def _try(conn: psycopg.Connection, statement: str) -> str | int:
    """What becomes of a statement: refused, another error's code, or the number of rows. Rolled back."""
    try:
        with conn.transaction(force_rollback=True):
            return conn.execute(statement.encode()).rowcount
    except psycopg.errors.InsufficientPrivilege:
        return "refused"
    except psycopg.Error as error:
        return error.sqlstate or "?"


BEYOND = (
    "create table dlq.mine ()",
    "create table net.mine ()",
    "drop table webhook_dlq",
    "set role dlq_owner",
    "alter table webhook_dlq disable row level security",
    "alter function dlq_health() owner to anon",
    "create trigger t before insert on webhook_dlq execute function suppress_redundant_updates_trigger()",
    "create policy p on webhook_dlq using (true)",
)


@pytest.mark.parametrize("role", [*COLUMNS, "authenticated without the claim", *NOBODY])
def test_who_tries_gets_as_far_as_the_table_says(house: House, objects: list[tuple[str, str, int]], role: str) -> None:
    name, _, without = role.partition(" ")
    claims = (NO_CLAIM if without else CLAIM) if name == "authenticated" else None
    relations = [relation for kind, relation, _ in objects if kind == "table"]
    with psycopg.connect(house.superuser) as conn:
        is_view = {r: _one(conn, "select relkind = 'v' from pg_class where oid = %s::regclass", r) for r in relations}
        rows = {r: _one(conn, f"select count(*) from {r}") for r in relations}
        columns = {
            (r, act): _first_column(conn, r, name, act) or _first_column(conn, r, "dlq_owner", act)
            for r in relations
            for act in ("select", "insert", "update")
        }
    wrong = []
    with house.as_(name, claims) as conn:
        for relation in relations:
            rights = TABLE.get((relation, name), "")
            statements = {
                "select": f"select {columns[relation, 'select']} from {relation}",
                "insert": f"insert into {relation} ({columns[relation, 'insert']}) values (default)",
                "update": f"update {relation} set {columns[relation, 'update']} = default",
                "delete": f"delete from {relation}",
            }
            for act, statement in statements.items():
                if is_view[relation] and act != "select" and relation != "dlq.entries":
                    continue  # no view but that could be written to by anybody
                came_to = _try(conn, statement)
                if LETTERS[act] not in rights:
                    as_it_should = came_to == "refused"
                elif without:
                    as_it_should = came_to == ("refused" if act == "insert" else 0)
                else:
                    as_it_should = came_to != "refused" and (act != "select" or came_to == rows[relation])
                if not as_it_should:
                    wrong.append(f"{act} {relation}: {came_to}")
            for statement in (f"truncate {relation}", f"lock {relation} in access exclusive mode"):
                if not (is_view[relation] and statement.startswith("truncate")) and not set(rights) & set("wd"):
                    came_to = _try(conn, statement)
                    if came_to != "refused":
                        wrong.append(f"{statement}: {came_to}")
        for statement in BEYOND:
            came_to = _try(conn, statement)
            if came_to != "refused":
                wrong.append(f"{statement}: {came_to}")
    assert wrong == []


def test_every_statement_of_the_page_works(house: House) -> None:
    grants, revokes = re.findall(r"^```sql\n(.*?)^```$", _PAGE.read_text(), re.M | re.S)
    with psycopg.connect(house.superuser) as conn:
        conn.execute("create role grafana; create role handlers; create role oncall")
        conn.execute(grants.encode())
        assert _one(conn, "select has_table_privilege('oncall', 'webhook_dlq', 'update')")
        conn.execute(
            "grant all on all tables in schema net to public; grant all on all sequences in schema net to public"
        )
        conn.execute(revokes.encode())
        assert not _one(conn, "select has_table_privilege('grafana', 'net.http_request_queue', 'select')")
        conn.rollback()


def test_the_seed_is_there_to_be_seen(house: House) -> None:
    """Else nothing above would show anything."""
    with psycopg.connect(house.superuser) as conn:
        for table in ("webhook_dlq", "dlq.in_flight", "dlq.delivery_attempts", "dlq.endpoints", "dlq.secrets"):
            assert _one(conn, f"select count(*) from {table}") >= 1
