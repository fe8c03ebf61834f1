"""The statements with which `dlqctl adopt` takes a queue over and copies its rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from dlqctl.adopt_columns import (
    LOG,
    QUEUE,
    STATUSES,
    Options,
    Reading,
    Table,
    ident,
    in_our_words,
    is_constant,
    literal,
    our_status,
    read_as,
    status_words,
    translated,
    values,
)
from dlqctl.adopt_plan import Plan, speaks_otherwise
from dlqctl.bundle import SQL

DIALECT = "webhook_dlq_dialect"
MOST_IN_THE_LOCK = 1000
"""So many entries that are processing are copied while the tables are locked, those touched last first."""

OLD_RUNS = {
    **dict.fromkeys(("ok", "success", "succeeded", "completed", "done"), "ok"),
    **dict.fromkeys(("running", "started", "processing", "in_progress", "interrupted"), "interrupted"),
}
"""What an old log calls its runs. All else was an error."""


def take_over(plan: Plan, options: Options, install: str) -> str:
    """Everything between locking the old tables and committing, as one message: no line is slow while they are locked.

    `install` is what migrate does on a new database.
    """
    steps = [*_set_aside(plan), install, *_record(plan, options)]
    if plan.reading:
        steps += [*_widen(plan.reading, options), *_let_copy(plan.reading)]
        if speaks_otherwise(plan, options):
            steps += _dialect(plan.reading, options)
        steps += _grants(plan)
        steps += _copy_what_is_under_way(plan, options)
    if plan.log:
        steps.append(f"grant select on public.{LOG}_old to dlq_owner")
        if plan.log.has_row_security:
            steps.append(f"create policy dlqctl_adopt on public.{LOG}_old for select to dlq_owner using (true)")
    return ";\n".join(step.strip().rstrip(";") for step in steps) + ";"


def lock(plan: Plan) -> str:
    """Waits for the queue last, and not for long: whoever stores a webhook waits behind it, and then for us.

    A bit longer than deadlock_timeout, after which an autovacuum that is in the way gives way.
    """
    tables = ", ".join(f"public.{table.name}" for table in (plan.log, plan.queue) if table)
    locked = f"lock table {tables} in access exclusive mode;\n" if tables else ""
    return f"set local lock_timeout = '1300ms';\n{locked}set local lock_timeout = '300ms';\n"


def _set_aside(plan: Plan) -> Iterator[str]:
    for table in (plan.queue, plan.log):
        if table:
            yield f"alter table public.{table.name} rename to {table.name}_old"
    yield from plan.renames
    for function, _, new in plan.functions:
        yield f"alter routine public.{function.removeprefix('public.')} rename to {new}"


def _record(plan: Plan, options: Options) -> Iterator[str]:
    functions = [f"public.{new}{name[name.index('(') :]}" for name, _, new in plan.functions]
    first_step = "waiting" if plan.queue else "log" if plan.log else "done"
    told = literal(json.dumps(asdict(options)))
    yield "set local role dlq_owner"
    for name in ("adoption", "adoption_left"):
        yield (SQL / f"adopt/{name}.sql").read_text()
    yield f"""
        insert into dlq.adoption (grace_until, entries_expected, runs_expected, options, old_functions, step)
        values (
          now() + interval '{options.grace_minutes} minutes', {plan.rows}, {plan.runs}, {told},
          {literal(functions)}::text[], {literal(first_step)})"""
    # One act, however many rows follow.
    yield f"""
        select dlq._audit('adopt', 'public.{QUEUE}', plain => '{{entries,runs,options}}',
          new => jsonb_build_object('entries', {plan.rows}, 'runs', {plan.runs}, 'options', {told}::jsonb))"""
    yield "reset role"


def _widen(reading: Reading, options: Options) -> Iterator[str]:
    """Columns that the team's inserts name and ours lack. Nothing of dlqctl reads them."""
    added = [
        (column.quoted, column.type, column.default, "Taken over from the queue before dlqctl.")
        for column in reading.extra
    ]
    for new, column in reading.renamed.items():
        said = f"Always null: what is inserted here goes into {new}. See {DIALECT}()."
        added.append((column.quoted, column.type, None, said))
    if reading.old_id:
        assert reading.table.key
        added.append((ident(reading.old_id), reading.table.key.type, None, f"Its id in {QUEUE}_old."))
    yield "set local role dlq_owner"
    for name, type_, default, comment in added:
        constant = f" default {default}" if default is not None and is_constant(default) else ""
        yield f"alter table public.{QUEUE} add column {name} {type_}{constant}"
        yield f"comment on column public.{QUEUE}.{name} is {literal(comment)}"
    if reading.old_id:
        name = ident(reading.old_id)
        yield f"create index idx_webhook_dlq_old_id on public.{QUEUE} ({name}) where {name} is not null"
    if options.default_service is not None:
        yield f"alter table public.{QUEUE} alter column service set default {literal(options.default_service)}"
    yield "reset role"


