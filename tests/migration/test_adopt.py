"""A home-made queue is taken over: nothing is lost, nothing is sent twice, and storing a webhook hardly waits."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import dlqctl.migrate
from dlqctl import adopt as module
from dlqctl import definitions
from dlqctl.adopt_columns import Options
from dlqctl.bundle import ROOT
from dlqctl.cluster import Cluster
from dlqctl.errors import DlqctlError
from dlqctl.receiver import Receiver
from tests.migration import home_made
from tests.migration.migrating import WAITING, Outcome, ask, do, dump, run, wait_for

ROWS = int(os.environ.get("DLQCTL_ADOPT_ROWS", "5000"))
"""How many rows the live test adopts: more for a measurement."""

WORDS = ("--no-cron", "--net-worker")


def adopt(dsn: str, *words: str) -> Outcome:
    """Run adopt without asking, where there is neither pg_cron nor pg_net."""
    return run("--dsn", dsn, "adopt", "--yes", *WORDS, *words)


def adopted(dsn: str, *words: str) -> Outcome:
    """The same, and see that all went well, and that migrate finds nothing to do."""
    outcome = adopt(dsn, *words)
    assert outcome.code == 0, outcome
    assert run("--dsn", dsn, "migrate", "--check", "--no-cron").err == "nothing differs\n"
    return outcome


def refused(dsn: str, *words: str) -> Outcome:
    """Run adopt where it must refuse, with and without --check, and see that it has changed nothing."""
    before = dump(make_conninfo(dsn, user="postgres"))
    outcome = adopt(dsn, *words)
    assert outcome.code == 1, outcome
    assert adopt(dsn, "--check", *words) == outcome
    assert dump(make_conninfo(dsn, user="postgres")) == before
    return outcome


def flat(outcome: Outcome) -> str:
    """What was said, without the line breaks for a narrow terminal."""
    return re.sub(r"\s+", " ", outcome.out + outcome.err)


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query.encode()).fetchall()


@pytest.fixture
def home(empty_database: str) -> str:
    """A database with the mission's tables, a few rows in each status, and no job."""
    do(empty_database, home_made.TABLES, home_made.PROCESSOR, home_made.rows(40))
    return empty_database


