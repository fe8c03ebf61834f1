"""What somebody has changed by hand is found by --check and mended by migrate; what is theirs stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dlqctl.cluster import Cluster
from dlqctl.migrate import migrate
from tests.conftest import _database
from tests.migration.migrating import ask, do, dump, fingerprint, run

EDITS = {
    "function, its body": (
        "create or replace function dlq._to_interval(setting text) returns interval language sql immutable"
        " set search_path = pg_catalog, pg_temp as 'select interval ''1 s'''",
        "function dlq._to_interval",
    ),
    "function, its volatility": ("alter function dlq.resume(text, text) stable", "function dlq.resume"),
    "function, its search_path": ("alter function dlq.resume(text, text) reset search_path", "function dlq.resume"),
    "function, its rights": ("alter function dlq.resume(text, text) security invoker", "function dlq.resume"),
    "function, its comment": ("comment on function dlq.resume(text, text) is null", "function dlq.resume"),
    "function, gone": ("drop function dlq.unschedule_jobs()", "function dlq.unschedule_jobs", "grants"),
    "view, a column's comment": ("comment on column dlq.backlog.due is 'Whatever.'", "view dlq.backlog"),
    "procedure, its body": (
        "create or replace procedure dlq.run_cycle() language plpgsql as 'begin end'",
        "procedure dlq.run_cycle",
    ),
    "view, its query": (
        "do $$ begin execute 'create or replace view dlq.entries as '"
        " || rtrim(pg_get_viewdef('dlq.entries'::regclass), ';') || ' where false'; end $$",
        "view dlq.entries",
    ),
    "view, a column more": (
        "do $$ begin execute 'create or replace view dlq.entries as select e.*, 1 as one from ('"
        " || rtrim(pg_get_viewdef('dlq.entries'::regclass), ';') || ') as e'; end $$",
        "view dlq.entries",
    ),
    "view, its options": ("alter view dlq.entries set (security_invoker = true)", "view dlq.entries"),
    "view, its comment": ("comment on view dlq.entries is 'mine'", "view dlq.entries"),
    "view, gone": ("drop view dlq.entries", "view dlq.entries", "grants"),
    "trigger, disabled": (
        "alter table webhook_dlq disable trigger accept_entry",
        "trigger accept_entry on public.webhook_dlq",
    ),
    "trigger, its condition": (
        "create or replace trigger accept_entry before insert on webhook_dlq for each row when (new.id is null)"
        " execute function dlq._accept_entry()",
        "trigger accept_entry on public.webhook_dlq",
    ),
    "trigger, its comment": (
        "comment on trigger accept_entry on webhook_dlq is null",
        "trigger accept_entry on public.webhook_dlq",
    ),
    "trigger, gone": ("drop trigger accept_entry on webhook_dlq", "trigger accept_entry on public.webhook_dlq"),
    "trigger, the same again under another name": (
        "create trigger once_more before insert on webhook_dlq for each row execute function dlq._accept_entry()",
        "trigger once_more on public.webhook_dlq, no longer defined",
    ),
    "trigger of the audit, disabled": (
        "alter table webhook_dlq disable trigger audit",
        "trigger audit on public.webhook_dlq",
    ),
    "trigger of the audit, no longer always": (
        "alter table dlq.endpoints enable trigger audit_truncate",
        "trigger audit_truncate on dlq.endpoints",
    ),
    "trigger of the audit, with another column shown": (
        "create or replace trigger audit after insert or update or delete on dlq.secrets for each row"
        " execute function dlq._audit_change('name', 'created_at', 'value');"
        "alter table dlq.secrets enable always trigger audit",
        "trigger audit on dlq.secrets",
    ),
    "trigger that guards the log, for others only": (
        "alter table dlq.audit_log enable replica trigger append_only",
        "trigger append_only on dlq.audit_log",
    ),
    "policy, its condition": (
        "alter policy readers_read on webhook_dlq using (service = 'mine')",
        "policy readers_read on public.webhook_dlq",
    ),
    "policy, its roles": (
        "alter policy readers_read on webhook_dlq to public",
        "policy readers_read on public.webhook_dlq",
    ),
    "policy, restrictive": (
        "drop policy readers_read on webhook_dlq;"
        "create policy readers_read on webhook_dlq as restrictive for select to dlq_reader using (true)",
        "policy readers_read on public.webhook_dlq",
    ),
    "policy, gone": ("drop policy readers_read on webhook_dlq", "policy readers_read on public.webhook_dlq"),
    "row level security, off": (
        "alter table webhook_dlq disable row level security",
        "row level security of public.webhook_dlq",
    ),
    "row level security, forced": (
        "alter table dlq.settings force row level security",
        "row level security of dlq.settings",
    ),
    "grant, revoked": ("revoke select on dlq_processing_log from dlq_reader", "grants"),
    "grant, revoked from a column": ("revoke select (status) on webhook_dlq from dlq_reader", "grants"),
    "grant, revoked from a function": ("revoke execute on function dlq.resume(text, text) from dlq_admin", "grants"),
    "grant, of a table to PUBLIC": ("grant select on webhook_dlq to public", "grants"),
    "grant, of a column to PUBLIC": ("grant select (payload) on webhook_dlq to public", "grants"),
    "grant, of a view to PUBLIC": ("grant select on dlq.entries to public", "grants"),
    "grant, of a function to PUBLIC": ("grant execute on function dlq.resume(text, text) to public", "grants"),
    "grant, of a function in public to PUBLIC": ("grant execute on function process_dlq_entries() to public", "grants"),
    "grant, of the schema to PUBLIC": ("grant create on schema dlq to public", "grants"),
    "grant, one more to a role of ours": ("grant select on webhook_dlq to dlq_reader", "grants"),
    "grant, of a sequence to PUBLIC": ("grant usage on sequence dlq_processing_log_id_seq to public", "grants"),
    "grant, of schema net to a role of ours": (
        "grant insert on net.http_request_queue to dlq_net_worker",
        "grants in net",
    ),
    "grant, to the net worker": ("grant select on webhook_dlq to dlq_net_worker", "grants"),
    "grant, with the option": ("grant select on dlq.entries to dlq_reader with grant option", "grants"),
    "right, of dlq_owner": ("revoke create on schema public from dlq_owner", "roles"),
    "function of net": (
        "create or replace function net.wake() returns void language sql as 'select'",
        "function net.wake",
    ),
    "function of net, to PUBLIC": ("grant execute on function net.wake() to public", "grants in net"),
    "table of net, to PUBLIC": ("grant insert on net._http_response to public", "grants in net"),
}


@pytest.fixture(scope="module")
def edited(cluster: Cluster, template: str) -> Iterator[str]:
    """A database for all the edits, since each is undone: to copy one takes as long as to mend it."""
    with _database(cluster, template) as dsn:
        yield dsn


def rounds() -> list[list[str]]:
    """The edits, in as few rounds as there are edits that check calls by one name: in each, every name is one's own."""
    made: list[list[str]] = []
    for edit, (_, *names) in EDITS.items():
        for others in made:
            if not {name for other in others for name in EDITS[other][1:]} & {*names}:
                others.append(edit)
                break
        else:
            made.append([edit])
    return made