def _let_copy(reading: Reading) -> Iterator[str]:
    yield f"grant select on public.{QUEUE}_old to dlq_owner"
    if reading.table.has_row_security:
        yield f"create policy dlqctl_adopt on public.{QUEUE}_old for select to dlq_owner using (true)"


def _dialect(reading: Reading, options: Options) -> Iterator[str]:
    """Handlers and the old processor go on in their own words. Owned by who adopts, so migrate lets it be."""
    lines = []
    key = reading.table.key
    assert key
    if reading.old_id and key.type == "uuid":
        lines.append(f"new.id := coalesce(new.{key.quoted}, new.id); new.{key.quoted} := new.id;")
    for new, column in reading.renamed.items():
        theirs = f"new.{column.quoted}"
        assigned = " ".join(f"new.{ours} := {value};" for ours, value in values(reading, "new", [new]).items())
        lines.append(f"if {theirs} is not null then {assigned} {theirs} := null; end if;")
    if options.services:
        lines.append(f"new.service := {translated('new.service', options.services)};")
    lines.append(f"new.status := {in_our_words('new.status', options)};")
    body = "\n  ".join(lines)
    yield f"""create function public.{DIALECT}()
returns trigger
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $dialect$
begin
  {body}
  return new;
end
$dialect$"""
    comment = (
        "Trigger: translates the columns, statuses and services of the queue before dlqctl. Made by dlqctl adopt; "
        f"when nobody uses the old words any more: drop function public.{DIALECT}() cascade."
    )
    yield f"comment on function public.{DIALECT}() is {literal(comment)}"
    yield f"revoke execute on function public.{DIALECT}() from public"
    yield f"grant execute on function public.{DIALECT}() to dlq_owner"
    yield "set local role dlq_owner"
    # By their names they fire before accept_entry and amend_entry, which know our words only.
    yield f"""create trigger accept_dialect before insert on public.{QUEUE}
for each row execute function public.{DIALECT}()"""
    columns = ", ".join(["status", *(column.quoted for column in reading.renamed.values())])
    yield f"""create trigger amend_dialect before update of {columns} on public.{QUEUE}
for each row when (current_user <> 'dlq_owner') execute function public.{DIALECT}()"""
    yield "reset role"


def _grants(plan: Plan) -> Iterator[str]:
    reading = plan.reading
    assert reading
    ours = {"id", reading.old_id, *reading.sources, *(c.name for c in (*reading.extra, *reading.renamed.values()))}
    for grant in plan.grants:
        if grant.becomes:
            yield f"grant {grant.becomes} to {ident(grant.role)}"
        columns = [ident(name) for name in grant.columns if name in ours]
        if columns:
            yield "set local role dlq_owner"
            yield f"grant insert ({', '.join(columns)}) on public.{QUEUE} to {ident(grant.role)}"
            yield "reset role"