@pytest.fixture
def role(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """Makes a role with these attributes and returns its name; what it owns goes with it."""
    made: list[str] = []

    def make(name: str, attributes: str = "login") -> str:
        do(cluster.dsn("postgres"), f"create role {name} {attributes}")
        made.append(name)
        return name

    yield make
    with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as conn:
        databases = conn.execute(
            "select datname from pg_database where datallowconn and datname like 'test%'"
        ).fetchall()
    for (database,) in databases:
        do(cluster.dsn(database), *(f"drop owned by {name} cascade" for name in made))
    do(cluster.dsn("postgres"), *(f"reassign owned by {name} to postgres; drop role {name}" for name in made))


class Handler:
    """A handler that stores a failure 200 times a second, by a prepared statement, until it is stopped."""

    def __init__(self, dsn: str, values: str = "'whatsapp', '{}', 'timeout', now() + interval '1 day'") -> None:
        self._dsn = dsn
        self._insert = (
            f"insert into webhook_dlq (service, payload, error_message, next_retry_at) values ({values}) returning id"
        )
        self._done = threading.Event()
        self.stored: list[str] = []
        self.waits: list[float] = []

    def run(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            due = time.monotonic()
            while not self._done.is_set():
                started = time.monotonic()
                row = conn.execute(self._insert.encode(), prepare=True).fetchone()
                self.waits.append(time.monotonic() - started)
                assert row
                self.stored.append(str(row[0]))
                due += 0.005
                time.sleep(max(0, due - time.monotonic()))

    @contextmanager
    def storing(self) -> Iterator[None]:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self.run)
            try:
                while len(self.stored) < 20 and not running.done():
                    time.sleep(0.01)
                yield
            finally:
                self._done.set()
            running.result()


@contextmanager
def net_worker(dsn: str) -> Iterator[None]:
    """Send what is queued in schema net."""
    with subprocess.Popen([sys.executable, "-m", "dlqctl", "--dsn", dsn, "net-worker"]) as process:
        try:
            yield
        finally:
            process.terminate()


def provide_old_sender(dsn: str) -> None:
    """Schema net as the home-made queue finds it: its tables and functions, before there is anything of dlqctl's."""
    with psycopg.connect(dsn) as conn:
        conn.execute("do $$ begin if to_regrole('dlq_owner') is null then create role dlq_owner; end if; end $$")
        conn.execute(definitions.net_schema().encode())
        conn.execute("set role dlq_owner")
        conn.execute(definitions.net_tables().encode())
        for function in definitions.load_net():
            conn.execute(function.create_sql.encode())


def test_a_running_queue_is_taken_over_and_nothing_is_lost_or_sent_twice(
    cron_database: str, receiver: Receiver
) -> None:
    dsn = cron_database
    provide_old_sender(dsn)
    do(
        dsn,
        "create extension pg_cron",
        home_made.TABLES,
        home_made.PROCESSOR.format(url=receiver.url("")),
        home_made.rows(ROWS),
        "update webhook_dlq set next_retry_at = now() - interval '1 minute' where status = 'pending'"
        " and id in (select id from webhook_dlq where status = 'pending' limit 600)",
        home_made.JOB,
        "drop role if exists handler",
        "create role handler login",
        "grant select, insert, update on webhook_dlq to handler",
    )
    handler = Handler(make_conninfo(dsn, user="handler"))
    ended = threading.Event()

    def process() -> None:
        """What the job does, more often: by the old function, and later by ours, under the same name."""
        with psycopg.connect(dsn, autocommit=True) as conn:
            while not ended.wait(0.2):
                # The old one that waits for the tables goes on with ours, finds nothing to send, and fails at the log.
                with suppress(psycopg.errors.NotNullViolation):
                    conn.execute("select process_dlq_entries()", prepare=False)  # its type changes

    try:
        with net_worker(dsn), ThreadPoolExecutor(1) as pool, handler.storing():
            assert run("--dsn", dsn, "migrate", "--net-worker").code == 1
            processing = pool.submit(process)
            try:
                receiver.wait_for(lambda: len(receiver.accepted) >= 100)
                began = time.monotonic()
                outcome = run("--dsn", dsn, "adopt", "--yes", "--net-worker")
                took = time.monotonic() - began
                do(
                    dsn,
                    f"select dlq.set_endpoint('whatsapp', '{receiver.url('whatsapp')}', true, true,"
                    " max_in_flight => 200)",
                )
                wait_for(
                    dsn,
                    "select 1 where not exists (select from webhook_dlq where status = 'processing'"
                    " or status = 'pending' and next_retry_at <= now())",
                    60,
                )
            finally:
                ended.set()
                processing.result()
        assert outcome.code == 0, outcome
        ids = {str(id_) for (id_,) in rows(dsn, "select id from webhook_dlq")}
        assert {str(id_) for (id_,) in rows(dsn, "select id from webhook_dlq_old")} <= ids
        assert set(handler.stored) <= ids
        assert len(ids) == ROWS + len(handler.stored)
        # By the old one or by ours, each of what was due once; of what was not due, or was under way, none.
        sent = Counter(request.entry_id for request in receiver.requests)
        assert set(sent.values()) == {1}
        assert len(sent) == 600
        assert set(sent) <= {
            str(id_) for (id_,) in rows(dsn, "select id from webhook_dlq where status = 'reprocessed'")
        }
        assert max(handler.waits) < 2
        assert run("--dsn", dsn, "migrate", "--check").err == "nothing differs\n"
        (job,) = rows(dsn, "select schedule, command from cron.job where jobname = 'process-dlq-entries'")
        assert job == ("*/5 * * * *", "call dlq.run_cycle()")
        assert ask(dsn, f"select count(*) >= {ROWS // 10} from dlq_processing_log")
        said = next(line for line in outcome.err.splitlines() if "were locked for" in line)
        print(
            f"\n{ROWS} rows, {len(handler.stored)} inserts meanwhile: longest wait {max(handler.waits):.3f} s; "
            f"adopt took {took:.1f} s; {said.partition('; ')[2]}"
        )
    finally:
        do(dsn, "drop owned by handler cascade", "drop role handler")


def test_an_insert_that_waits_while_the_tables_are_renamed_goes_into_the_new_one(home: str) -> None:
    insert = "insert into webhook_dlq (service, payload) values ('a', '{}') returning tableoid"

    with psycopg.connect(home) as reader, ThreadPoolExecutor(2) as pool:
        reader.execute("select from webhook_dlq")
        adoption = pool.submit(adopt, home)
        wait_for(home, WAITING)
        waiting = pool.submit(ask, home, insert)
        wait_for(home, "select pid from pg_stat_activity where query like 'insert%' and wait_event_type = 'Lock'")
        reader.rollback()

        assert adoption.result().code == 0
        assert waiting.result() == ask(home, "select 'public.webhook_dlq'::regclass::oid")


def test_where_a_lock_is_not_to_be_had_nobody_waits_long_and_nothing_is_changed(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dlqctl.migrate, "_WAITS", ())
    before = dump(home)

    with psycopg.connect(home) as reader, Handler(home).storing():
        reader.execute("select from webhook_dlq")
        handler = Handler(home)
        with handler.storing():
            outcome = adopt(home)
        reader.rollback()

    assert outcome.code == 1
    assert "pg_stat_activity" in outcome.err
    assert 0.5 < max(handler.waits) < 2
    assert dump(home) == before


def test_what_is_left_when_the_old_tables_are_dropped_equals_a_fresh_install(home: str, dump_as_installed: str) -> None:
    statuses = "select jsonb_object_agg(status, n) from (select status, count(*) as n from webhook_dlq group by 1) as s"

    said = flat(adopted(home))
    assert "migrate" not in said
    again = adopt(home)
    preview = run("--dsn", home, "adopt", "--drop-old")
    assert (preview.code, "--yes" in preview.err) == (1, True)
    dropped = adopt(home, "--drop-old")

    assert (again.code, dropped.code) == (0, 0)
    assert "table public.webhook_dlq_old, 40 rows" in dropped.out
    assert "function public.process_dlq_entries_old()" in dropped.out
    assert ask(home, statuses) == {"pending": 20, "reprocessed": 10, "failed": 10}
    assert dump(home) == dump_as_installed
    assert adopt(home).code == 1


def test_every_value_is_kept(home: str) -> None:
    columns = "id, service, phone_number, payload, error_message, retry_count, created_at, updated_at"
    before = rows(
        home, f"select {columns}, status, next_retry_at from webhook_dlq where status <> 'processing' order by id"
    )
    under_way = rows(home, f"select {columns} from webhook_dlq where status = 'processing' order by id")

    adopted(home)

    assert rows(home, f"select {columns} from webhook_dlq where unanswered_count = 1 order by id") == under_way
    kept = f"""
        select {columns}, status, case when status = 'pending' then next_retry_at else old end
        from (select e.*, o.next_retry_at as old from webhook_dlq as e join webhook_dlq_old as o using (id)) as e
        where unanswered_count = 0 order by id
    """
    assert rows(home, kept) == before
    assert ask(home, "select bool_and(settled_at = updated_at) from webhook_dlq where settled_at is not null")
    waits = "select bool_and(next_retry_at between now() + interval '14 min' and now() + interval '15 min')"
    assert ask(home, f"{waits} from webhook_dlq where unanswered_count = 1")
    runs = "select count(*), min(processed_at), max(processed_at), sum(entries_processed) from "
    assert rows(home, runs + "dlq_processing_log") == rows(home, runs + "dlq_processing_log_old")


def test_an_old_processor_in_mid_run_writes_how_it_ended_and_nothing_is_sent_again(
    home: str, role: Callable[..., str]
) -> None:
    processor = role("old_processor")
    do(home, f"grant select, update on webhook_dlq to {processor}")
    (entry_id,) = rows(home, "select id from webhook_dlq where status = 'processing' limit 1")[0]

    adopted(home, "--grace", "0")
    do(
        make_conninfo(home, user=processor),
        f"update webhook_dlq set status = 'reprocessed', updated_at = now() where id = '{entry_id}'",
    )

    do(home, "select dlq.set_endpoint('*', 'https://example.com/{service}')", "select process_dlq_entries()")
    assert rows(home, f"select status, settled_at is not null from webhook_dlq where id = '{entry_id}'") == [
        ("reprocessed", True)
    ]
    assert ask(home, "select count(*) from dlq.in_flight") == 9


def test_killed_at_any_moment_it_goes_on_and_what_was_deleted_meanwhile_does_not_come_back(home: str) -> None:
    do(home, home_made.rows(8000))
    total = ask(home, "select count(*) from webhook_dlq")
    for at_least in (1000, 3000, 5000):
        words = [sys.executable, "-m", "dlqctl", "--dsn", home, "adopt", "--yes", *WORDS]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            wait_for(home, "select 1 where to_regclass('dlq.adoption') is not null")
            wait_for(home, f"select 1 from dlq.adoption where entries_copied > {at_least}")
            process.send_signal(signal.SIGKILL)
        wait_for(home, "select 1 where not exists (select from pg_stat_activity where application_name = 'dlqctl')")
        assert process.returncode == -signal.SIGKILL
        assert adopt(home, "--check").code == 1
        assert "not all of it" in adopt(home, "--drop-old").err
        do(
            home,
            "delete from webhook_dlq where id in (select id from webhook_dlq order by random() limit 100)",
            "vacuum full webhook_dlq_old",
        )

    assert adopt(home).code == 0

    assert ask(home, "select count(*) from webhook_dlq") == int(str(total)) - 300
    assert ask(home, "select count(*) from dlq_processing_log") == 804


def test_a_plan_that_holds_no_longer_is_not_carried_out(home: str) -> None:
    with psycopg.connect(home, autocommit=True) as conn:
        plan = module.look(conn, Options(), cron=False, net_worker=True)
        conn.execute("alter table webhook_dlq add tenant int")
        before = dump(home)
        with pytest.raises(DlqctlError, match="has changed since"):
            module.take_over(home, plan, Options(), cron=False, net_worker=True)

    assert dump(home) == before


def test_two_at_once_do_it_once(home: str) -> None:
    do(home, home_made.rows(4000))

    with ThreadPoolExecutor(2) as pool:
        words = [sys.executable, "-m", "dlqctl", "--dsn", home, "adopt", "--yes", *WORDS]
        outcomes = list(
            pool.map(lambda _: subprocess.run(words, capture_output=True, text=True, check=False), range(2))
        )

    assert min(outcome.returncode for outcome in outcomes) == 0
    assert all(outcome.returncode == 0 or "meanwhile" in outcome.stderr for outcome in outcomes), outcomes
    assert adopt(home).code == 0
    assert ask(home, "select count(*) from webhook_dlq") == 4040
    assert ask(home, "select entries_copied from dlq.adoption") == 4040
    assert ask(home, "select count(*) from dlq_processing_log") == 404


def test_a_queue_of_which_only_parts_are_left_is_taken_over(home: str) -> None:
    do(home, "drop table webhook_dlq")

    assert "0 entries and 4 runs" in adopted(home).err

    do(home, "insert into webhook_dlq (service, payload) values ('a', '{}')")
    assert adopt(home, "--drop-old").code == 0


def test_an_old_row_that_equals_a_request_under_way_is_no_echo(home: str) -> None:
    options = Options()
    with psycopg.connect(home, autocommit=True) as conn:
        plan = module.look(conn, options, cron=False, net_worker=True)
        module.take_over(home, plan, options, cron=False, net_worker=True)
        conn.execute(
            "insert into dlq.in_flight"
            " (entry_id, request_id, dispatched_at, net_oid, attempt, timeout_ms, service, digest)"
            " select gen_random_uuid(), 1, now(), 0, 1, 1000, service, dlq._digest(payload) from webhook_dlq_old"
        )
        assert module.copy(conn).left == 0

    assert ask(home, "select count(*) from webhook_dlq where status <> 'discarded' and duplicate_of is null") == 40
    assert ask(home, "select count(*) from dlq.in_flight where echoed") == 0


# Other tables than the mission's.


def make(dsn: str, table: str, *statements: str) -> None:
    do(dsn, f"create table webhook_dlq ({table})", *statements)


def test_ids_that_are_numbers_become_uuids_and_can_still_be_found(empty_database: str) -> None:
    make(
        empty_database,
        "id bigserial primary key, service text, payload jsonb, status text",
        "insert into webhook_dlq (service, payload, status)"
        " select 'a', to_jsonb(n), case when n < 10 then 'processing' else 'failed' end"
        " from generate_series(1, 1500) as n",
    )

    assert "old_id holds those of now" in flat(adopted(empty_database))

    assert rows(empty_database, "select min(old_id), max(old_id), count(distinct id) from webhook_dlq") == [
        (1, 1500, 1500)
    ]
    assert ask(empty_database, "select payload from webhook_dlq where old_id = 7") == 7
    assert ask(empty_database, "select id::text from webhook_dlq where old_id = 7") == ask(
        empty_database,
        "select overlay(overlay(md5('webhook_dlq_old 7') placing '8' from 13) placing '8' from 17)::uuid::text",
    )


def test_a_body_that_is_text_is_kept_byte_for_byte_and_read_where_it_is_json(empty_database: str) -> None:
    make(
        empty_database,
        "id uuid primary key default gen_random_uuid(), service text, payload text, status text",
        "insert into webhook_dlq (service, payload, status) values"
        """ ('a', '{"n":  1}', 'pending'), ('a', '{oh', 'failed'), ('a', 'é', 'failed')""",
    )

    assert "becomes jsonb" in flat(adopted(empty_database))

    assert rows(
        empty_database, "select payload, convert_from(raw_body, 'UTF8') from webhook_dlq order by raw_body"
    ) == [
        ({"n": 1}, '{"n":  1}'),
        (None, "{oh"),
        (None, "é"),
    ]


def test_without_a_service_the_default_must_be_named_and_holds_for_later_inserts(empty_database: str) -> None:
    make(
        empty_database,
        "id uuid primary key default gen_random_uuid(), payload jsonb, status text",
        "insert into webhook_dlq (payload, status) values ('{}', 'failed')",
    )
    assert "--default-service whatsapp" in flat(refused(empty_database))

    adopted(empty_database, "--default-service", "whatsapp")
    do(empty_database, "insert into webhook_dlq (payload) values ('{}')")

    assert rows(empty_database, "select service, count(*) from webhook_dlq group by 1") == [("whatsapp", 2)]


def test_a_status_that_nobody_knows_must_be_explained(home: str) -> None:
    do(
        home,
        "alter table webhook_dlq drop constraint webhook_dlq_status_check",
        "update webhook_dlq set status = 'Zombie' where status = 'failed'",
        "update webhook_dlq set status = 'completed' where status = 'reprocessed'",
    )
    assert "--status 'Zombie=…'" in flat(refused(home))
    assert "one that is" in flat(refused(home, "--status", "Zombie=undead"))

    said = flat(adopted(home, "--status", "Zombie=discarded"))
    assert adopt(home, "--status", "Zombie=discarded").code == 0  # as it is typed again to go on
    assert adopt(home, "--status", "Zombie=failed").code == 1

    assert "Zombie -> discarded 10" in said
    assert rows(home, "select status, count(*) from webhook_dlq group by 1 order by 1") == [
        ("discarded", 10),
        ("pending", 20),
        ("reprocessed", 10),
    ]


def test_a_status_may_be_an_enum(home: str) -> None:
    do(
        home,
        "create type dlq_status as enum ('queued', 'in_progress', 'ok', 'dead')",
        "alter table webhook_dlq drop constraint webhook_dlq_status_check, alter status drop default",
        "drop index idx_webhook_dlq_next_retry",
        "alter table webhook_dlq alter status type dlq_status using"
        " (case status when 'pending' then 'queued' when 'processing' then 'in_progress'"
        " when 'failed' then 'dead' else 'ok' end)::dlq_status",
    )

    adopted(home, "--status", "ok=reprocessed")
    do(home, "insert into webhook_dlq (service, payload, status) values ('a', '{}', 'queued'::dlq_status)")

    assert ask(home, "select cardinality(copied_first) from dlq.adoption") == 10
    assert rows(home, "select status, count(*) from webhook_dlq group by 1 order by 1") == [
        ("failed", 10),
        ("pending", 21),
        ("reprocessed", 10),
    ]


def test_a_status_that_no_row_has_now_can_still_be_stored(home: str) -> None:
    do(home, "alter table webhook_dlq drop constraint webhook_dlq_status_check, alter status set default 'new'")

    adopted(home)
    do(home, "insert into webhook_dlq (service, payload, status) values ('a', '{}', 'New')")

    assert ask(home, "select status from webhook_dlq where service = 'a'") == "pending"


def test_a_service_that_cannot_be_one_of_ours_gets_a_name_and_its_handlers_go_on(home: str) -> None:
    do(home, "update webhook_dlq set service = 'Meta (EU)' where status = 'failed'")
    assert "--service 'Meta (EU)=meta-eu'" in flat(refused(home))

    adopted(home, "--service", "Meta (EU)=meta")
    do(home, "insert into webhook_dlq (service, payload) values ('Meta (EU)', '{}')")
    do(home, "select store_dlq_entry('Meta (EU)', '{}')")

    assert rows(home, "select service, count(*) from webhook_dlq group by 1 order by 1") == [
        ("meta", 12),
        ("whatsapp", 30),
    ]


def test_inserts_that_name_columns_which_ours_lack_go_on(home: str) -> None:
    do(
        home,
        "create type severity as enum ('low', 'high')",
        "alter table webhook_dlq add tenant bigint, add \"Severity\" severity not null default 'high', add notes text,"
        " add seen_at timestamptz default now(), add twice int generated always as (retry_count * 2) stored",
        "update webhook_dlq set tenant = retry_count",
    )

    said = flat(adopted(home, "--leave-aside", "notes"))
    do(home, "insert into webhook_dlq (service, payload, tenant, \"Severity\") values ('new', '{}', 7, 'low')")
    do(home, "insert into webhook_dlq (service, payload) values ('new', '{}')")

    assert "notes text, in webhook_dlq_old alone" in said
    assert "twice integer, in webhook_dlq_old alone" in said
    assert "seen_at loses its default now()" in said
    assert rows(home, "select tenant, \"Severity\"::text from webhook_dlq where service = 'new' order by 1") == [
        (7, "low"),
        (None, "high"),
    ]
    assert ask(home, "select bool_and(e.tenant = o.retry_count) from webhook_dlq e join webhook_dlq_old o using (id)")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        do(home, "insert into webhook_dlq (service, payload, notes) values ('new', '{}', 'a')")
    assert "column notes text is in webhook_dlq_old alone" in adopt(home, "--drop-old").out


OTHER_WORDS = """
    webhook_id uuid primary key default gen_random_uuid(), source varchar(50) not null, body text not null,
    state text default 'queued', error text, attempts smallint default 0, received_at timestamp default now(),
    "Event Type" text
"""


def test_handlers_and_processors_go_on_in_their_own_words(empty_database: str) -> None:
    dsn = empty_database
    do(dsn, f"alter database {ask(dsn, 'select current_database()')} set timezone = 'Asia/Tokyo'")
    make(
        dsn,
        OTHER_WORDS,
        "insert into webhook_dlq (source, body, state, error, attempts, received_at) values"
        " ('a', '[1]', 'success', 'x', 1, '2020-01-01 12:00'), ('a', '[2]', 'in_progress', 'x', 2, '2020-01-01 12:00')",
    )

    said = flat(adopted(dsn, "--map", "Event Type=correlation_id"))
    do(
        dsn,
        "insert into webhook_dlq (source, body, state, error, \"Event Type\") values ('a', '{oh', 'queued', 'y', 'e')",
    )
    (under_way,) = rows(dsn, "select webhook_id from webhook_dlq where unanswered_count = 1")[0]
    do(dsn, f"update webhook_dlq set state = 'success', attempts = 3 where webhook_id = '{under_way}'")

    assert "body -> payload" in said
    assert "source -> service" in said
    assert "webhook_dlq_dialect()" in said
    found = rows(
        dsn,
        "select service, status, error_message, retry_count, created_at at time zone 'UTC' < '2021-01-01', payload,"
        " convert_from(raw_body, 'UTF8'), correlation_id from webhook_dlq order by raw_body",
    )
    assert found == [
        ("a", "reprocessed", "x", 1, True, [1], "[1]", None),
        ("a", "reprocessed", "x", 3, True, [2], "[2]", None),
        ("a", "pending", "y", 0, False, None, "{oh", "e"),
    ]
    assert ask(dsn, "select count(*) from webhook_dlq where coalesce(source, body, state, error) is not null") == 0
    assert str(ask(dsn, "select min(created_at) at time zone 'UTC' from webhook_dlq")) == "2020-01-01 12:00:00"
    assert ask(dsn, "select count(*) from webhook_dlq as e join webhook_dlq_old as o on e.id = o.webhook_id") == 2
    assert ask(dsn, "select count(*) from webhook_dlq where webhook_id = id") == 3
    do(dsn, "drop function webhook_dlq_dialect() cascade")
    assert run("--dsn", dsn, "migrate", "--check", "--no-cron").err == "nothing differs\n"


def test_a_row_that_cannot_be_converted_stays_is_named_and_follows_when_it_is_mended(home: str) -> None:
    do(home, "alter table webhook_dlq alter payload drop not null, alter retry_count type bigint")
    (broken, huge, below) = (row[0] for row in rows(home, "select id from webhook_dlq order by id limit 3"))
    do(
        home,
        f"update webhook_dlq set payload = null where id = '{broken}'",
        f"update webhook_dlq set retry_count = 2^40 where id = '{huge}'",
        f"update webhook_dlq set retry_count = -1 where id = '{below}'",
    )

    first = adopt(home)
    assert first.code == 1
    assert f"left in webhook_dlq_old: {broken}: 23514" in first.err
    assert f"left in webhook_dlq_old: {huge}: 22003" in first.err
    assert ask(home, "select count(*) from webhook_dlq") == 38
    assert ask(home, f"select retry_count from webhook_dlq where id = '{below}'") == 0
    assert "alone" in adopt(home, "--drop-old").err
    assert adopt(home).code == 1

    do(home, f"update webhook_dlq_old set payload = '{{}}' where id = '{broken}'")
    assert adopt(home).code == 1
    do(home, f"delete from webhook_dlq_old where id = '{huge}'")

    assert adopt(home).code == 0
    assert ask(home, "select count(*) from webhook_dlq") == 39
    assert adopt(home, "--drop-old").code == 0


def test_of_two_rows_with_one_idempotency_key_both_are_kept(home: str) -> None:
    do(
        home,
        "alter table webhook_dlq add idempotency_key text",
        "update webhook_dlq set idempotency_key = error_message",
    )

    adopted(home)

    assert rows(home, "select count(*), count(idempotency_key) from webhook_dlq") == [(40, 1)]


def test_a_log_without_ids_is_copied_and_runs_that_cannot_be_read_stay(home: str) -> None:
    do(
        home,
        "alter table dlq_processing_log drop id, alter processed_at drop not null, alter entries_failed drop default",
        "insert into dlq_processing_log (processed_at, status) values (null, 'success')",
    )

    assert "4 of 5 runs" in adopted(home).err

    assert rows(home, "select count(*), sum(entries_failed) from dlq_processing_log") == [(4, 0)]


# Who may do what.


def test_roles_that_used_the_old_queue_use_the_new_one(home: str, role: Callable[..., str]) -> None:
    writer, worker, looker, owner = role("w1"), role("w2"), role("w3"), role("w4")
    do(
        home,
        "alter table webhook_dlq add tenant int",
        f"grant insert on webhook_dlq to {writer}",
        f"grant select, insert on webhook_dlq to {worker}",
        f"grant select on webhook_dlq to {looker}",
        "grant insert on webhook_dlq to public",
        f"alter table webhook_dlq owner to {owner}",
    )

    said = flat(adopted(home))

    for words in (
        "w1 (insert): dlq_writer",
        "w2 (select, insert): dlq_admin",
        "w3 (select): nothing",
        "w4 (owner): dlq_admin",
    ):
        assert words in said
    assert "public (insert): nothing" in said
    insert = (
        "insert into webhook_dlq (service, payload, status, retry_count, next_retry_at, created_at, tenant)"
        " values ('a', '{}', 'pending', 0, now(), now(), 1)"
    )
    do(make_conninfo(home, user=writer), insert)
    for name in (worker, owner):
        do(make_conninfo(home, user=name), insert + " returning id")
    for query in (insert, "select from webhook_dlq"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            do(make_conninfo(home, user=looker), query)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        do(make_conninfo(home, user=writer), "select from webhook_dlq")


def test_no_grants_gives_nobody_anything(home: str, role: Callable[..., str]) -> None:
    do(home, f"grant insert on webhook_dlq to {role('w1')}")

    adopted(home, "--no-grants")

    assert ask(home, "select pg_has_role('w1', 'dlq_writer', 'member')") is False


def test_a_team_that_is_no_superuser_adopts_its_own_queue_behind_row_security(
    cluster: Cluster, empty_database: str, role: Callable[..., str]
) -> None:
    team = role("team", "login createrole")
    dsn = make_conninfo(empty_database, user=team)
    name = ask(empty_database, "select current_database()")
    do(
        empty_database,
        f"alter database {name} owner to {team}",
        # What it would have if it, and not another test, had made them.
        f"""
        do $$ declare r name; begin
          for r in select rolname from pg_roles where rolname ~ '^dlq_' loop
            execute format('grant %I to {team} with admin option', r);
          end loop;
        end $$
        """,
    )
    do(
        dsn,
        home_made.TABLES,
        home_made.PROCESSOR,
        home_made.rows(40),
        "alter table webhook_dlq enable row level security",
        "alter table dlq_processing_log enable row level security",
    )

    outcome = adopt(dsn)

    assert outcome.code == 0, outcome
    assert "40 entries and 4 runs" in outcome.err
    do(dsn, "insert into webhook_dlq (service, payload) values ('a', '{}') returning id")
    assert adopt(dsn, "--drop-old").code == 0
    assert run("--dsn", dsn, "migrate", "--check", "--no-cron").err == "nothing differs\n"
    do(empty_database, f"alter database {name} owner to postgres")


def test_a_queue_of_somebody_else_is_left_alone(home: str, role: Callable[..., str]) -> None:
    stranger = role("stranger", "login createrole")

    assert f'grant "postgres" to "{stranger}"' in flat(refused(make_conninfo(home, user=stranger)))


# What is in the way.


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("create table notes (entry uuid references webhook_dlq)", "table public.notes refers to it"),
        ("create table more () inherits (webhook_dlq)", "table public.more inherits from it"),
        ("create table webhook_dlq_old ()", "public.webhook_dlq_old is taken"),
        ("create table dlq_processing_log_old ()", "public.dlq_processing_log_old is taken"),
        ("create function process_dlq_entries_old() returns int language sql as 'select 1'", "_old() is taken"),
        ("alter table webhook_dlq drop constraint webhook_dlq_pkey", "is unique and never null"),
        (
            "alter table webhook_dlq enable row level security;"
            " create policy no on webhook_dlq as restrictive using (false)",
            "policy no hides rows",
        ),
        (
            "alter table webhook_dlq enable row level security, force row level security",
            "row level security hides rows of it from its owner",
        ),
        ("alter table webhook_dlq alter status drop not null; update webhook_dlq set status = null", "have no status"),
    ],
)
def test_what_is_in_the_way_is_named_with_the_statement_that_removes_it(home: str, statement: str, named: str) -> None:
    do(home, statement)

    assert named in flat(refused(home))
    with psycopg.connect(home) as conn:
        (problem,) = module.look(conn, Options(), cron=False, net_worker=True).problems
    do(home, problem.hint.partition(";")[0])

    adopted(home)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("create view webhook_dlq as select 1 as id", "is a view"),
        ("create table webhook_dlq (id uuid, service text) partition by list (service)", "is partitioned"),
        ("create table webhook_dlq (id uuid primary key, service text)", "--map COLUMN=payload"),
    ],
)
def test_what_cannot_be_a_queue_is_refused(empty_database: str, statement: str, named: str) -> None:
    do(empty_database, statement)

    assert named in flat(refused(empty_database))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--map", "nothing=payload"), "there is no column nothing"),
        (("--map", "payload=id"), "can fill none of that name"),
        (("--map", "payload=created_at"), "cannot be read as created_at"),
        (("--service", "whatsapp=wa"), "is a good name and stays"),
        (("--default-service", "A b"), "cannot be a service's name"),
    ],
)
def test_options_that_fit_nothing_are_refused(home: str, words: tuple[str, ...], named: str) -> None:
    assert named in flat(refused(home, *words))


