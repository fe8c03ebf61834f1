"""dlqctl as migrations for somebody else's tool: `dlqctl export supabase DIR`, for `supabase db push`.

Each file is one statement: all or nothing, whoever runs it, and the session's role and settings are afterwards what
they were. A revision of the tables is a file that never changes; the code (functions, views, grants, schedule,
triggers, policies) is one file, and another when it differs. Each file asks at which revision the database is, so it
does no harm where `dlqctl migrate` has been already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from alembic.script import Script

from dlqctl import catalog, definitions, migrate
from dlqctl.definitions import Definition
from dlqctl.errors import DlqctlError

_TIME = "%Y%m%d%H%M%S"
_CODE = "code"

# What the steps of a file stand in.
_FILE = """\
-- {title}
-- Written by `dlqctl export supabase`: change nothing here, and add later files instead.
do $dlqctl$
declare
  v_before jsonb := (
    select pg_catalog.jsonb_object_agg(s.name, pg_catalog.current_setting(s.name))
    from pg_catalog.unnest(array['role', 'search_path', 'lock_timeout', 'quote_all_identifiers',
      'check_function_bodies']) as s (name));
  v_revision text;
begin
  execute $step$
{begin}$step$;
  execute $step$
{roles}$step$;
  perform set_config('role', 'dlq_owner', true);
  if to_regclass('dlq.alembic_version') is not null then
    v_revision := (select version_num from dlq.alembic_version);
  end if;
  if v_revision is not distinct from {expected} then
{steps}
  elsif {behind} then
    raise exception using
      message = pg_catalog.format('this file comes after revision %s of dlqctl''s tables, and the database is at %s',
        {expected}, coalesce(v_revision, 'none')),
      hint = 'Apply the files in their order.';
  else
    raise notice 'dlqctl: the database is at revision % already, so nothing is done', v_revision;
  end if;
  perform pg_catalog.set_config(s.key, s.value, true) from pg_catalog.jsonb_each_text(v_before) as s;
end
$dlqctl$;
"""

_AS_OWNER = "perform set_config('role', 'dlq_owner', true);"
_AS_CALLER = "perform set_config('role', v_before ->> 'role', true);"

# As alembic makes it.
_VERSIONS = """\
create table dlq.alembic_version (
  version_num varchar(32) not null, constraint alembic_version_pkc primary key (version_num));"""

# As `dlqctl migrate` replaces a view or routine: see catalog.py. They go with the session, or before.
_HELPERS = """
create or replace function pg_temp.present(kind text, name text)
returns oid[]
language sql
as $$
select coalesce(array_agg(o.oid), '{{}}')
from (
  select c.oid from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
  where present.kind = 'view' and c.relkind = 'v' and n.nspname || '.' || c.relname = present.name
  union all
  select p.oid from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
  where present.kind <> 'view' and n.nspname || '.' || p.proname = present.name
) as o
$$;

-- Drops a view or routine, and what of ours depends on it; refuses if something of the user's does.
create or replace function pg_temp.drop_ours(kind text, doomed oid)
returns void
language plpgsql
as $$
declare
  v_class text := case kind when 'view' then 'pg_class' else 'pg_proc' end;
  v_kind text := case kind when 'view' then 'view' else 'routine' end;
  v_identity text := case kind when 'view' then doomed::regclass::text else doomed::regprocedure::text end;
  v_theirs text;
begin
  select string_agg(d.what, ', ') into v_theirs
  from ({dependents}) as d (what);
  if v_theirs is not null then
    raise exception using
      message = format('%s %s must go, but %s depends on it', v_kind, v_identity, v_theirs),
      hint = 'Drop that, apply this file, and create it again.';
  end if;
  execute format('drop %s %s cascade', v_kind, v_identity);
end
$$;

