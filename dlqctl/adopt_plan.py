"""What `dlqctl adopt` finds of a home-made queue, and what it would make of it. Reads only."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg

from dlqctl import preflight
from dlqctl.adopt_columns import (
    KINDS,
    LOG,
    OTHER_STATUSES,
    QUEUE,
    SLUG,
    STATUSES,
    Column,
    Options,
    Problem,
    Reading,
    Table,
    body_column,
    ident,
    is_constant,
    literal,
    our_status,
    read_columns,
)
from dlqctl.errors import DlqctlError

_FUNCTIONS = ("process_dlq_entries", "store_dlq_entry", "dlq_health")
_NOBODY = ("public", "anon", "authenticated")
"""Whoever may call the database at all: they get nothing."""

_FILLED_IN = {
    "service": "the --default-service",
    "status": "all are pending",
    "next_retry_at": "what is pending is due at once",
    "retry_count": "0",
    "created_at": "the time of the copy",
    "updated_at": "the time of the copy",
    "settled_at": "the time of the last change",
}


@dataclass(frozen=True)
class Job:
    """A job of pg_cron that belongs to the old queue."""

    id: int
    name: str | None
    user: str
    schedule: str
    command: str


@dataclass(frozen=True)
class Grant:
    """What a role could do with the old queue, and what it becomes for it. `columns`: those that it may insert."""

    role: str
    could: str
    becomes: str | None
    columns: tuple[str, ...] = ()


@dataclass
class Plan:
    """What there is, what becomes of it, and what stands in the way."""

    queue: Table | None
    log: Table | None
    reading: Reading | None
    functions: list[tuple[str, str, str]]  # its identity, its owner, its name afterwards
    renames: list[str]  # statements
    jobs: list[Job]
    other_jobs: list[Job]
    grants: list[Grant]
    dependents: list[str]
    statuses: dict[str, int] = field(default_factory=dict)
    services: dict[str, int] = field(default_factory=dict)
    vocabulary: set[str] = field(default_factory=set)
    runs: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def catalog(self) -> object:
        """What must not have changed between the plan and its execution."""
        return self.queue, self.log, self.functions, self.renames, self.jobs

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())


def make_plan(
    connection: psycopg.Connection, options: Options, *, cron: bool, net_worker: bool, count: bool = True
) -> Plan:
    """Look at what is there and decide. Without `count` no row is read.

    Raises DlqctlError if there is nothing to adopt, or something of dlqctl's is there already.
    """
    found = _problem(preflight.check, connection, cron=cron, net_worker=net_worker, adopting=True)
    queue, log = read_table(connection, QUEUE), read_table(connection, LOG)
    tables = [table for table in (queue, log) if table]
    functions = _functions(connection)
    ours, others = _jobs(connection)
    if not (tables or functions or ours):
        raise DlqctlError("there is no home-made queue in this database to take over", "dlqctl migrate")
    plan = Plan(
        queue=queue,
        log=log,
        reading=read_columns(queue, options) if queue and queue.kind == "r" else None,
        functions=functions,
        renames=[rename for table in tables for rename in _renames(connection, table)],
        jobs=ours,
        other_jobs=others,
        grants=_grants(connection, queue) if queue and options.grants else [],
        dependents=[name for table in tables for name in _dependents(connection, table)],
        problems=found,
    )
    for table in tables:
        plan.problems += _in_the_way(connection, table)
    plan.problems += _not_ours_to_rename(connection, plan)
    if plan.reading:
        plan.problems += plan.reading.problems
        plan.vocabulary = _vocabulary(connection, plan.reading)
        if count and _is_readable(connection, QUEUE):
            _count(connection, plan, options)
    if log and log.kind == "r" and count and _is_readable(connection, LOG):
        plan.runs = _number(connection, f"select count(*) from public.{LOG}")
    plan.notes = list(_notes(connection, plan, options))
    return plan


def read_table(connection: psycopg.Connection, name: str) -> Table | None:
    """An old table of public, or None if there is none of that name that is not dlqctl's."""
    row = connection.execute(
        """
        select c.oid, c.relkind, pg_get_userbyid(c.relowner), c.relrowsecurity
        from pg_class as c
        where c.relnamespace = 'public'::regnamespace and c.relname = %s and pg_get_userbyid(c.relowner) <> 'dlq_owner'
        """,
        (name,),
    ).fetchone()
    if row is None:
        return None
    oid, kind, owner, has_row_security = row
    columns = connection.execute(
        """
        select a.attname, format_type(a.atttypid, a.atttypmod), t.typcategory, pg_get_expr(d.adbin, d.adrelid),
          a.attgenerated <> ''
        from pg_attribute as a
          join pg_type as t on t.oid = a.atttypid
          left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
        order by a.attnum
        """,
        (oid,),
    ).fetchall()
    key = connection.execute(
        """
        select a.attname
        from pg_index as i
          join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
        where i.indrelid = %s and i.indisunique and i.indisvalid and i.indnkeyatts = 1 and i.indpred is null
          and a.attnum > 0 and a.attnotnull
        order by a.attname <> 'id', not i.indisprimary, i.indexrelid
        limit 1
        """,
        (oid,),
    ).fetchone()
    found = tuple(Column(*column) for column in columns)
    return Table(
        name, oid, kind, owner, found, next((c for c in found if key and c.name == key[0]), None), has_row_security
    )