def test_what_depends_on_the_old_tables_is_named_and_keeps_them_from_being_dropped(home: str) -> None:
    do(
        home,
        "create view failures as select * from webhook_dlq where status = 'failed'",
        "create function touch() returns trigger language plpgsql as 'begin return new; end'",
        "create trigger touch before update on webhook_dlq for each row execute function touch()",
        "create publication changes for table webhook_dlq",
    )

    said = flat(adopted(home))

    for name in ("view public.failures reads it", "trigger touch fires on it", "publication changes contains it"):
        assert name in said
    assert "view public.failures" in adopt(home, "--drop-old").err
    assert ask(home, "select count(*) from dlq.adoption") == 1


def test_where_there_is_nothing_to_adopt_it_says_what_to_type(empty_database: str, database: str) -> None:
    for dsn in (empty_database, database):
        outcome = adopt(dsn)
        assert (outcome.code, outcome.err.rstrip().endswith("-> dlqctl migrate")) == (1, True)
    assert adopt(database, "--drop-old").code == 1


def test_without_a_terminal_it_does_not_begin_unasked(home: str) -> None:
    before = dump(home)

    outcome = run("--dsn", home, "adopt", *WORDS)

    assert outcome.code == 1
    assert outcome.err.rstrip().endswith("--yes")
    assert dump(home) == before


