"""Prometheus' own programs, where they are installed, with the files of monitoring/."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from dlqctl.bundle import ROOT
from dlqctl.cluster import loopback_is_direct
from dlqctl.sandbox import Sandbox

MONITORING = ROOT / "monitoring"


def program(name: str, package: str) -> str:
    """The path of a program; skips where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian's package {package})")
    return path


def promtool() -> str:
    return program("promtool", "prometheus")


@contextmanager
def scraping(box: Sandbox, folder: Path) -> Iterator[str]:
    """Run Debian's sql_exporter and a Prometheus that scrapes it, as the files say but every second; yield its URL."""
    exporter, url = (f"localhost:{_free_port()}" for _ in range(2))
    for name, intervals in (("sql_exporter/sql_exporter.yml", 1), ("prometheus/prometheus.yml", 2)):
        text = (MONITORING / name).read_text()
        assert text.count("30s") == intervals
        (folder / Path(name).name).write_text(text.replace("30s", "1s").replace("localhost:9237", exporter))
    assert exporter in (folder / "prometheus.yml").read_text()
    shutil.copy(MONITORING / "prometheus" / "rules.yml", folder)
    run_exporter = [program("prometheus-sql-exporter", "prometheus-sql-exporter")]
    run_exporter += ["-config.file", "sql_exporter.yml", "-web.listen-address", exporter]
    run_prometheus = [program("prometheus", "prometheus"), "--config.file=prometheus.yml"]
    run_prometheus += ["--storage.tsdb.path=data", f"--web.listen-address={url}"]
    with psycopg.connect(box.dsn) as conn:
        conn.execute("create role dlq_exporter login in role dlq_reader")
    dsn = box.cluster.url(user="dlq_exporter").replace("postgresql://", "postgres://") + "&sslmode=disable"
    with _running(run_exporter, folder, DLQ_EXPORTER_URL=dsn), _running(run_prometheus, folder):
        yield f"http://{url}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _running(words: list[str], folder: Path, **environment: str) -> Iterator[None]:
    """Run a program until the block ends. What it says is in its log in `folder`."""
    with (folder / f"{Path(words[0]).name}.log").open("ab") as log:
        env = {**os.environ, **loopback_is_direct(), **environment}
        process = subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)
