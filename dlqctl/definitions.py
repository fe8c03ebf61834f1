"""The code of the bundle: what `sql/` defines, and how it is compared with a database and laid down there.

Functions, views, triggers, policies and grants hold no data, so they have no revisions: each has one
definition in the tree, and a database has it or not. What differs is found by building a shadow of each
object in the session's temporary schema, reading both back from the catalog, and dropping the shadow:
the server itself says whether two definitions are the same, and nothing that is unchanged is touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import psycopg

from dlqctl.bundle import SQL
from dlqctl.errors import DlqctlError

OWNER = "dlq_owner"

# The engine takes the same lock for each of its steps: see sql/engine/_engine_lock.sql.
ENGINE_LOCK = 6581361

PREPARE = f"""\
set local lock_timeout = '2s';
set local check_function_bodies = off;
select pg_advisory_xact_lock({ENGINE_LOCK});
{(SQL / "access/roles.sql").read_text()}
set local role {OWNER};
"""


@dataclass(frozen=True)
class Definition:
    """One object as a file defines it: `create …` and its comment.

    `kind` is function, procedure, view, trigger or policy; `name` is qualified, except that of a
    trigger or policy, which belongs to `table`.
    """

    kind: str
    name: str
    table: str | None
    sql: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" on {self.table}" if self.table else "")

    @property
    def create_sql(self) -> str:
        """The statements that lay it down, whether or not there is one already."""
        if self.kind == "policy":
            return f"drop policy if exists {self.name} on {self.table};\n{self.sql}"
        return self.sql

    @property
    def shadow_sql(self) -> str:
        """The same statements for an object of that name in the temporary schema."""
        plain = self.name.rpartition(".")[2]
        if self.table:
            table = self.table.rpartition(".")[2]
            head = f"create temporary table {table} (like {self.table});\n"
            return head + self.sql.replace(f" on {self.table}", f" on pg_temp.{table}")
        return re.sub(
            rf"^((?:create or replace|comment on) {self.kind} ){re.escape(self.name)}\b",
            rf"\1pg_temp.{plain}",
            self.sql,
            flags=re.MULTILINE,
        )


_HEADER = re.compile(
    r"^create (?:or replace )?(function|procedure|view|trigger|policy) ([\w.]+)(?:.*?\bon (\w+\.\w+))?", re.M | re.S
)


def _parse(text: str) -> Definition:
    header = _HEADER.search(text)
    assert header, text
    kind, name, table = header.groups()
    return Definition(kind, name, table if kind in ("trigger", "policy") else None, text)


def load(folder: Path = SQL) -> list[Definition]:
    """Every definition under a folder, in the order in which they can be laid down."""
    found: list[Definition] = []
    for path in sorted(folder.rglob("*.sql")):
        text = path.read_text()
        if path.name == "policies.sql":
            found += [_parse(statement) for statement in re.findall(r"^create policy .*?;$", text, re.M | re.S)]
        elif _HEADER.search(text) and (folder != SQL or path.parent.name != "net"):
            found.append(_parse(text))
    return (
        sorted((d for d in found if d.kind in ("function", "procedure")), key=lambda d: d.name)
        + _in_order_of_need([d for d in found if d.kind == "view"])
        + [d for d in found if d.kind == "trigger"]
        + [d for d in found if d.kind == "policy"]
    )


def _in_order_of_need(views: list[Definition]) -> list[Definition]:
    """Views, each after those that it reads."""
    by_name = {view.name: view for view in views}
    needs = {
        view.name: {n for n in by_name if n != view.name and re.search(rf"\b{re.escape(n)}\b", view.sql)}
        for view in views
    }
    return [by_name[name] for name in TopologicalSorter(needs).static_order()]


def grants() -> str:
    return (SQL / "access/grants.sql").read_text()


def net_schema() -> str:
    """Makes the pg_net-compatible schema. The only part of it that dlq_owner itself may not do."""
    return (SQL / "net/schema.sql").read_text()


def net_everything() -> Iterator[str]:
    """The statements that fill that schema where it is empty."""
    yield from _net_tables()
    for definition in load(SQL / "net"):
        yield definition.create_sql
    yield _net_grants()


def _net_tables() -> list[str]:
    return [(SQL / "net" / name).read_text() for name in ("http_request_queue.sql", "_http_response.sql")]


def _net_grants() -> str:
    return (SQL / "net/grants.sql").read_text()


def everything() -> Iterator[str]:
    """The statements that lay down all code on a database that has none of it."""
    for definition in load():
        yield definition.create_sql
    yield grants()


def run_frozen_sql(revision_file: str) -> None:
    """Run the .sql beside a revision, byte for byte. alembic's own op.execute() would change it."""
    from alembic import context

    text = Path(revision_file).with_suffix(".sql").read_text()
    if context.is_offline_mode():
        context.get_context().impl.static_output(text)
    else:
        connection = context.get_bind()
        connection.exec_driver_sql(text, execution_options={"no_parameters": True})


