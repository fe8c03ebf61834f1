"""Which database is meant, and what is said when there is none."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from dlqctl.cluster import Cluster
from dlqctl.connection import connect, resolve_dsn
from dlqctl.errors import CannotConnect, UsageError


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