def speaks_otherwise(plan: Plan, options: Options) -> bool:
    """Whether handlers use names of columns, statuses or services that have to be translated."""
    assert plan.reading
    return bool(
        plan.reading.renamed
        or options.services
        or options.statuses
        or any(status not in STATUSES for status in plan.statuses)
        or any(word.lower() in OTHER_STATUSES for word in plan.vocabulary)
        or (plan.reading.old_id and plan.reading.table.key and plan.reading.table.key.type == "uuid")
    )


def _count(connection: psycopg.Connection, plan: Plan, options: Options) -> None:
    """Rows by status and by service, and the problems with those that are not known."""
    reading = plan.reading
    assert reading
    for name, counts in (("status", plan.statuses), ("service", plan.services)):
        column = reading.sources.get(name)
        value = f"o.{column.quoted}::text" if column else "null::text"
        query = f"select coalesce({value}, ''), count(*) from public.{QUEUE} as o group by 1 order by 2 desc, 1"
        counts.update(dict(connection.execute(query.encode()).fetchall()))
    if "status" in reading.sources:
        for status in plan.statuses:
            if status == "":
                name = reading.sources["status"].quoted
                hint = f"update public.{QUEUE} set {name} = 'pending' where coalesce({name}::text, '') = ''"
                plan.problems.append(Problem("some rows have no status", hint))
            elif our_status(status, options) not in STATUSES:
                plan.problems.append(
                    Problem(f"what is status {status!r}?", f"--status '{status}=…': {', '.join(STATUSES)}")
                )
    if "service" in reading.sources:
        for service in plan.services:
            if service == "" and options.default_service is None:
                plan.problems.append(Problem("some rows have no service", "--default-service NAME"))
            elif service and not SLUG.fullmatch(service) and service not in options.services:
                suggested = re.sub(r"[^a-z0-9_-]+", "-", service.lower()).strip("-_")[:63] or "other"
                plan.problems.append(
                    Problem(
                        f"{service!r} cannot be a service's name: it becomes part of a URL",
                        f"--service '{service}={suggested}' (inserts under the old name are translated)",
                    )
                )


def _vocabulary(connection: psycopg.Connection, reading: Reading) -> set[str]:
    """The statuses that the old queue's default, check or type allow, whether or not any row has them now."""
    if "status" not in reading.sources:
        return set()
    rows = connection.execute(
        """
        select w.word
        from pg_attribute as a
          cross join lateral (
            select m[1] as word
            from (
              select pg_get_constraintdef(c.oid) as sql
              from pg_constraint as c
              where c.conrelid = a.attrelid and c.contype = 'c' and a.attnum = any (c.conkey)
              union all
              select pg_get_expr(d.adbin, d.adrelid)
              from pg_attrdef as d
              where d.adrelid = a.attrelid and d.adnum = a.attnum
            ) as s
              cross join lateral regexp_matches(s.sql, $$'([^']+)'::$$, 'g') as m
            union all
            select e.enumlabel::text from pg_enum as e where e.enumtypid = a.atttypid
          ) as w
        where a.attrelid = %s and a.attname = %s
        """,
        (reading.table.oid, reading.sources["status"].name),
    ).fetchall()
    return {word for (word,) in rows}


