"""A home-made queue is taken over: nothing is lost, nothing is sent twice, and storing a webhook hardly waits."""

from __future__ import annotations

import os
import re
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
from dlqctl.errors import DlqctlError
from dlqctl.receiver import Receiver
from tests.migration.adopt import home_made
from tests.migration.adopt.adopting import WORDS, adopt, adopted, flat, rows
from tests.migration.migrating import WAITING, ask, do, dump, run, wait_for
from tests.net_worker import net_worker

ROWS = int(os.environ.get("DLQCTL_ADOPT_ROWS", "5000"))
"""How many rows the live test adopts: more for a measurement."""


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


def test_it_is_one_act_on_record_however_many_rows_follow(home: str) -> None:
    adopted(home)

    # Entries that are brought in are no acts; the runs of the old processor are history that somebody wrote.
    acts = rows(home, "select action, object, after -> 'entries' from dlq.audit_log where object ~ 'webhook_dlq'")
    assert acts == [("adopt", "public.webhook_dlq", 40)]


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
    for at_least, end, code in ((1000, signal.SIGKILL, -9), (3000, signal.SIGINT, 130), (5000, signal.SIGKILL, -9)):
        words = [sys.executable, "-m", "dlqctl", "--dsn", home, "adopt", "--yes", *WORDS]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            wait_for(home, "select 1 where to_regclass('dlq.adoption') is not null")
            wait_for(home, f"select 1 from dlq.adoption where entries_copied > {at_least}")
            process.send_signal(end)
            _, said = process.communicate()
        wait_for(home, "select 1 where not exists (select from pg_stat_activity where application_name = 'dlqctl')")
        assert process.returncode == code
        if end == signal.SIGINT:
            assert re.search(r"^stopped; adopted: \d,\d+ of 8,\d+ entries are copied -> dlqctl adopt", said, re.M), said
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
