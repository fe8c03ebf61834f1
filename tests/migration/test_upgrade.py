"""Another release over an older one: the same as that release installed afresh, and nothing of the user's is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from alembic.script import ScriptDirectory

import dlqctl.migrate as module
from dlqctl import definitions
from dlqctl.errors import DlqctlError
from dlqctl.migrate import migrate
from tests.migration.conftest import Release
from tests.migration.migrating import ask, do, dump, fingerprint, run

REVISIONS = [script.revision for script in ScriptDirectory.from_config(module._config()).walk_revisions()][::-1]

# Everything that the first revision can hold, as far as it matters to later ones. It never changes.
DATA = """
    insert into public.webhook_dlq
      (created_at, updated_at, next_retry_at, settled_at, service, status, payload, raw_body, headers, idempotency_key)
    select now(), now(),
      case s when 'pending' then now() end, case when s not in ('pending', 'processing') then now() end,
      'service-' || n, s, case when n % 2 = 0 then '{"n": 1}'::jsonb end, case when n % 2 = 1 then '\\xff'::bytea end,
      '{"a": "b"}', s || n
    from unnest(array['pending', 'processing', 'reprocessed', 'failed', 'discarded']) as s, generate_series(1, 20) as n
    where n % 5 = length(s) % 5;
    insert into public.dlq_processing_log (processed_at, status) values (now(), 'ok'), (now(), 'interrupted');
    insert into dlq.delivery_attempts (entry_id, dispatched_at, settled_at, attempt, outcome, service)
    select id, now(), now(), 1, 'unanswered', service from public.webhook_dlq;
    insert into dlq.endpoints (service, url) values ('*', 'https://example.com/{service}');
    insert into dlq.pauses (service, paused_at, paused_by, reason) values ('service-1', now(), 'me', 'why');
    insert into dlq.endpoint_state (service, cap, probe_at) values ('service-2', 0, now());
"""
ROWS = "select array_agg(e.id || e.status || e.service order by e.id) from public.webhook_dlq as e"


def install_revision(dsn: str, revision: str) -> None:
    """The tables as they were at a revision, without code: what migrate keeps, and all that can be in its way."""
    with module._connect(dsn) as raw, module._alembic_connection(raw) as connection:
        raw.execute(definitions.BEGIN.encode())
        module._provide_roles(raw)
        module._upgrade(connection, raw, revision)
        connection.commit()


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_upgrade_from_every_revision_equals_a_fresh_install(
    empty_database: str, dump_as_installed: str, revision: str
) -> None:
    install_revision(empty_database, REVISIONS[0])
    do(empty_database, DATA)
    install_revision(empty_database, revision)
    rows = ask(empty_database, ROWS)

    migrate(empty_database, cron=False, net_worker=True)

    assert dump(empty_database) == dump_as_installed
    assert ask(empty_database, ROWS) == rows
    assert migrate(empty_database, cron=False).changed == []


def test_a_later_revision_with_its_code_equals_a_fresh_install(
    empty_database: str, other_database: Callable[..., str], release: Release
) -> None:
    migrate(empty_database, cron=False, net_worker=True)
    do(empty_database, DATA)
    rows = ask(empty_database, ROWS)
    release.add_revision(
        "0002",
        after=REVISIONS[-1],
        sql="alter table public.webhook_dlq add column priority integer not null default 0;"
        "comment on column public.webhook_dlq.priority is 'The higher, the sooner: 50 % of :urgent.';",
    )
    release.edit("views/entries.sql", "e.id, e.service", "e.id, e.priority, e.service")
    release.edit(
        "access/grants.sql", "  (id, service, status, retry_count", "  (id, priority, service, status, retry_count"
    )

    found = run("--dsn", empty_database, "migrate", "--check", "--no-cron")
    upgraded = migrate(empty_database, cron=False)
    fresh = other_database()
    migrate(fresh, cron=False, net_worker=True)

    assert (found.code, found.out.splitlines()[0]) == (1, "revision 0002")
    assert upgraded.changed == ["revision 0002", "view dlq.entries", "grants"]
    assert dump(empty_database) == dump(fresh)
    assert ask(empty_database, ROWS) == rows


# What is edited, and what an upgrade says that it changed.
CHANGES: dict[str, tuple[Callable[[Release], None], list[str]]] = {}


def change(*changed: str) -> Callable[[Callable[[Release], None]], Callable[[Release], None]]:
    def remember(edit: Callable[[Release], None]) -> Callable[[Release], None]:
        CHANGES[edit.__name__] = (edit, list(changed))
        return edit

    return remember


VIEW_ON_ENTRIES = """\
create or replace view dlq.aged
as
select e.id, e.created_at from dlq.entries as e;