-- Creates a view or routine over the old one, which is dropped if it has other arguments or columns.
create or replace function pg_temp.lay_down(kind text, name text, statements text)
returns void
language plpgsql
as $$
begin
  begin
    execute statements;
    if cardinality(pg_temp.present(kind, name)) = 1 then
      return;
    end if;
    raise exception using errcode = 'WD000';  -- it stands beside the old one, not in its place
  exception when invalid_table_definition or invalid_function_definition or wrong_object_type or sqlstate 'WD000' then
    null;
  end;
  while pg_temp.present(kind, name) <> '{{}}' loop
    perform pg_temp.drop_ours(kind, (pg_temp.present(kind, name))[1]);
  end loop;
  execute statements;
end
$$;

create temporary table granted (statement) on commit drop as
{granted};
"""

# Those that are no longer defined go, one by one, since others may go with one. Then what others had is granted again.
_TIDY_UP = """
do $$
declare
  v_object record;
begin
  loop
    select o.kind, o.oid into v_object
    from (
      select 'view' as kind, c.oid, n.nspname || '.' || c.relname as name
      from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
      where c.relkind = 'v' and c.relowner = 'dlq_owner'::regrole and n.nspname = any ({schemas})
      union all
      select 'routine', p.oid, n.nspname || '.' || p.proname
      from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
      where p.proowner = 'dlq_owner'::regrole and n.nspname = any ({schemas})
    ) as o
    where o.name <> all ({names})
    limit 1;
    exit when not found;
    perform pg_temp.drop_ours(v_object.kind, v_object.oid);
  end loop;
  for v_object in select g.statement from pg_temp.granted as g loop
    begin
      execute v_object.statement;
    exception when undefined_function or undefined_table then
      null;  -- it is no longer defined
    end;
  end loop;
end
$$;
drop table pg_temp.granted;
drop function pg_temp.present(text, text), pg_temp.drop_ours(text, oid), pg_temp.lay_down(text, text, text);
"""

_STALE_TRIGGERS = """
do $$
declare
  v_trigger record;
begin
  for v_trigger in
    select t.tgname, t.tgrelid::regclass as on_table
    from pg_trigger as t
      join pg_class as c on c.oid = t.tgrelid
      join pg_proc as f on f.oid = t.tgfoid
    where c.relowner = 'dlq_owner'::regrole and f.proowner = 'dlq_owner'::regrole
      and t.tgname || ' on ' || t.tgrelid::regclass <> all ({triggers})
  loop
    execute format('drop trigger %I on %s', v_trigger.tgname, v_trigger.on_table);
  end loop;