def _is_readable(connection: psycopg.Connection, table: str) -> bool:
    name = literal(f"public.{table}")
    return _holds(connection, f"has_table_privilege({name}, 'select') and not row_security_active({name})")


def _functions(connection: psycopg.Connection) -> list[tuple[str, str, str]]:
    return connection.execute(
        """
        select p.oid::regprocedure::text, pg_get_userbyid(p.proowner), p.proname || '_old'
        from pg_proc as p
        where p.pronamespace = 'public'::regnamespace and p.proname = any (%s)
          and pg_get_userbyid(p.proowner) <> 'dlq_owner'
        order by 1
        """,
        (list(_FUNCTIONS),),
    ).fetchall()


def _jobs(connection: psycopg.Connection) -> tuple[list[Job], list[Job]]:
    """The old queue's job, and others that call its processor. pg_cron shows a role its own jobs only."""
    if not preflight.may_look_into(connection, "cron"):
        return [], []
    jobs = [
        Job(*row)
        for row in connection.execute(
            """
            select j.jobid, j.jobname, j.username, j.schedule, j.command
            from cron.job as j
            where j.database = current_database() and (
              j.jobname = any (%s) or j.command ~* 'process_dlq_entries|functions/v1/dlq-processor')
            order by j.jobid
            """,
            (list(preflight.JOBS),),
        )
    ]
    return [job for job in jobs if job.name in preflight.JOBS], [job for job in jobs if job.name not in preflight.JOBS]


def _renames(connection: psycopg.Connection, table: Table) -> Iterator[str]:
    """What of an old table has a name that ours wants: a statement for each, to be run when the table is renamed."""
    rows = connection.execute(
        """
        select format('alter %%s %%I.%%I rename to', case c.relkind when 'S' then 'sequence' else 'index' end,
          n.nspname, c.relname), c.relname
        from pg_class as c
          join pg_namespace as n on n.oid = c.relnamespace
        where c.relkind in ('i', 'S') and (
          c.oid in (select i.indexrelid from pg_index as i where i.indrelid = %(oid)s)
          or c.oid in (
            select d.objid from pg_depend as d
            where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = %(oid)s
              and d.deptype in ('a', 'i')))
        union all
        -- From 18 on, not null has a name, and avoids those that other tables' constraints have.
        select format('alter table public.%%I rename constraint %%I to', %(new)s::text, c.conname), c.conname
        from pg_constraint as c
        where c.conrelid = %(oid)s and c.contype = 'n'
        order by 1
        """,
        {"oid": table.oid, "new": f"{table.name}_old"},
    ).fetchall()
    for statement, name in rows:
        new, number = _shortened(name, "_old"), 1
        while _number(connection, f"select count(*) from pg_class where relname = {literal(new)}"):
            number += 1
            new = _shortened(name, f"_old{number}")
        yield f"{statement} {ident(new)}"


def _shortened(name: str, suffix: str) -> str:
    return name.encode()[: 63 - len(suffix)].decode(errors="ignore") + suffix


