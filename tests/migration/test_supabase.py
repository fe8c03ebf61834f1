"""dlqctl in a Supabase project, as an emulation has its roles: see tests/supabase.py."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from dlqctl.bundle import ROOT
from dlqctl.cluster import Cluster, find_server
from dlqctl.export import export_supabase
from dlqctl.migrate import migrate
from dlqctl.receiver import Receiver, ok
from dlqctl.signatures import verify_hub
from tests.migration.migrating import ask, do, run, wait_for
from tests.net_worker import net_worker
from tests.supabase import ADMIN, forget_dlqctl, supabase_like

_PAGE = ROOT / "docs" / "supabase.md"


@pytest.fixture(scope="module")
def project() -> Iterator[Cluster]:
    """Such a project with dlqctl installed by its postgres. Its job runs each minute, where there is pg_cron."""
    with supabase_like() as cluster:
        migrate(cluster.dsn(), cron=cluster.has_pg_cron, net_worker=True)
        do(cluster.dsn(), "update dlq.settings set cycle_minutes = 1")
        migrate(cluster.dsn(), cron=cluster.has_pg_cron, net_worker=True)
        yield cluster


@pytest.fixture(params=["inherit", "noinherit"])
def service_key(request: pytest.FixtureRequest, project: Cluster) -> Cluster:
    """The project with its service_role as it is made now, and as it was made until 2023."""
    do(project.dsn(user=ADMIN), f"alter role service_role {request.param}")
    return project


@contextmanager
def over_http(project: Cluster, role: str) -> Iterator[psycopg.Connection]:
    """A transaction as PostgREST runs one for a request: as authenticator, in the role and with the claims of a key."""
    with psycopg.connect(project.dsn(user="authenticator")) as conn:
        conn.execute(f"set local role {role}".encode())
        claims = json.dumps({"role": role, "iss": "supabase"})
        conn.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        conn.execute("select set_config('search_path', 'public, extensions', true)")
        yield conn


def call(project: Cluster, role: str, function: str) -> dict[str, object]:
    """What POST /rest/v1/rpc/<function> answers to a key of this role."""
    with over_http(project, role) as conn:
        row = conn.execute(f"select result from public.{function}() as result".encode()).fetchone()
    assert row is not None
    return dict(row[0])


def test_the_emulation_is_as_strict_as_supabase(project: Cluster) -> None:
    """Else the tests below would show nothing."""
    assert ask(project.dsn(), "select not rolsuper and rolbypassrls from pg_roles where rolname = current_user") is True
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        do(project.dsn(), "alter system set work_mem = '1MB'")
    if project.has_pg_cron:
        for write in (
            "update cron.job set active = true",
            "delete from cron.job",
            "insert into cron.job default values",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                do(project.dsn(), write)
    do(project.dsn(), "create table public.made_by_postgres ()")
    assert ask(project.dsn(), "select has_table_privilege('anon', 'public.made_by_postgres', 'select')") is True
    do(project.dsn(), "drop table public.made_by_postgres")


def test_all_of_it_works_for_a_postgres_that_is_no_superuser(project: Cluster, receiver: Receiver) -> None:
    dsn = project.dsn()
    with net_worker(dsn):
        assert (
            run("--dsn", dsn, "endpoints", "set", "shop", receiver.url("shop"), "--allow-http", "--allow-private").code
            == 0
        )
        assert run("--dsn", dsn, "endpoints", "test", "shop").code == 0
        do(dsn, "insert into webhook_dlq (service, payload, next_retry_at) values ('shop', '{\"n\": 1}', now())")
        assert run("--dsn", dsn, "process").code == 0
    assert ask(dsn, "select count(*) from webhook_dlq where status = 'reprocessed'") == 2
    assert run("--dsn", dsn, "health").code == 0
    assert run("--dsn", dsn, "pause", "shop", "--reason", "deploying").code == 0
    assert run("--dsn", dsn, "resume", "shop").code == 0
    assert run("--dsn", dsn, "endpoints", "remove", "shop").code == 0


def test_installed_and_repaired_it_does_not_differ(project: Cluster) -> None:
    do(project.dsn(user=ADMIN), "revoke execute on function public.dlq_health() from service_role")
    words = ["--dsn", project.dsn(), "migrate", "--net-worker", *([] if project.has_pg_cron else ["--no-cron"])]

    assert run(*words, "--check").out.splitlines() == ["grants"]
    assert run(*words).code == 0
    found = run(*words, "--check")
    assert (found.code, found.err) == (0, "nothing differs\n")


def test_the_service_key_processes_over_rpc(service_key: Cluster) -> None:
    answer = call(service_key, "service_role", "process_dlq_entries")

    assert answer["status"] == "ok"


def test_the_service_key_asks_for_health_over_rpc(service_key: Cluster) -> None:
    with over_http(service_key, "service_role") as conn:
        conn.execute("insert into webhook_dlq (service, payload) values ('shop', '{}')")
        row = conn.execute("select result from public.dlq_health() as result").fetchone()
        conn.rollback()

    assert row is not None
    assert row[0]["service"] == "dlq-processor"
    assert row[0]["status"] in ("healthy", "degraded", "unhealthy")
    assert {"total", "pending", "processing", "reprocessed", "failed"} <= row[0]["stats"].keys()
    assert row[0]["stats"]["pending"] == 1


def test_the_service_key_reads_and_writes_the_queue(service_key: Cluster) -> None:
    """As supabase-js does with .from('webhook_dlq'): row level security shows it every row."""
    with over_http(service_key, "service_role") as conn:
        (stored,) = conn.execute("select store_dlq_entry('shop', '{\"n\": 2}')").fetchone() or (None,)
        update = "update webhook_dlq set status = 'discarded' where id = %s returning status"
        assert conn.execute(update, (stored,)).fetchone() == ("discarded",)
        assert conn.execute("delete from webhook_dlq where id = %s", (stored,)).rowcount == 1
        assert conn.execute("select from dlq_processing_log limit 1").rowcount == 1
        conn.rollback()


def test_service_role_has_what_dlq_admin_has_and_nothing_else(project: Cluster) -> None:
    def rights(role: str) -> object:
        return ask(
            project.dsn(),
            f"""
            select array_agg(o.what || ' ' || a.privilege_type order by 1)
            from (
              select oid::regclass::text as what, relacl as acl from pg_class where relowner = 'dlq_owner'::regrole
              union all
              select oid::regprocedure::text, proacl from pg_proc where proowner = 'dlq_owner'::regrole
              union all
              select nspname, nspacl from pg_namespace where nspowner = 'dlq_owner'::regrole
            ) as o cross join lateral aclexplode(o.acl) as a
            where a.grantee = '{role}'::regrole
            """,
        )

    assert rights("dlq_admin") is not None
    assert rights("service_role") == rights("dlq_admin")
    assert ask(project.dsn(), "select pg_has_role('service_role', 'dlq_owner', 'member')") is False


@pytest.mark.parametrize(
    "request_",
    [
        "select public.process_dlq_entries()",
        "select public.dlq_health()",
        "select public.store_dlq_entry('shop', '{}')",
        "select id from public.webhook_dlq",
        "insert into public.webhook_dlq (service, payload) values ('shop', '{}')",
        "update public.webhook_dlq set status = 'pending'",
        "delete from public.webhook_dlq",
        "select id from public.dlq_processing_log",
        "select * from dlq.health",
    ],
)
def test_the_public_key_is_refused(project: Cluster, request_: str) -> None:
    """What a signed-in user gets, with the admin claim and without: tests/security/."""
    with over_http(project, "anon") as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(request_.encode())


def test_nothing_of_ours_is_granted_to_the_public_key(project: Cluster) -> None:
    """Whatever is added later: no right on anything of dlq_owner's, by default privileges or otherwise."""
    found = ask(
        project.dsn(),
        """
        select count(*)
        from (
          select relacl as acl from pg_class where relowner = 'dlq_owner'::regrole
          union all
          select coalesce(proacl, acldefault('f', proowner)) from pg_proc where proowner = 'dlq_owner'::regrole
        ) as o cross join lateral aclexplode(o.acl) as a
        where a.grantee in (0, 'anon'::regrole)
        """,
    )
    assert found == 0


