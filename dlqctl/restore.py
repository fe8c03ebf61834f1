"""A database that was restored from a dump, without the owner that the dump names.

`pg_restore --no-owner`, or any restore on a server that has no role dlq_owner yet, leaves all that is ours
with whoever restored it. It is recognised by our inner tables, and given back by name: whoever restored it
owns the user's own objects too, and those stay as they are.
"""

from __future__ import annotations

import re

import psycopg

from dlqctl import definitions
from dlqctl.bundle import MIGRATIONS, SQL
from dlqctl.definitions import OWNER


def has_lost_its_owner(raw: psycopg.Connection) -> bool:
    """Whether dlqctl is in this database, and belongs to a role that this session may act for, but not to dlq_owner."""
    return (
        raw.execute(
            """
            select
            from pg_namespace as n
            where n.nspname = 'dlq' and n.nspowner is distinct from to_regrole(%s) and pg_has_role(n.nspowner, 'usage')
              and 4 = (
                select count(*)
                from pg_class as c
                where c.relowner = n.nspowner
                  and c.oid in (
                    to_regclass('public.webhook_dlq'), to_regclass('dlq.alembic_version'), to_regclass('dlq.settings'),
                    to_regclass('dlq.in_flight')))
            """,
            (OWNER,),
        ).rowcount
        > 0
    )


def give_to_owner(raw: psycopg.Connection) -> None:
    """Give what is ours to dlq_owner, which exists. Its rights, policies and grants are migrate's to mend."""
    statements = raw.execute(
        """
        with restorer as (select n.nspowner as oid from pg_namespace as n where n.nspname = 'dlq')
        select format('alter schema %%I owner to dlq_owner', n.nspname)
        from pg_namespace as n, restorer as r
        where n.nspowner = r.oid
          and (n.nspname = 'dlq' or n.nspname = 'net' and exists (
            select from pg_attribute as a  -- which pg_net's own table has not
            where a.attrelid = to_regclass('net.http_request_queue') and a.attname = 'claimed_by'))
        union all
        select format('alter %%s %%s owner to dlq_owner',
          case c.relkind when 'v' then 'view' else 'table' end, c.oid::regclass)
        from pg_class as c, restorer as r
        where c.relowner = r.oid and c.oid in (select to_regclass(o.name) from unnest(%(names)s::text[]) as o (name))
        union all
        select format('alter routine %%s owner to dlq_owner', p.oid::regprocedure)
        from pg_proc as p
          join pg_namespace as n on n.oid = p.pronamespace, restorer as r
        where p.proowner = r.oid and n.nspname || '.' || p.proname = any (%(names)s)
        """,
        {"names": _names()},
    ).fetchall()
    for (statement,) in statements:
        raw.execute(statement)


def _names() -> list[str]:
    """Everything that the tree makes, by its qualified name."""
    files = [*(MIGRATIONS / "versions").glob("*.sql"), *(SQL / "net").glob("*.sql")]
    tables = (
        re.findall(r"^create (?:unlogged )?table (?:if not exists )?([\w.]+)", f.read_text(), re.M) for f in files
    )
    code = (d.name for d in (*definitions.load(), *definitions.load_net()) if d.table is None)
    return ["dlq.alembic_version", *(name for found in tables for name in found), *code]
