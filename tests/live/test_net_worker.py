"""The net-worker against a real server and a real receiver on loopback: what is answered, and that all is."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from dlqctl import definitions, net_http, net_queue, net_worker
from dlqctl.errors import DlqctlError
from tests.live.net_working import (
    WORKER,
    Connection,
    Receiver,
    Start,
    answer,
    answered,
    failure,
    insert,
    post,
    queued,
    scalar,
    until,
)

pytest.importorskip("pycurl", reason="the net-worker's extra is not installed: dlqctl[net-worker]")


def load(dsn: str) -> None:
    """Run everything of sql/net/, as migrate does where the schema is missing."""
    with psycopg.connect(dsn) as conn:
        conn.execute(definitions.net_schema().encode())
        conn.execute("set role dlq_owner")
        for statements in definitions.net_everything():
            conn.execute(statements.encode())


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def make_certificate(folder: Path) -> Path:
    """A file with a key and a certificate for 127.0.0.1 that nobody has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    key, file = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(["openssl", *words.split(), "-keyout", key, "-out", file], check=True, capture_output=True)
    file.write_text(key.read_text() + file.read_text())
    return file


# What is sent.


def test_a_request_is_sent_as_it_was_queued(db: Connection, start: Start, receiver: Receiver) -> None:
    request_id = scalar(
        db,
        'select net.http_post(url := %s, body := \'{"b": "é","a":1e3}\', params := \'{"q": "a&é b", "n": null}\','
        ' headers := \'{"X-Text": "v", "X-Number": 12345678901234567890.5, "X-None": null, "X-Empty": ""}\')',
        receiver.url("/ok?x=1#part"),
    )
    start()
    row = answer(db, request_id)
    assert (row["status_code"], row["error_msg"], row["timed_out"]) == (200, None, False)
    assert (row["content_type"], row["content"]) == ("application/json", "{}")
    assert row["headers"] == {"Content-Type": "application/json", "Content-Length": "2"}
    ((path, headers, body),) = receiver.seen
    assert path == "/ok?x=1&q=a%26%C3%A9%20b"
    assert body == '{"a": 1000, "b": "é"}'.encode()
    assert headers.pop("User-Agent").startswith("dlqctl/")
    assert headers == {
        "Host": f"127.0.0.1:{receiver.port}",
        "Accept": "*/*",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "X-Text": "v",
        "X-Number": "12345678901234567890.5",
        "X-Empty": "",
    }


def test_a_long_body_is_sent_without_asking_first(db: Connection, start: Start, receiver: Receiver) -> None:
    start()
    request_id = scalar(
        db, "select net.http_post(%s, jsonb_build_object('pad', repeat('x', 2000000)))", receiver.url("/ok")
    )
    assert answer(db, request_id)["status_code"] == 200
    ((_, headers, body),) = receiver.seen
    assert "Expect" not in headers
    assert len(body) > 2_000_000


def test_a_new_request_is_noticed_before_the_next_poll(db: Connection, start: Start, receiver: Receiver) -> None:
    start(constants={"POLL_SECONDS": 600})
    for _ in range(10):
        answer(db, post(db, receiver.url("/ok"))[0])


