"""Taking dlqctl out of a database again: all that belongs to dlq_owner there, its jobs, and its roles.

PostgreSQL does the work: `drop owned by dlq_owner` takes everything of ours at once, and refuses if
something of the user's depends on it. What is read from the catalog before is for the person who decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from dlqctl import cron, definitions, preflight
from dlqctl.definitions import OWNER, ROLES
from dlqctl.errors import DlqctlError
from dlqctl.migrate import keep_trying


@dataclass
class Plan:
    """What uninstall would do. `in_the_way` is what of the user's depends on ours: while there is any, nothing is."""

    goes: list[str] = field(default_factory=list)
    stays: list[str] = field(default_factory=list)
    in_the_way: list[str] = field(default_factory=list)
    undelivered: int = 0
    jobs: list[dict[str, Any]] = field(default_factory=list)
    kept_schemas: list[str] = field(default_factory=list)


@contextmanager
def connected(
    dsn: str | None, cron_dsn: str | None, *, use_cron: bool = True
) -> Iterator[tuple[psycopg.Connection, psycopg.Connection, Plan]]:
    """Connect to our database and to pg_cron's, and look at what there is. Changes nothing.

    Raises DlqctlError where pg_cron is in another database and nobody has said how to connect to it.
    """
    with cron.elsewhere(dsn, cron_dsn) as (ours, there):
        if ours.execute("select where pg_is_in_recovery()").rowcount:
            raise DlqctlError("this server is a standby, where nothing can be changed", "connect to the primary")
        other = preflight.cron_database(ours)
        if use_cron and cron_dsn is None and other is not None and _is_installed(ours):
            raise DlqctlError(
                f"pg_cron runs in database {other}, and a job that stays there would fail from now on",
                f"dlqctl uninstall --cron-dsn dbname={other}, or --no-cron if there is none. Nothing was changed",
            )
        yield ours, there, _look(ours, there if use_cron else None)