comment on view dlq.aged is 'Reads another view of ours.';
"""


@change("function dlq.resume", "grants")
def a_function_has_another_argument(release: Release) -> None:
    release.edit(
        "operate/resume.sql",
        "dlq.resume(service text default null, reason text default null)",
        "dlq.resume(service text default null, reason text default null, why text default null)",
    )
    release.edit("operate/resume.sql", "dlq.resume(text, text)", "dlq.resume(text, text, text)")
    release.edit("access/grants.sql", "dlq.resume(text, text)", "dlq.resume(text, text, text)")


@change("function dlq.resume", "grants")
def a_function_names_its_argument_otherwise(release: Release) -> None:
    release.edit("operate/resume.sql", "dlq.resume(service text", "dlq.resume(whom text")
    release.edit("operate/resume.sql", "resume.service", "resume.whom")


@change("function dlq.resume", "grants")
def a_function_returns_something_else(release: Release) -> None:
    release.edit("operate/resume.sql", "returns boolean", "returns text")


@change(
    "function dlq._now",
    "view dlq._health_answers",
    "view dlq._failing_endpoints",
    "view dlq._health_circuits",
    "view dlq._health_failed",
    "view dlq._health_overdue",
    "view dlq._health_paused",
    "view dlq._service_figures",
    "view dlq.activity",
    "view dlq.alert_states",
    "view dlq.backlog",
    "view dlq.circuits",
    "view dlq.health",
    "view dlq.replay_progress",
    "view dlq.slowest_endpoints",
    "view dlq.success_rate",
    "view dlq.top_failures",
    "view dlq.upcoming",
    "grants",
)
def a_function_that_views_use_returns_something_else(release: Release) -> None:
    release.edit("engine/_now.sql", "returns timestamptz", "returns timestamp")


@change("view dlq.entries", "grants")
def a_view_loses_a_column(release: Release) -> None:
    release.edit("views/entries.sql", "e.updated_at, ", "")


@change("view dlq.entries")
def a_view_gets_a_column(release: Release) -> None:
    release.edit(
        "views/entries.sql", " as last_status_code", " as last_status_code, e.payload is null as has_no_payload"
    )


@change("view dlq.entries", "view dlq.aged", "grants")
def a_view_that_another_of_ours_reads_loses_a_column(release: Release) -> None:
    release.edit("views/entries.sql", "e.updated_at, ", "")


@change("routine dlq.unschedule_jobs, no longer defined", "grants")
def a_function_is_no_longer_defined(release: Release) -> None:
    release.remove("schedule/unschedule_jobs.sql")
    release.edit("access/grants.sql", "dlq.schedule_jobs(), dlq.unschedule_jobs()", "dlq.schedule_jobs()")


@change("view dlq.aged, no longer defined", "view dlq.entries, no longer defined", "grants")
def two_views_of_which_one_reads_the_other_are_no_longer_defined(release: Release) -> None:
    release.remove("views/aged.sql")
    release.remove("views/entries.sql")
    release.edit("access/grants.sql", "dlq.entries, ", "")


@change("trigger amend_entry on public.webhook_dlq, no longer defined", "routine dlq._amend_entry, no longer defined")
def a_trigger_and_its_function_are_no_longer_defined(release: Release) -> None:
    release.remove("intake/amend_entry.sql")
    release.remove("intake/_amend_entry.sql")


@change(
    "trigger amend_entry on public.webhook_dlq, no longer defined",
    "trigger amend on public.webhook_dlq",
)
def a_trigger_has_another_name(release: Release) -> None:
    release.edit("intake/amend_entry.sql", "trigger amend_entry", "trigger amend")


@change(
    "function dlq._complete",
    "grants",
    "trigger amend_entry on public.webhook_dlq",
    "routine dlq._amend_entry, no longer defined",
)
def a_trigger_calls_another_function(release: Release) -> None:
    text = (release.sql / "intake/_amend_entry.sql").read_text()
    release.write("intake/_complete.sql", text.replace("_amend_entry", "_complete"))
    release.remove("intake/_amend_entry.sql")
    release.edit("intake/amend_entry.sql", "_amend_entry", "_complete")


@change("policy readers_read on public.webhook_dlq")
def a_policy_is_another(release: Release) -> None:
    release.edit(
        "access/policies.sql",
        "readers_read on public.webhook_dlq for select to dlq_reader using (true)",
        "readers_read on public.webhook_dlq for select to dlq_reader using (service <> 'secret')",
    )


@change("policy readers_read on public.webhook_dlq")
def a_policy_gets_a_comment(release: Release) -> None:
    release.edit(
        "access/policies.sql",
        "create policy writers_store",
        "comment on policy readers_read on public.webhook_dlq is 'Sees all.';\ncreate policy writers_store",
    )


@change("trigger amend_entry on public.webhook_dlq")
def a_trigger_fires_always(release: Release) -> None:
    text = (release.sql / "intake/amend_entry.sql").read_text()
    release.write(
        "intake/amend_entry.sql", text + "alter table public.webhook_dlq enable always trigger amend_entry;\n"
    )


@change("function net.wake", "routine net._urlencode, no longer defined", "function net.http_post")
def a_function_of_net_goes_and_another_changes(release: Release) -> None:
    release.remove("net/_urlencode.sql")
    release.edit("net/wake.sql", "dlqctl_net_wake", "dlqctl_wake")
    release.edit("net/http_post.sql", "net._urlencode", "quote_ident")


@pytest.mark.parametrize("name", CHANGES)
def test_an_upgrade_equals_a_fresh_install_where(
    database: str, other_database: Callable[..., str], release: Release, name: str
) -> None:
    edit, changed = CHANGES[name]
    if "dlq.aged" in " ".join(changed):
        release.write("views/aged.sql", VIEW_ON_ENTRIES)
        migrate(database, cron=False)
    edit(release)

    assert sorted(migrate(database, cron=False).changed) == sorted(changed)

    assert migrate(database, cron=False).changed == []
    fresh = other_database()
    migrate(fresh, cron=False, net_worker=True)
    assert dump(database) == dump(fresh)


# What a person makes of their own beside ours.
THEIRS = (
    "drop role if exists their_role",
    "create role their_role",
    "create schema theirs",
    "create view theirs.late as select e.id from dlq.entries as e",
    "create function theirs.stop() returns void language sql as 'select dlq.pause(''mine'')'",
    "create function theirs.on_insert() returns trigger language plpgsql as 'begin return new; end'",
    "create trigger theirs before insert on webhook_dlq for each row execute function theirs.on_insert()",
    "create policy theirs on webhook_dlq for select to their_role using (service = 'mine')",
    "grant usage on schema dlq to their_role",
    "grant select (id, status) on webhook_dlq to their_role",
    "grant select on dlq.backlog to their_role",
    "grant select (name) on dlq.health to their_role with grant option",
    "grant execute on function dlq.resume(text, text) to their_role",
)


@pytest.fixture
def with_theirs(database: str) -> str:
    do(database, *THEIRS)
    return database


def test_what_is_the_users_survives_a_migrate_that_changes_nothing(with_theirs: str) -> None:
    before, touched = dump(with_theirs), fingerprint(with_theirs)

    assert migrate(with_theirs, cron=False).changed == []
    assert dump(with_theirs) == before
    assert fingerprint(with_theirs) == touched


@pytest.mark.parametrize(
    "statement",
    [
        "create table dlq.theirs (id int)",
        "create table net.theirs (id int)",
        "create function dlq.theirs() returns int language sql as 'select 1';"
        "revoke execute on function dlq.theirs() from public",
    ],
)
def test_what_is_the_users_in_our_schema_is_left_alone(database: str, statement: str) -> None:
    do(database, statement)
    before, touched = dump(database), fingerprint(database)

    assert migrate(database, cron=False).changed == []
    assert dump(database) == before
    assert fingerprint(database) == touched


def test_what_is_the_users_survives_a_repair(with_theirs: str) -> None:
    before = sorted(dump(with_theirs).splitlines())  # grants may come in another order
    do(
        with_theirs,
        "alter table webhook_dlq disable trigger accept_entry",
        "drop policy readers_read on webhook_dlq",
        "grant select on webhook_dlq to public",
        "comment on view dlq.entries is null",
        "alter function dlq.pause(text, text, timestamptz) stable",
    )

    migrate(with_theirs, cron=False)

    assert sorted(dump(with_theirs).splitlines()) == before


def test_what_is_the_users_survives_a_release_that_drops_and_replaces(with_theirs: str, release: Release) -> None:
    a_function_has_another_argument(release)
    release.edit("views/backlog.sql", "b.due_1_hour, b.due_1_day", "b.due_1_hour")
    comment = "comment on column dlq.backlog.due_1_day is 'Those that have been due for longer than a day.';"
    release.edit("views/backlog.sql", comment, "")
    release.edit("health/health.sql", "select c.name,", "select c.name::varchar as name,")

    migrate(with_theirs, cron=False)

    grants = "select has_{}_privilege('their_role', '{}', '{}')"
    assert ask(with_theirs, grants.format("function", "dlq.resume(text, text, text)", "execute")) is True
    assert ask(with_theirs, grants.format("table", "dlq.backlog", "select")) is True
    assert ask(
        with_theirs, "select has_column_privilege('their_role', 'dlq.health', 'name', 'select with grant option')"
    )
    assert ask(with_theirs, "select count(*) from theirs.late") == 0
    assert ask(with_theirs, "select count(*) from pg_trigger where tgname = 'theirs'") == 1
    assert ask(with_theirs, "select count(*) from pg_policy where polname = 'theirs'") == 1


def a_function_has_one_more(release: Release) -> None:
    release.edit(
        "engine/_is_paused.sql", "dlq._is_paused(service text)", "dlq._is_paused(service text, why text default null)"
    )
    release.edit("engine/_is_paused.sql", "dlq._is_paused(text)", "dlq._is_paused(text, text)")
    release.edit("access/grants.sql", "dlq._is_paused(text)", "dlq._is_paused(text, text)")


def a_view_is_gone(release: Release) -> None:
    release.remove("views/entries.sql")
    release.edit("access/grants.sql", "dlq.entries, ", "")


@pytest.mark.parametrize(
    ("edit", "theirs", "name"),
    [
        (a_view_loses_a_column, "create view theirs.v as select id from dlq.entries", "view theirs.v"),
        (
            a_view_loses_a_column,
            "create materialized view theirs.m as select id from dlq.entries",
            "materialized view theirs.m",
        ),
        (
            a_view_loses_a_column,
            "create function theirs.f() returns setof dlq.entries language sql as 'select * from dlq.entries'",
            "function theirs.f()",
        ),
        (a_view_loses_a_column, "create table theirs.t (e dlq.entries)", "table theirs.t"),
        (
            a_function_has_one_more,
            "create policy mine on webhook_dlq using (dlq._is_paused(service))",
            "policy mine on public.webhook_dlq",
        ),
        (
            a_function_has_one_more,
            "create function theirs.f(boolean default dlq._is_paused('a')) returns int language sql as 'select 1'",
            "function theirs.f",
        ),
        (
            a_function_has_one_more,
            "create table theirs.t (b boolean default dlq._is_paused('a'))",
            "theirs.t",
        ),
        (a_view_is_gone, "create view theirs.v as select id from dlq.entries", "view theirs.v"),
        (a_function_is_no_longer_defined, "create view theirs.v as select dlq.unschedule_jobs()", "view theirs.v"),
    ],
)
def test_what_the_users_depends_on_is_not_dropped(
    database: str, release: Release, edit: Callable[[Release], None], theirs: str, name: str
) -> None:
    do(database, "create schema theirs", theirs)
    before = dump(database)
    edit(release)

    with pytest.raises(DlqctlError) as refused:
        migrate(database, cron=False)

    assert name in refused.value.message
    assert dump(database) == before


def test_a_policy_that_is_no_longer_defined_goes_by_a_revision(database: str, release: Release) -> None:
    release.edit(
        "access/policies.sql",
        "create policy readers_read on dlq.settings for select to dlq_reader using (true);\n",
        "",
    )
    release.add_revision("0002", after=REVISIONS[-1], sql="drop policy readers_read on dlq.settings;")

    assert migrate(database, cron=False).changed == ["revision 0002"]
    assert ask(database, "select count(*) from pg_policy where polrelid = 'dlq.settings'::regclass") == 1
