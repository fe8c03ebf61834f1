"""Which database is meant, and what is said when there is none."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from dlqctl.cluster import Cluster
from dlqctl.connection import connect, refuse_transaction_pooler, resolve_dsn
from dlqctl.errors import CannotConnect, DlqctlError, UsageError
from dlqctl.migrate import migrate


@pytest.fixture(autouse=True)
def _no_database_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DLQCTL_DATABASE_URL", "DATABASE_URL", "PGAPPNAME", "PGCONNECT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_given_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql:///from_database_url")
    assert conninfo_to_dict(resolve_dsn(None))["dbname"] == "from_database_url"
    monkeypatch.setenv("DLQCTL_DATABASE_URL", "postgresql:///from_dlqctl_database_url")
    assert conninfo_to_dict(resolve_dsn(None))["dbname"] == "from_dlqctl_database_url"
    assert conninfo_to_dict(resolve_dsn("dbname=given"))["dbname"] == "given"


def test_without_any_everything_is_left_to_libpq() -> None:
    assert resolve_dsn(None) == ""


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_the_scheme_is_understood(scheme: str) -> None:
    found = conninfo_to_dict(resolve_dsn(f"{scheme}://me:secret@db.example:5433/app?sslmode=require"))
    assert found == {
        "user": "me",
        "password": "secret",
        "host": "db.example",
        "port": "5433",
        "dbname": "app",
        "sslmode": "require",
    }


def test_a_string_that_cannot_be_parsed_is_a_usage_error_without_the_password() -> None:
    with pytest.raises(UsageError) as caught:
        resolve_dsn("postgresql://me:hunter2@[broken/app")
    assert caught.value.exit_code == 2
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


def test_an_unreachable_database_is_said_in_one_line_without_the_password() -> None:
    with pytest.raises(CannotConnect) as caught:
        connect("postgresql://me:hunter2@/app?host=/nonexistent")
    assert caught.value.exit_code == 3
    assert "\n" not in caught.value.message
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


def test_a_database_that_does_not_exist_is_said_in_one_line(cluster: Cluster) -> None:
    with pytest.raises(CannotConnect, match="no_such_database") as caught:
        connect(cluster.dsn("no_such_database"))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("own", ["", " application_name=mine"])
def test_the_session_is_named_dlqctl_unless_it_has_a_name(cluster: Cluster, own: str) -> None:
    with connect(cluster.dsn() + own) as conn:
        row = conn.execute("select current_setting('application_name')").fetchone()
    assert row == ("mine" if own else "dlqctl",)


def test_the_name_in_the_environment_is_kept(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGAPPNAME", "from the environment")
    with connect(cluster.dsn()) as conn:
        assert conn.execute("select current_setting('application_name')").fetchone() == ("from the environment",)


@pytest.mark.parametrize("host", ["aws-0-eu-central-1.pooler.supabase.com", "db.abcdefghijklmnopqrst.supabase.co"])
def test_supabases_transaction_pooler_is_refused_by_migrate_without_a_connection(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psycopg, "connect", lambda *_, **__: pytest.fail("it connects"))

    for dsn in (f"postgresql://postgres.abc:secret@{host}:6543/postgres", f"host={host} port=6543"):
        with pytest.raises(DlqctlError) as refused:
            migrate(dsn)
        assert refused.value.message == f"{host}:6543 is Supabase's transaction pooler, where no session is kept"
        assert str(refused.value.hint).startswith("take port 5432 of the same host")
    monkeypatch.setenv("PGHOST", host)
    monkeypatch.setenv("PGPORT", "6543")
    with pytest.raises(DlqctlError, match="transaction pooler"):
        refuse_transaction_pooler(None)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://postgres.abc@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
        "host=db.abc.supabase.co",
        "host=localhost port=6543",
        "host=supabase.com.example port=6543",
    ],
)
def test_no_other_address_is_taken_for_supabases_transaction_pooler(dsn: str) -> None:
    refuse_transaction_pooler(dsn)


@pytest.mark.parametrize(
    ("said", "helps"),
    [
        ("failed to resolve host 'db.abc.supabase.co': [Errno -5] No address associated with hostname", True),
        ('connection failed: connection to server at "2a05:d014::1", port 5432 failed: Network is unreachable', True),
        ("connection timeout expired", True),
        ('connection failed: FATAL:  password authentication failed for user "postgres"', False),
    ],
)
def test_a_direct_host_of_supabase_that_is_not_reached_is_explained(
    said: str, helps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise psycopg.OperationalError(said)

    monkeypatch.setattr(psycopg, "connect", fail)

    with pytest.raises(CannotConnect) as refused:
        connect("postgresql://postgres:secret@db.abc.supabase.co:5432/postgres")

    assert refused.value.message == f"cannot connect: {' '.join(said.split())}"
    assert ("user postgres.abc" in str(refused.value.hint)) == helps
    assert "secret" not in f"{refused.value.message} {refused.value.hint}"


def test_what_the_pooler_says_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise psycopg.OperationalError("connection failed: FATAL:  Tenant or user not found")

    monkeypatch.setattr(psycopg, "connect", fail)

    with pytest.raises(CannotConnect) as refused:
        connect("postgresql://postgres@aws-0-eu-central-1.pooler.supabase.com:5432/postgres")

    assert refused.value.message == "cannot connect: connection failed: FATAL: Tenant or user not found"
    assert str(refused.value.hint).startswith("check --dsn")