# What the catalog says of an object: one row each for %(names)s, the columns in which two can differ.
# The object's own schema, or the table's, is taken out, so that a shadow can equal its original.
_READ = {
    "function": """
        select p.oid, regexp_replace(pg_get_functiondef(p.oid), '^CREATE OR REPLACE (\\w+) [^(]+', '\\1'),
          pg_get_function_arguments(p.oid) || ' -> ' || coalesce(pg_get_function_result(p.oid), ''),
          obj_description(p.oid, 'pg_proc'), pg_get_userbyid(p.proowner)
        from pg_proc as p
        where p.pronamespace = %(schema)s::regnamespace and p.proname = %(name)s""",
    "view": """
        select c.oid, pg_get_viewdef(c.oid), c.reloptions, obj_description(c.oid, 'pg_class'),
          pg_get_userbyid(c.relowner),
          (select array_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) order by a.attnum)
           from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
        from pg_class as c
        where c.relnamespace = %(schema)s::regnamespace and c.relname = %(name)s and c.relkind = 'v'""",
    "trigger": """
        select t.oid, regexp_replace(pg_get_triggerdef(t.oid), ' ON \\S+ ', ' '), t.tgenabled,
          obj_description(t.oid, 'pg_trigger')
        from pg_trigger as t
        where t.tgrelid = %(table)s::regclass and t.tgname = %(name)s""",
    "policy": """
        select p.oid, p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid),
          pg_get_expr(p.polwithcheck, p.polrelid), obj_description(p.oid, 'pg_policy'),
          (select array_agg(r::regrole::text order by r::regrole::text) from unnest(p.polroles) as r)
        from pg_policy as p
        where p.polrelid = %(table)s::regclass and p.polname = %(name)s""",
}
_READ["procedure"] = _READ["function"]


def _temporary_schema(connection: psycopg.Connection) -> str:
    row = connection.execute("select nspname from pg_namespace where oid = pg_my_temp_schema()").fetchone()
    assert row
    return str(row[0])


def _read(connection: psycopg.Connection, definition: Definition, *, shadow: bool = False) -> list[tuple[object, ...]]:
    schema, _, name = definition.name.rpartition(".")
    table = definition.table
    if shadow:
        schema = _temporary_schema(connection)
        table = f"{schema}.{table.rpartition('.')[2]}" if table else None
    return connection.execute(_READ[definition.kind].encode(), {"schema": schema, "name": name, "table": table}).fetchall()


class _Undo(Exception):
    pass


def _shadow(connection: psycopg.Connection, definition: Definition) -> list[tuple[object, ...]] | None:
    """What the catalog would say of this definition, or None if it needs something that is not there yet."""
    rows: list[tuple[object, ...]] | None = None
    try:
        with connection.transaction():
            connection.execute(definition.shadow_sql.encode())
            rows = _read(connection, definition, shadow=True)
            raise _Undo
    except _Undo:
        return rows
    except (psycopg.errors.SyntaxErrorOrAccessRuleViolation, psycopg.errors.InvalidSchemaName):
        return None


def differs(connection: psycopg.Connection, definition: Definition) -> bool:
    """Whether the database has this object otherwise than it is defined, or not at all."""
    present = _read(connection, definition)
    shadow = _shadow(connection, definition) if present else None
    return not present or shadow is None or [row[1:] for row in present] != [row[1:] for row in shadow]


def lay_down(
    connection: psycopg.Connection, definitions: list[Definition] | None = None, *, apply: bool = True
) -> list[str]:
    """Make the database's code equal to the tree's, as its owner, and return what was different.

    With `apply=False` nothing is changed. Raises DlqctlError if something of the user's depends on an
    object that must be dropped for it.
    """
    ours = load() if definitions is None else definitions
    changed: list[str] = []
    for definition in ours:
        if differs(connection, definition):
            changed.append(str(definition))
            if apply:
                _replace(connection, definition, ours)
    if definitions is None:
        changed += _drop_what_is_no_longer_defined(connection, ours, apply=apply)
        changed += _lay_down_grants(connection, grants(), apply=apply)
    return changed


def _replace(connection: psycopg.Connection, definition: Definition, ours: list[Definition]) -> None:
    """Create it; first drop what `create or replace` cannot replace: another signature, other columns."""
    try:
        with connection.transaction():
            connection.execute(definition.create_sql.encode())
            if len(_read(connection, definition)) > 1:  # beside the old one, not in its place
                raise _Undo
            return
    except (
        psycopg.errors.InvalidTableDefinition,
        psycopg.errors.InvalidFunctionDefinition,
        psycopg.errors.WrongObjectType,
        _Undo,
    ):
        for present in _read(connection, definition):
            _drop(connection, "view" if definition.kind == "view" else "routine", present[0], ours)
    connection.execute(definition.create_sql.encode())