def test_postgrest_is_told_to_read_the_schema_again(project: Cluster) -> None:
    do(project.dsn(), "drop function public.dlq_health()")
    with psycopg.connect(project.dsn(), autocommit=True) as listener:
        listener.execute("listen pgrst")
        migrate(project.dsn(), cron=False, net_worker=True)
        assert [n.payload for n in listener.notifies(timeout=10, stop_after=1)] == ["reload schema"]


def rows(project: Cluster, query: str) -> set[tuple[str, ...]]:
    with psycopg.connect(project.dsn(user=ADMIN)) as conn:
        return {tuple(map(str, row)) for row in conn.execute(query.encode())}


# What Supabase's linter looks for, in our own words, and what of it there is on purpose.


def test_linter_every_function_fixes_its_search_path(project: Cluster) -> None:
    """But those that the planner inlines, or that a set clause would double in cost, and the procedure that commits.

    None of them has more than its caller's rights.
    """
    found = rows(
        project,
        """
        select oid::regproc::text, prosecdef from pg_proc
        where proowner = 'dlq_owner'::regrole
          and not exists (select from unnest(proconfig) as c where c = 'search_path=pg_catalog, pg_temp')
        """,
    )
    on_purpose = (
        "dlq._now",
        "dlq._route",
        "dlq._body",
        "dlq._replayable",
        "dlq._is_endpoints_fault",
        "dlq._judge_answer",
        "dlq._severity_rank",
        "dlq._hmac_sha256",
        "dlq._element_names",
        "dlq._may_be_unwritable",
        "dlq._may_name_an_entry",
        "dlq.run_cycle",
        "dlq.maintain",
    )
    assert found == {(name, "False") for name in on_purpose}


