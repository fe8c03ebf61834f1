"""README.md, In five minutes: each of the three paths as it stands there, from a server to a retried webhook."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dlqctl.cluster import Cluster, find_server, start_cluster
from tests import edge
from tests.pages.conftest import run
from tests.pages.pages import IS_CHECKOUT, blocks_in, commands
from tests.supabase import ADMIN, free_port, supabase_like

pytestmark = [
    pytest.mark.skipif(not IS_CHECKOUT, reason="not in a checkout"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]

SECTION = "README.md#in-five-minutes"
DEBIAN, COMMON, MANAGED, SUPABASE = blocks_in(SECTION, "sh") if IS_CHECKOUT else ("", "", "", "")
PROJECT = "abcdefghijklmnopqrst"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the page's handler.py in it, on a free port."""
    (handler,) = blocks_in(SECTION, "python")
    (tmp_path / "port").write_text(str(free_port()))
    (tmp_path / "handler.py").write_text(on_port(handler, tmp_path))
    return tmp_path


def on_port(text: str, folder: Path) -> str:
    assert "8080" in text
    return text.replace("8080", (folder / "port").read_text())


def in_one_go(script: str) -> str:
    """A script in which ID is the entry that was stored, and which ends what it has started."""
    script = script.replace("ID", "$(dlqctl list --format csv | sed -n '2s/,.*//p')")
    return f"trap 'kill $(jobs -p) || true' EXIT\n{script}"


def was_retried(done: subprocess.CompletedProcess[str], service: str = "shop") -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout[done.stdout.index("what happened") :]
    assert f"a failed webhook of {service}" in shown
    assert re.search(r"retry +by \w+: there is stock", shown)
    assert re.search(r"attempt 1 +delivered, HTTP 200", shown)


def test_on_debian(folder: Path) -> None:
    """After what installs: that is .ci/run's, which installs the wheel."""
    installed = [command.split()[0] for command in commands(DEBIAN)]
    assert installed == ["sudo", "python3", ".", "pip", "dlqctl"]
    *_, start = commands(DEBIAN)
    assert start.strip() == "dlqctl sandbox -- bash"
    script = in_one_go(on_port(COMMON, folder))

    done = run(f"{start.strip()} -euc {shlex.quote(script)}", folder, {**os.environ})

    was_retried(done)


@pytest.fixture
def managed() -> Iterator[Cluster]:
    """A server without pg_net, and with a database `app` whose owner has CREATEROLE and is no superuser."""
    with start_cluster(pg_net=False, settings={"cron.database_name": "postgres"}) as cluster:
        with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as conn:
            conn.execute("create role app login createrole")
            conn.execute("create database app owner app")
        yield cluster


def test_on_a_managed_server(managed: Cluster, folder: Path) -> None:
    url = managed.url("app", user="app")
    assert "postgresql://app@db.example.com/app" in MANAGED
    script = MANAGED.replace("postgresql://app@db.example.com/app", shlex.quote(url)) + on_port(COMMON, folder)

    was_retried(run(in_one_go(script), folder, {**os.environ}))


@pytest.mark.parametrize("sender", ["net-worker", pytest.param("pg_net", marks=pytest.mark.pg_net)])
def test_on_a_stand_in_for_supabase(sender: str, tmp_path: Path) -> None:
    """Its roles and rights are emulated (tests/supabase.py), so is PostgREST; `supabase` is what deno runs."""
    use_pg_net = sender == "pg_net"
    if use_pg_net and not find_server().has_pg_net:
        pytest.skip(f"pg_net is not installed for PostgreSQL {find_server().major}")
    (function,) = blocks_in("docs/handlers.md#as-an-edge-function", "ts")
    (tmp_path / "index.ts").write_text(function)
    port = free_port()
    script = SUPABASE.partition("\n")[2]
    script = script.replace(f"https://{PROJECT}.supabase.co/functions/v1/shop", f"http://127.0.0.1:{port}/")
    script = script.replace("endpoints set", "endpoints set --allow-http --allow-private")
    script = script.replace("supabase functions deploy shop --no-verify-jwt\n", "")
    until_it_failed, secret, rest = script.partition("supabase secrets set STOCK=1\n")
    assert secret
    assert "supabase" not in until_it_failed + rest
    mend = "".join(list(commands(COMMON))[-3:])
    with supabase_like(pg_net=use_pg_net) as project, contextlib.ExitStack() as stack:
        with psycopg.connect(project.dsn(user=ADMIN)) as conn:
            conn.execute("create role postgrest login inherit in role service_role")
        door = stack.enter_context(edge.open_door(project.dsn(user="postgrest")))
        if not use_pg_net:
            cron = "" if project.has_pg_cron else " --no-cron"
            until_it_failed = until_it_failed.replace("dlqctl migrate\n", f"dlqctl migrate --net-worker{cron}\n")
            mend = f"dlqctl net-worker &\n{mend}"
        env = {**os.environ, "DATABASE_URL": project.dsn()}
        keys = {"SUPABASE_URL": door.url, "SUPABASE_SERVICE_ROLE_KEY": edge.SERVICE_KEY}

        with edge.serve(tmp_path, keys, port):
            failed = run(until_it_failed, tmp_path, env)
        assert failed.returncode == 0, failed.stdout + failed.stderr
        with edge.serve(tmp_path, {**keys, "STOCK": "1"}, port):
            was_retried(run(in_one_go(rest + mend), tmp_path, env))
