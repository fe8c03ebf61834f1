"""Changing the sender, there and back: nothing is lost, what is answered is not sent again, nothing of others goes.

The server is one on which pg_net comes and goes. In most tests that is a stand-in, which has pg_net's objects and
sends nothing; in the last one it is the real one.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

import dlqctl.sender
from dlqctl.cluster import Cluster, _give_to_server, _make_folder, _pg_config, _without, find_server, start_cluster
from dlqctl.migrate import migrate
from tests.live.net_working import WORKER, Connection, Receiver, Worker, scalar, until
from tests.migration.migrating import Outcome, ask, do, dump, run

pytest.importorskip("pycurl", reason="the net-worker's extra is not installed: dlqctl[net-worker]")

STAND_IN = {
    # Whoever may create in the database may create it, and a role that is no superuser does not see what is loaded.
    "pg_net.control": "default_version = '0'\nsuperuser = false\n",
    "pg_net--0.sql": """
        create schema net;
        create unlogged table net.http_request_queue (
          id bigserial, method text not null, url text not null, headers jsonb, body bytea,
          timeout_milliseconds integer not null);
        create unlogged table net._http_response (
          id bigint, status_code integer, content_type text, headers jsonb, content text, timed_out boolean,
          error_msg text, created timestamptz not null default now());
        create function net.http_post(
          url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{}',
          timeout_milliseconds integer default 5000)
        returns bigint language sql as $$
          insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
          values ('POST', url, headers, convert_to(body::text, 'UTF8'), timeout_milliseconds) returning id
        $$;
    """,
}
CHANGE = ("migrate", "--no-cron", "--change-sender")
BACK = (*CHANGE, "--net-worker")


@contextlib.contextmanager
def _server() -> Iterator[tuple[Cluster, Path]]:
    """A server without pg_net, and the folder in which its control file would be."""
    binaries = find_server()
    folder = _make_folder()
    folder.chmod(0o711)
    try:
        programs = replace(_without(binaries, "pg_net", folder), has_pg_net=False)
        with start_cluster(binaries=programs) as cluster:
            yield cluster, Path(_pg_config(programs.bin_dir / "pg_config", "--sharedir")) / "extension"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def _stand_in_server() -> Iterator[tuple[Cluster, Path]]:
    with _server() as (cluster, extensions):
        do(cluster.dsn(), "create role deployer login createrole", f"create role {WORKER} login")
        yield cluster, extensions


class Place:
    """A database of a server on which pg_net comes and goes, and the net-worker sends. `dsn` is its owner's."""

    def __init__(self, cluster: Cluster, extensions: Path, database: str) -> None:
        self.dsn = cluster.dsn(database, user="deployer")
        self.as_superuser = cluster.dsn(database)
        self._extensions = extensions

    def pg_net_comes(self) -> None:
        for name, text in STAND_IN.items():
            (self._extensions / name).unlink(missing_ok=True)  # it may be a link to somebody else's
            (self._extensions / name).write_text(text)
        _give_to_server(self._extensions)

    def pg_net_goes(self) -> None:
        (self._extensions / "pg_net.control").unlink(missing_ok=True)

    def senders(self) -> tuple[bool, object]:
        """Whether there is the extension, and what schema net says of itself."""
        with psycopg.connect(self.as_superuser) as conn:
            return (
                scalar(conn, "select exists (select from pg_extension where extname = 'pg_net')"),
                scalar(conn, "select obj_description(to_regnamespace('net')::oid, 'pg_namespace')"),
            )


OURS = (False, "pg_net-compatible, served by dlqctl net-worker: not the extension")
THEIRS = (True, None)


@pytest.fixture
def place(_stand_in_server: tuple[Cluster, Path], request: pytest.FixtureRequest) -> Iterator[Place]:
    """A database with dlqctl in it, sent from by the net-worker, on a server without pg_net."""
    cluster, extensions = _stand_in_server
    do(cluster.dsn("postgres"), "create database place owner deployer")
    place = Place(cluster, extensions, "place")
    migrate(place.dsn, cron=False, net_worker=True)
    do(place.as_superuser, f"grant dlq_net_worker to {WORKER}")
    yield place
    place.pg_net_goes()
    do(cluster.dsn("postgres"), "drop database place with (force)")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


@pytest.fixture
def worker(place: Place) -> Iterator[Worker]:
    worker = Worker(place.as_superuser)
    yield worker
    worker.end()