def _grants(connection: psycopg.Connection, queue: Table) -> list[Grant]:
    rows = connection.execute(
        """
        select r.role, array_agg(distinct r.privilege order by r.privilege),
          (select array_agg(a.attname::text order by a.attnum) from pg_attribute as a
           where a.attrelid = %(oid)s and a.attnum > 0 and not a.attisdropped
             and r.role <> 'public' and has_column_privilege(r.role, a.attrelid, a.attnum, 'insert'))
        from (
          select case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee) end as role,
            lower(a.privilege_type) as privilege
          from (
            select coalesce(c.relacl, acldefault('r', c.relowner)) as acl from pg_class as c where c.oid = %(oid)s
            union all
            select a.attacl from pg_attribute as a where a.attrelid = %(oid)s
          ) as o
            cross join lateral aclexplode(o.acl) as a
        ) as r
          left join pg_roles as p on p.rolname = r.role
        where not coalesce(p.rolsuper, false) and r.role not like 'pg\\_%%' and r.role not like 'dlq\\_%%'
          and r.role <> 'service_role'
        group by r.role
        order by r.role
        """,
        {"oid": queue.oid},
    ).fetchall()
    return [_grant(queue, role, set(could), tuple(columns or ())) for role, could, columns in rows]


def _grant(queue: Table, role: str, could: set[str], columns: tuple[str, ...]) -> Grant:
    said = ", ".join(name for name in ("select", "insert", "update", "delete") if name in could) or "little"
    if role == queue.owner:
        return Grant(role, "owner", "dlq_admin")
    if role in _NOBODY or not could & {"insert", "update", "delete"}:
        return Grant(role, said, None)
    if could & {"select", "update", "delete"}:
        return Grant(role, said, "dlq_admin")
    return Grant(role, said, "dlq_writer", columns)


def _dependents(connection: psycopg.Connection, table: Table) -> list[str]:
    rows = connection.execute(
        """
        select case v.relkind when 'm' then 'materialized view ' else 'view ' end || v.oid::regclass || ' reads it'
        from pg_depend as d
          join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
          join pg_class as v on v.oid = r.ev_class and v.relkind in ('v', 'm')
        where d.refclassid = 'pg_class'::regclass and d.refobjid = %(oid)s
        union
        select 'function ' || p.oid::regprocedure || ' is bound to it'
        from pg_depend as d
          join pg_proc as p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
        where d.refclassid = 'pg_class'::regclass and d.refobjid = %(oid)s
        union
        select 'trigger ' || t.tgname || ' fires on it'
        from pg_trigger as t
        where t.tgrelid = %(oid)s and not t.tgisinternal
        union
        select 'publication ' || p.pubname || ' contains it'
        from pg_publication_rel as r
          join pg_publication as p on p.oid = r.prpubid
        where r.prrelid = %(oid)s
        order by 1
        """,
        {"oid": table.oid},
    ).fetchall()
    return [f"{what}: {table.name}_old from then on" for (what,) in rows]


def _in_the_way(connection: psycopg.Connection, table: Table) -> Iterator[Problem]:
    name = f"public.{table.name}"
    if table.kind != "r":
        kinds = {"v": "a view", "m": "a materialized view", "p": "partitioned", "f": "a foreign table"}
        yield Problem(
            f"{name} is {kinds.get(table.kind, 'no table')}: only a plain table can be taken over",
            f"alter table {name} rename to {table.name}_by_hand; then: dlqctl migrate",
        )
        return
    rows = connection.execute(
        """
        select format('table %%s refers to it', c.conrelid::regclass),
          format('alter table %%s drop constraint %%I', c.conrelid::regclass, c.conname)
        from pg_constraint as c
        where c.contype = 'f' and c.confrelid = %(oid)s and c.conrelid <> %(oid)s
        union all
        select format('table %%s inherits from it', i.inhrelid::regclass),
          format('alter table %%s no inherit %%s', i.inhrelid::regclass, i.inhparent::regclass)
        from pg_inherits as i where i.inhparent = %(oid)s
        union all
        select format('it inherits from table %%s', i.inhparent::regclass),
          format('alter table %%s no inherit %%s', i.inhrelid::regclass, i.inhparent::regclass)
        from pg_inherits as i where i.inhrelid = %(oid)s
        union all
        select format('policy %%s hides rows of it from everybody', p.polname),
          format('drop policy %%I on %%s', p.polname, p.polrelid::regclass)
        from pg_policy as p where p.polrelid = %(oid)s and not p.polpermissive and %(secured)s
        union all
        select 'row level security hides rows of it from its owner',
          format('alter table %%s no force row level security', c.oid::regclass)
        from pg_class as c where c.oid = %(oid)s and c.relforcerowsecurity
        union all
        select format('public.%%I is taken, and the old table would be called that', c.relname),
          format('alter table public.%%I rename to %%I', c.relname, c.relname || '_before')
        from pg_class as c where c.relnamespace = 'public'::regnamespace and c.relname = %(old)s
        order by 1
        """,
        {"oid": table.oid, "old": f"{table.name}_old", "secured": table.has_row_security},
    ).fetchall()
    for what, hint in rows:
        yield Problem(f"{name}: {what}", hint)


