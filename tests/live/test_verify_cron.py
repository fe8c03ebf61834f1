"""`dlqctl verify-cron` and migrate's schedule, on a server with pg_cron: each thing that can be wrong is found."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from click.testing import CliRunner

from dlqctl.cli import cli
from dlqctl.cluster import Cluster, start_cluster
from dlqctl.migrate import migrate

JOBS = {"cron job process-dlq-entries", "cron job dlq-maintain", "cron job dlq-alerts"}


@pytest.fixture(scope="module")
def cron_cluster() -> Iterator[Cluster]:
    """A server whose pg_cron connects over the socket's folder, as pg_cron does by default."""
    with start_cluster(pg_net=False) as cluster:
        if not cluster.has_pg_cron:
            pytest.skip("pg_cron is not installed")
        migrate(cluster.dsn(), net_worker=True)
        yield cluster


@pytest.fixture
def conn(cron_cluster: Cluster) -> Iterator[psycopg.Connection]:
    """A superuser's connection; afterwards the schedule is as it should be."""
    with psycopg.connect(cron_cluster.dsn(), autocommit=True) as conn:
        conn.execute("call dlq.run_cycle()")
        yield conn
        conn.execute("reset role")
        conn.execute("select cron.unschedule(jobid) from cron.job where username <> 'postgres' or jobname = 'other'")
        conn.execute("alter role postgres reset statement_timeout")
        conn.execute("select dlq.schedule_jobs()")


def _verify(cluster: Cluster, dsn: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["verify-cron", "--dsn", dsn or cluster.dsn(), "--format", "csv"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def test_a_schedule_that_is_in_order_passes(cron_cluster: Cluster, conn: psycopg.Connection) -> None:
    code, said = _verify(cron_cluster)
    assert code == 0, said
    assert "error" not in said
    for check in (
        "extension", "database", "owner postgres", "processor", "retention",
        "job process-dlq-entries", "job dlq-maintain", "job dlq-alerts",
        "last run of process-dlq-entries", "last run of dlq-maintain", "last run of dlq-alerts",
    ):  # fmt: skip
        assert f"\n{check}," in f"\n{said}"


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("select cron.alter_job(jobid, active => false) from cron.job", "switched off"),
        ("select cron.alter_job(jobid, schedule => '0 0 1 1 *') from cron.job", "0 0 1 1 *"),
        ("select cron.alter_job(jobid, command => 'select 1') from cron.job", "select 1"),
        ("update cron.job set database = 'gone'", "database gone"),
        ("select cron.unschedule(jobid) from cron.job", "is not scheduled"),
    ],
)
def test_a_job_that_is_not_as_it_should_be_is_found_and_migrate_repairs_it(
    cron_cluster: Cluster, conn: psycopg.Connection, fault: str, finding: str
) -> None:
    conn.execute(fault.encode())
    code, said = _verify(cron_cluster)
    assert code == 1
    assert finding in said
    assert "dlqctl migrate" in said
    assert set(migrate(cron_cluster.dsn(), net_worker=True, check=True).changed) == JOBS
    assert set(migrate(cron_cluster.dsn(), net_worker=True).changed) == JOBS
    code, said = _verify(cron_cluster)
    assert code == 0, said
    assert migrate(cron_cluster.dsn(), net_worker=True).changed == []


def test_the_same_job_of_another_user_is_found(cron_cluster: Cluster, conn: psycopg.Connection) -> None:
    conn.execute("create role second login superuser")
    conn.execute("set role second")
    conn.execute("select cron.schedule('process-dlq-entries', '*/5 * * * *', 'call dlq.run_cycle()')")
    conn.execute("reset role")
    code, said = _verify(cron_cluster)
    assert code == 1
    assert "scheduled 2 times" in said
    conn.execute("select cron.unschedule(jobid) from cron.job where username = 'second'")
    conn.execute("drop role second")


def test_another_job_that_calls_the_processor_is_found(cron_cluster: Cluster, conn: psycopg.Connection) -> None:
    conn.execute("select cron.schedule('other', '* * * * *', 'select process_dlq_entries()')")
    code, said = _verify(cron_cluster)
    assert code == 1
    assert "also calls the processor" in said


def test_an_owner_who_may_not_run_the_job_is_found(cron_cluster: Cluster, conn: psycopg.Connection) -> None:
    conn.execute("create role weak login")
    conn.execute("update cron.job set username = 'weak'")
    code, said = _verify(cron_cluster)
    assert code == 1
    assert "grant dlq_admin to weak" in said
    conn.execute("select cron.unschedule(jobid) from cron.job")
    conn.execute("drop role weak")


def test_a_short_statement_timeout_of_the_owner_is_found(cron_cluster: Cluster, conn: psycopg.Connection) -> None:
    conn.execute("alter role postgres set statement_timeout = '3s'")
    code, said = _verify(cron_cluster)
    assert code == 0
    assert "statement_timeout = 3s" in said


