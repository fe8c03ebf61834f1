"""`dlqctl export supabase`: its files, run as postgres in an emulation of a Supabase project (tests/supabase.py)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg
import pytest

from dlqctl import export
from dlqctl.cluster import Cluster
from dlqctl.errors import DlqctlError
from dlqctl.migrate import migrate
from tests.migration.conftest import Release
from tests.migration.migrating import Outcome, ask, do, dump, fingerprint, program, run
from tests.supabase import ADMIN, forget_dlqctl, supabase_like

REVISION_2 = (
    "alter table public.webhook_dlq add column region text;\ncomment on column public.webhook_dlq.region is 'Where.';"
)


@pytest.fixture(scope="module")
def _supabase() -> Iterator[Cluster]:
    with supabase_like() as cluster:
        yield cluster


@pytest.fixture
def project(_supabase: Cluster) -> Iterator[Cluster]:
    """A project without dlqctl."""
    yield _supabase
    forget_dlqctl(_supabase)


def export_files(folder: Path, project: Cluster) -> list[Path]:
    """As the command, but with the net-worker in place of pg_net, which is not in the emulation."""
    return export.export_supabase(folder, cron=project.has_pg_cron, net_worker=True)


def apply(project: Cluster, files: Iterable[Path], user: str = "postgres") -> list[str]:
    """Run each file as it stands, in a transaction of its own, and return what the server remarked."""
    notices: list[str] = []
    with psycopg.connect(project.dsn(user=user)) as conn:
        conn.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        for path in files:
            conn.execute(path.read_text().encode())
            conn.commit()
    return notices


def check(project: Cluster) -> Outcome:
    words = ["--net-worker"] + ([] if project.has_pg_cron else ["--no-cron"])
    return run("--dsn", project.dsn(), "migrate", "--check", *words)


NOTHING_DIFFERS = Outcome(0, "", "nothing differs\n")


def schema(project: Cluster) -> str:
    return dump(project.dsn(user=ADMIN), "--schema-only", "--schema=dlq", "--schema=public", "--schema=net")


def test_applied_in_their_order_they_install_what_migrate_does(project: Cluster, tmp_path: Path) -> None:
    migrate(project.dsn(), cron=project.has_pg_cron, net_worker=True)
    as_migrated = schema(project)
    forget_dlqctl(project)

    apply(project, export_files(tmp_path, project))

    assert schema(project) == as_migrated
    assert check(project) == NOTHING_DIFFERS
    if project.has_pg_cron:
        assert ask(project.dsn(), "select username from cron.job where command = 'call dlq.run_cycle()'") == "postgres"


def test_migrate_has_nothing_to_do_after_them(project: Cluster, tmp_path: Path) -> None:
    apply(project, export_files(tmp_path, project))

    assert migrate(project.dsn(), cron=project.has_pg_cron, net_worker=True).changed == []


def test_they_change_nothing_after_migrate(project: Cluster, tmp_path: Path) -> None:
    migrate(project.dsn(), cron=project.has_pg_cron, net_worker=True)
    do(project.dsn(), "insert into webhook_dlq (service, payload) values ('shop', '{}')")
    before = schema(project)

    remarks = apply(project, export_files(tmp_path, project))

    assert "dlqctl: the database is at revision 0001 already, so nothing is done" in remarks
    assert schema(project) == before
    assert ask(project.dsn(), "select count(*) from webhook_dlq") == 1
    assert check(project) == NOTHING_DIFFERS


@pytest.mark.parametrize("login", ["postgres", "cli_login_postgres"])
def test_a_file_leaves_the_session_as_it_was(project: Cluster, tmp_path: Path, login: str) -> None:
    """`supabase db push` without a password logs in as another role, takes postgres's, and needs it after each file."""
    admin = project.dsn(user=ADMIN)
    do(
        admin,
        "drop role if exists cli_login_postgres",
        "create role cli_login_postgres login noinherit in role postgres",
    )
    settings = """
        select current_user, current_setting('role'), current_setting('search_path'), current_setting('lock_timeout'),
          current_setting('check_function_bodies')
    """
    with psycopg.connect(project.dsn(user=login)) as conn:
        if login != "postgres":
            conn.execute("set session role postgres")
        before = conn.execute(settings).fetchone()
        for path in export_files(tmp_path, project):
            conn.execute(path.read_text().encode())
            assert conn.execute(settings).fetchone() == before
    assert check(project) == NOTHING_DIFFERS


