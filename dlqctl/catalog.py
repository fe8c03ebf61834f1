"""How the code in a database is compared with the tree's, and made equal to it.

What differs is found by building a shadow of each object in the session's temporary schema, reading both
back from the catalog, and rolling the shadow back: the server itself says whether two definitions are the
same, and nothing that is unchanged is touched. Reading locks what is read as a select does.

What belongs to dlq_owner in dlq and public is ours, and so are the triggers that call its functions; the
rest is the user's and is never dropped. A policy has no owner: one that is no longer defined goes by a
revision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from dlqctl import definitions
from dlqctl.definitions import OWNER, Definition
from dlqctl.errors import DlqctlError

_LOCKS = {"trigger": "share row exclusive", "policy": "access exclusive"}


@dataclass(frozen=True)
class OnTable:
    """Something of a table that differs: what it is, the table, the mode it is locked in, and what mends it."""

    what: str
    table: str
    lock: str
    statements: str


def lay_down(connection: psycopg.Connection, *, apply: bool = True) -> list[str]:
    """Make functions, views and grants equal to the tree's, as their owner; return what was different.

    With `apply=False` nothing is changed. Raises DlqctlError if something of the user's depends on an
    object that must be dropped for it.
    """
    ours = [d for d in definitions.load() if d.table is None]
    return _lay_down_code(connection, ours, "grants", definitions.grants(), apply=apply)


def lay_down_net(connection: psycopg.Connection, *, apply: bool = True) -> list[str]:
    """The same for the pg_net-compatible schema: its tables if they are missing, its functions and grants."""
    changed = []
    if connection.execute("select from pg_class where oid = to_regclass('net._http_response')").rowcount == 0:
        changed.append("schema net")
        if not apply:
            return changed
        connection.execute(definitions.net_tables().encode())
    ours = definitions.load_net()
    changed += _lay_down_code(connection, ours, "grants in net", definitions.net_grants(), apply=apply)
    return changed + _drop_what_is_not_defined(connection, ours, ["net"], apply=apply)


def lay_down_on_tables(connection: psycopg.Connection, *, apply: bool = True) -> list[OnTable]:
    """The same for row level security, triggers and policies; then drop what is no longer defined.

    Only this takes strong locks, only where something differs, and on the queue last: a webhook that is
    stored meanwhile waits for the one lock, and then until the commit.
    """
    defined = definitions.load()
    steps = [
        *_row_security(connection),
        *_stale_triggers(connection, defined),
        *(
            OnTable(str(d), d.table, _LOCKS[d.kind], d.create_sql)
            for d in differing(connection, [d for d in defined if d.table and _has_its_role(connection, d)])
            if d.table
        ),
    ]
    for step in sorted(steps, key=lambda step: step.table == "public.webhook_dlq") if apply else ():
        connection.execute(step.statements.encode())
    return steps


def _has_its_role(connection: psycopg.Connection, definition: Definition) -> bool:
    role = definition.needs_role
    return role is None or connection.execute("select where to_regrole(%s) is not null", (role,)).rowcount > 0


def drop_what_is_not_defined(connection: psycopg.Connection, *, apply: bool = True) -> list[str]:
    """Drop the views and routines of ours that no file defines any more; return what they are."""
    return _drop_what_is_not_defined(connection, definitions.load(), ["dlq", "public"], apply=apply)


def _lay_down_code(
    connection: psycopg.Connection, ours: list[Definition], grants_name: str, grants: str, *, apply: bool
) -> list[str]:
    granted = _granted_to_others(connection, ours)
    changed: dict[str, None] = {}
    again = True
    while again:
        again = False
        present = _present(connection)
        for definition in differing(connection, ours):
            if apply and definition.key not in present:
                connection.execute(definition.create_sql.encode())
            elif apply and differs(connection, definition):
                # Others may be gone with it, or be otherwise because of it.
                again |= _replace(connection, definition) or str(definition) not in changed
            elif apply:
                continue  # it only needed something that was not there yet
            changed[str(definition)] = None
    if _lay_down_grants(connection, grants, apply=apply):
        changed[grants_name] = None
    for statement in granted - _granted_to_others(connection, ours) if apply else ():
        connection.execute(statement.encode())
    return list(changed)


# What the catalog says of objects of a schema or a table: one row each, its name and its oid first and its owner last
# where it has one; between them the columns in which two can differ.
_READ = {
    "function": """
        select p.proname, p.oid, regexp_replace(pg_get_functiondef(p.oid), '^CREATE OR REPLACE (\\w+) [^(]+', '\\1'),
          pg_get_function_arguments(p.oid) || ' -> ' || coalesce(pg_get_function_result(p.oid), ''),
          obj_description(p.oid, 'pg_proc'), pg_get_userbyid(p.proowner)
        from pg_proc as p
        where p.pronamespace = {schema} and p.proname = any ('{{{names}}}')""",
    "view": """
        select c.relname, c.oid, pg_get_viewdef(c.oid), c.reloptions, obj_description(c.oid, 'pg_class'),
          (select array_agg(array[a.attname, format_type(a.atttypid, a.atttypmod), col_description(c.oid, a.attnum)]
             order by a.attnum)
           from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
          pg_get_userbyid(c.relowner)
        from pg_class as c
        where c.relnamespace = {schema} and c.relname = any ('{{{names}}}') and c.relkind = 'v'""",
    "trigger": """
        select t.tgname, t.oid, regexp_replace(pg_get_triggerdef(t.oid), ' ON \\S+ ', ' '), t.tgenabled,
          obj_description(t.oid, 'pg_trigger')
        from pg_trigger as t
        where t.tgrelid = '{table}'::regclass and t.tgname = any ('{{{names}}}')""",
    "policy": """
        select p.polname, p.oid, p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid),
          pg_get_expr(p.polwithcheck, p.polrelid), obj_description(p.oid, 'pg_policy'),
          (select array_agg(r::regrole::text order by r::regrole::text) from unnest(p.polroles) as r)
        from pg_policy as p
        where p.polrelid = '{table}'::regclass and p.polname = any ('{{{names}}}')""",
}
_READ["procedure"] = _READ["function"]


# Whether anything of that name is there: what is not needs no comparing, and on a new database that is everything.
_PRESENT = """
    select 'routine', n.nspname || '.' || p.proname, null
    from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
    where n.nspname = any (%(schemas)s)
    union all
    select 'view', n.nspname || '.' || c.relname, null
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = any (%(schemas)s)
    union all
    select o.kind, o.name, n.nspname || '.' || c.relname
    from (
        select 'trigger', t.tgname, t.tgrelid from pg_trigger as t where not t.tgisinternal
        union all
        select 'policy', p.polname, p.polrelid from pg_policy as p
      ) as o (kind, name, oid)
      join pg_class as c on c.oid = o.oid
      join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = any (%(schemas)s)
