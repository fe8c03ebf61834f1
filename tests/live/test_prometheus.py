"""The files of monitoring/, as Prometheus' own programs take them: its rules, and Debian's sql_exporter scraped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from dlqctl.bundle import ROOT
from dlqctl.sandbox import Sandbox, command_env, sandbox
from tests.monitoring import promtool, scraping

MONITORING = ROOT / "monitoring"
PAGE = ROOT / "docs" / "monitoring.md"
RULES = MONITORING / "prometheus" / "rules.yml"
pytestmark = pytest.mark.skipif(not MONITORING.exists(), reason="not in a checkout")

Sample = tuple[str, tuple[tuple[str, str], ...]]


def _promtool(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([promtool(), *words], cwd=cwd, capture_output=True, text=True, check=False)


def test_promtool_takes_the_rules_and_the_configuration() -> None:
    for words in (("check", "rules", "rules.yml"), ("check", "config", "prometheus.yml")):
        done = _promtool(*words, cwd=RULES.parent)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_silent_at_their_thresholds_and_speak_past_them() -> None:
    done = _promtool("test", "rules", "rules_test.yml", cwd=RULES.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("edit", sorted(set(re.findall(r" (?:> \d+|== \d|for: \w+)", RULES.read_text()))))
def test_no_threshold_can_be_moved_without_a_test_that_notices(edit: str, tmp_path: Path) -> None:
    moved = {"> ": lambda n: f" > {int(n) - 1}", "==": lambda n: f" != {n}", "fo": lambda n: f" for: 1{n}"}
    change = moved[edit.strip()[:2]](edit.split()[-1])
    text = RULES.read_text()
    for found in re.finditer(re.escape(edit) + r"\b", text):
        (tmp_path / "rules.yml").write_text(text[: found.start()] + change + text[found.end() :])
        (tmp_path / "rules_test.yml").write_text((RULES.parent / "rules_test.yml").read_text())
        done = _promtool("test", "rules", "rules_test.yml", cwd=tmp_path)
        assert done.returncode != 0, f"nobody noticed {change!r} at {text[: found.start()].count(chr(10)) + 1}"


def test_there_is_a_rule_for_each_line_of_health_that_is_somebodys_to_mend(box: Sandbox) -> None:
    alerts = {name.lower() for name in re.findall(r"alert: Dlq(\w+)", RULES.read_text())}
    with psycopg.connect(box.dsn) as conn:
        lines = {name for (name,) in conn.execute("select name from dlq.health")}
    assert lines - alerts == {"server", "pg_net grants"}
    assert alerts - lines <= {"metricsabsent", "metricsstale", "alerts"}


@pytest.mark.skipif(not PAGE.exists(), reason="not in a checkout")
def test_the_commands_of_the_page_do_what_it_says(box: Sandbox, tmp_path: Path) -> None:
    text, by_hand = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    (tmp_path / "dlqctl").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dlqctl "$@"\n')
    (tmp_path / "dlqctl").chmod(0o755)
    promtool()
    env = command_env(box) | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    text = text.replace("/var/lib/prometheus/node-exporter", str(tmp_path))
    for words in (text, by_hand):
        done = subprocess.run(["sh", "-ec", words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    file = (tmp_path / "dlq.prom").read_text()
    done = subprocess.run([promtool(), "check", "metrics"], input=file, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with sandbox(net_worker=True) as box:
        with psycopg.connect(box.dsn, autocommit=True) as conn:
            conn.execute("select dlq.set_endpoint('shop', 'https://handler.example/')")
            conn.execute("select dlq.pause('a test', 'shop')")
            conn.execute(
                "insert into webhook_dlq (service, payload, next_retry_at)"
                " select case when n < 90 then 'shop' else 'till' end, '1', now() + interval '1 day'"
                " from generate_series(1, 101) as n"
            )
            conn.execute("set role dlq_owner")
            conn.execute(
                "insert into dlq.attempt_counts (hour, service, outcome, status_code, attempts, seconds, seconds_max)"
                " values (now(), 'shop', 'http_error', 503, 7, 1.5, 0.5), (now(), 'shop', 'delivered', 200, 3, 1, 1)"
            )
        yield box


def _until(found: Callable[[], Any], folder: Path, seconds: float = 90) -> Any:
    """Ask until there is an answer; fails with what the programs said."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if answer := found():
                return answer
        except (httpx.TransportError, ValueError):  # not there yet, or not ready and says so in words
            pass
        time.sleep(0.1)
    raise AssertionError("\n".join(log.read_text() for log in folder.glob("*.log")))


@pytest.fixture(scope="module")
def prometheus(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of a real Prometheus that scrapes Debian's sql_exporter, and the folder with their logs."""
    folder = tmp_path_factory.mktemp("prometheus")
    with scraping(box, folder) as url:
        yield url, folder


def _scraped(url: str, query: str) -> dict[Sample, float]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, trust_env=False).json()
    samples = {}
    for result in answer.get("data", {}).get("result", []):
        labels = {k: v for k, v in result["metric"].items() if k not in ("__name__", "job", "instance")}
        samples[result["metric"].get("__name__", ""), tuple(sorted(labels.items()))] = float(result["value"][1])
    return samples


def test_sql_exporter_gives_what_the_view_gives(box: Sandbox, prometheus: tuple[str, Path]) -> None:
    """Name by name, label by label, number by number: those that no clock moves, within the time between two looks."""
    url, folder = prometheus
    by_clock = re.compile("timestamp|_age_|table_|last_run")

    def from_view() -> dict[Sample, float]:
        with psycopg.connect(box.dsn) as conn:
            rows = conn.execute("select name, labels, value from dlq.metrics").fetchall()
        return {(name, tuple(sorted(labels.items()))): value for name, labels, value in rows}

    def same() -> dict[Sample, float] | None:
        scraped, seen = _scraped(url, '{__name__=~"dlq_.*"}'), from_view()
        steady = [{key: value for key, value in s.items() if not by_clock.search(key[0])} for s in (scraped, seen)]
        return scraped if steady[0] == steady[1] and scraped.keys() == seen.keys() else None

    scraped = _until(same, folder)
    assert len(scraped) > 50
    now = next(value for (name, _), value in scraped.items() if name == "dlq_read_timestamp_seconds")
    assert now == pytest.approx(time.time(), abs=30)
    attempts = (("database", box.cluster.database), ("outcome", "http_error"), ("service", "shop"))
    assert scraped["dlq_attempts_total", attempts] == 7


def test_a_rule_fires_on_a_real_queue(box: Sandbox, prometheus: tuple[str, Path]) -> None:
    url, folder = prometheus

    def alerts() -> Any:
        found = httpx.get(f"{url}/api/v1/alerts", trust_env=False).json()["data"]["alerts"]
        firing = {a["labels"]["alertname"]: a for a in found if a["state"] == "firing"}
        return firing if {"DlqPending", "DlqEndpoints"} <= firing.keys() else None

    firing = _until(alerts, folder)
    assert firing["DlqPending"]["annotations"]["summary"] == f"101 entries wait in {box.cluster.database}"
    assert firing["DlqEndpoints"]["labels"]["service"] == "till"
    assert firing.keys() == {"DlqPending", "DlqEndpoints"}, json.dumps(firing)