@pytest.mark.parametrize(
    ("arguments", "sqlstate"),
    [
        ("url := null", "22004"),
        ("url := 'ftp://host/'", "22023"),
        ("url := 'file:///etc/passwd'", "22023"),
        ("url := 'https://'", "22023"),
        ("url := e'http://host/\\nx'", "22023"),
        ("url := 'http://ho st/'", "22023"),
        ("url := 'http://host/', headers := '{\"content-type\": \"text/plain\"}'", "22023"),
        ("url := 'http://host/', headers := '{\"Content-Type\": \"application/json; charset=utf-8\"}'", "22023"),
        ("url := 'http://host/', headers := '[]'", "22023"),
    ],
)
def test_http_post_refuses(db: Connection, arguments: str, sqlstate: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        db.execute(f"select net.http_post({arguments})".encode())
    assert caught.value.sqlstate == sqlstate
    assert queued(db) == 0


def test_nothing_is_granted_to_public(db: Connection) -> None:
    grants = scalar(
        db,
        "select count(*) from ("
        " select coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::\"char\", relowner))"
        "   from pg_class where relnamespace = 'net'::regnamespace and relkind in ('r', 'S', 'v')"
        " union all select coalesce(proacl, acldefault('f', proowner)) from pg_proc"
        "   where pronamespace = 'net'::regnamespace"
        " union all select nspacl from pg_namespace where nspname = 'net') as o (acl)"
        " cross join lateral aclexplode(o.acl) as a where a.grantee = 0",
    )
    assert grants == 0


def test_the_files_can_be_run_again_under_load(net_database: str, db: Connection) -> None:
    ids = post(db, "http://127.0.0.1/", 3)
    load(net_database)
    assert [row[0] for row in db.execute("select id from net.http_request_queue order by id")] == ids


# What is answered.


def test_failures_have_libcurls_texts(db: Connection, start: Start, receiver: Receiver) -> None:
    start()
    for url, text in (
        (f"http://127.0.0.1:{closed_port()}/", "Couldn't connect to server"),
        ("http://nothing.invalid/", "Couldn't resolve host name"),
        (receiver.url("/reset"), "Failure when receiving data from the peer"),
        (receiver.url("/short"), "Transferred a partial file"),
        (receiver.url("/chunk"), "Failure when receiving data from the peer"),
        (receiver.url("/ssh"), "Unsupported protocol"),
        (receiver.url("/ok").replace("http:", "https:"), "SSL connect error"),
    ):
        assert (url, failure(db, post(db, url)[0])) == (url, text)
    assert failure(db, post(db, receiver.url("/empty"))[0]) == "Server returned nothing (no headers, no data)"


def test_a_timeout_is_total_and_says_so(db: Connection, start: Start, receiver: Receiver) -> None:
    start()
    row = answer(db, post(db, receiver.url("/hang"), timeout=300)[0])
    number = r"\d+\.\d+ ms"
    pattern = (
        rf"Timeout of 300 ms reached\. Total time: {number} \(DNS time: {number}, "
        rf"TCP/SSL handshake time: {number}, HTTP Request/Response time: {number}\)"
    )
    assert re.fullmatch(pattern, row["error_msg"])
    assert row["timed_out"] is True
    assert {row[column] for column in ("status_code", "content_type", "headers", "content")} == {None}


@pytest.mark.parametrize("timeout", [0, -1])
def test_no_request_waits_for_ever(db: Connection, start: Start, receiver: Receiver, timeout: int) -> None:
    start()
    assert answer(db, post(db, receiver.url("/hang"), timeout=timeout)[0])["timed_out"] is True


def test_a_redirect_is_the_answer(db: Connection, start: Start, receiver: Receiver) -> None:
    start()
    row = answer(db, post(db, receiver.url("/moved"))[0])
    assert (row["status_code"], row["headers"]["Location"], row["error_msg"]) == (302, "/ok", None)
    assert receiver.count("/ok") == 0


def test_the_last_of_repeated_headers_and_the_final_status_are_kept(
    db: Connection, start: Start, receiver: Receiver
) -> None:
    start()
    row = answer(db, post(db, receiver.url("/none"))[0])
    assert (row["status_code"], row["headers"], row["content"]) == (204, {"X-Twice": "b"}, None)
    row = answer(db, post(db, receiver.url("/early"))[0])
    assert (row["status_code"], row["headers"]) == (500, {"Content-Length": "0"})


def test_a_reply_is_cut_at_the_limit(db: Connection, start: Start, receiver: Receiver) -> None:
    start()
    row = answer(db, post(db, receiver.url("/big"))[0])
    assert (row["status_code"], row["error_msg"], len(row["content"])) == (200, None, net_http.BODY_LIMIT)


def test_a_reply_that_is_not_utf8_is_readable(db: Connection, start: Start, receiver: Receiver) -> None:
    start()
    row = answer(db, post(db, receiver.url("/utf8"))[0])
    assert (row["status_code"], row["content"], row["headers"]["X-Odd"]) == (200, "a\ufffdbé", "\ufffd")


def test_a_certificate_is_checked(db: Connection, start: Start, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    receiver = Receiver(certificate)
    try:
        first = start()
        assert failure(db, post(db, receiver.url("/ok"))[0]) == "SSL peer certificate or SSH remote key was not OK"
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        start(SSL_CERT_FILE=str(certificate))
        assert answer(db, post(db, receiver.url("/ok"))[0])["status_code"] == 200
    finally:
        receiver.close()


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("nonsense", {}),
        ("", {}),
        ("ftp://127.0.0.1/", {}),
        ("http://[::/", {}),
        ("http://127.0.0.1:99999/", {}),
        ("http://b\u00fccher.invalid/", {}),
        ("/ok", []),
        ("/ok", "text"),
        ("/ok", {"X-A": "b\r\nX-Injected: c"}),
        ("/ok", {"X-A": "b\nX-Injected: c"}),
        ("/ok", {"X-A\r\nX-Injected": "c"}),
        ("/ok", {"X-A: b, X-Injected": "c"}),
        ("/ok", {"X-A": {"deep": "\u0001"}, "": "x"}),
        ("/ok", {"Content-Length": "1"}),
        ("/ok", {"transfer-encoding": "chunked"}),
    ],
)
def test_a_bad_row_is_answered_and_not_sent(
    db: Connection, start: Start, receiver: Receiver, url: str, headers: object
) -> None:
    bad = insert(db, receiver.url(url) if url == "/ok" else url, headers)
    good = insert(db, receiver.url("/ok"), {})
    worker = start()
    assert failure(db, bad)
    assert answer(db, good)["status_code"] == 200
    assert len(receiver.seen) == 1
    assert worker.count("reconnecting") == 0