def test_a_file_is_all_or_nothing_even_outside_a_transaction(project: Cluster, tmp_path: Path) -> None:
    """psql -f runs each statement by itself: were there several, some would run as the wrong role."""
    tables, code = export_files(tmp_path, project)
    code.write_text(code.read_text().replace("perform dlq.schedule_jobs();", "perform 1 / 0;"))
    assert "1 / 0" in code.read_text() or not project.has_pg_cron
    psql = [str(program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", project.dsn(), "-f"]
    assert subprocess.run([*psql, tables], check=False).returncode == 0
    if project.has_pg_cron:
        assert subprocess.run([*psql, code], check=False, capture_output=True).returncode != 0
        assert ask(project.dsn(), "select count(*) from pg_proc where proowner = 'dlq_owner'::regrole") == 0


def test_written_again_unchanged_there_is_nothing_new(tmp_path: Path) -> None:
    folder = tmp_path / "supabase" / "migrations"

    first = run("export", "supabase", str(folder))
    again = run("export", "supabase", str(folder))

    assert first.code == 0
    assert [Path(line).name.split("_", 1)[1] for line in first.out.splitlines()] == [
        "dlqctl_0001_tables.sql",
        "dlqctl_code.sql",
    ]
    assert sorted(map(str, folder.iterdir())) == first.out.splitlines()
    assert all(re.fullmatch(r"\d{14}_dlqctl_\w+\.sql", path.name) for path in folder.iterdir())
    assert again == Outcome(0, "", f"nothing new: all of it is in {folder}\n")


def test_without_cron_they_leave_it_alone(tmp_path: Path) -> None:
    steps = ("create extension if not exists pg_cron;", "perform dlq.schedule_jobs();")

    assert run("export", "supabase", str(tmp_path), "--no-cron").code == 0
    (code,) = tmp_path.glob("*_dlqctl_code.sql")
    assert not [step for step in steps if step in code.read_text()]

    with_cron = Path(run("export", "supabase", str(tmp_path)).out.rstrip())
    assert with_cron.name > code.name
    assert all(step in with_cron.read_text() for step in steps)


def test_an_upgrade_writes_what_is_new_and_changes_no_file(tmp_path: Path, release: Release) -> None:
    folder = tmp_path / "supabase"
    old = export.export_supabase(folder)
    before = {path: path.read_text() for path in old}
    release.add_revision("0002", "0001", REVISION_2)
    release.edit("engine/_snippet.sql", "comment on function", "-- changed\ncomment on function")

    new = export.export_supabase(folder)

    assert [path.name.split("_", 1)[1] for path in new] == ["dlqctl_0002_more.sql", "dlqctl_code.sql"]
    assert {path: path.read_text() for path in old} == before
    assert sorted(folder.iterdir()) == [*old, *new]
    assert export.export_supabase(folder) == []


def test_names_come_after_all_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "20991231235959_mine.sql").touch()
    (tmp_path / "notes.sql").touch()

    written = export.export_supabase(tmp_path)

    assert [path.name[:14] for path in written] == ["21000101000000", "21000101000001"]


def test_after_a_name_that_is_no_time_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "99999999999999_mine.sql").touch()

    with pytest.raises(DlqctlError, match=r"99999999999999_mine\.sql"):
        export.export_supabase(tmp_path)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    refused = run("export", "supabase", str(tmp_path / "file"))

    assert (refused.code, refused.out) == (1, "")
    assert "is not a folder -> name the folder of your migrations" in refused.err


def test_files_of_two_releases_install_and_upgrade(project: Cluster, tmp_path: Path, release: Release) -> None:
    """Other arguments, other columns, an object less, a new table's column: in a database and from scratch."""
    folder = tmp_path / "supabase"
    old = export_files(folder, project)
    apply(project, old)
    do(
        project.dsn(),
        "insert into webhook_dlq (service, payload) values ('shop', '{}')",
        "create role watcher",
        "grant select on dlq.entries to watcher",
        "grant execute on function dlq.pause(text, text, timestamptz) to watcher",
    )
    a_new_release(release)

    new = export_files(folder, project)
    apply(project, new)

    assert check(project) == NOTHING_DIFFERS
    assert ask(project.dsn(), "select count(*) from webhook_dlq") == 1
    assert ask(project.dsn(), "select has_table_privilege('watcher', 'dlq.entries', 'select')") is True
    pause = "select has_function_privilege('watcher', 'dlq.pause(text, text, timestamptz, text)', 'execute')"
    assert ask(project.dsn(), pause) is True
    upgraded = schema(project).replace("GRANT SELECT ON TABLE dlq.entries TO watcher;\n", "")

    do(project.dsn(user=ADMIN), "drop owned by watcher", "drop role watcher")
    forget_dlqctl(project)
    apply(project, [*old, *new])
    assert check(project) == NOTHING_DIFFERS
    assert set(schema(project).splitlines()) <= set(upgraded.splitlines())


