"""`dlqctl replay` as a person has it before them: in a real terminal, in a pipe, and without either."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dlqctl.receiver import Receiver
from dlqctl.sandbox import Sandbox, command_env, sandbox
from tests.command import dlqctl
from tests.live.terminal import terminal

CTRL_C = "\x03"
WHY = ("--reason", "the handler is mended")


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with sandbox(net_worker=True) as box:
        yield box


@pytest.fixture
def conn(box: Sandbox) -> Iterator[psycopg.Connection]:
    """A superuser's, in autocommit. What tests have stored goes afterwards."""
    with psycopg.connect(box.cluster.dsn(), autocommit=True) as conn:
        conn.execute("update dlq.settings set cycle_minutes = 30")
        yield conn
        conn.execute(
            "truncate webhook_dlq, dlq.delivery_attempts, dlq.endpoints, dlq.pauses, dlq.endpoint_state, dlq.in_flight,"
            " dlq.replays, dlq.replayed_entries"
        )


def run(box: Sandbox, *words: str) -> subprocess.CompletedProcess[str]:
    return dlqctl("replay", *words, env=command_env(box))


def one(conn: psycopg.Connection, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def insert(conn: psycopg.Connection, count: int, service: str = "shop") -> None:
    """So many failed entries."""
    conn.execute(
        "insert into webhook_dlq (service, payload, status, created_at, retry_count)"
        " select %s, to_jsonb(n), 'failed', now() - n * interval '1 minute', 5 from generate_series(1, %s) as n",
        (service, count),
    )


def wait_until(conn: psycopg.Connection, query: str) -> None:
    deadline = time.monotonic() + 60
    while not one(conn, query):
        assert time.monotonic() < deadline, query
        time.sleep(0.02)


def failed(conn: psycopg.Connection) -> int:
    return int(one(conn, "select count(*) from webhook_dlq where status = 'failed'"))


def test_a_person_sees_what_it_would_do_says_yes_and_sees_how_it_goes(
    box: Sandbox, conn: psycopg.Connection, receiver: Receiver
) -> None:
    insert(conn, 30)
    insert(conn, 7, "till")
    conn.execute(
        "select dlq.set_endpoint('*', %s, allow_http => true, allow_private => true)",
        (receiver.url("{service}"),),
    )
    with terminal(["replay", *WHY, "--max-entries", "35"], command_env(box)) as screen:
        asked = screen.wait_for(r"Replay 35\? \[y/N\]: ")
        before = " ".join(screen.shown.split())
        assert "35 failed: shop 29, till 6" in before
        assert "37 match, and these are the oldest" in before
        assert failed(conn) == 37
        screen.type("y\n")
        waits = screen.wait_for(r"replay \d+, 35: 35 waiting, 35 of them due", after=asked)
        conn.execute("call dlq.run_cycle()")
        screen.wait_for(r"replay \d+, 35: 35 delivered", after=waits)
        assert screen.end() == 0
    assert len(receiver.accepted) == 35
    assert one(conn, "select count(*) from dlq.audit_log where action = 'replay' and reason = 'the handler is mended'")


@pytest.mark.parametrize("keys", ["n\n", "\n", CTRL_C])
def test_whoever_does_not_say_yes_changes_nothing(box: Sandbox, conn: psycopg.Connection, keys: str) -> None:
    insert(conn, 2)
    with terminal(["replay", *WHY], command_env(box)) as screen:
        screen.wait_for(r"Replay 2\?")
        if keys == CTRL_C:
            assert screen.interrupt() == 130
        else:
            screen.type(keys)
            assert screen.end() == 130
    assert failed(conn) == 2
    assert one(conn, "select count(*) from dlq.replays") == 0


def test_ctrl_c_ends_the_telling_alone_and_says_how_to_go_on(box: Sandbox, conn: psycopg.Connection) -> None:
    insert(conn, 5)
    with terminal(["replay", *WHY, "--yes", "--per-minute", "1"], command_env(box), columns=40) as screen:
        shown = screen.wait_for(r"5\s+waiting,\s+the\s+last\s+until")
        screen.type(CTRL_C)
        screen.wait_for(r"goes\s+on", after=shown)
        assert screen.end() == 130
        words = " ".join(screen.shown.split())
    (replay_id,) = re.findall(r"replay (\d+) goes on", words)
    assert f"dlqctl replay watch {replay_id};" in words
    assert f"dlqctl replay cancel {replay_id} --reason WHY" in words
    assert failed(conn) == 0

    conn.execute("update webhook_dlq set attempt_count = 1, status = 'reprocessed' where payload = '5'")
    with terminal(["replay", "watch", replay_id], command_env(box)) as screen:
        shown = screen.wait_for("1 delivered, 4 waiting")
        done = run(box, "cancel", replay_id, "--reason", "it fails again")
        assert (done.returncode, done.stderr) == (0, f"put back: 4 of replay {replay_id}\n")
        screen.wait_for("1 delivered, 4 put back", after=shown)
        assert screen.end() == 0
    assert failed(conn) == 4
    again = run(box, "cancel", replay_id, "--reason", "it fails again")
    assert again.returncode == 1
    assert f"nothing of replay {replay_id} waits any more" in again.stderr


def test_ctrl_c_in_the_middle_of_it_leaves_nothing_half_done_and_says_how_to_go_on(
    box: Sandbox, conn: psycopg.Connection
) -> None:
    insert(conn, 30_000)  # taken 10,000 at a time, the oldest first
    replays = "select coalesce(sum(entries), 0) from dlq.replays"
    for locked, words, so_far in (
        ("30000", ["replay", *WHY, "--yes", "--all"], 0),
        ("15000", ["replay", *WHY, "--yes", "--all", "--per-minute", "1"], 10_000),
        ("5000", ["replay", "continue", "{id}"], 20_000),
    ):
        with psycopg.connect(box.cluster.dsn()) as somebody:
            somebody.execute("select from webhook_dlq where payload = %s for update", (locked,))
            command = [word.format(id=one(conn, "select max(id) from dlq.replays")) for word in words]
            with terminal(command, command_env(box)) as screen:
                wait_until(conn, "select exists (select from pg_stat_activity where wait_event_type = 'Lock')")
                screen.type(CTRL_C)
                screen.wait_for("stopped: nothing was changed" if not so_far else r"stopped:\s+replay")
                assert screen.end() == 130
                said = " ".join(screen.shown.split())
            somebody.rollback()
        assert (failed(conn), one(conn, replays)) == (30_000 - so_far, so_far)
        if so_far:
            replay_id = one(conn, "select max(id) from dlq.replays")
            assert f"replay {replay_id} has {so_far:,} of 30,000" in said
            assert f"dlqctl replay continue {replay_id};" in said
    assert one(conn, "select count(*) from pg_stat_activity where query like '%dlq.%replay(%' and state = 'active'"
                     " and pid <> pg_backend_pid()") == 0  # fmt: skip
    done = run(box, "continue", str(replay_id), "--no-watch")
    assert (done.returncode, done.stdout, failed(conn)) == (0, f"{replay_id}\n", 0), done.stderr
    assert one(conn, "select count(distinct due_at) from dlq.replayed_entries") == 30_000, "one a minute, in one row"


def test_ctrl_c_while_it_is_taken_back_leaves_a_part_and_says_how_to_go_on(
    box: Sandbox, conn: psycopg.Connection
) -> None:
    insert(conn, 25_000)
    replay_id = one(conn, "select (dlq.replay('mended', max_entries => 25000, per_minute => 1)).id")
    cancel = ["replay", "cancel", str(replay_id), "--reason", "it fails again"]
    middle = one(conn, "select entry_id from dlq.replayed_entries order by entry_id desc offset 15000 limit 1")
    with psycopg.connect(box.cluster.dsn()) as somebody:
        somebody.execute("select from webhook_dlq where id = %s for update", (middle,))
        with terminal(cancel, command_env(box)) as screen:
            wait_until(conn, "select exists (select from pg_stat_activity where wait_event_type = 'Lock')")
            screen.type(CTRL_C)
            screen.wait_for(r"stopped:\s+put\s+back")
            assert screen.end() == 130
            said = " ".join(screen.shown.split())
        somebody.rollback()
    assert f"stopped: put back: 10,000 of replay {replay_id} -> the rest: dlqctl replay cancel {replay_id}" in said
    assert failed(conn) == 10_000
    done = run(box, *cancel[1:])
    assert (done.returncode, failed(conn)) == (0, 25_000), done.stderr
    assert done.stderr.splitlines() == [f"put back: {n:,} of replay {replay_id}" for n in (10_000, 15_000)]


def test_all_are_taken_in_parts_and_a_pipe_is_told_how_far_it_is(box: Sandbox, conn: psycopg.Connection) -> None:
    insert(conn, 20_001)
    done = run(box, *WHY, "--yes", "--no-watch", "--all")
    assert (done.returncode, failed(conn)) == (0, 0), done.stderr
    assert [line for line in done.stderr.splitlines() if " of 20,001" in line] == [
        f"replay {done.stdout.strip()} has {n:,} of 20,001" for n in (10_000, 20_000)
    ]
    assert one(conn, "select filters ->> 'max_entries' from dlq.replays") == "20001"


def test_a_connection_lost_between_parts_says_how_to_go_on(box: Sandbox, conn: psycopg.Connection) -> None:
    insert(conn, 20_000)
    with psycopg.connect(box.cluster.dsn()) as somebody:
        somebody.execute("select from webhook_dlq where payload = '1' for update")
        command = [sys.executable, "-m", "dlqctl", "replay", *WHY, "--yes", "--all"]
        with subprocess.Popen(command, env=command_env(box), stderr=subprocess.PIPE, text=True) as process:
            wait_until(conn, "select exists (select from pg_stat_activity where wait_event_type = 'Lock')")
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'")
            _, said = process.communicate(timeout=60)
        somebody.rollback()
    replay_id = one(conn, "select id from dlq.replays")
    assert process.returncode == 3
    assert f"replay {replay_id} has 10,000 of 20,000, and then: " in said
    assert f"-> dlqctl replay continue {replay_id};" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_without_a_terminal_it_wants_a_yes(box: Sandbox, conn: psycopg.Connection) -> None:
    insert(conn, 2)
    done = run(box, *WHY)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("nothing was changed -> the same with --yes")
    assert failed(conn) == 2


def test_in_a_pipe_it_writes_a_line_when_something_has_changed(box: Sandbox, conn: psycopg.Connection) -> None:
    insert(conn, 3)
    command = [sys.executable, "-m", "dlqctl", "replay", *WHY, "--yes"]
    with subprocess.Popen(command, env=command_env(box), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        conn.execute("update webhook_dlq set status = 'failed', attempt_count = 1 where payload = '1'")
        second = process.stdout.readline()
        conn.execute("update webhook_dlq set status = 'reprocessed', attempt_count = 1 where payload <> '1'")
        rest = process.stdout.read()
    assert process.returncode == 0
    found = [re.fullmatch(r"\d\d:\d\d:\d\d  replay \d+, 3: (.*)\n", line) for line in (first, second, rest)]
    assert [match and match[1] for match in found] == [
        "3 waiting, 3 of them due", "1 failed, 2 waiting, 2 of them due", "2 delivered, 1 failed",
    ]  # fmt: skip


@pytest.mark.parametrize("reader", ["true", "head -1"])
def test_a_closed_pipe_ends_the_telling_and_not_the_replay(box: Sandbox, conn: psycopg.Connection, reader: str) -> None:
    insert(conn, 3)
    command = f"{sys.executable} -m dlqctl replay --reason x --yes --per-minute 60 | {reader}; exit ${{PIPESTATUS[0]}}"
    process = subprocess.Popen(
        ["bash", "-c", command], env=command_env(box), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(conn, "select exists (select from dlq.replays)")
    conn.execute("update webhook_dlq set status = 'reprocessed', attempt_count = 1")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert one(conn, "select entries from dlq.replays") == 3


def test_a_check_shows_and_changes_nothing(box: Sandbox, conn: psycopg.Connection) -> None:
    insert(conn, 3)
    conn.execute("select dlq.set_endpoint('shop', 'https://handler.example/'), dlq.pause('deploying', 'shop')")
    done = run(box, "--check", "--per-minute", "2", "--since", "1 day", "--until", "0 s")
    assert (done.returncode, done.stderr) == (0, "")
    first, _, pace, held = done.stdout.splitlines()
    assert first == "3 failed: shop 3"
    assert pace.startswith("2 a minute, the last at ")
    assert held == "shop: paused -> dlqctl endpoints list"
    done = run(box, "--check", "--service", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing matches, and nothing was changed" in done.stderr
    assert failed(conn) == 3


def test_the_filters_are_those_of_the_function(box: Sandbox, conn: psycopg.Connection) -> None:
    insert(conn, 3)
    conn.execute(
        "insert into dlq.delivery_attempts (entry_id, attempt, dispatched_at, settled_at, outcome, service,"
        " status_code, error) select id, 0, now(), now(), 'http_error', service, 400, '100 %; it''s' from webhook_dlq"
    )
    conn.execute("update webhook_dlq set phone_number = '+15550100123' where payload = '2'")
    words = (
        "--service", "shop", "--status", "failed", "--since", "2 hours ago", "--until", "1 minute",
        "--status-code", "400", "--error-text", "%; IT'S", "--phone-number", "1 555 010 0123", "--max-entries", "5",
        "--per-minute", "7", "--no-watch", "--yes", *WHY,
    )  # fmt: skip
    done = run(box, *words)
    assert done.returncode == 0, done.stderr
    (listed,) = json.loads(run(box, "list", "--format", "json").stdout)
    assert (listed["id"], listed["entries"], listed["waiting"]) == (int(done.stdout), 1, 1)
    filters = listed["filters"] | {"phone_number": "", "created_after": "", "created_before": ""}
    assert filters == {
        "service": "shop", "status": "failed", "created_after": "", "created_before": "", "status_code": 400,
        "error_text": "%; IT'S", "phone_number": "", "max_entries": 5,
    }  # fmt: skip
    assert listed["filters"]["created_after"] < listed["filters"]["created_before"]
    assert listed["filters"]["phone_number"].startswith("hmac:")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 2, "--reason"),
        (("--reason", " "), 2, "--reason"),
        ((*WHY, "--status", "processing"), 2, "processing"),
        ((*WHY, "--since", "a while"), 2, "neither a time nor an age"),
        ((*WHY, "--service", "No Name"), 1, "No Name"),
        ((*WHY, "--max-entries", "0"), 1, "max_entries: 1 or more"),
        ((*WHY, "--max-entries", "5", "--all"), 2, "exclude each other"),
        (("continue", "7"), 1, "there is no replay 7 -> To find it: dlqctl replay list"),
        ((*WHY, "--error-text", ""), 1, "error_text"),
        (("--service", "shop", "list"), 2, "what belongs to list follows it"),
        (("watch", "7"), 1, "there is no replay 7 -> dlqctl replay list"),
        (("cancel", "7", *WHY), 1, "there is no replay 7"),
        (("cancel", "7"), 2, "--reason"),
        (("watch", "x"), 2, "x"),
    ],
)
def test_what_is_not_in_order_is_said_in_a_line(
    box: Sandbox, conn: psycopg.Connection, words: tuple[str, ...], status: int, said: str
) -> None:
    insert(conn, 1)
    done = run(box, *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert failed(conn) == 1


def test_a_connection_that_is_lost_ends_the_telling_alone(box: Sandbox, conn: psycopg.Connection) -> None:
    insert(conn, 3)
    command = [sys.executable, "-m", "dlqctl", "replay", *WHY, "--yes", "--per-minute", "1"]
    with subprocess.Popen(
        command, env=command_env(box), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'dlqctl'")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert re.search(r"replay (\d+) goes on: .* -> dlqctl replay watch \1$", said.splitlines()[-1])
    assert failed(conn) == 0