"""


def _present(connection: psycopg.Connection) -> set[tuple[str, str, str | None]]:
    """The keys of whatever has the name of something that could be ours."""
    return set(connection.execute(_PRESENT, {"schemas": ["dlq", "public", "net"]}).fetchall())


def _read_sql(ours: list[Definition], *, shadows: bool = False) -> str:
    """The query for the objects of these names, or for their shadows: all of one kind, schema and table."""
    schema = ours[0].name.rpartition(".")[0]
    return _READ[ours[0].kind].format(
        schema="pg_my_temp_schema()" if shadows else f"'{schema}'::regnamespace",
        names=",".join(d.name.rpartition(".")[2] for d in ours),
        table=ours[0].shadow_table if shadows else ours[0].table,
    )


def differing(connection: psycopg.Connection, ours: list[Definition]) -> list[Definition]:
    """Those that the database has otherwise than they are defined, or not at all."""
    present = _present(connection)
    there = [d for d in ours if d.key in present]
    found = {d for d in ours if d.key not in present}
    while there:
        # Two of one name have one shadow: each has its turn.
        turn = list({d.shadow_key: d for d in there}.values())
        there = [d for d in there if d not in turn]
        found |= _differing(connection, turn)
    return [d for d in ours if d in found]


def differs(connection: psycopg.Connection, definition: Definition) -> bool:
    """Whether the database has this object otherwise than it is defined, or not at all."""
    return bool(_differing(connection, [definition]))


def _differing(connection: psycopg.Connection, ours: list[Definition]) -> set[Definition]:
    together: dict[tuple[str, str, str | None], list[Definition]] = {}
    for d in ours:
        together.setdefault((d.kind, d.name.rpartition(".")[0], d.table), []).append(d)
    # All in one message: over a slow line it is the number of messages that counts.
    steps = [
        *map(_read_sql, together.values()),
        "savepoint shadow",
        *dict.fromkeys(d.shadow_table_sql for d in ours if d.table),
        *(d.shadow_sql.rstrip().rstrip(";") for d in ours),
        *(_read_sql(some, shadows=True) for some in together.values()),
        "rollback to savepoint shadow",
        "release savepoint shadow",
    ]
    try:
        cursor = connection.execute(";\n".join(steps).encode())
    except psycopg.ProgrammingError:  # one needs something that is not there yet
        connection.execute("rollback to savepoint shadow")
        half = len(ours) // 2
        return _differing(connection, ours[:half]) | _differing(connection, ours[half:]) if half else {*ours}
    found = [rows for rows in _results(cursor) if rows is not None]
    present, shadows = found[: len(together)], found[len(together) :]
    return {
        d
        for some, rows, shadow in zip(together.values(), present, shadows, strict=True)
        for d in some
        if _of(d, rows) != _of(d, shadow)
    }


def _of(definition: Definition, rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """What of these rows is of one object, without its oid."""
    return [row[2:] for row in rows if row[0] == definition.name.rpartition(".")[2]]


def _results(cursor: psycopg.Cursor) -> Iterator[list[tuple[object, ...]] | None]:
    """The rows of each statement of a message, None for one that returns none."""
    more: bool | None = True
    while more:
        yield cursor.fetchall() if cursor.description else None
        more = cursor.nextset()


def _replace(connection: psycopg.Connection, definition: Definition) -> bool:
    """Create a function or view over the old one. True if that had to be dropped: other arguments or columns."""
    read = _read_sql([definition]).encode()
    present = connection.execute(read).fetchall()
    for *_, owner in present:
        if owner != OWNER:
            raise DlqctlError(
                f"{definition} belongs to {owner}, not to {OWNER}",
                f"if it is dlqctl's: alter {definition.kind} {definition.name} owner to {OWNER}; else rename it; "
                "then run dlqctl migrate again. Nothing was changed",
            )
    try:
        with connection.transaction():
            connection.execute(definition.create_sql.encode())
            if connection.execute(read).rowcount == 1:
                return False
            raise psycopg.Rollback  # it stands beside the old one, not in its place
    except (
        psycopg.errors.InvalidTableDefinition,
        psycopg.errors.InvalidFunctionDefinition,
        psycopg.errors.WrongObjectType,
    ):
        pass
    for _, oid, *_ in present:
        _drop(connection, "view" if definition.kind == "view" else "routine", oid)
    connection.execute(definition.create_sql.encode())
    return True


# What would go with an object and is not ours, by pg_depend. A view depends through its rule, a function that
# takes or returns a view's row through its type.
DEPENDENTS_OF_OTHERS = """
    with recursive needs (classid, objid) as (
      select %(classid)s::regclass::oid, %(objid)s::oid
      union
      select case when r.oid is null then d.classid else 'pg_class'::regclass end, coalesce(r.ev_class, d.objid)
      from needs as n
        join pg_depend as d on d.refclassid = n.classid and d.refobjid = n.objid
        left join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
    )
    select i.type || ' ' || i.identity
    from needs as n
      left join pg_class as c on n.classid = 'pg_class'::regclass and c.oid = n.objid and c.relkind = 'v'
      left join pg_proc as p on n.classid = 'pg_proc'::regclass and p.oid = n.objid
      left join pg_trigger as t on n.classid = 'pg_trigger'::regclass and t.oid = n.objid
      left join pg_proc as f on f.oid = t.tgfoid
      left join pg_type as y on n.classid = 'pg_type'::regclass and y.oid = n.objid
      cross join lateral pg_identify_object(n.classid, n.objid, 0) as i
    where coalesce(c.relowner, p.proowner, f.proowner) is distinct from %(owner)s::regrole
      and coalesce(y.typtype <> 'c' and y.typcategory <> 'A', true)
      and not (n.classid = 'pg_policy'::regclass and i.identity = any (%(policies)s))
    order by 1