def dispatch(dsn: str, url: str, count: int) -> None:
    """Hand so many entries of service shop to the sender."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "select dlq.set_endpoint('shop', %s, allow_http => true, allow_private => true, max_in_flight => 1000,"
            " timeout_ms => 30000)",
            (url,),
        )
        conn.execute(
            "insert into webhook_dlq (service, payload, next_retry_at)"
            " select 'shop', to_jsonb(n), now() from generate_series(1, %s) as n",
            (count,),
        )
        assert scalar(conn, "select (process_dlq_entries() ->> 'dispatched')::int") == count


def statuses(conn: Connection) -> dict[str, int]:
    return dict(conn.execute("select status, count(*) from webhook_dlq group by status").fetchall())


def refused(place: Place, *words: str) -> Outcome:
    """Run a command that must refuse, and see that it has changed nothing."""
    before = dump(place.as_superuser)
    outcome = run("--dsn", place.dsn, *words)
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (1, "", 1), outcome
    assert dump(place.as_superuser) == before
    return outcome


def test_when_pg_net_comes_migrate_names_the_command(place: Place) -> None:
    place.pg_net_comes()

    assert "dlqctl migrate --change-sender" in refused(place, "migrate", "--no-cron").err
    assert "two senders" in refused(place, *BACK).err
    checked = run("--dsn", place.dsn, *CHANGE, "--check")
    assert (checked.code, checked.out) == (1, "the sender: pg_net in the place of net-worker\n")
    assert place.senders() == OURS


def test_what_is_under_way_is_answered_first_and_nobody_waits_meanwhile(
    place: Place, worker: Worker, receiver: Receiver
) -> None:
    count = 20
    dispatch(place.as_superuser, receiver.url("/gate"), count)
    until(lambda: receiver.count("/gate") == count)
    place.pg_net_comes()
    said: list[str] = []
    with ThreadPoolExecutor(1) as pool, psycopg.connect(place.as_superuser, autocommit=True) as conn:
        changing = pool.submit(migrate, place.dsn, cron=False, change_sender=True, on_wait=said.append)
        until(lambda: said)
        assert said[0].startswith(f"waiting for the answers to {count} requests")
        conn.execute("set statement_timeout = '1 s'")
        _has_looked_often(conn)
        assert scalar(conn, "select process_dlq_entries() ->> 'status'") == "busy"
        conn.execute("select store_dlq_entry('shop', '\"new\"')")
        conn.execute("insert into webhook_dlq (service, payload) values ('shop', '1')")  # an echo of what is under way
        receiver.open_gate()
        report = changing.result(timeout=30)
        assert place.senders() == THEIRS
        assert (report.sender, report.changed) == (
            "pg_net",
            ["schema net of the net-worker, dropped", f"answers collected before: {count}", "extension pg_net"],
        )
        # The echo says that its first delivery was none.
        assert statuses(conn) == {"reprocessed": count - 1, "pending": 2, "discarded": 1}
        assert scalar(conn, "select sum(unanswered_count) from webhook_dlq") == 0
    assert receiver.count("/gate") == count
    assert migrate(place.dsn, cron=False).changed == []
    assert migrate(place.dsn, cron=False, change_sender=True).changed == []


def _has_looked_often(conn: Connection) -> None:
    """Wait until migrate has asked three times whether all is answered."""
    query = b"""
        select query_start from pg_stat_activity
        where application_name = 'dlqctl' and datname = current_database()
          and query like '%from net.http_request_queue%'
    """
    asked: set[object] = set()

    def often() -> bool:
        asked.update(conn.execute(query).fetchall())
        return len(asked) >= 3

    until(often)


def test_what_nobody_will_answer_is_not_waited_for_and_given_back(place: Place) -> None:
    dispatch(place.as_superuser, "http://127.0.0.1:9/", 3)
    do(
        place.as_superuser,
        "insert into net.http_request_queue (method, url, timeout_milliseconds)"
        " values ('POST', 'http://127.0.0.1:9/', 1)",
    )
    place.pg_net_comes()
    began = time.monotonic()

    done = run("--dsn", place.dsn, *CHANGE)

    assert time.monotonic() - began < dlqctl.sender.PATIENCE_SECONDS / 2
    assert done.code == 0, done
    assert done.out.splitlines() == [
        "schema net of the net-worker, dropped",
        "requests of others, dropped unsent: 1",
        "extension pg_net",
        "entries given back unanswered, to be sent again: 3",
    ]
    with psycopg.connect(place.as_superuser) as conn:
        assert statuses(conn) == {"pending": 3}
        assert conn.execute("select distinct unanswered_count, retry_count from webhook_dlq").fetchall() == [(1, 0)]


def test_the_wait_has_an_end(place: Place, worker: Worker, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlqctl.sender, "PATIENCE_SECONDS", 1)
    dispatch(place.as_superuser, receiver.url("/gate"), 2)
    until(lambda: receiver.count("/gate") == 2)
    place.pg_net_comes()

    report = migrate(place.dsn, cron=False, change_sender=True)

    assert "entries given back unanswered, to be sent again: 2" in report.changed


THEIR_THINGS = pytest.mark.parametrize(
    ("create", "drop", "name"),
    [
        ("create table net.theirs (id int)", "drop table net.theirs", "net.theirs"),
        ("create view theirs as select id from net._http_response", "drop view theirs", "view public.theirs"),
        (
            "create function net.theirs() returns int language sql as 'select 1'",
            "drop function net.theirs",
            "net.theirs()",
        ),
    ],
)


@THEIR_THINGS
def test_what_somebody_keeps_in_the_net_workers_schema_is_named_and_stays(
    place: Place, create: str, drop: str, name: str
) -> None:
    place.pg_net_comes()
    do(place.as_superuser, create)

    assert name in refused(place, *CHANGE).err

    do(place.as_superuser, drop)
    assert run("--dsn", place.dsn, *CHANGE).code == 0


def test_without_pg_net_on_the_server_there_is_nothing_to_change_to(place: Place) -> None:
    assert "pg_net is not on this server" in refused(place, *CHANGE).err
    assert run("--dsn", place.dsn, *BACK).out == ""


def test_when_pg_net_has_gone_the_net_worker_takes_over_and_what_was_answered_counts(
    place: Place, worker: Worker, receiver: Receiver
) -> None:
    as_it_was = dump(place.as_superuser)
    place.pg_net_comes()
    migrate(place.dsn, cron=False, change_sender=True)
    until(lambda: worker.count("pg_net serves this database already"))
    dispatch(place.as_superuser, receiver.url("/ok"), 5)
    do(
        place.as_superuser,
        "insert into net._http_response (id, status_code) select min(request_id), 200 from dlq.in_flight",
        "delete from net.http_request_queue where id = (select min(request_id) from dlq.in_flight)",
    )
    place.pg_net_goes()

    for words in (("migrate", "--no-cron"), ("migrate", "--no-cron", "--net-worker"), CHANGE):
        assert "dlqctl migrate --net-worker --change-sender" in refused(place, *words).err
    checked = run("--dsn", place.dsn, *BACK, "--check")
    assert (checked.code, checked.out) == (1, "the sender: net-worker in the place of pg_net\n")
    done = run("--dsn", place.dsn, *BACK)

    assert done.code == 0, done
    assert done.out.splitlines()[:2] == ["extension pg_net, dropped", "answers collected before: 1"]
    assert done.out.splitlines()[-1] == "entries given back unanswered, to be sent again: 4"
    assert place.senders() == OURS
    assert dump(place.as_superuser) == as_it_was
    until(lambda: worker.count("connected again"))
    with psycopg.connect(place.as_superuser, autocommit=True) as conn:
        conn.execute("call dlq.run_cycle()")
        assert statuses(conn) == {"reprocessed": 5}
    assert receiver.count("/ok") == 4


@THEIR_THINGS
def test_what_somebody_has_built_on_pg_net_is_named_and_stays(place: Place, create: str, drop: str, name: str) -> None:
    place.pg_net_comes()
    migrate(place.dsn, cron=False, change_sender=True)
    do(place.as_superuser, create)
    place.pg_net_goes()

    assert name in refused(place, *BACK).err

    do(place.as_superuser, drop)
    assert run("--dsn", place.dsn, *BACK).code == 0


# The real one.


@pytest.mark.pg_net
def test_to_the_real_pg_net_and_back_every_entry_is_delivered(receiver: Receiver) -> None:
    binaries = find_server()
    if not binaries.has_pg_net:
        pytest.skip(f"pg_net is not installed for PostgreSQL {binaries.major}")
    control = Path(_pg_config(binaries.bin_dir / "pg_config", "--sharedir")) / "extension/pg_net.control"
    with contextlib.ExitStack() as stack:
        cluster, extensions = stack.enter_context(_server())
        dsn = cluster.dsn()

        def restart_with(*libraries: str) -> None:
            with (cluster.data_dir / "postgresql.conf").open("a") as file:
                file.write(f"shared_preload_libraries = '{','.join(libraries)}'\npg_net.database_name = 'dlq'\n")
            cluster.restart()

        def deliver() -> None:
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute("call dlq.run_cycle()")
                assert set(statuses(conn)) == {"reprocessed"}
                assert scalar(conn, "select sum(retry_count) from webhook_dlq") == 0

        migrate(dsn, cron=False, net_worker=True)
        do(dsn, f"create role {WORKER} login in role dlq_net_worker")
        worker = Worker(dsn)
        stack.callback(worker.end)
        dispatch(dsn, receiver.url("/gate"), 10)
        until(lambda: receiver.count("/gate") == 10)

        # pg_net comes, with a restart. It takes what stands in the queue.
        shutil.copy(control, extensions)
        _give_to_server(extensions)
        restart_with("pg_net")
        assert "dlqctl migrate --change-sender" in run("--dsn", dsn, "migrate", "--no-cron").err
        until(lambda: worker.count("pg_net serves this database already"))
        receiver.open_gate()
        there = migrate(dsn, cron=False, change_sender=True, on_wait=print)
        print(there.changed, f"{receiver.count('/gate') - 10} of 10 sent again so far")
        deliver()
        dispatch(dsn, receiver.url("/ok"), 10)
        deliver()

        # It goes, with a restart.
        dispatch(dsn, receiver.url("/ok"), 10)
        (extensions / control.name).unlink()
        restart_with()
        assert "--net-worker --change-sender" in run("--dsn", dsn, "migrate", "--no-cron").err
        back = migrate(dsn, cron=False, net_worker=True, change_sender=True)
        print(back.changed)
        assert ask(dsn, "select count(*) from pg_extension where extname = 'pg_net'") == 0
        until(lambda: worker.count("connected again"))
        deliver()
        sent = Counter(headers["webhook-id"] for _, headers, _ in receiver.seen)
        print(f"30 entries, {sum(sent.values())} requests")
        assert len(sent) == 30