# That all is answered, and how.


def test_one_slow_request_holds_up_nobody(db: Connection, start: Start, receiver: Receiver) -> None:
    (slow,) = post(db, receiver.url("/gate"))
    post(db, receiver.url("/ok"), 200)
    start(slots=5)
    until(lambda: answered(db) == 200)
    assert scalar(db, "select array_agg(id) from net.http_request_queue") == [slow]
    receiver.open_gate()
    assert answer(db, slow)["status_code"] == 200


def test_in_every_snapshot_a_request_is_queued_or_answered(
    net_database: str, db: Connection, start: Start, receiver: Receiver
) -> None:
    ids = set(post(db, receiver.url("/ok"), 10_000))
    start()
    start()
    snapshots: list[int] = []
    with psycopg.connect(net_database) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        while not snapshots or snapshots[-1]:
            with reader.transaction():
                replies = [row[0] for row in reader.execute("select id from net._http_response")]
                waiting = [row[0] for row in reader.execute("select id from net.http_request_queue")]
            assert len(replies) + len(waiting) == 10_000
            assert ids == {*replies, *waiting}
            snapshots.append(len(waiting))
    assert len(set(snapshots)) > 3, "all was over before it was looked at"


def test_two_workers_share_and_send_nothing_twice(db: Connection, start: Start, receiver: Receiver) -> None:
    gated = post(db, receiver.url("/gate"), 60)
    start(slots=30)
    start(slots=30)
    until(lambda: receiver.count("/gate") == 60)
    assert scalar(db, "select count(distinct claimed_by) from net.http_request_queue") == 2
    post(db, receiver.url("/ok"), 2000)
    receiver.open_gate()
    until(lambda: answered(db) == 2060)
    assert Counter(path for path, _, _ in receiver.seen) == {"/gate": len(gated), "/ok": 2000}
    assert max(Counter((path, body) for path, _, body in receiver.seen).values()) == 1
    assert queued(db) == 0


def test_what_a_killed_worker_was_sending_is_taken_over(db: Connection, start: Start, receiver: Receiver) -> None:
    ids = post(db, receiver.url("/gate"), 50)
    first = start(slots=40)
    until(lambda: receiver.count("/gate") == 40)
    start(slots=50)
    until(lambda: receiver.count("/gate") == 50)
    first.signal(signal.SIGKILL)
    until(lambda: receiver.count("/gate") == 90)
    receiver.open_gate()
    until(lambda: queued(db) == 0)
    assert [row[0] for row in db.execute("select id from net._http_response order by id")] == ids


def test_a_worker_that_is_cut_off_writes_what_it_got(db: Connection, start: Start, receiver: Receiver) -> None:
    ids = post(db, receiver.url("/gate"), 50)
    worker = start(slots=40)
    until(lambda: receiver.count("/gate") == 40)
    receiver.open_gate()
    for again in range(1, 4):
        scalar(db, "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = %s", WORKER)
        until(lambda again=again: worker.count("connected again") == again)  # type: ignore[misc]
    until(lambda: queued(db) == 0)
    assert [row[0] for row in db.execute("select id from net._http_response order by id")] == ids
    assert receiver.count("/gate") == 50


def test_requests_are_answered_while_the_database_refuses(
    net_database: str, db: Connection, start: Start, receiver: Receiver
) -> None:
    ids = post(db, receiver.url("/gate"), 10)
    worker = start()
    until(lambda: receiver.count("/gate") == 10)
    db.execute(f"alter role {WORKER} nologin".encode())
    try:
        scalar(db, "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = %s", WORKER)
        receiver.open_gate()
        until(lambda: worker.count("reconnecting") >= 2)
    finally:
        db.execute(f"alter role {WORKER} login".encode())
    until(lambda: queued(db) == 0)
    assert [row[0] for row in db.execute("select id from net._http_response order by id")] == ids
    assert receiver.count("/gate") == 10


def test_an_emptied_queue_does_not_get_the_answers_of_another(db: Connection, start: Start, receiver: Receiver) -> None:
    (old,) = post(db, receiver.url("/gate"))
    start()
    until(lambda: receiver.count("/gate") == 1)
    db.execute("truncate net.http_request_queue restart identity")
    (new,) = post(db, receiver.url("/hang"), timeout=2000)
    assert new == old
    until(lambda: receiver.count("/hang") == 1)
    receiver.open_gate()
    assert answer(db, new)["timed_out"] is True