"""


def _drop(connection: psycopg.Connection, kind: str, oid: object) -> None:
    """Drop a view or routine, and what of ours depends on it. Refuse if something of the user's does."""
    classid, alias = ("pg_class", "regclass") if kind == "view" else ("pg_proc", "regprocedure")
    (identity,) = _row(connection, f"select {oid}::{alias}::text")
    policies = [f"{d.name} on {d.table}" for d in definitions.load() if d.kind == "policy"]
    theirs = connection.execute(
        DEPENDENTS_OF_OTHERS, {"classid": classid, "objid": oid, "owner": OWNER, "policies": policies}
    ).fetchall()
    if theirs:
        raise DlqctlError(
            f"{kind} {identity} must go, but {', '.join(name for (name,) in theirs)} depends on it",
            "drop that, run dlqctl migrate, and create it again. Nothing was changed",
        )
    connection.execute(f"drop {kind} {identity} cascade".encode())


def _drop_what_is_not_defined(
    connection: psycopg.Connection, defined: list[Definition], schemas: list[str], *, apply: bool
) -> list[str]:
    """Views and routines of ours that no file defines any more."""

    def stale() -> list[tuple[str, object, str]]:
        return connection.execute(
            """
            select 'view', c.oid, n.nspname || '.' || c.relname
            from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
            where c.relkind = 'v' and c.relowner = %(owner)s::regrole and n.nspname = any (%(schemas)s)
              and n.nspname || '.' || c.relname <> all (%(defined)s)
            union all
            select 'routine', p.oid, n.nspname || '.' || p.proname
            from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
            where p.proowner = %(owner)s::regrole and n.nspname = any (%(schemas)s)
              and n.nspname || '.' || p.proname <> all (%(defined)s)
            """,
            {"owner": OWNER, "schemas": schemas, "defined": [d.name for d in defined if d.table is None]},
        ).fetchall()

    found = stale()
    changed = [f"{kind} {name}, no longer defined" for kind, _, name in found]
    while apply and found:
        _drop(connection, *found[0][:2])
        found = stale()  # others may have gone with it
    return changed