def test_linter_every_table_is_under_row_level_security_and_has_policies(project: Cluster) -> None:
    ours = "pg_class where relowner = 'dlq_owner'::regrole and relkind = 'r' and relnamespace <> 'net'::regnamespace"
    assert rows(project, f"select relname from {ours} and not relrowsecurity") == set()
    without = rows(
        project, f"select relname from {ours} and not exists (select from pg_policy where polrelid = pg_class.oid)"
    )
    assert without == {("alembic_version",), ("audit_key",), ("secrets",)}  # which are dlq_owner's alone


def test_linter_no_view_in_public_runs_with_its_owners_rights(project: Cluster) -> None:
    found = "select relname from pg_class where relkind = 'v' and relnamespace = 'public'::regnamespace"
    assert rows(project, f"{found} and relowner = 'dlq_owner'::regrole") == set()


def test_linter_every_foreign_key_has_an_index(project: Cluster) -> None:
    found = """
        select k.conname from pg_constraint as k join pg_class as c on c.oid = k.conrelid
        where k.contype = 'f' and c.relowner = 'dlq_owner'::regrole
          and not exists (
            select from pg_index as i
            where i.indrelid = c.oid and (i.indkey::smallint[])[0:cardinality(k.conkey) - 1] = k.conkey)
    """
    assert rows(project, found) == set()


def test_linter_a_policy_names_its_roles_and_looks_a_claim_up_once(project: Cluster) -> None:
    found = """
        select p.polname, c.relname from pg_policy as p join pg_class as c on c.oid = p.polrelid
        where c.relowner = 'dlq_owner'::regrole
          and (p.polroles = '{0}'
            or regexp_replace(concat(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)),
              'select (auth\\.|current_setting)', '', 'gi') ~* '(auth\\.\\w+|current_setting)\\(')
    """
    assert rows(project, found) == set()