@pytest.mark.parametrize("edits", rounds(), ids=lambda edits: edits[0])
def test_hand_edits_are_found_by_check_and_repaired_by_migrate(
    edited: str, dump_as_installed: str, edits: list[str]
) -> None:
    do(edited, *(EDITS[edit][0] for edit in edits))
    names = {name for edit in edits for name in EDITS[edit][1:]}
    before = fingerprint(edited)

    found = run("--dsn", edited, "migrate", "--check", "--no-cron")
    changed = migrate(edited, cron=False).changed if fingerprint(edited) == before else ["check has changed something"]
    mended = dump(edited)

    assert (found.code, sorted(found.out.splitlines())) == (1, sorted(names))
    assert {EDITS[edit][1] for edit in edits} <= {*changed} <= names
    assert mended == dump_as_installed  # of which a check finds nothing: see test_install.py


def test_several_hand_edits_are_all_named(database: str) -> None:
    do(
        database,
        "drop view dlq.upcoming",
        "alter function dlq.resume(text, text) stable",
        "grant select on webhook_dlq to public",
    )

    found = run("--dsn", database, "migrate", "--check", "--no-cron")

    assert found.out.splitlines() == ["function dlq.resume", "view dlq.upcoming", "grants"]
    assert found.code == 1


def test_what_a_dba_has_set_on_a_table_is_theirs(database: str) -> None:
    theirs = "select array_agg(c.relname || ' ' || coalesce(c.reloptions::text, '') order by c.oid) from pg_class as c"
    do(
        database,
        """
        alter table public.webhook_dlq set (autovacuum_vacuum_scale_factor = 0.3, fillfactor = 80);
        alter table dlq.delivery_attempts reset (autovacuum_vacuum_scale_factor);
        alter index public.idx_webhook_dlq_next_retry set (fillfactor = 70);
        alter table public.webhook_dlq alter column service set statistics 1000;
        """,
    )
    before = ask(database, theirs)

    assert run("--dsn", database, "migrate", "--check", "--no-cron").code == 0
    assert migrate(database, cron=False).changed == []

    assert ask(database, theirs) == before
    target = "select attstattarget from pg_attribute where attrelid = 'webhook_dlq'::regclass and attname = 'service'"
    assert ask(database, target) == 1000
