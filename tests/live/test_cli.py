"""The command line as a person types it: a process, its exit status, what it prints where."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from dlqctl import receiver as handlers
from dlqctl.receiver import Receiver
from dlqctl.sandbox import Sandbox, command_env, sandbox


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with sandbox(net_worker=True) as box:
        yield box


@pytest.fixture(autouse=True)
def _clean(box: Sandbox) -> Iterator[None]:
    yield
    with psycopg.connect(box.dsn, autocommit=True) as conn:
        conn.execute("truncate webhook_dlq, dlq.delivery_attempts, dlq.endpoints, dlq.pauses, dlq.endpoint_state")


def _run(box: Sandbox, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = command_env(box) | {"COLUMNS": "80"} | environment
    return subprocess.run(
        [sys.executable, "-m", "dlqctl", *words], env=env, capture_output=True, text=True, timeout=120, check=False
    )


def _store(box: Sandbox, service: str, **columns: str) -> None:
    with psycopg.connect(box.dsn, autocommit=True) as conn:
        conn.execute(
            "insert into webhook_dlq (service, payload, next_retry_at) values (%s, '{\"n\": 1}', now())", (service,)
        )


def test_help_names_every_command_and_loads_nothing(box: Sandbox) -> None:
    done = _run(box, "--help")
    assert done.returncode == 0
    commands = (
        "migrate verify-cron health metrics list show retry redeliver discard amend erase process maintain pause resume"
        " endpoints verify-signatures secrets sandbox demo"
    )
    for command in commands.split():
        assert re.search(rf"^  {command} ", done.stdout, re.M)
    heavy = "{'psycopg', 'alembic', 'rich', 'httpx', 'pycurl'}"
    code = f"import sys, dlqctl.cli; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_health_is_for_people_programs_and_scripts(box: Sandbox) -> None:
    done = _run(box, "health")
    assert done.returncode == 0
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80
    rows = json.loads(_run(box, "health", "--format", "json").stdout)
    assert {"name", "level", "detail", "remediation"} == set(rows[0])
    assert [row["name"] for row in csv.DictReader(io.StringIO(_run(box, "health", "--format", "csv").stdout))] == [
        row["name"] for row in rows
    ]
    _store(box, "nowhere")
    done = _run(box, "health")
    assert done.returncode == 1
    assert "dlqctl endpoints set nowhere URL" in done.stdout


def test_process_runs_a_cycle_and_says_what_it_did(box: Sandbox, receiver: Receiver) -> None:
    assert (
        _run(box, "endpoints", "set", "shop", receiver.url("shop"), "--allow-http", "--allow-private").returncode == 0
    )
    _store(box, "shop")
    done = _run(box, "process", "--format", "json")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)
    assert (run["status"], run["dispatched"], run["entries_processed"]) == ("ok", 1, 1)
    assert len(receiver.accepted) == 1


def test_maintain_removes_what_is_old_and_says_how_much(box: Sandbox) -> None:
    with psycopg.connect(box.dsn, autocommit=True) as conn:
        conn.execute(
            "insert into webhook_dlq (service, payload, status, settled_at)"
            " select 'shop', '1', 'discarded', now() - n * interval '1 day' from generate_series(29, 31) as n"
        )
        done = _run(box, "maintain", "--format", "json")
        assert done.returncode == 0, done.stderr
        (run,) = json.loads(done.stdout)
        assert (run["status"], run["entries"], run["left_over"]) == ("ok", 2, None)

        conn.execute(
            "insert into webhook_dlq (service, payload, status, settled_at)"
            " values ('shop', '1', 'discarded', '2020-01-01')"
        )
        conn.execute("create function no() returns trigger language plpgsql as 'begin raise exception ''no''; end'")
        conn.execute("create trigger no before delete on webhook_dlq for each row execute function no()")
        refused = _run(box, "maintain")
        conn.execute("drop function no() cascade")
    assert refused.returncode == 1
    assert "P0001" in refused.stderr
    assert "dlqctl health" in refused.stderr


def test_endpoints_are_set_listed_tested_and_removed(box: Sandbox, receiver: Receiver) -> None:
    receiver.behave("bad", handlers.always(500))
    for service in ("good", "bad"):
        done = _run(
            box, "endpoints", "set", service, receiver.url(service), "--allow-http", "--allow-private",
            "--timeout", "2000", "--header", "X-Key: k", "--retry-schedule", "1 min,2 min",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    listed = json.loads(_run(box, "endpoints", "list", "--format", "json").stdout)
    assert [(e["service"], e["timeout_ms"], e["retries"], e["state"]) for e in listed] == [
        ("bad", 2000, 2, "on"), ("good", 2000, 2, "on"),
    ]  # fmt: skip

    done = _run(box, "endpoints", "test", "good")
    assert done.returncode == 0, done.stderr
    assert "delivered" in done.stdout
    assert receiver.requests[-1].headers["X-Key"] == "k"
    done = _run(box, "endpoints", "test", "bad")
    assert done.returncode == 1
    assert "HTTP 500" in done.stdout
    with psycopg.connect(box.dsn) as conn:
        rows = conn.execute("select status from webhook_dlq where service = 'bad'").fetchall()
    assert rows == [("discarded",)], "a test leaves nothing to retry"

    assert _run(box, "endpoints", "remove", "bad").returncode == 0
    assert _run(box, "endpoints", "remove", "bad").returncode == 1
    done = _run(box, "endpoints", "test", "bad")
    assert done.returncode == 1
    assert "no endpoint for bad" in done.stderr


def test_a_test_of_a_paused_endpoint_says_so(box: Sandbox, receiver: Receiver) -> None:
    _run(box, "endpoints", "set", "shop", receiver.url("shop"), "--allow-http", "--allow-private")
    assert _run(box, "pause", "shop", "--reason", "x").returncode == 0
    done = _run(box, "endpoints", "test", "shop")
    assert done.returncode == 1
    assert "paused" in done.stderr


def test_an_open_circuit_is_listed_tested_and_reset(box: Sandbox, receiver: Receiver) -> None:
    _run(box, "endpoints", "set", "shop", receiver.url("shop"), "--allow-http", "--allow-private")
    with psycopg.connect(box.dsn) as conn:
        conn.execute(
            "insert into dlq.endpoint_state (service, cap, failing_since, probe_at, trouble)"
            " values ('shop', 0, now(), now() + interval '15 minutes', 'HTTP 503')"
        )
    (endpoint,) = json.loads(_run(box, "endpoints", "list", "--format", "json").stdout)
    assert endpoint["state"].startswith("open, HTTP 503; next try ")
    done = _run(box, "endpoints", "test", "shop")
    assert done.returncode == 1
    assert "its circuit is open" in done.stderr
    assert "dlqctl endpoints reset shop" in _run(box, "health").stdout
    done = _run(box, "endpoints", "reset", "shop", "--reason", "the key is renewed")
    assert done.returncode == 0, done.stderr
    assert _run(box, "endpoints", "test", "shop").returncode == 0
    done = _run(box, "endpoints", "reset", "shop", "--reason", "again")
    assert done.returncode == 1
    assert "nothing holds shop back" in done.stderr


def test_a_pause_can_end_by_itself_and_both_ends_have_a_reason(box: Sandbox) -> None:
    assert _run(box, "pause", "shop", "--reason", "deploying", "--for", "2 hours").returncode == 0
    with psycopg.connect(box.dsn) as conn:
        row = conn.execute("select paused_until between now() + '1 h' and now() + '2 h' from dlq.pauses").fetchone()
        assert row == (True,)
    done = _run(box, "pause", "shop", "--reason", "deploying", "--for", "a while")
    assert done.returncode == 1
    assert "a while" in done.stderr
    assert _run(box, "resume", "shop", "--reason", "deployed").returncode == 0
    with psycopg.connect(box.dsn) as conn:
        assert conn.execute("select reason from dlq.audit_log order by id desc limit 1").fetchone() == ("deployed",)


def test_a_test_of_an_endpoint_without_its_secret_says_so_also_to_no_more_than_an_admin(
    box: Sandbox, receiver: Receiver
) -> None:
    auth = ("--auth", "bearer", "--auth-secret", "K")
    _run(box, "endpoints", "set", "shop", receiver.url("shop"), "--allow-http", "--allow-private", *auth)
    with psycopg.connect(box.dsn, autocommit=True) as conn:
        conn.execute("create role only_admin login in role dlq_admin")
    done = _run(box, "--dsn", box.cluster.dsn(user="only_admin"), "endpoints", "test", "shop")
    with psycopg.connect(box.dsn, autocommit=True) as conn:
        conn.execute("drop role only_admin")
    assert done.returncode == 1
    assert "there is no secret K" in done.stderr


def test_pause_and_resume(box: Sandbox) -> None:
    assert _run(box, "pause", "--reason", "deploying").returncode == 0
    assert "deploying" in _run(box, "health").stdout
    assert _run(box, "resume").returncode == 0
    assert _run(box, "resume").returncode == 1
    assert _run(box, "pause").returncode == 2, "a reason is needed"
    assert _run(box, "pause", "No Name", "--reason", "x").returncode == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("endpoints", "set", "shop", "http://a.example/"), 1),
        (("endpoints", "set", "shop", "nonsense"), 1),
        (("endpoints", "set", "shop", "https://a.example/", "--header", "no colon"), 2),
        (("endpoints", "set", "shop", "https://a.example/", "--header", "X-A: a\nX-B: b"), 1),
        (("endpoints", "set", "shop", "https://a.example/", "--timeout", "0"), 1),
        (("endpoints", "set", "shop", "https://a.example/", "--retry-schedule", "soon"), 1),
        (("--dsn", "host=/nowhere dbname=x", "health"), 3),
        (("health", "--dsn", "host=127.0.0.1 port=1"), 3),
        (("--dsn", "nonsense", "health"), 2),
        (("--dsn", "service=no_such_service", "health"), 3),
        (("nonsense",), 2),
        (("health", "--nonsense"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_an_error_is_said_in_one_line_without_a_trace(box: Sandbox, words: tuple[str, ...], code: int) -> None:
    done = _run(box, *words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    if code != 2 or "--dsn" in words:
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("dlqctl: ")


def test_a_database_without_dlqctl_is_told_apart(box: Sandbox) -> None:
    for words in (("health",), ("process",), ("maintain",), ("verify-cron",), ("pause", "--reason", "x")):
        done = _run(box, "--dsn", box.cluster.dsn("postgres"), *words)
        assert done.returncode == 1
        assert done.stderr.rstrip().endswith("-> dlqctl migrate")


def test_a_role_that_may_not_is_told_which_role_may(box: Sandbox) -> None:
    with psycopg.connect(box.dsn, autocommit=True) as conn:
        conn.execute("create role nobody_much login in role dlq_reader")
    try:
        dsn = box.cluster.dsn(user="nobody_much")
        assert _run(box, "--dsn", dsn, "health").returncode == 0
        done = _run(box, "--dsn", dsn, "pause", "--reason", "x")
        assert done.returncode == 1
        assert "dlq_admin" in done.stderr
    finally:
        with psycopg.connect(box.dsn, autocommit=True) as conn:
            conn.execute("drop role nobody_much")


def test_debug_shows_the_trace(box: Sandbox) -> None:
    done = _run(box, "--debug", "--dsn", "host=/nowhere", "health")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_closed_pipe_is_no_error(box: Sandbox) -> None:
    for words in ("migrate --sql --net-worker", "health", "endpoints list --format json", "--help"):
        command = f"{sys.executable} -m dlqctl {words} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", command], env=command_env(box), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), words
