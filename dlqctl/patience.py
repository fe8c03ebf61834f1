"""Looks that answer in bounded time: behind somebody's lock they do not hang, but say whose it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from dlqctl.errors import DlqctlError

# Of this transaction only: behind a pooler the session is other people's too.
_LIMITS = "select set_config('lock_timeout', '4s', true), set_config('statement_timeout', '10s', true)"

# Who keeps everybody from reading a table: by holding it alone, or by waiting to, since nobody overtakes. PostgreSQL
# hides from most roles what others do, and since when; never who they are.
_HOLDER = """
    select
      pg_catalog.format('%s is locked by %s', l.relation::pg_catalog.regclass, w.words)
        || case when not l.granted then pg_catalog.format(', which waits for process %s', b.pid) else '' end,
      coalesce(b.pid, l.pid)
    from pg_catalog.pg_locks as l
      join pg_catalog.pg_class as c on c.oid = l.relation
      left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
      cross join lateral (
        select case when l.pid is null then 'a prepared transaction: pg_prepared_xacts' else pg_catalog.format(
          'process %s (%s%s)%s', l.pid, a.usename, ', ' || nullif(a.application_name, ''),
          ', in a transaction since ' || pg_catalog.date_trunc('second', a.xact_start)) end as words
      ) as w
      left join lateral (
        select p.pid
        from pg_catalog.unnest(case when not l.granted then pg_catalog.pg_blocking_pids(l.pid) end) as p (pid)
        limit 1
      ) as b on true
    where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and l.pid is distinct from pg_backend_pid()
      and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
      and c.relnamespace::pg_catalog.regnamespace::text = any ('{public,dlq,net,cron,pg_catalog}')
    order by
      c.relname in ('webhook_dlq', 'dlq_processing_log') desc, c.relkind in ('r', 'v') desc, l.granted desc, l.pid
    limit 1
"""


@contextlib.contextmanager
def bounded(connection: psycopg.Connection) -> Iterator[None]:
    """Look within one transaction, in which nothing waits for a lock, or takes, longer than some seconds.

    The connection must be in autocommit. Raises DlqctlError if something would, naming who is in the way.
    """
    try:
        with connection.transaction():
            connection.execute(_LIMITS)
            yield
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
        found = connection.execute(_HOLDER.encode()).fetchone()
        if found is None:
            raise DlqctlError(
                f"no answer: {error.diag.message_primary}", "select * from pg_stat_activity where state <> 'idle'"
            ) from error
        words, pid = found
        end = f"select pg_terminate_backend({pid})" if pid else "rollback prepared, or commit it"
        raise DlqctlError(f"no answer: {words}", f"wait for it; or end it: {end}") from error