def test_maintenance_that_has_not_run_for_two_days_is_found(cron_cluster: Cluster, conn: psycopg.Connection) -> None:
    conn.execute("update dlq.settings set installed_at = now() - interval '49 hours'")
    code, said = _verify(cron_cluster)
    conn.execute("update dlq.settings set installed_at = now()")
    assert (code, "retention,warning" in said) == (0, True)


# By runid: whose job, in this database, command, days ago, or null: it could not begin; and whether it goes.
HISTORY = [
    ("ours", True, "call dlq.run_cycle()", 41, True),
    ("gone", True, "call dlq.run_cycle()", 40, True),  # scheduled anew, it has another id
    ("theirs", True, "call dlq.run_cycle()", 40, False),
    ("theirs", True, "select 1", 40, False),
    ("ours", False, "call dlq.run_cycle()", 40, False),
    ("ours", True, "call dlq.maintain()", None, True),
    ("ours", True, "call dlq.run_cycle()", 30, True),
    ("ours", True, "call dlq.run_cycle()", 29, False),
    ("ours", True, "call dlq.run_cycle()", None, False),
]


def test_maintenance_removes_our_old_rows_of_pg_crons_history_and_no_others(
    cron_cluster: Cluster, conn: psycopg.Connection
) -> None:
    conn.execute("create role keeper login in role dlq_admin")
    conn.execute("grant usage on schema cron to keeper")
    conn.execute("select cron.schedule('other', '0 0 1 1 *', 'call dlq.run_cycle()')")
    ids: dict[str, int] = dict(conn.execute("select jobname, jobid from cron.job").fetchall())
    jobs = {"ours": ids["process-dlq-entries"], "theirs": ids["other"], "gone": 999_999}
    rows = "select runid from cron.job_run_details where runid < 0 and username = %s order by runid"

    def ran(user: str, number: int) -> None:
        job, here, command, days, _ = HISTORY[number]
        conn.execute(
            "insert into cron.job_run_details (jobid, runid, database, username, command, status, start_time)"
            " values (%s, %s, %s, %s, %s, 'failed', now() - %s * interval '1 day')",
            (jobs[job], number - 100, "dlq" if here else "postgres", user, command, days),
        )

    def left(user: str) -> list[int]:
        return [runid + 100 for (runid,) in conn.execute(rows.encode(), (user,))]

    stay = [number for number, (*_, goes) in enumerate(HISTORY) if not goes]
    try:
        for number in range(len(HISTORY)):
            ran("postgres", number)
        with psycopg.connect(cron_cluster.dsn(user="keeper"), autocommit=True) as keeper:
            keeper.execute("call dlq.maintain()")  # pg_cron shows it its own rows alone, and it has none
        assert left("postgres") == list(range(len(HISTORY)))
        conn.execute("call dlq.maintain()")
        assert left("postgres") == stay

        conn.execute("delete from cron.job_run_details where runid < 0")
        ran("keeper", 1)
        with psycopg.connect(cron_cluster.dsn(user="keeper"), autocommit=True) as keeper:
            keeper.execute("call dlq.maintain()")
        assert left("keeper") == []
        counts = conn.execute("select cron_runs from dlq.maintenance_log order by id desc limit 3").fetchall()
        assert counts == [(1,), (4,), (0,)]

        conn.execute("revoke delete on cron.job_run_details from public")
        with psycopg.connect(cron_cluster.dsn(user="keeper"), autocommit=True) as keeper:
            keeper.execute("call dlq.maintain()")
        last = conn.execute("select status, cron_runs from dlq.maintenance_log order by id desc limit 1").fetchone()
        assert last == ("ok", None)
    finally:
        conn.execute("grant delete on cron.job_run_details to public")
        conn.execute("delete from cron.job_run_details where runid < 0")
        conn.execute("drop owned by keeper")
        conn.execute("drop role keeper")


def test_a_silent_processor_is_found(cron_cluster: Cluster, conn: psycopg.Connection) -> None:
    conn.execute("update dlq_processing_log set processed_at = processed_at - interval '11 minutes'")
    code, said = _verify(cron_cluster)
    assert code == 1
    assert "processor,error" in said


def test_a_role_that_cannot_see_the_job_is_told_so(cron_cluster: Cluster, conn: psycopg.Connection) -> None:
    conn.execute("create role onlooker login in role dlq_reader")
    conn.execute("grant usage on schema cron to onlooker")
    code, said = _verify(cron_cluster, cron_cluster.dsn(user="onlooker"))
    assert code == 1
    assert "cannot see the jobs of others" in said
    conn.execute("drop owned by onlooker")
    conn.execute("drop role onlooker")


def test_a_job_of_that_name_for_another_database_is_nobody_s_business_here(
    cron_cluster: Cluster, conn: psycopg.Connection
) -> None:
    conn.execute("update cron.job set database = 'postgres'")
    conn.execute("select dlq.schedule_jobs()")
    code, said = _verify(cron_cluster)
    assert code == 0, said
    for job in ("process-dlq-entries@dlq", "dlq-maintain@dlq", "dlq-alerts@dlq"):
        assert f"job {job},ok" in said
        conn.execute("select cron.unschedule(%s)", (job,))
    conn.execute("update cron.job set database = 'dlq'")