def uninstall(
    ours: psycopg.Connection, there: psycopg.Connection, plan: Plan, on_wait: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Do what was planned; return what became of the roles that had to stay.

    The jobs go first, in a transaction of their own, so that no cycle begins. All else goes in one, under
    the engine's lock, with a lock_timeout and tries as migrate has; if it cannot, the jobs are put back.
    """
    if plan.in_the_way:
        raise DlqctlError(
            f"what is not dlqctl's depends on it: {', '.join(plan.in_the_way)}",
            "drop that first, or make it do without. Nothing was changed",
        )
    cron.unschedule(there, plan.jobs)
    try:
        return keep_trying(lambda: _drop(ours, plan), on_wait)
    except BaseException:
        cron.put_back(there, plan.jobs)
        raise


# What is dlq_owner's, and the parts of it that have no owner: `ours`. A user's object in a schema of ours needs
# the schema alone, and is in nobody's way.
_OURS = """
    with recursive owned as (
      select s.classid, s.objid
      from pg_shdepend as s
      where s.refclassid = 'pg_authid'::regclass and s.refobjid = to_regrole('dlq_owner') and s.deptype = 'o'
        and s.dbid = (select d.oid from pg_database as d where d.datname = current_database())
    ),
    ours as (
      select o.classid, o.objid from owned as o
      union
      select d.classid, d.objid
      from ours as o
        join pg_depend as d on d.refclassid = o.classid and d.refobjid = o.objid
      where d.deptype <> 'n' and d.refclassid <> 'pg_namespace'::regclass
    )
"""

_IN_THE_WAY = f"""
    {_OURS}
    select distinct i.type || ' ' || i.identity
    from ours as o
      join pg_depend as d on d.refclassid = o.classid and d.refobjid = o.objid
      left join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
      cross join lateral pg_identify_object(
        case when r.oid is null then d.classid else 'pg_class'::regclass end, coalesce(r.ev_class, d.objid), 0) as i
    where d.deptype = 'n' and d.refclassid <> 'pg_namespace'::regclass
      and (d.classid, d.objid) not in (select o.classid, o.objid from ours as o)
    order by 1
"""

_IN_OUR_SCHEMAS = f"""
    {_OURS}
    select n.nspname, string_agg(i.type || ' ' || i.identity, ', ' order by i.identity)
    from pg_namespace as n
      join pg_depend as d on d.refclassid = 'pg_namespace'::regclass and d.refobjid = n.oid and d.deptype = 'n'
      cross join lateral pg_identify_object(d.classid, d.objid, 0) as i
    where n.nspowner = 'dlq_owner'::regrole
      and (d.classid, d.objid) not in (select o.classid, o.objid from ours as o)
    group by n.nspname
    order by 1
"""

_THEIR_TRIGGERS = """
    select format('trigger %s on %s, which is not dlqctl''s but a part of the table', t.tgname, t.tgrelid::regclass)
    from pg_trigger as t
      join pg_class as c on c.oid = t.tgrelid
      join pg_proc as p on p.oid = t.tgfoid
    where c.relowner = 'dlq_owner'::regrole and p.proowner <> 'dlq_owner'::regrole and not t.tgisinternal
    order by 1
"""

# Where a role is used by what does not go: in other databases, or by what the user has granted here.
_USES = f"""
    {_OURS}
    select r.rolname, string_agg(distinct u.use, ', ')
    from pg_roles as r
      cross join (select d.oid from pg_database as d where d.datname = current_database()) as this
      left join lateral (
        select coalesce(i.type || ' ' || i.identity, 'database ' || d.datname, 'the server') as use
        from pg_shdepend as s
          left join pg_database as d
            on d.oid = s.dbid or s.dbid = 0 and s.classid = 'pg_database'::regclass and d.oid = s.objid
          left join lateral pg_identify_object(s.classid, s.objid, 0) as i on s.dbid = this.oid
        where s.refclassid = 'pg_authid'::regclass and s.refobjid = r.oid
          and not (s.dbid = this.oid and (s.classid, s.objid) in (select o.classid, o.objid from ours as o))
          and not (r.rolname = 'dlq_owner' and d.oid is not distinct from this.oid)
      ) as u on true
    where r.rolname = any (%s)
    group by r.rolname
"""


def _is_installed(ours: psycopg.Connection) -> bool:
    """Whether anything but a schema that others use is dlq_owner's."""
    return ours.execute(f"{_OURS} select from owned where classid <> 'pg_namespace'::regclass".encode()).rowcount > 0


def _look(ours: psycopg.Connection, there: psycopg.Connection | None) -> Plan:
    plan = Plan()
    installed = _is_installed(ours)
    if installed:
        if there is not None and preflight.look_at(there, "pg_cron").installed:
            known = _facts(ours, there)
            with ours.cursor(row_factory=dict_row) as cursor:
                plan.jobs = cursor.execute("select * from dlq._our_jobs(%s)", (Jsonb(known),)).fetchall()
            if not known["sees_all"]:
                plan.stays.append(
                    f"cron jobs of other roles than {known['user']}, who cannot see whether there are any"
                )
        plan.goes.extend(f"cron job {j['jobname']} of {j['username']}, in {j['database']}" for j in plan.jobs)
        plan.goes.extend(_tables(ours, plan))
        plan.goes.extend(_names(ours, _THEIR_TRIGGERS))
        plan.in_the_way.extend(_names(ours, _IN_THE_WAY))
        for schema, objects in ours.execute(_IN_OUR_SCHEMAS.encode()).fetchall():
            plan.kept_schemas.append(schema)
            plan.stays.append(f"schema {schema}: {objects}")
        plan.goes.extend(_other_objects(ours, plan.kept_schemas))
        for name in ("pg_cron", "pg_net"):
            if preflight.look_at(ours, name).installed:
                plan.stays.append(f"extension {name}")
    roles, kept = _roles(ours, bool(plan.kept_schemas))
    plan.goes.extend(f"role {role}" + (f", from {members}" if members else "") for role, members in roles.items())
    plan.stays.extend(f"role {role}, used by {use}" for role, use in kept.items() if installed)
    return plan


def _names(ours: psycopg.Connection, query: str, *parameters: object) -> list[str]:
    return [name for (name,) in ours.execute(query.encode(), parameters or None).fetchall()]


def _facts(ours: psycopg.Connection, there: psycopg.Connection) -> dict[str, Any]:
    try:
        return cron.facts(ours, there)
    except psycopg.errors.UndefinedFunction as error:
        raise DlqctlError(
            "dlqctl is not wholly in this database, and its cron jobs cannot be told",
            "dlqctl migrate; then dlqctl uninstall again. Nothing was changed",
        ) from error


def _tables(ours: psycopg.Connection, plan: Plan) -> Iterator[str]:
    """Each table and how many rows are lost with it, the queue first."""
    with ours.transaction():
        try:
            ours.execute(definitions.AS_OWNER.encode())
        except psycopg.errors.InsufficientPrivilege as error:
            raise DlqctlError(
                f"{ours.info.user} may not act for {OWNER}, whose everything is",
                "connect as the role that installed dlqctl, or as a superuser. Nothing was changed",
            ) from error
        for (table,) in ours.execute(
            """
            select c.oid::regclass::text
            from pg_class as c
            where c.relowner = 'dlq_owner'::regrole and c.relkind in ('r', 'p', 'm')
            order by c.oid is distinct from to_regclass('public.webhook_dlq'), c.oid::regclass::text
            """
        ).fetchall():
            if table in ("webhook_dlq", "public.webhook_dlq"):
                rows = ours.execute("select status, count(*) from public.webhook_dlq group by status").fetchall()
                counts: dict[str, int] = dict(rows)
                plan.undelivered = sum(counts.get(status, 0) for status in ("pending", "processing", "failed"))
                said = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
                yield f"table {table}, rows: {sum(counts.values())}" + (f" ({said})" if said else "")
                if plan.undelivered:
                    yield f"  of these NOT DELIVERED: {plan.undelivered}"
            else:
                row = ours.execute(f"select count(*) from {table}".encode()).fetchone()
                assert row
                yield f"table {table}, rows: {row[0]}"


def _other_objects(ours: psycopg.Connection, kept: list[str]) -> list[str]:
    """Everything else of dlq_owner's: counted where it is expected to be, named where it is not."""
    return _names(
        ours,
        f"""
        {_OURS},
        named as (
          select i.type, i.identity, i.schema in ('dlq', 'net', 'public') as is_expected
          from owned as o
            cross join lateral pg_identify_object(o.classid, o.objid, 0) as i
          where i.type not in ('table', 'materialized view', 'schema', 'sequence')
        )
        select n.type || 's: ' || count(*) from named as n where n.is_expected group by n.type
        union all
        select n.type || ' ' || n.identity from named as n where n.is_expected is not true
        union all
        select 'schema ' || n.nspname
        from pg_namespace as n
        where n.nspowner = 'dlq_owner'::regrole and n.nspname <> all (%s)
        """,
        kept,
    )


def _roles(ours: psycopg.Connection, owns_a_schema: bool) -> tuple[dict[str, str | None], dict[str, str]]:
    """Our roles that nothing will use, each with its members; and those that something does, with what that is."""
    uses: dict[str, str | None] = dict(ours.execute(_USES.encode(), (list(ROLES),)).fetchall())
    if owns_a_schema:
        uses[OWNER] = ", ".join(filter(None, ("what stays here", uses[OWNER])))
    members: dict[str, str] = dict(
        ours.execute(
            """
            select pg_get_userbyid(m.roleid), string_agg(distinct pg_get_userbyid(m.member), ', ')
            from pg_auth_members as m
            where m.member <> current_user::regrole
            group by m.roleid
            """
        ).fetchall()
    )
    free = {role: members.get(role) for role in ROLES if role in uses and uses[role] is None}
    return free, {role: use for role, use in uses.items() if use is not None}


def _drop(ours: psycopg.Connection, plan: Plan) -> list[str]:
    with ours.transaction():
        ours.execute(definitions.BEGIN.encode())
        if _is_installed(ours):
            _drop_owned(ours, plan.kept_schemas)
        return _drop_roles(ours)


def _drop_owned(ours: psycopg.Connection, kept_schemas: list[str]) -> None:
    granted = _grants_on_other_databases(ours)
    for schema in kept_schemas:
        ours.execute(sql.SQL("alter schema {} owner to current_user").format(sql.Identifier(schema)))
    try:
        ours.execute("drop owned by dlq_owner")
    except psycopg.errors.DependentObjectsStillExist as error:
        raise DlqctlError(
            f"what is not dlqctl's depends on it: {' '.join((error.diag.message_detail or '').split())}",
            "drop that first, or make it do without. Nothing was changed",
        ) from error
    for schema in kept_schemas:
        name = sql.Identifier(schema)
        for role in ROLES[1:]:
            ours.execute(sql.SQL("revoke all on schema {} from {}").format(name, sql.Identifier(role)))
        ours.execute(sql.SQL("alter schema {} owner to dlq_owner").format(name))
    # It takes rights on every database of the server along.
    for database, privilege in granted - _grants_on_other_databases(ours):
        ours.execute(sql.SQL(f"grant {privilege} on database {{}} to dlq_owner").format(sql.Identifier(database)))


def _grants_on_other_databases(ours: psycopg.Connection) -> set[tuple[str, str]]:
    return set(
        ours.execute(
            """
            select d.datname, a.privilege_type
            from pg_database as d
              cross join lateral aclexplode(d.datacl) as a
            where a.grantee = 'dlq_owner'::regrole and d.datname <> current_database()
            """
        ).fetchall()
    )


def _drop_roles(ours: psycopg.Connection) -> list[str]:
    """Drop each role of ours that the server lets go; return why the others stay."""
    kept: list[str] = []
    for role in ROLES:
        try:
            with ours.transaction():
                ours.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(role)))
        except (psycopg.errors.DependentObjectsStillExist, psycopg.errors.InsufficientPrivilege) as error:
            why = error.diag.message_detail or error.diag.message_primary or ""
            kept.append(f"role {role} stays: {' '.join(why.split())}")
    return kept
