"""What `sql/` defines, and in which order it goes into a database.

Functions, views, triggers, policies and grants hold no data, so they have no revisions: each has one
definition in the tree, and a database has it or not. How that is found out, and mended: `catalog.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from textwrap import indent

from dlqctl.bundle import SQL

OWNER = "dlq_owner"
ROLES = (OWNER, "dlq_admin", "dlq_reader", "dlq_writer", "dlq_net_worker")

AS_OWNER = f"set local role {OWNER};"
AS_CALLER = "reset role;"

# The engine takes the same lock for each of its steps: see sql/engine/_engine_lock.sql.
ENGINE_LOCK = 6581361

# Nothing found along somebody's search_path gets into what is created, and names read from the catalog as they
# are written here.
BEGIN = f"""\
set local lock_timeout = '2s';
set local search_path = pg_catalog, pg_temp;
set local quote_all_identifiers = off;
set local check_function_bodies = off;
select pg_advisory_xact_lock({ENGINE_LOCK});
"""


@dataclass(frozen=True)
class Definition:
    """One object as a file defines it: `create …` and its comment, of a view also those of its columns.

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
    def key(self) -> tuple[str, str, str | None]:
        """What no two definitions have in common."""
        return ("routine" if self.kind in ("function", "procedure") else self.kind, self.name, self.table)

    @property
    def create_sql(self) -> str:
        """The statements that lay it down, whether or not there is one already."""
        if self.kind != "policy":
            return self.sql
        statements = f"drop policy if exists {self.name} on {self.table};\n{self.sql}"
        if self.needs_role is None:
            return statements
        return f"""\
do $policy$
begin
  if to_regrole('{self.needs_role}') is not null then
{indent(statements.strip(), "    ")}
  end if;
end
$policy$;
"""

    @property
    def needs_role(self) -> str | None:
        """The role that a policy is for and that is not on every server; nothing is laid down without it."""
        return "authenticated" if self.kind == "policy" and " to authenticated" in self.sql else None

    @property
    def shadow_table(self) -> str | None:
        """The table that the shadow belongs to."""
        return self.table and f"pg_temp.{self.table.rpartition('.')[2]}"

    @property
    def shadow_key(self) -> tuple[str, str | None]:
        """Which no other may have whose shadow is there at the same time."""
        return self.name.rpartition(".")[2], self.shadow_table

    @property
    def shadow_table_sql(self) -> str:
        """Makes the table that the shadow belongs to."""
        return f"create table {self.shadow_table} (like {self.table})"

    @property
    def shadow_sql(self) -> str:
        """The same statements for an object of that name in the temporary schema."""
        if self.table:
            return re.sub(rf"\b(on|table) {re.escape(self.table)}\b", rf"\1 {self.shadow_table}", self.sql)
        return re.sub(
            rf"^((?:create or replace|comment on) {self.kind} |comment on column ){re.escape(self.name)}\b",
            rf"\1pg_temp.{self.name.rpartition('.')[2]}",
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


def load() -> list[Definition]:
    """Every definition but those of schema net, in the order in which they can be laid down."""
    return _load(path for path in sorted(SQL.rglob("*.sql")) if path.parent.name != "net")


def load_net() -> list[Definition]:
    """The functions of the pg_net-compatible schema."""
    return _load(sorted((SQL / "net").glob("*.sql")))


def _load(paths: Iterator[Path] | list[Path]) -> list[Definition]:
    found: list[Definition] = []
    for path in paths:
        text = path.read_text()
        if path.name in ("policies.sql", "triggers.sql"):
            found += [_parse(statements) for statements in re.split(r"^(?=create )", text, flags=re.M)[1:]]
        elif _HEADER.search(text):
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
    needs = {view.name: by_name.keys() & set(re.findall(r"\w+\.\w+", view.sql)) - {view.name} for view in views}
    return [by_name[name] for name in TopologicalSorter(needs).static_order()]


def roles() -> str:
    """Makes the roles and the schema, as whoever is connected. All else is done as dlq_owner."""
    return _carry_out(missing_roles())


def missing_roles() -> str:
    """The query for the statements that `roles` runs, and whether the connected role may run each."""
    return (SQL / "access/roles.sql").read_text()


def grants() -> str:
    """Who may do what; on Supabase also those of its API, of whom service_role, last, may what dlq_admin may."""
    names = ("grants.sql", "authenticated.sql", "service_role.sql")
    return "".join((SQL / "access" / name).read_text() for name in names)


def pg_net_grants() -> str:
    """Gives dlq_owner what it needs of the real pg_net. As whoever is connected."""
    return _carry_out(missing_pg_net_grants())


def missing_pg_net_grants() -> str:
    """The query for the statements that `pg_net_grants` runs, and whether the connected role may run each."""
    return (SQL / "access/pg_net.sql").read_text()


def _carry_out(query: str) -> str:
    """A block that runs the statements which a query returns."""
    return f"""\
do $$
declare
  v_missing record;
begin
  for v_missing in
{indent(query, "    ")}  loop
    execute v_missing.statement;
  end loop;
end
$$;
"""


def net_schema() -> str:
    """Makes the pg_net-compatible schema: the only part of it that dlq_owner itself may not do."""
    return f"create schema if not exists net authorization {OWNER};"


def net_tables() -> str:
    """Says what the schema is, and makes its tables where they are missing."""
    names = ("schema.sql", "http_request_queue.sql", "_http_response.sql")
    return "".join((SQL / "net" / name).read_text() for name in names)


def net_grants() -> str:
    """Who may do what there."""
    return (SQL / "net/grants.sql").read_text()


def everything() -> Iterator[str]:
    """The statements that lay down all code on a database that has none of it. As dlq_owner."""
    for definition in load():
        yield definition.create_sql
    yield grants()


def net_everything() -> Iterator[str]:
    """The statements that fill the pg_net-compatible schema where it is empty. As dlq_owner."""
    yield net_tables()
    for definition in load_net():
        yield definition.create_sql
    yield net_grants()


def run_frozen_sql(revision_file: str) -> None:
    """Run the .sql beside a revision, byte for byte. alembic's own op.execute() would change it."""
    from alembic import context

    text = Path(revision_file).with_suffix(".sql").read_text()
    if context.is_offline_mode():
        context.get_context().impl.static_output(text)
    else:
        connection = context.get_bind()
        connection.exec_driver_sql(text, execution_options={"no_parameters": True})