def _old_rows(reading: Reading, options: Options, grace_until: str, *, keys: bool = True) -> tuple[list[str], str]:
    """The columns of ours that are filled, and the query that fills them, and old_key."""
    key = reading.table.key
    assert key
    filled = values(reading, "o")
    for special in ("status", "next_retry_at", "retry_count", "settled_at", "updated_at", "service"):
        filled.pop(special, None)
    if not keys:
        filled.pop("idempotency_key", None)
    at = {name: values(reading, "o", [name]).get(name, "null") for name in _TIMES}
    retries = f"greatest(0, coalesce({values(reading, 'o', ['retry_count']).get('retry_count', 'null')}, 0))"
    service = translated(values(reading, "o", ["service"]).get("service", "null"), options.services)
    if options.default_service is not None:
        service = f"coalesce(nullif({service}, ''), {literal(options.default_service)})"
    changed = f"coalesce({at['updated_at']}, {at['last_retry_at']}, {at['created_at']}, now())"
    filled |= {
        "id": f"o.{key.quoted}",
        "service": service,
        "status": "case s.status when 'processing' then 'pending' else s.status end",
        "next_retry_at": f"case s.status when 'processing' then {grace_until} "
        f"when 'pending' then coalesce({at['next_retry_at']}, now()) end",
        "settled_at": "case when s.status not in ('pending', 'processing') then "
        f"coalesce({at['settled_at']}, {changed}) end",
        "updated_at": changed,
        "retry_count": retries,
        "attempt_count": f"{retries} + (s.status = 'processing')::integer",
        "unanswered_count": "(s.status = 'processing')::integer",
    }
    if reading.old_id:
        if key.type != "uuid":
            # The same row has the same id whenever it is copied. A uuid of version 8: made of the old id alone.
            text = f"md5('{QUEUE}_old ' || o.{key.quoted}::text)"
            filled["id"] = f"overlay(overlay({text} placing '8' from 13) placing '8' from 17)::uuid"
        filled[ident(reading.old_id)] = f"o.{key.quoted}"
    for column in reading.extra:
        filled[column.quoted] = f"o.{column.quoted}"
    status = reading.sources.get("status")
    ours = in_our_words(f"o.{status.quoted}::text", options) if status else "'pending'"
    columns = list(filled)
    selected = ",\n    ".join(f"{value} as {name}" for name, value in filled.items())
    return (
        columns,
        f"""
  select o.{key.quoted}::text as old_key,
    {selected}
  from public.{QUEUE}_old as o
    cross join lateral (select {ours} as status) as s""",
    )


_TIMES = ("created_at", "updated_at", "last_retry_at", "settled_at", "next_retry_at")


def copy_rows(
    reading: Reading, options: Options, grace_until: str, which: str, result: str, *, keys: bool = True
) -> str:
    """Copies old rows; `which` says which ones: what follows `from … as o`. A row that is there already stays as it is.

    `result` says what to select from batch (old_key, id) and copied (id). Run as dlq_owner, by set role: the rows are
    then taken for what they are, and not for echoes.
    """
    columns, query = _old_rows(reading, options, grace_until, keys=keys)
    names = ", ".join(columns)
    return f"""
with batch as materialized ({query}
  {which}
),
copied as (
  insert into public.{QUEUE} ({names})
  select {names} from batch
  on conflict do nothing
  returning id
)
{result}"""


def next_keys(reading: Reading, options: Options, step: str, position: str | None, limit: int) -> str:
    """The old ids that are next in a step, in their order."""
    key = reading.table.key
    assert key
    is_waiting = "true"
    if status := reading.sources.get("status"):
        words = status_words(options) | {name: name for name in STATUSES}
        waiting = ", ".join(literal(old) for old, new in words.items() if new in ("pending", "processing"))
        is_waiting = f"lower(o.{status.quoted}::text) in ({waiting})"
    condition = f"({is_waiting}) is {'true' if step == 'waiting' else 'not true'}"
    after = "" if position is None else f" and o.{key.quoted} > {literal(position)}::{key.type}"
    return f"""
select o.{key.quoted}::text from public.{QUEUE}_old as o where {condition}{after}
order by o.{key.quoted} limit {limit}"""