def _stale_triggers(connection: psycopg.Connection, defined: list[Definition]) -> list[OnTable]:
    rows = connection.execute(
        """
        select t.tgname, t.tgrelid::regclass::text
        from pg_trigger as t
          join pg_class as c on c.oid = t.tgrelid
          join pg_proc as f on f.oid = t.tgfoid
        where c.relowner = %(owner)s::regrole and f.proowner = %(owner)s::regrole
        """,
        {"owner": OWNER},
    ).fetchall()
    ours = {(d.name, d.table) for d in defined}
    return [
        OnTable(
            f"trigger {name} on {table}, no longer defined",
            table,
            "access exclusive",
            f'drop trigger "{name}" on {table}',
        )
        for name, table in rows
        if (name, table) not in ours
    ]


def _row_security(connection: psycopg.Connection) -> list[OnTable]:
    """It is on for every table; but never forced, or dlq_owner itself would see an empty queue."""
    rows = connection.execute(
        """
        select c.oid::regclass::text
        from pg_class as c
        where c.relowner = %s::regrole and c.relnamespace in ('dlq'::regnamespace, 'public'::regnamespace)
          and c.relkind in ('r', 'p') and (not c.relrowsecurity or c.relforcerowsecurity)
        """,
        (OWNER,),
    ).fetchall()
    return [
        OnTable(
            f"row level security of {table}",
            table,
            "access exclusive",
            f"alter table {table} enable row level security, no force row level security",
        )
        for (table,) in rows
    ]


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


def _lay_down_grants(connection: psycopg.Connection, statements: str, *, apply: bool) -> bool:
    """Grant and revoke, if that changes anything. Returns whether it does."""
    before = connection.execute(_READ_GRANTS, {"owner": OWNER}).fetchall()
    changed = True
    try:
        with connection.transaction():
            connection.execute(statements.encode())
            changed = connection.execute(_READ_GRANTS, {"owner": OWNER}).fetchall() != before
            if not changed or not apply:
                raise psycopg.Rollback
    except psycopg.ProgrammingError:  # they name something that is not there yet
        if apply:
            raise
    return changed


# What roles other than ours may do with some views and functions, as statements that grant it again. A function's are
# given by its name alone, so that they hold for another signature.
GRANTED_TO_OTHERS = """
    select format('grant %%s%%s on %%s %%s to %%I%%s', a.privilege_type, o.columns, o.kind, o.name,
      r.rolname, case when a.is_grantable then ' with grant option' end)
    from (
      select 'table' as kind, c.oid::regclass::text as name, null as columns, c.relacl as acl
      from pg_class as c where c.oid = any (array(select to_regclass(n) from unnest(%(names)s::text[]) as n))
      union all
      select 'table', c.oid::regclass::text, format(' (%%I)', t.attname), t.attacl
      from pg_attribute as t join pg_class as c on c.oid = t.attrelid
      where c.oid = any (array(select to_regclass(n) from unnest(%(names)s::text[]) as n)) and t.attnum > 0
      union all
      select 'routine', n.nspname || '.' || p.proname, null, p.proacl
      from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
      where n.nspname || '.' || p.proname = any (%(names)s)
    ) as o
      cross join lateral aclexplode(o.acl) as a
      join pg_roles as r on r.oid = a.grantee
    where r.rolname not in ('dlq_owner', 'dlq_admin', 'dlq_reader', 'dlq_writer', 'dlq_net_worker',
      'anon', 'authenticated', 'service_role')
"""


def _granted_to_others(connection: psycopg.Connection, ours: list[Definition]) -> set[str]:
    """Statements that grant again what others may do with these views and functions: grants go with what is dropped."""
    names = [definition.name for definition in ours]
    return {statement for (statement,) in connection.execute(GRANTED_TO_OTHERS, {"names": names})}


def _row(connection: psycopg.Connection, query: str) -> tuple[object, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return tuple(row)