def test_linter_one_policy_for_each_role_and_verb(project: Cluster) -> None:
    found = """
        select c.relname, r.role::regrole, v.verb
        from pg_policy as p
          join pg_class as c on c.oid = p.polrelid
          cross join unnest(p.polroles) as r (role)
          cross join unnest(case p.polcmd when '*' then '{r,a,w,d}' else array[p.polcmd::text] end) as v (verb)
        where c.relowner = 'dlq_owner'::regrole and p.polpermissive
        group by 1, 2, 3
        having count(*) > 1
    """
    assert rows(project, found) == set()


def test_linter_no_extension_is_in_public(project: Cluster) -> None:
    assert rows(project, "select extname from pg_extension where extnamespace = 'public'::regnamespace") == set()


@pytest.mark.skipif(not _PAGE.exists(), reason="not in a checkout")
def test_every_command_of_the_page_works(
    project: Cluster, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```sh\n(.*?)```", _PAGE.read_text().replace("\\\n", ""), re.S)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines() if line.startswith("dlqctl ")]
    assert len(commands) == 8
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the app's secret\n")))
    with net_worker(project.dsn()):
        for words in commands:
            if words[0] == "migrate":
                words += ["--net-worker"] if project.has_pg_cron else ["--net-worker", "--no-cron"]
            if words[:2] == ["endpoints", "set"]:
                words[3] = receiver.url("{service}" if words[2] == "*" else words[2])
                words += ["--allow-http", "--allow-private"]
            if words[0] == "secrets":
                words = words[: words.index("<")]
            if words[0] != "verify-cron" or project.has_pg_cron:
                done = run("--dsn", project.dsn(), *words)
                assert done.code == 0, (words, done)
    (tried,) = receiver.requests
    assert tried.service == "whatsapp"
    verify_hub(tried.body, dict(tried.headers), ["the app's secret"])
    do(project.dsn(), "delete from dlq.endpoints")


@pytest.mark.pg_net
def test_the_real_pg_net_sends_for_it_however_it_was_installed(receiver: Receiver, tmp_path: Path) -> None:
    if not find_server().has_pg_net:
        pytest.skip(f"pg_net is not installed for PostgreSQL {find_server().major}")
    receiver.behave("shop", ok())
    with supabase_like(pg_net=True) as project:
        dsn, cron = project.dsn(), project.has_pg_cron
        for install in ("export", "migrate"):
            if install == "migrate":
                forget_dlqctl(project)
                migrate(dsn, cron=cron)
            for path in export_supabase(tmp_path / install, cron=cron):
                do(dsn, path.read_text())
            assert migrate(dsn, cron=cron, check=True).changed == []
            assert (
                run(
                    "--dsn", dsn, "endpoints", "set", "shop", receiver.url("shop"), "--allow-http", "--allow-private"
                ).code
                == 0
            )
            assert run("--dsn", dsn, "endpoints", "test", "shop").code == 0
    assert len(receiver.requests) == 2


def test_pg_cron_runs_the_job_as_postgres(project: Cluster) -> None:
    """Near the end, because it waits for the minute."""
    if not project.has_pg_cron:
        pytest.skip("pg_cron is not installed")
    dsn = project.dsn()
    assert ask(dsn, "select array_agg(username) from cron.job") == ["postgres"] * 3

    done = "select status from cron.job_run_details where status in ('succeeded', 'failed')"
    assert wait_for(dsn, done, timeout=90) == "succeeded"

    found = run("--dsn", dsn, "verify-cron")
    assert found.code == 0, found.out
    assert "owner postgres" in found.out
    do(dsn, "select dlq.unschedule_jobs()")
    assert ask(dsn, "select count(*) from cron.job") == 0