def _not_ours_to_rename(connection: psycopg.Connection, plan: Plan) -> Iterator[Problem]:
    me = _text(connection, "select current_user")
    owned = [(f"table public.{t.name}", t.owner) for t in (plan.queue, plan.log) if t]
    owned += [(f"function {name}", owner) for name, owner, _ in plan.functions]
    for what, owner in owned:
        if not _holds(connection, f"pg_has_role({literal(owner)}, 'usage')"):
            yield Problem(
                f"{what} belongs to {owner}, and {me} may not rename it",
                f"grant {ident(owner)} to {ident(me)}; or connect as {owner} or a superuser",
            )
    if owned and not _holds(connection, "has_schema_privilege('public', 'create')"):
        yield Problem(f"{me} may create nothing in schema public", f"grant create on schema public to {ident(me)}")
    for job in plan.jobs:
        if job.user != me and not _holds(connection, f"pg_has_role({literal(job.user)}, 'usage')"):
            yield Problem(
                f"job {job.name} belongs to {job.user}, and {me} may not unschedule it",
                f"as {job.user}: select cron.unschedule({job.id})",
            )
    for name, _, new in plan.functions:
        arguments = name[name.index("(") :]
        if _holds(connection, f"to_regprocedure({literal(f'public.{new}{arguments}')}) is not null"):
            yield Problem(
                f"public.{new}{arguments} is taken, and the old function would be called that",
                f"drop function public.{new}{arguments}",
            )


def _notes(connection: psycopg.Connection, plan: Plan, options: Options) -> Iterator[str]:
    """What a person should know beforehand, and nothing can be done about here."""
    for job in plan.other_jobs:
        yield (
            f"job {job.name or job.id} also calls the processor and stays ({job.command}). A second sender sends "
            f"twice: select cron.unschedule({job.id})"
        )
    if preflight.may_look_into(connection, "cron") and _holds(connection, "row_security_active('cron.job')"):
        yield "pg_cron shows this role its own jobs only: see that no other role's job runs the old processor"
    for name, _, _ in plan.functions:
        if "store_dlq_entry" in name:
            yield f"who calls {name} gets dlqctl's from then on: compare the arguments (\\df store_dlq_entry)"
    if plan.reading is None:
        return
    sources, key = plan.reading.sources, plan.reading.table.key
    payload = sources.get("payload")
    if payload and payload.name == "payload" and body_column(payload) != "payload":
        yield (
            f"{payload} becomes jsonb: an insert into it of what is not JSON fails from then on; "
            "handlers give such a body as raw_body (bytea)"
        )
    if key and key.type != "uuid":
        yield f"ids are {key.type} and become uuids; {plan.reading.old_id} holds those of now"
        if plan.statuses.get("processing"):
            yield "an old processor in the middle of a run cannot find its rows by their ids: let it end first"
    for column in plan.reading.extra:
        if column.default is not None and not is_constant(column.default):
            yield f"{column.name} loses its default {column.default}: only constants are kept"
    for column in plan.reading.aside:
        if column.name in KINDS:
            yield f"{column} cannot be read as ours: an insert that gives it fails, or means something else"
    if {our_status(status, options) for status in plan.statuses} & {"reprocessed", "discarded"}:
        yield (
            "what was delivered or discarded more than 30 days ago is removed from ours the next night; for more, or "
            f"for ever (null), before that: update dlq.settings set retain_settled = '1 year'. In {QUEUE}_old it stays"
        )