def test_an_answer_is_not_written_without_the_claim(db: Connection, start: Start, receiver: Receiver) -> None:
    (lost,) = post(db, receiver.url("/gate"))
    start(slots=1)
    until(lambda: receiver.count("/gate") == 1)
    db.execute("select pg_advisory_lock(%s, 7)", (net_queue.LOCK_CLASS,))
    db.execute("update net.http_request_queue set claimed_by = 7")
    receiver.open_gate()
    # The only slot is free again when the lost request has ended.
    assert answer(db, post(db, receiver.url("/ok"))[0])["status_code"] == 200
    assert answer(db, post(db, receiver.url("/ok"))[0])["status_code"] == 200
    assert scalar(db, "select array_agg(id) from net.http_request_queue") == [lost]
    assert answered(db) == 2


def test_old_responses_are_deleted(db: Connection, start: Start) -> None:
    db.execute("insert into net._http_response (id, created) values (1, now() - interval '7 hours'), (2, now())")
    start()
    until(lambda: answered(db) == 1)


def test_a_signal_lets_it_finish_what_it_sends(db: Connection, start: Start, receiver: Receiver) -> None:
    ids = post(db, receiver.url("/gate"), 30)
    worker = start(slots=10)
    until(lambda: receiver.count("/gate") == 10)
    worker.signal(signal.SIGTERM)
    until(lambda: worker.count("stopping"))
    receiver.open_gate()
    assert worker.wait() == 0
    assert worker.count("stopped") == 1
    assert [row[0] for row in db.execute("select id from net._http_response order by id")] == ids[:10]
    assert (
        scalar(db, "select array_agg(id order by id) from net.http_request_queue where claimed_by is null") == ids[10:]
    )


def test_a_second_signal_ends_it_at_once(db: Connection, start: Start, receiver: Receiver) -> None:
    ids = post(db, receiver.url("/gate"), 5)
    worker = start()
    until(lambda: receiver.count("/gate") == 5)
    worker.signal(signal.SIGINT)
    until(lambda: worker.count("stopping"))
    worker.signal(signal.SIGINT)
    assert worker.wait() == 1
    receiver.open_gate()
    start()
    until(lambda: answered(db) == len(ids))


def test_several_processes_are_kept_running(db: Connection, start: Start, receiver: Receiver) -> None:
    parent = start(workers=2)
    number = re.search(r"\[(\d+)\]: started on", "".join(parent.lines))
    assert number is not None
    os.kill(int(number[1]), signal.SIGKILL)
    until(lambda: parent.count("started on") == 3)
    post(db, receiver.url("/ok"), 100)
    until(lambda: answered(db) == 100)
    parent.signal(signal.SIGTERM)
    assert parent.wait() == 0
    assert parent.count("stopped") == 2


def test_the_processes_do_not_outlive_their_parent(db: Connection, start: Start) -> None:
    parent = start(workers=2)
    parent.signal(signal.SIGKILL)
    until(lambda: scalar(db, "select count(*) from pg_stat_activity where usename = %s", WORKER) == 0)


# When it refuses to start.


def test_without_the_schema_it_says_how_to_install_it(net_database: str, db: Connection) -> None:
    db.execute("drop schema net cascade")
    with pytest.raises(DlqctlError) as caught:
        net_worker.run(net_database)
    assert caught.value.hint == "dlqctl migrate --net-worker"
    load(net_database)


def test_beside_the_real_pg_net_it_refuses(net_database: str, db: Connection) -> None:
    db.execute(
        "insert into pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)"
        " values (99999, 'pg_net', 10, 2200, false, '0')"
    )
    try:
        with pytest.raises(DlqctlError, match="pg_net"):
            net_worker.run(net_database)
    finally:
        db.execute("delete from pg_extension where oid = 99999")


def test_without_the_right_it_names_the_role_to_grant(net_database: str, db: Connection) -> None:
    db.execute(f"revoke dlq_net_worker from {WORKER}".encode())
    try:
        with pytest.raises(DlqctlError) as caught:
            net_worker.run(make_conninfo(net_database, user=WORKER))
    finally:
        db.execute(f"grant dlq_net_worker to {WORKER}".encode())
    assert caught.value.hint == f"grant dlq_net_worker to {WORKER}"


def test_without_pycurl_it_names_the_extra(net_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_http, "pycurl", None)
    with pytest.raises(DlqctlError) as caught:
        net_worker.run(net_database)
    assert caught.value.hint == "pip install 'dlqctl[net-worker]'"