def test_every_command_of_its_page_can_be_typed(home: str) -> None:
    do(
        home,
        "alter table webhook_dlq drop constraint webhook_dlq_status_check, add msg text, drop error_message",
        "update webhook_dlq set status = 'zombie', service = 'Meta (EU)' where status = 'failed'",
    )
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/adopt.md").read_text(), re.S)
    typed = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    explained = next(words for words in typed if "--map" in words)
    typed.remove(explained)
    typed.remove(["verify-cron"])  # there is no pg_cron here

    for words in (explained, *typed):
        more = (*WORDS, "--yes") if words[0] == "adopt" else ()
        # As the page has it, this queue needs the explanations.
        told = explained[2:] if words in (["adopt"], ["adopt", "--check"]) else ()
        assert run("--dsn", home, *words, *more, *told).code == 0, words

    assert rows(home, "select service, count(*) from webhook_dlq group by 1 order by 1") == [
        ("meta-eu", 10),
        ("whatsapp", 30),
    ]


def test_check_shows_the_plan_eighty_columns_wide_and_changes_nothing(home: str) -> None:
    before = dump(home)

    outcome = run("--dsn", home, "adopt", "--check", *WORDS)

    assert (outcome.code, outcome.err) == (0, "nothing is in the way: dlqctl adopt\n")
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert dump(home) == before
    assert run("--dsn", home, "migrate", *WORDS).err.count("dlqctl adopt --check") == 1


def test_a_job_of_another_role_is_unscheduled_and_others_that_process_are_named(cron_database: str) -> None:
    dsn = cron_database
    do(
        dsn,
        "drop role if exists scheduler",
        "create role scheduler login",
        "create extension pg_cron",
        "grant usage on schema cron to scheduler",
        home_made.TABLES,
        home_made.PROCESSOR,
        home_made.rows(40),
    )
    try:
        do(make_conninfo(dsn, user="scheduler"), home_made.JOB, home_made.JOB.replace("process-dlq-entries", "mine"))

        outcome = run("--dsn", dsn, "adopt", "--yes", "--net-worker")

        assert outcome.code == 0, outcome
        assert "process-dlq-entries of scheduler" in flat(outcome)
        assert "job mine also calls the processor" in flat(outcome)
        assert rows(dsn, "select jobname, username from cron.job order by 1") == [
            ("mine", "scheduler"),
            ("process-dlq-entries", "postgres"),
        ]
    finally:
        do(dsn, "select cron.unschedule(jobid) from cron.job", "drop owned by scheduler cascade", "drop role scheduler")