def _problem(check: object, *arguments: object, **options: object) -> list[Problem]:
    try:
        check(*arguments, **options)  # type: ignore[operator]
    except DlqctlError as error:
        hint = (error.hint or "").removesuffix(". Nothing was changed").replace("dlqctl migrate", "dlqctl adopt")
        return [Problem(error.message, hint)]
    return []


def _number(connection: psycopg.Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row
    return int(row[0])


def _text(connection: psycopg.Connection, query: str) -> str:
    row = connection.execute(query.encode()).fetchone()
    assert row
    return str(row[0])


def _holds(connection: psycopg.Connection, condition: str) -> bool:
    return connection.execute(f"select where {condition}".encode()).rowcount > 0


def describe(plan: Plan, options: Options) -> str:
    """The plan for a person, 80 columns wide."""
    lines: list[str] = []

    def say(label: str, *texts: str) -> None:
        for text in texts:
            lines.extend(
                textwrap.wrap(
                    text,
                    80,
                    initial_indent=f"{label:<13} ",
                    subsequent_indent=" " * 16,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )
            label = ""

    if plan.queue:
        say("queue", f"public.{QUEUE} of {plan.queue.owner}, {plan.rows:,} rows, becomes {QUEUE}_old")
    if plan.reading:
        _describe_columns(plan.reading, options, say)
        if "status" in plan.reading.sources:
            say("statuses", *(_words(s or "(none)", our_status(s, options), n) for s, n in plan.statuses.items()))
            if any(our_status(status, options) == "processing" for status in plan.statuses):
                say("", f"what is processing becomes pending, and is not sent for {options.grace_minutes} minutes")
        if "service" in plan.reading.sources:
            words = [_words(s or "(none)", options.services.get(s), n) for s, n in plan.services.items()]
            say("services", *words[:20], *([f"and {len(words) - 20} more"] if len(words) > 20 else []))
    if plan.log:
        say("log", f"public.{LOG} of {plan.log.owner}, {plan.runs:,} rows, becomes {LOG}_old")
    say("functions", *(f"{name} becomes {new}" for name, _, new in plan.functions))
    say("job", *(f"{j.name} of {j.user}, {j.schedule}, is unscheduled: {j.command}" for j in plan.jobs))
    say("roles", *(f"{g.role} ({g.could}): {g.becomes or 'nothing'}" for g in plan.grants))
    say("depends on it", *plan.dependents)
    say("beware", *plan.notes)
    for problem in plan.problems:
        say("in the way", problem.what, f"-> {problem.hint}")
    return "\n".join(lines)


def _words(old: str, new: str | None, number: int) -> str:
    return f"{old} {number:,}" if new in (None, "", old) else f"{old} -> {new} {number:,}"


def _describe_columns(reading: Reading, options: Options, say: object) -> None:
    assert callable(say)
    same = [c.name for new, c in reading.sources.items() if c.name == new]
    key = reading.table.key
    if key and key.name == "id" and key.type == "uuid":
        same.insert(0, "id")
    say("as they are", *([", ".join(same)] if same else []))
    moved = [f"{c.name} -> {new}" for new, c in reading.sources.items() if c.name != new]
    if key and "id" not in same:
        moved.insert(0, f"{key.name} -> id" if key.type == "uuid" else f"{key.name} -> {reading.old_id}")
    say("read as", *([", ".join(moved)] if moved else []))
    say("added", *(f"{c}, so that inserts that name it go on" for c in reading.extra))
    say("left aside", *(f"{c}, in {QUEUE}_old alone" for c in reading.aside))
    missing = [new for new in KINDS if new not in reading.sources and new not in ("payload", "raw_body")]
    told = [f"{new} ({_FILLED_IN[new]})" if new in _FILLED_IN else new for new in missing]
    if "service" in missing and options.default_service:
        told[missing.index("service")] = f"service ({options.default_service}, also for inserts without it)"
    say("missing", *([", ".join(told)] if told else []))