# Everything that would go with an object, by pg_depend: a view depends through its rule, a function that
# returns a view's rows through its type.
_DEPENDENTS = """
    with recursive needs (classid, objid) as (
      select %(classid)s::regclass::oid, %(objid)s::oid
      union
      select coalesce(r.classid, d.classid), coalesce(r.ev_class, d.objid)
      from needs as n
        join pg_depend as d on d.refclassid = n.classid and d.refobjid = n.objid and d.deptype in ('n', 'a', 'i')
        left join (select 'pg_class'::regclass::oid as classid, w.oid, w.ev_class from pg_rewrite as w) as r
          on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
    )
    select i.type, i.identity
    from needs as n
      cross join lateral pg_identify_object(n.classid, n.objid, 0) as i
    where (n.classid, n.objid) <> (%(classid)s::regclass::oid, %(objid)s::oid) and n.classid <> 'pg_type'::regclass
    order by 2
"""


def _drop(connection: psycopg.Connection, kind: str, oid: object, ours: list[Definition]) -> None:
    """Drop a view or routine and what of ours depends on it. Refuse if something of the user's does."""
    classid, alias = ("pg_class", "regclass") if kind == "view" else ("pg_proc", "regprocedure")
    names = {definition.name + (f" on {definition.table}" if definition.table else "") for definition in ours}
    dependents = connection.execute(_DEPENDENTS, {"classid": classid, "objid": oid}).fetchall()
    theirs = [f"{what} {name}" for what, name in dependents if re.sub(r"\(.*\)", "", name) not in names]
    identity = connection.execute(f"select {oid}::{alias}::text".encode()).fetchone()
    assert identity
    if theirs:
        raise DlqctlError(
            f"{kind} {identity[0]} must be replaced, but {', '.join(theirs)} depends on it",
            "drop that, run dlqctl migrate, and create it again. Nothing was changed",
        )
    connection.execute(f"drop {kind} {identity[0]} cascade".encode())


def _drop_what_is_no_longer_defined(
    connection: psycopg.Connection, ours: list[Definition], *, apply: bool
) -> list[str]:
    """Functions and views of dlq_owner, in dlq or public, that no file defines any more."""
    names = {definition.name for definition in ours}
    rows = connection.execute(
        """
        select 'view', c.oid, c.oid::regclass::text, n.nspname || '.' || c.relname
        from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
        where c.relkind = 'v' and c.relowner = %(owner)s::regrole and n.nspname in ('dlq', 'public')
        union all
        select 'routine', p.oid, p.oid::regprocedure::text, n.nspname || '.' || p.proname
        from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
        where p.proowner = %(owner)s::regrole and n.nspname in ('dlq', 'public')
        """,
        {"owner": OWNER},
    ).fetchall()
    stale = [(kind, oid, identity) for kind, oid, identity, name in rows if name not in names]
    if apply:
        for kind, oid, _ in stale:
            _drop(connection, kind, oid, ours)
    return [f"{kind} {identity}, no longer defined" for kind, _, identity in stale]


_READ_GRANTS = """
    select object, pg_get_userbyid(a.grantor), case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee) end,
      a.privilege_type, a.is_grantable
    from (
      select 'schema ' || n.nspname as object, coalesce(n.nspacl, acldefault('n', n.nspowner)) as acl
      from pg_namespace as n where n.nspowner = %(owner)s::regrole
      union all
      select 'relation ' || c.oid::regclass, coalesce(c.relacl, acldefault('r', c.relowner))
      from pg_class as c where c.relowner = %(owner)s::regrole and c.relkind in ('r', 'v')
      union all
      select 'sequence ' || c.oid::regclass, coalesce(c.relacl, acldefault('s', c.relowner))
      from pg_class as c where c.relowner = %(owner)s::regrole and c.relkind = 'S'
      union all
      select 'column ' || c.oid::regclass || '.' || t.attname, t.attacl
      from pg_attribute as t join pg_class as c on c.oid = t.attrelid
      where c.relowner = %(owner)s::regrole and t.attacl is not null
      union all
      select 'routine ' || p.oid::regprocedure, coalesce(p.proacl, acldefault('f', p.proowner))
      from pg_proc as p where p.proowner = %(owner)s::regrole
    ) as o
      cross join lateral aclexplode(o.acl) as a
    order by 1, 2, 3, 4, 5
"""


def _lay_down_grants(connection: psycopg.Connection, statements: str, *, apply: bool) -> list[str]:
    before = connection.execute(_READ_GRANTS, {"owner": OWNER}).fetchall()
    changed = True
    try:
        with connection.transaction():
            connection.execute(statements.encode())
            changed = connection.execute(_READ_GRANTS, {"owner": OWNER}).fetchall() != before
            if not changed or not apply:
                raise _Undo
    except _Undo:
        pass
    except psycopg.errors.SyntaxErrorOrAccessRuleViolation:
        if apply:
            raise
    return ["grants"] if changed else []


def lay_down_net(connection: psycopg.Connection, *, apply: bool = True) -> list[str]:
    """The pg_net-compatible schema: its tables if they are missing, its functions and grants if they differ."""
    changed = []
    if connection.execute("select from pg_class where oid = to_regclass('net._http_response')").rowcount == 0:
        changed.append("schema net")
        if not apply:
            return changed
        for statements in _net_tables():
            connection.execute(statements.encode())
    changed += lay_down(connection, load(SQL / "net"), apply=apply)
    return changed + [f"{c} in net" for c in _lay_down_grants(connection, _net_grants(), apply=apply)]