def a_new_release(release: Release) -> None:
    release.add_revision("0002", "0001", REVISION_2)
    release.edit(
        "operate/pause.sql", "until timestamptz default null)", "until timestamptz default null, by text default null)"
    )
    release.edit(
        "operate/pause.sql", "dlq.pause(text, text, timestamptz) is", "dlq.pause(text, text, timestamptz, text) is"
    )
    release.edit("access/grants.sql", "dlq.pause(text, text, timestamptz)", "dlq.pause(text, text, timestamptz, text)")
    release.edit("views/entries.sql", "e.id, e.service,", "e.service, e.id, e.region,")
    release.edit("operate/remove_endpoint.sql", "returns boolean", "returns integer")
    release.edit("operate/remove_endpoint.sql", "return found;", "return found::integer;")
    release.remove("schedule/unschedule_jobs.sql")
    release.edit("access/grants.sql", "dlq.schedule_jobs(), dlq.unschedule_jobs()", "dlq.schedule_jobs()")
    release.edit("intake/amend_entry.sql", "trigger amend_entry", "trigger amend_row")


def test_what_the_user_built_on_it_is_never_dropped(project: Cluster, tmp_path: Path, release: Release) -> None:
    folder = tmp_path / "supabase"
    apply(project, export_files(folder, project))
    do(project.dsn(), "create view public.mine as select id from dlq.entries")
    before = schema(project)
    a_new_release(release)
    tables, code = export_files(folder, project)
    apply(project, [tables])

    with pytest.raises(psycopg.errors.RaiseException) as refused:
        apply(project, [code])

    assert refused.value.diag.message_primary == "view dlq.entries must go, but view public.mine depends on it"
    do(project.dsn(), "drop view public.mine")
    assert schema(project) != before
    apply(project, [code])
    assert check(project) == NOTHING_DIFFERS


def test_an_old_file_does_nothing_to_a_newer_database(project: Cluster, tmp_path: Path, release: Release) -> None:
    old = export_files(tmp_path / "supabase", project)
    a_new_release(release)
    migrate(project.dsn(), cron=project.has_pg_cron, net_worker=True)
    before = fingerprint(project.dsn(user=ADMIN))

    remarks = apply(project, old)

    assert remarks.count("dlqctl: the database is at revision 0002 already, so nothing is done") == 2
    assert fingerprint(project.dsn(user=ADMIN)) == before


def test_a_file_before_its_time_is_refused(project: Cluster, tmp_path: Path, release: Release) -> None:
    release.add_revision("0002", "0001", REVISION_2)
    first, second, code = export_files(tmp_path / "supabase", project)

    for too_early in (second, code):
        with pytest.raises(psycopg.errors.RaiseException, match="the database is at none"):
            apply(project, [too_early])
    apply(project, [first])
    with pytest.raises(psycopg.errors.RaiseException, match="the database is at 0001"):
        apply(project, [code])
    assert ask(project.dsn(), "select count(*) from pg_proc where proowner = 'dlq_owner'::regrole") == 0


def test_what_is_not_dlqctls_is_in_the_way(project: Cluster, tmp_path: Path) -> None:
    do(project.dsn(), "create table public.webhook_dlq (id uuid)")
    try:
        with pytest.raises(psycopg.errors.DuplicateTable):
            apply(project, export_files(tmp_path, project))
        assert ask(project.dsn(), "select to_regnamespace('dlq') is null") is True
    finally:
        do(project.dsn(), "drop table public.webhook_dlq")


def test_supabases_own_cli_applies_them(project: Cluster, tmp_path: Path) -> None:
    cli = os.environ.get("DLQCTL_SUPABASE_CLI") or shutil.which("supabase")
    if cli is None:
        pytest.skip("the supabase CLI is not installed (npm install supabase; DLQCTL_SUPABASE_CLI names it)")
    remote = f"--remote=postgresql://postgres:none@127.0.0.1:{project.port}/postgres?sslmode=disable"

    def supabase(*words: str) -> str:
        done = subprocess.run(
            [cli, *words, "--workdir", str(tmp_path), "--yes"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "SUPABASE_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1"},
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    supabase("init")
    files = export_files(tmp_path / "supabase" / "migrations", project)

    supabase("db", "push", remote)
    assert check(project) == NOTHING_DIFFERS
    listed = supabase("migration", "list", remote)
    for path in files:
        assert listed.count(path.name[:14]) == 2  # here, and there
    assert "up to date" in supabase("db", "push", remote)
    # On purpose, see test_supabase.py: the functions that the planner inlines, and the procedure that commits.
    advice = supabase("db", "advisors", remote, "--level", "warn")
    assert set(re.findall(r'"name": "([a-z_]+)",\s+"title"', advice)) == {"function_search_path_mutable"}
    # There postgres may create the extension that this command needs.
    with psycopg.connect(project.dsn(user=ADMIN), autocommit=True) as conn:
        if conn.execute("select from pg_available_extensions where name = 'plpgsql_check'").rowcount:
            conn.execute("create extension plpgsql_check with schema extensions")
            try:
                found = supabase("db", "lint", remote, "--schema", "public,dlq", "--level", "error")
            finally:
                conn.execute("drop extension plpgsql_check")
            assert "Linting schema: dlq" in found
            assert '"function"' not in found
