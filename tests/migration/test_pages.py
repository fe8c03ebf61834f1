"""The commands of the pages about leaving, copying and managed servers are typed as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dlqctl.bundle import ROOT
from dlqctl.cluster import Cluster
from dlqctl.migrate import migrate
from tests.migration.migrating import ask, do, let_use_our_roles, program

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="not in a checkout")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.M | re.S)


def type_(text: str, cluster: Cluster, database: str, folder: Path) -> None:
    """Run commands in a shell that knows the server, its programs and this dlqctl."""
    (folder / "dlqctl").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dlqctl "$@"\n')
    (folder / "dlqctl").chmod(0o755)
    path = f"{folder}:{program('pg_dump').parent}:{os.environ['PATH']}"
    env = {**os.environ, **cluster.env(), "PGDATABASE": database, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-ec", text], cwd=folder, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"


def test_copies_and_restores(cluster: Cluster, template: str, tmp_path: Path) -> None:
    do(cluster.dsn("postgres"), f"create database production template {template}")
    do(
        cluster.dsn("production"),
        "select dlq.set_endpoint('shop', 'https://handler.example/')",
        "update dlq.settings set installed_at = now()",  # the template may be old
    )
    dump_and_restore, take_over = blocks("copies-and-restores.md", "sh")
    make_a_copy, compare = blocks("copies-and-restores.md", "sql")
    restored = cluster.dsn("restored")
    try:
        type_(dump_and_restore, cluster, "postgres", tmp_path)
        assert ask(restored, "select dlq._is_production()") is False

        type_(take_over, cluster, "postgres", tmp_path)
        assert ask(restored, "select dlq._is_production()") is True

        do(restored, make_a_copy)
        assert ask(restored, "select dlq._is_production()") is False
        do(restored, compare)
    finally:
        for name in ("production", "restored"):
            do(cluster.dsn("postgres"), f"drop database if exists {name} with (force)")


def test_uninstall(cluster: Cluster, empty_database: str, tmp_path: Path) -> None:
    migrate(empty_database, cron=False, net_worker=True)
    name = str(ask(empty_database, "select current_database()"))

    check, yes = (block.replace("uninstall", "uninstall --no-cron") for block in blocks("uninstall.md", "sh"))

    type_(check, cluster, name, tmp_path)
    assert ask(empty_database, "select to_regclass('webhook_dlq') is not null") is True
    type_(yes, cluster, name, tmp_path)
    assert ask(empty_database, "select to_regclass('webhook_dlq') is not null") is False


def test_managed_servers(_cron_cluster: Cluster, cron_database: str, tmp_path: Path) -> None:  # noqa: PT019
    do(cron_database, "create database shop template template0", "create role keeper login createrole")
    do(cron_database, "alter database shop owner to keeper")
    let_use_our_roles(cron_database, "keeper")
    (migrate_and_verify,) = blocks("managed-servers.md", "sh")
    (grants,) = (block.replace("deployer", "keeper") for block in blocks("managed-servers.md", "sql"))
    try:
        do(cron_database, *filter(str.strip, grants.split(";")))
        words = migrate_and_verify.replace("dbname=postgres", "dbname=dlq")
        type_(f"export PGUSER=keeper\n{words}", _cron_cluster, "shop", tmp_path)
        assert ask(cron_database, "select array_agg(username) from cron.job") == ["keeper", "keeper", "keeper"]
    finally:
        do(cron_database, "drop extension pg_cron", "drop owned by keeper")
        do(cron_database, "drop database shop with (force)", "drop role keeper")