def those(reading: Reading, keys: list[str]) -> str:
    """Which rows: those of these old ids."""
    key = reading.table.key
    assert key
    return f"where o.{key.quoted} = any ({literal(keys)}::{key.type}[])"


def _copy_what_is_under_way(plan: Plan, options: Options) -> Iterator[str]:
    """Entries that an old processor may have in its hands: it finds them by their ids, and can write how they ended.

    For a third of a second at most: without an index on the status of a big table they follow a moment later.
    """
    reading = plan.reading
    assert reading
    status = reading.sources.get("status")
    words = {*plan.statuses, *plan.vocabulary}
    if status and status.category != "E":  # which knows no other words
        words |= {*STATUSES, *status_words(options)}
    under_way = sorted(word for word in words if our_status(word, options) == "processing")
    if not (status and under_way):
        return
    times = values(reading, "o", ["updated_at", "last_retry_at", "created_at"])
    key = reading.table.key
    assert key
    # The column itself, not what it means to us: there may be an index on it.
    which = f"""
  where o.{key.quoted} in (
    select o.{key.quoted} from public.{QUEUE}_old as o where o.{status.quoted} in ({", ".join(map(literal, under_way))})
    order by coalesce({", ".join([*times.values(), "null"])}) desc nulls last limit {MOST_IN_THE_LOCK})"""
    copy = copy_rows(
        reading,
        options,
        f"now() + interval '{options.grace_minutes} minutes'",
        which,
        "select array_agg(b.old_key) into v_keys from batch as b join copied as c using (id)",
    )
    yield f"""
set local role dlq_owner;
set local timezone = 'UTC';
set local statement_timeout = '300ms';
do $adopt$
declare
  v_keys text[];
begin
  {copy.strip()};
  update dlq.adoption
  set copied_first = coalesce(v_keys, '{{}}'), entries_copied = coalesce(cardinality(v_keys), 0);
exception when query_canceled or data_exception or integrity_constraint_violation then
  null;  -- the first batches copy them, one by one if need be
end
$adopt$;
set local statement_timeout to default;
set local timezone to default;
reset role"""


def read_log(table: Table) -> dict[str, str]:
    """SQL for the columns of our log, from row o of the old one. Empty if it does not say when its runs were."""
    names = {
        "processed_at": ("time", "processed_at started_at run_at executed_at created_at"),
        "status": ("text", "status state"),
        "entries_processed": ("integer", "entries_processed processed processed_count success_count"),
        "entries_failed": ("integer", "entries_failed failed failed_count error_count"),
        "error_message": ("text", "error_message error"),
    }
    filled = {}
    for new, (kind, old) in names.items():
        for column in filter(None, map(table.column, old.split())):
            if sql := read_as(kind, column, "o"):
                filled[new] = sql
                break
    if "processed_at" not in filled:
        return {}
    for counter in filled.keys() & {"entries_processed", "entries_failed"}:
        filled[counter] = f"coalesce({filled[counter]}, 0)"
    words = " ".join(f"when {literal(old)} then {literal(new)}" for old, new in OLD_RUNS.items())
    status = filled.get("status", "'ok'")
    filled["status"] = f"case coalesce(lower({status}), 'ok') {words} else 'error' end"
    return filled


def copy_log(table: Table, ctids: list[str]) -> str:
    """Copies the runs at these ctids, which hold as long as the transaction."""
    filled = read_log(table)
    return f"""
insert into public.{LOG} ({", ".join(filled)})
select {", ".join(filled.values())} from public.{LOG}_old as o
where o.ctid = any ({literal(ctids)}::tid[])
order by o.ctid"""
