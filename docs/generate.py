"""Writes docs/sql.md, from the comments in a database's catalog, and docs/commands.md, from the command line itself.

python docs/generate.py          writes both
python docs/generate.py --check  writes nothing; names what differs and exits 1
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

import click
import psycopg
from psycopg.rows import namedtuple_row

from dlqctl.bundle import SQL
from dlqctl.cli import cli
from dlqctl.cluster import start_cluster
from dlqctl.migrate import migrate

FOLDER = Path(__file__).parent
_NOTICE = "<!-- Generated: `make docs`. Its words are in {}. -->"

_ABOUT_SQL = """
What psql says by `\\d+ webhook_dlq`, `\\dv+ dlq.*` and `\\df+ dlq.*`. Names that begin with `_` are dlqctl's own and
may change: they are left out, as is schema `net`, which is [the sender's](net-worker.md). Who may what, and which
columns: [access.md](access.md). What an error `WD…` means: [errors.md](errors.md). On Supabase
`service_role` has the rights of `dlq_admin`.
"""

_ABOUT_COMMANDS = """
What `dlqctl COMMAND --help` says. Each command that connects to a database takes `--dsn` too, before or after its name;
without it the environment says which: `DLQCTL_DATABASE_URL`, `DATABASE_URL`, or libpq's own (`PGHOST`, `PGSERVICE`, …).
Exit status: 0 ok, 1 the answer is no, 2 usage, 3 cannot connect. Data goes to stdout, words to stderr.
"""

# What a folder of sql/ is for, in the order in which a webhook meets it.
_FOLDERS = {
    "intake": "A webhook comes in",
    "operate": "What a person does",
    "engine": "It is retried",
    "schedule": "The schedule",
    "retention": "What is old goes",
    "alerts": "Alerts",
    "signatures": "Signatures",
    "http": "Over PostgREST",
    "access": "Over PostgREST",
}

_RELATIONS = """
    select c.oid, c.oid::regclass::text as name, c.relkind::text as kind, obj_description(c.oid, 'pg_class') as comment
    from pg_class as c
    where c.relowner = 'dlq_owner'::regrole and c.relkind in ('r', 'v')
      and c.relnamespace in ('public'::regnamespace, 'dlq'::regnamespace) and c.relname !~ '^_'
    order by c.relnamespace = 'dlq'::regnamespace, c.relname collate "C"
"""

# A view's column that is a table's says no more than that one does, unless it has a comment of its own.
_COLUMNS = """
    select a.attname::text as name, format_type(a.atttypid, a.atttypmod) as type,
      coalesce(
        col_description(a.attrelid, a.attnum),
        (
          select min(col_description(d.refobjid, d.refobjsubid))
          from pg_rewrite as r
            join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refobjsubid > 0
            join pg_attribute as b on b.attrelid = d.refobjid and b.attnum = d.refobjsubid
          where r.ev_class = a.attrelid and b.attname = a.attname
          having count(distinct d.refobjid) = 1
        )
      ) as comment
    from pg_attribute as a
    where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""

# All of a right, or in parentheses that of some columns.
_TABLE_RIGHTS = """
    select g.role, string_agg(g.privilege, ', ' order by g.n) as rights
    from (
      select r.rolname::text as role, p.n,
        case when has_table_privilege(r.oid, %(oid)s, p.privilege) then p.privilege
        when p.privilege <> 'delete' and has_any_column_privilege(r.oid, %(oid)s, p.privilege)
        then p.privilege || ' (some columns)' end as privilege
      from pg_roles as r,
        unnest(array['select', 'insert', 'update', 'delete']) with ordinality as p(privilege, n)
      where r.rolname in ('dlq_admin', 'dlq_reader', 'dlq_writer', 'dlq_net_worker')
    ) as g
    where g.privilege is not null
    group by g.role
    order by g.role
"""

_FUNCTIONS = """
    select p.oid, p.oid::regproc::text as name, p.proname::text as proname, p.prokind::text as kind,
      obj_description(p.oid, 'pg_proc') as comment, pg_get_function_result(p.oid) as result,
      array(
        select r.rolname::text from pg_roles as r
        where r.rolname in ('authenticated', 'dlq_admin', 'dlq_reader', 'dlq_writer', 'dlq_net_worker')
          and has_function_privilege(r.oid, p.oid, 'execute')
        order by r.rolname
      ) as roles
    from pg_proc as p
    where p.proowner = 'dlq_owner'::regrole and p.proname !~ '^_'
      and p.pronamespace in ('public'::regnamespace, 'dlq'::regnamespace)
    order by p.pronamespace = 'dlq'::regnamespace, p.proname collate "C"
"""

_ARGUMENTS = """
    select a.name, coalesce(p.proargmodes[a.n]::text, 'i') as mode, format_type(a.type, null) as type,
      pg_get_function_arg_default(p.oid, a.n::integer) as "default"
    from pg_proc as p,
      unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[])) with ordinality as a(name, type, n)
    where p.oid = %s
    order by a.n
"""


def sql_page(connection: psycopg.Connection) -> str:
    """What there is in SQL for people and programs: tables, views and functions, but not those named with a _."""
    cursor: psycopg.Cursor[Any] = connection.cursor(row_factory=namedtuple_row)
    relations = cursor.execute(_RELATIONS).fetchall()
    tables = [relation for relation in relations if relation.kind == "r"]
    views = [relation for relation in relations if relation.kind == "v"]
    functions: dict[str, list[Any]] = {}
    for function in cursor.execute(_FUNCTIONS).fetchall():
        functions.setdefault(_folder(function.proname, function.name), []).append(function)
    titles = list(dict.fromkeys([*_FOLDERS.values(), *sorted(functions)]))
    groups = [title for title in titles if title in functions]

    lines = [
        _NOTICE.format("the `comment on` of each object, in `sql/` and `migrations/`"),
        "# Tables, views and functions",
        _fill(_ABOUT_SQL),
    ]
    for title, names in (
        ("Tables", [r.name for r in tables]),
        ("Views", [r.name for r in views]),
        *((group, [f.name for f in functions[group]]) for group in groups),
    ):
        links = ", ".join(f"[`{name}`](#{anchor(name)})" for name in names)
        lines.append(_fill(f"**[{title}](#{anchor(title)}).** {links}"))

    for title, found in (("Tables", tables), ("Views", views)):
        lines.append(f"## {title}")
        for relation in found:
            lines += [f"### {relation.name}", _prose(relation.comment)]
            columns = [
                f"| `{column.name}` | {_type(column.type)} | {_cell(column.comment)} |"
                for column in cursor.execute(_COLUMNS, (relation.oid,)).fetchall()
            ]
            lines.append("\n".join(["| column | type | |", "|---|---|---|", *columns]))
            rights = cursor.execute(_TABLE_RIGHTS, {"oid": relation.oid}).fetchall()
            lines.append(f"May: {'; '.join(f'`{r.role}` {r.rights}' for r in rights) or '`dlq_owner` alone'}.")

    for group in groups:
        lines.append(f"## {group}")
        for function in functions[group]:
            arguments = cursor.execute(_ARGUMENTS, (function.oid,)).fetchall()
            callers = " and ".join(", ".join(f"`{role}`" for role in function.roles).rsplit(", ", 1))
            lines += [
                f"### {function.name}",
                f"```text\n{_signature(function, arguments)}\n```",
                _prose(function.comment),
                f"May call it: {callers or '`dlq_owner` alone'}.",
            ]
    return "\n\n".join(lines) + "\n"


def _folder(proname: str, name: str) -> str:
    """The title of the folder whose file defines a function. One in public can have a namesake in dlq."""
    schema = "" if name.startswith("dlq.") else "(?:public\\.)?"
    definition = re.compile(rf"^create or replace (?:function|procedure) {schema}{re.escape(name)}\(", re.M)
    (path,) = (path for path in SQL.rglob(f"{proname}.sql") if definition.search(path.read_text()))
    return _FOLDERS.get(path.parent.name, path.parent.name.capitalize())


def _signature(function: Any, arguments: list[Any]) -> str:
    given = [f"{a.name or ''} {_type(a.type)}{_default(a.default)}".strip() for a in arguments if a.mode in "ib"]
    returned = ", ".join(f"{a.name} {_type(a.type)}" for a in arguments if a.mode in "ot")
    head = f"call {function.name}" if function.kind == "p" else function.name
    line = f"{head}({', '.join(given)})"
    if len(line) > 90:
        line = f"{head}(\n  " + ",\n  ".join(given) + "\n)"
    if function.kind == "p":
        return line
    result = f"({returned})" if returned else _type(function.result)
    several = function.result.startswith(("SETOF", "TABLE"))
    return f"{line}\n  returns {'rows of ' if several else ''}{result.removeprefix('SETOF ')}"


def _type(name: str) -> str:
    return name.replace("timestamp with time zone", "timestamptz").replace("character varying", "varchar")


def _default(value: str | None) -> str:
    if value is None:
        return ""
    plain = re.sub(r"^(NULL|'[^']*')::.*$", r"\1", value)
    return f" default {plain.replace('NULL', 'null')}"


# --- the command line ------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its arguments and options, as click has them."""
    lines = [
        _NOTICE.format("`dlqctl/cli/`"),
        "# Commands",
        _fill(_ABOUT_COMMANDS),
    ]
    pages = list(_commands(cli, "dlqctl"))
    lines.append(_fill(", ".join(f"[`{path}`](#{anchor(path)})" for path, _ in pages[1:] if path.count(" ") == 1)))
    for path, command in pages:
        with click.Context(command, info_name=path) as context:
            usage = " ".join(command.collect_usage_pieces(context))
            lines += [f"{'##' if path.count(' ') < 2 else '###'} {path}", f"```text\n{path} {usage}\n```"]
            lines += [_prose(paragraph) for paragraph in (command.help or "").strip().split("\n\n")]
            rows = [_option(option, context) for option in command.params if _is_told(option)]
            if rows:
                lines.append("\n".join(["| option | |", "|---|---|", *rows]))
            if isinstance(command, click.Group) and path != "dlqctl":
                names = [name for name, _ in list(_commands(command, path))[1:]]
                lines.append("\n".join(f"- [`{name}`](#{anchor(name)})" for name in names))
    return "\n\n".join(lines) + "\n"


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _commands(found, f"{path} {name}")


def _is_told(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and parameter.help != "As before the command." and not parameter.hidden


def _option(option: click.Parameter, context: click.Context) -> str:
    assert isinstance(option, click.Option)
    names = ", ".join(option.opts) + "".join(f" / {name}" for name in option.secondary_opts)
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    said = [option.help or ""]
    if option.required:
        said.append("Needed.")
    if option.show_default:
        said.append(f"Unless set: {option.default}.")
    cells = (names + value).replace("|", "\\|"), _cell(" ".join(filter(None, said)))
    return "| `{}` | {} |".format(*cells)


# --- Markdown --------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading: its letters, digits, - and _, in lower case, blanks as dashes."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _fill(text: str) -> str:
    return fill(text.strip(), 120, break_long_words=False, break_on_hyphens=False)


def _prose(text: str | None) -> str:
    return _fill(_plain(text))


def _cell(text: str | None) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str | None) -> str:
    """Text as Markdown that shows it as it is, on one line, the codes of errors linked."""
    line = " ".join((text or "").replace("\b", "").split())
    return re.sub(r"\b(WD\d{3})\b", lambda m: f"[{m[1]}](errors.md#{m[1].lower()})", re.sub(r"([<*])", r"\\\1", line))


def generate() -> dict[str, str]:
    """The pages by name, from a throw-away server with a fresh install."""
    with start_cluster(pg_net=False) as cluster:
        dsn = cluster.dsn()
        with psycopg.connect(dsn) as connection:
            connection.execute("create role authenticated nologin")  # so that what it may do is there to see
        migrate(dsn, cron=False, net_worker=True)
        with psycopg.connect(dsn) as connection:
            return {"sql.md": sql_page(connection), "commands.md": commands_page()}


def main(words: list[str]) -> int:
    """Write the pages; with --check, say which differ."""
    different = []
    for name, page in generate().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != page:
            different.append(name)
            if "--check" not in words:
                path.write_text(page)
                print(f"docs/{name}")
    if "--check" in words and different:
        print(f"docs/{', docs/'.join(different)}: not as the code has it -> make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
