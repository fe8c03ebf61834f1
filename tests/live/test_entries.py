"""People look at entries and do something with them: in pipes and in real terminals, in each role."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from dlqctl.sandbox import Sandbox, command_env, sandbox
from tests.command import dlqctl
from tests.live.terminal import terminal

ROLES = ("dlq_admin", "dlq_reader", "dlq_writer", "nobody")
NUMBER = "+15550100123"


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """A sandbox whose sender has nowhere to send to, and a login for each role: as_dlq_admin, and so on."""
    with sandbox(net_worker=True) as box:
        with psycopg.connect(box.cluster.dsn(), autocommit=True) as conn:
            conn.execute("create role as_nobody login")
            for role in ROLES[:3]:
                conn.execute(f"create role as_{role} login in role {role}".encode())
        yield box


@pytest.fixture
def conn(box: Sandbox) -> Iterator[psycopg.Connection]:
    """A superuser's, in autocommit. What tests have stored goes afterwards."""
    with psycopg.connect(box.cluster.dsn(), autocommit=True) as conn:
        yield conn
        conn.execute("truncate webhook_dlq, dlq.delivery_attempts, dlq.amendments, dlq.endpoints, dlq.pauses")


def run(
    box: Sandbox, *words: str, role: str = "dlq_admin", given: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a role; as a process of its own if the environment is to be another one."""
    words = ("--dsn", box.cluster.dsn(user=f"as_{role}"), *words)
    env = command_env(box) | environment
    if not environment:
        return dlqctl(*words, stdin=given or "", env=env)
    return subprocess.run(
        [sys.executable, "-m", "dlqctl", *words],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def store(
    conn: psycopg.Connection, status: str = "pending", service: str = "shop", *, ago: str = "0", **columns: object
) -> str:
    """Store an entry in a state, so long ago, with one attempt that was answered 503 unless it is pending."""
    row = conn.execute(
        """
        insert into webhook_dlq (service, payload, phone_number, error_message)
        values (%s, %s, %s, %s) returning id::text
        """,
        (service, columns.get("payload", '{"n": 1}'), columns.get("phone_number"), columns.get("error_message")),
    ).fetchone()
    assert row is not None
    conn.execute("set session_replication_role = replica")
    conn.execute(
        """
        update webhook_dlq set
          created_at = created_at - %(ago)s::interval, status = %(status)s,
          next_retry_at = case when %(status)s = 'pending' then now() + interval '5 minutes' end,
          last_retry_at = case when %(status)s = 'processing' then now() end,
          settled_at = case when %(status)s not in ('pending', 'processing') then now() end
        where id = %(id)s
        """,
        {"ago": ago, "status": status, "id": row[0]},
    )
    if status != "pending":
        conn.execute(
            "insert into dlq.delivery_attempts"
            " (entry_id, attempt, dispatched_at, settled_at, outcome, status_code, service, error, reply)"
            " values (%s, 1, now(), now(), 'http_error', 503, %s, 'HTTP 503', 'REPLY')",
            (row[0], service),
        )
    conn.execute("set session_replication_role = origin")
    return str(row[0])


def status(conn: psycopg.Connection, entry_id: str) -> str:
    row = conn.execute("select status from webhook_dlq where id = %s", (entry_id,)).fetchone()
    assert row is not None
    return str(row[0])


def ids(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [entry["id"] for entry in json.loads(done.stdout)]


# list


def test_list_filters_and_has_the_newest_first(box: Sandbox, conn: psycopg.Connection) -> None:
    old = store(conn, "failed", ago="3 hours")
    new = store(conn, "failed", "other", ago="10 minutes", phone_number=NUMBER)
    waiting = store(conn, ago="1 minute")
    as_json = ("list", "--format", "json")
    assert ids(run(box, *as_json)) == [waiting, new, old]
    assert ids(run(box, *as_json, "--service", "shop")) == [waiting, old]
    assert ids(run(box, *as_json, "--status", "failed")) == [new, old]
    assert ids(run(box, *as_json, "--since", "2 hours")) == [waiting, new]
    assert ids(run(box, *as_json, "--until", " 2 hours  ago ")) == [old]
    assert ids(run(box, *as_json, "--until", "2001-01-01 00:00")) == []
    assert ids(run(box, *as_json, "--status-code", "503")) == [new, old]
    assert ids(run(box, *as_json, "--error-text", "tp 50")) == [new, old]
    assert ids(run(box, *as_json, "--error-text", "TP_50")) == []
    for written in (NUMBER, NUMBER.lstrip("+"), f"{NUMBER[:5]}-{NUMBER[5:]}"):
        assert ids(run(box, *as_json, "--phone-number", written)) == [new]
    rows = csv.DictReader(io.StringIO(run(box, "list", "--format", "csv").stdout))
    assert [row["id"] for row in rows] == [waiting, new, old]


@pytest.mark.parametrize(
    "words",
    [*(("--since", when) for when in ("soon", "10:00", "2026", "")), ("--limit", "0"), ("--status", "lost")],
)
def test_a_filter_that_is_none_is_refused(box: Sandbox, words: tuple[str, ...]) -> None:
    assert run(box, "list", *words).returncode == 2


def test_list_says_how_many_more_there_are(box: Sandbox, conn: psycopg.Connection) -> None:
    conn.execute("insert into webhook_dlq (service, payload) select 's', to_jsonb(n) from generate_series(1, 25) as n")
    done = run(box, "list", "--format", "json")
    assert len(ids(done)) == 20
    assert "and 5 more: " in done.stderr
    assert "more" not in run(box, "list", "--limit", "25").stderr
    conn.execute("insert into webhook_dlq (service, payload) select 's', '1' from generate_series(1, 10000)")
    assert "and more than 10,000 more: " in run(box, "list").stderr
    assert "and 10,000 more: " in run(box, "list", "--limit", "25").stderr


def test_list_shows_what_is_personal_only_on_demand_and_to_whom_may_read_it(
    box: Sandbox, conn: psycopg.Connection
) -> None:
    store(conn, "failed", phone_number=NUMBER, error_message="SECRET", payload='{"text": "SECRET"}')
    for role in ("dlq_admin", "dlq_reader"):
        for form in ("json", "csv", "table"):
            done = run(box, "list", "--format", form, role=role)
            assert done.returncode == 0, done.stderr
            assert not any(word in done.stdout for word in ("SECRET", "HTTP 503", NUMBER)), form
    (entry,) = json.loads(run(box, "list", "--format", "json").stdout)
    assert not {"error", "phone_number", "payload"} & entry.keys()
    assert entry["last_status_code"] == 503
    (entry,) = json.loads(run(box, "list", "--payload", "--format", "json").stdout)
    assert (entry["error"], entry["phone_number"], entry["payload"]) == ("HTTP 503", NUMBER, {"text": "SECRET"})
    for words in (("--error-text", "x"), ("--phone-number", "x"), ("--payload",)):
        done = run(box, "list", *words, role="dlq_reader")
        assert done.returncode == 1
        assert f"{words[0]} would tell as_dlq_reader what it may not read" in done.stderr


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_no_id_is_cut_however_narrow_the_terminal(box: Sandbox, conn: psycopg.Connection, columns: int) -> None:
    found = [store(conn, "failed", "whatsapp-eu"), store(conn, "reprocessed")]
    with terminal(("list",), command_env(box), columns=columns) as shown:
        assert shown.end() == 0
    lines = shown.shown.splitlines()
    assert max(map(len, lines)) <= columns
    for entry_id in found:
        assert sum(entry_id in line for line in lines) == 1
    assert " 503" in shown.shown
    with terminal(("list", "--payload"), command_env(box), columns=columns) as shown:
        assert shown.end() == 0
    assert all(entry_id in shown.shown.splitlines() for entry_id in found)
    assert shown.shown.count("error: HTTP 503") == 2
    assert max(map(len, shown.shown.splitlines())) <= columns


# show


def test_show_tells_the_story_and_hides_what_is_personal(box: Sandbox, conn: psycopg.Connection) -> None:
    entry_id = store(conn, "failed", payload='{"text": "SECRET"}', phone_number=NUMBER, error_message="SECRET")
    for role in ("dlq_admin", "dlq_reader"):
        done = run(box, "show", entry_id.replace("-", "").upper(), role=role)
        assert done.returncode == 0, done.stderr
        assert entry_id in done.stdout
        assert "attempt 1" in done.stdout
        assert "HTTP 503" in done.stdout
        assert "dlqctl retry" in done.stdout
        assert not any(word in done.stdout for word in ("SECRET", "REPLY", NUMBER))
    done = run(box, "show", entry_id, "--payload")
    assert all(word in done.stdout for word in ('"text": "SECRET"', "reply: REPLY", NUMBER))
    told = json.loads(run(box, "show", entry_id, "--payload", "--format", "json").stdout)
    assert told["payload"] == {"text": "SECRET"}
    assert [row["what"] for row in told["story"] if row["what"] != "update"] == ["stored", "attempt 1"]
    assert [row["what"] for row in told["next"]] == ["failed"]
    done = run(box, "show", entry_id, "--payload", role="dlq_reader")
    assert done.returncode == 1
    assert "--payload would tell as_dlq_reader what it may not read" in done.stderr


def test_a_payload_comes_out_digit_by_digit(box: Sandbox, conn: psycopg.Connection) -> None:
    payload = (
        '{"a": 0.1234567890123456789012345, "b": 12345678901234567890123456789.10, "c": 0.00000001, "d": "é\\"漢🙂"}'
    )
    row = conn.execute("select %s::jsonb::text", (payload,)).fetchone()
    assert row is not None
    entry_id = store(conn, "failed", payload=payload)
    exactly = partial(json.loads, parse_float=str, parse_int=str)
    told = exactly(run(box, "show", entry_id, "--payload", "--format", "json").stdout)
    assert told["payload"] == exactly(row[0])
    (listed,) = exactly(run(box, "list", "--payload", "--format", "json").stdout)
    assert listed["payload"] == exactly(row[0])
    (line,) = csv.DictReader(io.StringIO(run(box, "list", "--payload", "--format", "csv").stdout))
    assert line["payload"] == row[0]
    assert "0.1234567890123456789012345" in run(box, "show", entry_id, "--payload").stdout
    assert run(box, "show", entry_id, "--payload", "--format", "json").stdout.isascii()


def test_a_payload_of_any_depth_is_shown(box: Sandbox, conn: psycopg.Connection) -> None:
    deep = "[" * 1500 + "]" * 1500
    entry_id = store(conn, "failed", payload=deep)
    for words in (("show", entry_id), ("show", entry_id, "--format", "json"), ("list", "--format", "json")):
        done = run(box, *words, "--payload")
        assert (done.returncode, done.stderr) == (0, "")
        assert deep in "".join(done.stdout.split())


def test_show_tells_what_people_did_to_whom_may_read_it(box: Sandbox, conn: psycopg.Connection) -> None:
    entry_id = store(conn, "failed")
    assert run(box, "retry", entry_id, "--reason", "mended").returncode == 0
    assert "by as_dlq_admin, failed -> pending: mended" in run(box, "show", entry_id).stdout
    assert "mended" not in run(box, "show", entry_id, role="dlq_reader").stdout


def test_show_fits_40_columns(box: Sandbox, conn: psycopg.Connection) -> None:
    entry_id = store(conn, "discarded")
    conn.execute("select dlq.retry(%s, 'a reason that takes more than one line')", (entry_id,))
    with terminal(("show", entry_id, "--payload"), command_env(box), columns=40) as shown:
        assert shown.end() == 0
    assert "reason that takes" in shown.shown
    long = [line for line in shown.shown.splitlines() if len(line) > 40]
    assert all(" " not in line.strip().removeprefix("-> ") for line in long), long


# verbs


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [("retry", "failed", "pending"), ("redeliver", "reprocessed", "pending"), ("discard", "pending", "discarded")],
)
def test_a_verb_does_it_to_all_to_whom_it_applies(
    box: Sandbox, conn: psycopg.Connection, verb: str, before: str, after: str
) -> None:
    entries = [store(conn, before), store(conn, before)]
    under_way = store(conn, "processing")
    done = run(box, verb, *entries, under_way, "--reason", "why not", "--yes")
    assert done.returncode == 1
    assert [status(conn, entry_id) for entry_id in entries] == [after, after]
    assert ": 2\n" in done.stderr
    assert f"not {under_way}, which is processing: " in done.stderr
    assert f"dlqctl show {under_way}" in done.stderr
    reasons = conn.execute("select reason from dlq.audit_log where action = %s and key = any (%s)", (verb, entries))
    assert reasons.fetchall() == [("why not",)] * 2


def test_what_a_verb_is_not_for_names_the_one_that_is(box: Sandbox, conn: psycopg.Connection) -> None:
    delivered, failed = store(conn, "reprocessed"), store(conn, "failed")
    done = run(box, "retry", delivered, "--reason", "x")
    assert done.returncode == 1
    assert f"dlqctl redeliver {delivered} --reason WHY" in done.stderr
    done = run(box, "redeliver", failed, "--reason", "x")
    assert done.returncode == 1
    assert f"dlqctl retry {failed} --reason WHY" in done.stderr


def test_an_id_that_is_none_or_several_stops_all(box: Sandbox, conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into webhook_dlq (id, service, payload) values"
        " ('aaaa0000-0000-7000-8000-000000000001', 's', '1'), ('aaaa0000-0000-7000-8000-000000000002', 's', '1')"
    )
    entry_id = store(conn, "failed")
    done = run(box, "retry", entry_id, "aaaa", "--reason", "x", "--yes")
    assert done.returncode == 1
    assert "aaaa0000-0000-7000-8000-000000000001, aaaa0000-0000-7000-8000-000000000002" in done.stderr
    assert run(box, "retry", entry_id, "ffff-ffff", "--reason", "x", "--yes").returncode == 1
    assert status(conn, entry_id) == "failed"
    assert run(box, "retry", entry_id[:24], "--reason", "x").returncode == 0


def test_a_reason_is_needed(box: Sandbox, conn: psycopg.Connection) -> None:
    entry_id = store(conn, "failed")
    for words in (("retry", entry_id), ("discard", entry_id, "--reason", " "), ("erase", NUMBER)):
        assert run(box, *words, "--yes").returncode == 2
    assert status(conn, entry_id) == "failed"


def test_what_must_be_asked_is_not_done_without_a_terminal(box: Sandbox, conn: psycopg.Connection) -> None:
    one, two = store(conn, "failed"), store(conn, "failed", phone_number=NUMBER)
    for words in (("discard", one), ("retry", one, two), ("amend", one), ("erase", NUMBER)):
        done = run(box, *words, "--reason", "x", given="{}")
        assert done.returncode == 2, words
        assert "--yes" in done.stderr
    assert [status(conn, one), status(conn, two)] == ["failed", "failed"]
    assert conn.execute("select count(*) from dlq.amendments").fetchone() == (0,)
    assert conn.execute("select phone_number from webhook_dlq where id = %s", (two,)).fetchone() == (NUMBER,)


@pytest.mark.parametrize(
    ("answer", "after", "code"), [("y", "discarded", 0), ("n", "failed", 130), ("", "failed", 130)]
)
def test_a_terminal_is_asked(box: Sandbox, conn: psycopg.Connection, answer: str, after: str, code: int) -> None:
    entry_id = store(conn, "failed")
    with terminal(("discard", entry_id[:24], "--reason", "a test"), command_env(box)) as shown:
        shown.wait_for(r"Discard this\? \[y/N\]")
        assert entry_id in shown.shown
        assert status(conn, entry_id) == "failed"
        shown.type(f"{answer}\n")
        assert shown.end() == code
    assert status(conn, entry_id) == after


def test_ctrl_c_at_the_question_changes_nothing(box: Sandbox, conn: psycopg.Connection) -> None:
    entry_id = store(conn, "failed", phone_number=NUMBER)
    with terminal(("erase", NUMBER, "--reason", "request of 3 March"), command_env(box)) as shown:
        shown.wait_for("It cannot be undone")
        assert "entries 1, " in shown.shown
        assert shown.interrupt() == 130
    assert conn.execute("select phone_number from webhook_dlq where id = %s", (entry_id,)).fetchone() == (NUMBER,)


def test_erase_takes_the_number_from_stdin_too(box: Sandbox, conn: psycopg.Connection) -> None:
    store(conn, "failed", phone_number=NUMBER)
    done = run(box, "erase", "-", "--reason", "x", "--yes", given=f"{NUMBER}\n")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("erased: entries 1")
    assert conn.execute("select count(phone_number) from webhook_dlq").fetchone() == (0,)
    assert run(box, "erase", "12", "--reason", "x", "--yes").returncode == 1


def test_amend_shows_the_difference_and_keeps_the_old(box: Sandbox, conn: psycopg.Connection, tmp_path: Path) -> None:
    entry_id = store(conn, "failed", payload='{"a": 1, "b": "é"}')
    file = tmp_path / "payload.json"
    file.write_text('{"b": "é", "a": 2}', encoding="utf-8-sig")
    with terminal(("amend", entry_id, str(file), "--reason", "a was wrong"), command_env(box)) as shown:
        shown.wait_for(r"Amend .*\? \[y/N\]")
        assert '-    "a": 1,\n+    "a": 2,\n     "b": "é"\n' in shown.shown.replace("\r", "")
        shown.type("n\n")
        assert shown.end() == 130
    done = run(box, "amend", entry_id, str(file), "--reason", "a was wrong", "--yes")
    assert done.returncode == 0, done.stderr
    assert '"a"' not in done.stderr, "a payload is not for a log"
    assert conn.execute("select payload ->> 'a' from webhook_dlq").fetchone() == ("2",)
    assert conn.execute("select payload ->> 'a' from dlq.amendments").fetchone() == ("1",)
    again = run(box, "amend", entry_id, "-", "--reason", "x", "--yes", given='{"a":2,"b":"é"}')
    assert again.returncode == 1
    assert "already" in again.stderr
    sent = store(conn, "processing")
    assert run(box, "amend", sent, "--reason", "x", "--yes", given="{}").returncode == 1


@pytest.mark.parametrize("payload", ['{"a": }', "", "NaN", '{"a": "\\u0000"}', "[" * 100_000])
def test_amend_refuses_what_is_not_json(box: Sandbox, conn: psycopg.Connection, payload: str) -> None:
    entry_id = store(conn, "failed")
    done = run(box, "amend", entry_id, "--reason", "x", "--yes", given=payload)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert conn.execute("select payload ->> 'n' from webhook_dlq").fetchone() == ("1",)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_what_it_may(box: Sandbox, conn: psycopg.Connection, role: str) -> None:
    entry_id = store(conn, "failed")
    looking = {("list",), ("show", entry_id), ("health",)}
    doing = {
        ("discard", entry_id, "--reason", "x", "--yes"),
        ("amend", entry_id, "--reason", "x", "--yes"),
        ("erase", NUMBER, "--reason", "x", "--yes"),
    }
    for words in looking | doing:
        done = run(box, *words, role=role, given="{}")
        allowed = role == "dlq_admin" or (role == "dlq_reader" and words in looking)
        refused = "grant dlq_admin to ROLE" in done.stderr
        assert refused != allowed, (words, done.stderr)
        assert len(done.stderr.splitlines()) == 1 or allowed
    assert (status(conn, entry_id) == "discarded") == (role == "dlq_admin")


# pipes, encodings


def test_whoever_has_seen_enough_closes_the_pipe(box: Sandbox, conn: psycopg.Connection) -> None:
    conn.execute("insert into webhook_dlq (service, payload) select 's', '1' from generate_series(1, 5000)")
    entry_id = store(conn, "failed", payload=json.dumps(["x"] * 20_000))
    for words in (
        "list --limit 5000", "list --limit 5000 --format json", "list --limit 5000 --format csv --payload",
        f"show {entry_id} --payload", f"show {entry_id} --payload --format json", "health",
        "health --watch --interval 0.1", "endpoints list", "replay list", "verify-cron", "secrets list", "--help",
    ):  # fmt: skip
        command = f"{sys.executable} -m dlqctl {words} | head -n 1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", command], env=command_env(box), capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode in (0, 1), done.stderr) == (True, ""), words
        assert len(done.stdout.splitlines()) <= 1


def test_all_go_into_a_file_that_is_there_once_it_is_whole(
    box: Sandbox, conn: psycopg.Connection, tmp_path: Path
) -> None:
    conn.execute("set session_replication_role = replica")
    conn.execute(
        "insert into webhook_dlq (service, payload, created_at, updated_at, next_retry_at)"
        " select 's', to_jsonb(n), now(), now(), now() + interval '1 hour' from generate_series(1, 50001) as n"
    )
    conn.execute("reset session_replication_role")
    path = tmp_path / "entries.csv"
    command = [sys.executable, "-m", "dlqctl", "list", "--all", "--payload", "--format", "csv", "--output", str(path)]
    env = command_env(box) | {"PGAPPNAME": "reader"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not path.with_name("entries.csv.part").exists():
            time.sleep(0.01)
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reader'")
        printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed, list(tmp_path.iterdir())) == (3, "", []), said

    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == f"50,000 entries so far\n50,001 in {path}\n"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(newline="") as file:
        assert sorted(int(row["payload"]) for row in csv.DictReader(file)) == list(range(1, 50_002))

    command[-1] = str(tmp_path / "no" / "folder")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"dlqctl: cannot write {command[-1]}: No such file or directory -> another --output")


def test_a_file_of_another_kind_is_not_replaced(box: Sandbox, conn: psycopg.Connection, tmp_path: Path) -> None:
    store(conn, "failed")
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    link.symlink_to(file)
    for path, status in ((pipe, 1), (tmp_path, 1), (link, 0)):
        done = run(box, "list", "--all", "--output", str(path))
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert (pipe.is_fifo(), link.is_symlink(), file.is_file()) == (True, True, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
@pytest.mark.parametrize(("where", "status", "said"), [("> /dev/full", 1, "No space left on device"), (">&-", 0, "")])
def test_whatever_cannot_be_printed_is_said_in_a_line(
    box: Sandbox, conn: psycopg.Connection, where: str, status: int, said: str
) -> None:
    store(conn, "failed")
    for words in ("list", "list --all --format csv", "list --format json", "health --format csv"):
        command = f"{sys.executable} -m dlqctl {words} {where}"
        done = subprocess.run(
            ["bash", "-c", command], env=command_env(box), capture_output=True, text=True, check=False
        )
        assert (done.returncode in (status, 1), done.stderr) == (True, f"dlqctl: {said}\n" if said else ""), words


def test_an_answer_that_is_cut_off_is_no_answer(box: Sandbox, conn: psycopg.Connection) -> None:
    """The backend is ended while somebody reads slowly."""
    conn.execute("insert into webhook_dlq (service, payload) select 's', '1' from generate_series(1, 20000)")
    process = subprocess.Popen(
        [sys.executable, "-m", "dlqctl", "list", "--limit", "20000", "--format", "json"],
        env=command_env(box) | {"PGAPPNAME": "reader"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    read = process.stdout.read(10_000)
    conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reader'")
    rest, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert len(said.splitlines()) == 1
    assert said.startswith("dlqctl: the connection was lost")
    with pytest.raises(json.JSONDecodeError):
        json.loads(read + rest)


_TELLS_ITS_MEMORY = """
import pathlib, re, sys
from dlqctl.cli import main
try:
    main()
finally:
    print(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc tells how much memory a process took")
def test_a_long_list_takes_no_more_memory_than_a_short_one(box: Sandbox, conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into webhook_dlq (service, payload)"
        " select 's', to_jsonb(repeat('x', 1000)) from generate_series(1, 20000)"
    )
    taken = []
    for limit in ("1000", "20000"):
        words = ("list", "--limit", limit, "--format", "json", "--payload")
        done = subprocess.run(
            [sys.executable, "-c", _TELLS_ITS_MEMORY, *words],
            env=command_env(box), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        taken.append(int(done.stderr.split()[-1]))
    assert taken[1] < taken[0] * 1.1, taken


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_what_takes_longer_than_a_second_says_so_and_ctrl_c_undoes_it(
    box: Sandbox, conn: psycopg.Connection, term: str
) -> None:
    """One entry is held by somebody, so that the verb has to wait for it in the middle."""
    entries = sorted(store(conn, "failed") for _ in range(3))
    with psycopg.connect(box.cluster.dsn()) as somebody:
        somebody.execute("select from webhook_dlq where id = %s for update", (entries[1],))
        words = ("retry", *entries, "--reason", "x", "--yes")
        with terminal(words, command_env(box), term=term) as shown:
            shown.wait_for("retry")
            assert shown.interrupt() == 130
        somebody.rollback()
    assert [status(conn, entry_id) for entry_id in entries] == ["failed"] * 3


def test_ctrl_c_ends_a_long_list(box: Sandbox, conn: psycopg.Connection) -> None:
    conn.execute("insert into webhook_dlq (service, payload) select 's', '1' from generate_series(1, 20000)")
    with terminal(("list", "--limit", "20000"), command_env(box)) as shown:
        shown.wait_for(r"s +pending")
        assert shown.interrupt() == 130
    assert "Traceback" not in shown.shown


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"}]
)
def test_any_locale_shows_what_it_can(box: Sandbox, conn: psycopg.Connection, locale: dict[str, str]) -> None:
    entry_id = store(conn, "failed", payload='{"name": "漢 \\u202e \\u001b[31m"}')
    with terminal(("show", entry_id, "--payload"), command_env(box) | locale) as shown:
        assert shown.end() == 0
    assert ("\\u6f22" if "PYTHONIOENCODING" in locale else "漢") in shown.shown
    assert "\\u202e" in shown.shown
    assert "\x1b" not in shown.raw
    with terminal(("list",), command_env(box) | locale) as shown:
        assert shown.end() == 0
    assert entry_id in shown.shown


def test_a_word_of_the_command_line_is_read_in_any_locale(box: Sandbox, conn: psycopg.Connection) -> None:
    entry_id = store(conn, "failed")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = run(box, "retry", entry_id, "--reason", "größer 漢", **ascii_only)
    assert done.returncode == 0, done.stderr
    assert conn.execute("select from dlq.audit_log where reason = 'größer 漢'").rowcount == 1
    assert "größer 漢" in run(box, "show", entry_id, **ascii_only).stdout
    conn.execute("update webhook_dlq set phone_number = '漢'")
    for form in ("csv", "table"):
        assert "漢" in run(box, "list", "--payload", "--format", form, **ascii_only).stdout


@pytest.mark.parametrize("columns", [40, 80])
def test_nothing_is_broken_within_a_word(box: Sandbox, conn: psycopg.Connection, columns: int) -> None:
    """Neither an id nor what is to be typed, in an error, a warning, a table, a check or the help."""
    waiting, other = store(conn, "pending", "shop"), store(conn, "failed", "shop")
    conn.execute("select dlq.set_endpoint('shop', 'https://h.example/')")
    conn.execute("select dlq.replay('the handler is mended', per_minute => 1)")
    for words, part in (
        (("redeliver", waiting, "--reason", "x"), waiting),
        (("show", "ffff0000-1"), "ffff0000-1"),
        (("show", other), other),
        (("replay", "list"), "the handler is mended"),
        (("endpoints", "list"), "https://h.example/"),
        (("health",), "PostgreSQL"),
        (("replay", "--help"), "--error-text"),
        (("--help",), "DLQCTL_DATABASE_URL"),
    ):
        with terminal(words, command_env(box), columns=columns) as shown:
            shown.end()
        lines = shown.shown.splitlines()
        assert any(part in line for line in lines), (words, shown.shown)
        for line in lines:
            alone = line.strip().removeprefix("-> ")
            assert len(line) <= columns or " " not in alone or "|" in alone, (words, line)


# health --watch


def test_watch_is_a_live_view_that_ctrl_c_ends(box: Sandbox, conn: psycopg.Connection) -> None:
    conn.execute("select dlq.pause('deploying')")
    with terminal(("health", "--watch", "--interval", "0.2"), command_env(box), lines=40, columns=100) as shown:
        at = shown.wait_for("0 pending, 0 due, 0 in flight")
        assert "deploying" in shown.shown
        store(conn, service="lonely")
        at = shown.wait_for("1 pending, 0 due, 0 in flight", after=at)
        shown.wait_for(r"lonely +no endpoint", after=at)
        assert shown.process.poll() is None
        assert shown.interrupt() == 0
    assert "Traceback" not in shown.shown


def test_watch_writes_lines_in_a_pipe_and_survives_a_lost_connection(box: Sandbox, conn: psycopg.Connection) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dlqctl", "health", "--watch", "--interval", "0.2"],
        env=command_env(box) | {"PGAPPNAME": "watcher"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert "last minute: " in next(lines)
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'watcher'")
        assert any("  lost: " in line for line, _ in zip(lines, range(50), strict=False))
        assert any("  lost: " not in line for line, _ in zip(lines, range(50), strict=False))
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_watch_fits_a_small_terminal_and_one_without_colour(box: Sandbox, conn: psycopg.Connection) -> None:
    for n in range(30):
        store(conn, service=f"s{n}")
    with terminal(("health", "--watch", "--interval", "0.2"), command_env(box), columns=40, lines=12) as shown:
        second = shown.wait_for("30 pending", after=shown.wait_for("30 pending"))
        first = shown.shown[: shown.shown.rindex("\n20", 0, second)]
        assert shown.interrupt() == 0
    assert max(map(len, first.splitlines())) <= 40
    assert len(first.splitlines()) <= 12
    with terminal(("health", "--watch", "--interval", "0.2"), command_env(box), no_color=True) as shown:
        shown.wait_for("30 pending")
        assert shown.interrupt() == 0
    assert "\x1b[3" not in shown.raw


def test_watch_refuses_what_does_not_go_with_it(box: Sandbox) -> None:
    assert run(box, "health", "--watch", "--format", "json").returncode == 2
    assert run(box, "health", "--interval", "1").returncode == 2