end
$$;
"""


def export_supabase(folder: Path, *, cron: bool = True, net_worker: bool = False) -> list[Path]:
    """Write what is new as `<YYYYMMDDHHMMSS>_dlqctl_<what>.sql` into a folder, and return the files, in their order.

    Every name is later than those that are there. None of them is ever changed: a revision that is there is left, and
    the code is written when it differs from the last that is there. Raises DlqctlError if the folder cannot be used.
    """
    if folder.exists() and not folder.is_dir():
        raise DlqctlError(f"{folder} is not a folder", "name the folder of your migrations: supabase/migrations")
    present = sorted(path for path in folder.glob("*.sql") if re.match(r"\d+_", path.name))
    exported = {path.stem.partition("_dlqctl_")[2]: path for path in present}  # of the code, the last
    tables = {Path(revision.path).stem: _revision_file(revision) for revision in migrate.revisions()}
    new = {what: text for what, text in tables.items() if what not in exported}
    code = _code_file(cron=cron, net_worker=net_worker)
    if _CODE not in exported or exported[_CODE].read_text("utf-8") != code:
        new[_CODE] = code

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    time = _next_time(present)
    for what, text in new.items():
        path = folder / f"{time:{_TIME}}_dlqctl_{what}.sql"
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        written.append(path)
        time += timedelta(seconds=1)
    return written


def _next_time(present: list[Path]) -> datetime:
    """Now, or a second after the last of these."""
    now = datetime.now(UTC).replace(microsecond=0, tzinfo=None)
    if not present:
        return now
    last = present[-1].name.partition("_")[0]
    try:
        return max(now, datetime.strptime(last, _TIME) + timedelta(seconds=1))
    except ValueError:
        if last < f"{now:{_TIME}}":
            return now
        raise DlqctlError(
            f"{present[-1]} comes after every time, so nothing can follow it", "rename it: YYYYMMDDHHMMSS_name.sql"
        ) from None


def _revision_file(revision: Script) -> str:
    before = str(revision.down_revision) if revision.down_revision else None
    tables = _execute(Path(revision.path).with_suffix(".sql").read_text())
    if before is None:
        steps = [_VERSIONS, tables, f"insert into dlq.alembic_version (version_num) values ('{revision.revision}');"]
    else:
        record = f"update dlq.alembic_version set version_num = '{revision.revision}' where version_num = '{before}';"
        steps = [tables, record]
    return _file(f"dlqctl: revision {revision.revision} of its tables.", before, steps)


def _code_file(*, cron: bool, net_worker: bool) -> str:
    ours = definitions.load()
    replaceable = [definition for definition in ours if definition.table is None]
    on_tables = [definition for definition in ours if definition.table is not None]
    in_net = definitions.load_net() if net_worker else []
    names = _array(d.name for d in (*replaceable, *in_net))
    policies = _array(f"{d.name} on {d.table}" for d in ours if d.kind == "policy")
    triggers = _array(f"{d.name} on {d.table}" for d in ours if d.kind == "trigger")
    helpers = _HELPERS.format(
        dependents=catalog.DEPENDENTS_OF_OTHERS
        % {"classid": "v_class", "objid": "doomed", "owner": f"'{definitions.OWNER}'", "policies": policies},
        granted=catalog.GRANTED_TO_OTHERS % {"names": names},
    )
    steps = [_execute(helpers)]
    steps += map(_lay_down, replaceable)
    if net_worker:
        steps += [_AS_CALLER, _execute(definitions.net_schema()), _AS_OWNER, _execute(definitions.net_tables())]
        steps += map(_lay_down, in_net)
        steps.append(_execute(definitions.net_grants()))
    steps.append(_execute(definitions.grants()))
    schemas = _array(["dlq", "public", *(["net"] if net_worker else [])])
    steps.append(_execute(_TIDY_UP.format(schemas=schemas, names=names)))
    steps.append(_AS_CALLER)
    if not net_worker:
        steps.append("create extension if not exists pg_net with schema extensions;")
        steps.append(_execute(definitions.pg_net_grants()))
    if cron:
        steps.append("create extension if not exists pg_cron;")
        steps.append("perform dlq.schedule_jobs();")
    # Last, because a webhook that is stored meanwhile waits for these until the end.
    steps.append(_AS_OWNER)
    steps.append(_execute(_STALE_TRIGGERS.format(triggers=triggers)))
    steps += [_execute(definition.create_sql) for definition in on_tables]
    head = str(migrate.revisions()[-1].revision)
    title = f"dlqctl: functions, views, grants, jobs, triggers and policies, for revision {head} of its tables."
    return _file(title, head, steps)


def _file(title: str, expected: str | None, steps: list[str]) -> str:
    """A file for a database that is at revision `expected`, or at none."""
    revisions = [str(revision.revision) for revision in migrate.revisions()]
    earlier = ["none", *revisions[: revisions.index(expected)]] if expected else []
    behind = f"coalesce(v_revision, 'none') = any ({_array(earlier)})"
    return _FILE.format(
        title=title,
        begin=definitions.BEGIN,
        roles=definitions.roles(),
        expected=f"'{expected}'" if expected else "null",
        behind=behind,
        steps="\n".join(steps),
    )


def _execute(statements: str) -> str:
    return f"execute {_quote(statements, '$step$')};"


def _lay_down(definition: Definition) -> str:
    return f"perform pg_temp.lay_down('{definition.kind}', '{definition.name}', {_quote(definition.sql, '$object$')});"


def _quote(statements: str, mark: str) -> str:
    for taken in (mark, "$dlqctl$"):
        assert taken not in statements, f"{taken} is what an exported file quotes with"
    return f"{mark}\n{statements.strip()}\n{mark}"


def _array(names: Iterable[str]) -> str:
    """An array of text, as SQL. No name of ours has a quote or a comma in it."""
    return "'{" + ",".join(f'"{name}"' for name in names) + "}'::text[]"
