"""A run that is killed at any statement, or fails at any, leaves nothing half done; and the next one goes on."""

from __future__ import annotations

import contextlib
import itertools
import threading

import psycopg
import pytest

from tests.db.conftest import Queue
from tests.migration.migrating import wait_for

# Each statement that the engine writes with comes by here twice, before it and after: the nth time the session ends.
# (pg_net's queue may have no trigger: a statement that fills it fills dlq.in_flight too.)
_WRITTEN = ("public.webhook_dlq", "public.dlq_processing_log", "dlq.in_flight", "dlq.delivery_attempts")
_ENDS = {
    "terminated": "perform pg_terminate_backend(pg_backend_pid()), pg_sleep(5);",
    "cancelled": "perform pg_cancel_backend(pg_backend_pid()), pg_sleep(5);",
    "failed": "raise exception using errcode = '53100', message = 'the disk is full';",
}
_TRAP = """
create sequence if not exists public.statements;
create table if not exists public.last_statement (n bigint);
create or replace function public.trap() returns trigger language plpgsql security definer as $$
begin
  if current_setting('application_name') = 'victim'
    and nextval('public.statements') = (select n from public.last_statement) then {} end if;
  return null;
end $$;
"""


_numbers = itertools.count()


def _set_traps(queue: Queue, end: str) -> None:
    queue.conn.execute(_TRAP.format(end).encode())
    for table in _WRITTEN:
        for when in ("before", "after"):
            queue.conn.execute(
                f"create trigger trap_{when} {when} insert or update or delete on {table}"
                " for each statement execute function public.trap()".encode()
            )


def _have_one_pass(queue: Queue) -> None:
    """Let a cycle end after its first pass: the others are the same. No cap, for nobody answers."""
    queue.endpoint(max_in_flight=10_000)
    queue.conn.execute(
        "create or replace function dlq._cycle_budget() returns interval language sql as $$ select interval '0' $$"
    )


def _make_busy(queue: Queue) -> None:
    """Give each step something to do: something lost, something answered well and badly, something due."""
    queue.endpoint(max_in_flight=400)  # the failures must not open the circuit
    lost, answered, refused, *_ = (queue.store(payload=next(_numbers)) for _ in range(6))  # all different: no echoes
    for entry_id in (lost, answered, refused):
        queue.send(entry_id)
    queue.answer(answered, 200)
    queue.answer(refused, 500)
    queue.conn.execute(
        "with gone as (delete from dlq.in_flight where entry_id = %s returning request_id)"
        " delete from net.http_request_queue where id in (select request_id from gone)",
        (lost,),
    )
    queue.make_due()


def _check_whole(queue: Queue) -> None:
    """Each entry is where its attempts say, and in flight and queued exactly if it is in processing."""
    assert queue.rows(
        """
        select e.*, f.request_id, a.*
        from webhook_dlq as e
          left join dlq.in_flight as f on f.entry_id = e.id
          cross join lateral (
            select count(*) as attempts,
              count(*) filter (where outcome = 'unanswered') as unanswered,
              count(*) filter (where outcome = 'http_error') as failed,
              count(*) filter (where outcome = 'delivered') as delivered
            from dlq.delivery_attempts as d where d.entry_id = e.id) as a
        where e.unanswered_count <> a.unanswered or e.retry_count <> a.failed
          or (e.status = 'reprocessed') <> (a.delivered = 1)
          or e.attempt_count <> a.attempts + (e.status = 'processing')::integer
          or f.entry_id is not null and e.status <> 'processing'
          or f.entry_id is not null
            and not exists (select from net.http_request_queue as q where q.id = f.request_id)
            and not exists (select from net._http_response as r where r.id = f.request_id)
        """
    ) == []  # fmt: skip
    in_flight = "select count(*) from dlq.in_flight as f join net.http_request_queue as q on q.id = f.request_id"
    assert queue.one("select count(*) from net.http_request_queue") == queue.one(in_flight)


def _wait_for_end(dsn: str) -> None:
    """A session that is terminated says so before it lets go of its locks."""
    wait_for(dsn, "select 1 where not exists (select from pg_stat_activity where application_name = 'victim')")


def _answer_everything(queue: Queue) -> None:
    """Play a sender whose handlers take everything, until there is nothing to do."""
    queue.conn.execute("update dlq_processing_log set processed_at = processed_at - interval '2 minutes'")
    for _ in range(20):
        queue.make_due()
        queue.conn.execute("select process_dlq_entries()")
        queue.conn.execute(
            "with taken as (delete from net.http_request_queue returning id)"
            " insert into net._http_response (id, status_code) select id, 200 from taken"
        )
        if not queue.rows("select id from webhook_dlq where status <> 'reprocessed'"):
            break
    assert queue.rows("select status, count(*) from webhook_dlq where status <> 'reprocessed' group by 1") == []
    assert queue.one("select count(*) from dlq_processing_log where status = 'running'") == 0


@pytest.mark.parametrize("end", _ENDS)
def test_a_run_that_ends_before_or_after_any_of_its_statements_leaves_nothing_half_done(
    queue: Queue, database: str, end: str
) -> None:
    _have_one_pass(queue)
    _set_traps(queue, _ENDS[end])
    statements = 0
    while True:
        _make_busy(queue)
        queue.conn.execute("truncate public.last_statement")
        queue.conn.execute("insert into public.last_statement values (%s)", (statements + 1,))
        queue.conn.execute("select setval('public.statements', 1, false)")
        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(database, autocommit=True, application_name="victim") as victim,
        ):
            victim.execute("call dlq.run_cycle()")
        _wait_for_end(database)
        _check_whole(queue)
        if queue.one("select last_value from public.statements") <= statements:
            break
        statements += 1
    print(f"{statements} statements")
    assert statements > 30, "the run was ended before and after each statement of a pass at least"
    _answer_everything(queue)


_READ = (*_WRITTEN, "dlq.endpoints", "dlq.settings", "net.http_request_queue", "net._http_response")


def test_a_run_that_is_terminated_while_it_waits_for_a_table_leaves_nothing_half_done(
    queue: Queue, database: str
) -> None:
    _have_one_pass(queue)
    for table in _READ:
        _make_busy(queue)
        with (
            psycopg.connect(database) as locker,
            psycopg.connect(database, autocommit=True, application_name="victim") as victim,
        ):
            locker.execute(f"lock table {table} in access exclusive mode".encode())

            def call(victim: psycopg.Connection = victim) -> None:
                with contextlib.suppress(psycopg.Error):
                    victim.execute("call dlq.run_cycle()")

            thread = threading.Thread(target=call)
            thread.start()
            pid = victim.info.backend_pid
            wait_for(database, f"select 1 from pg_stat_activity where pid = {pid} and wait_event_type = 'Lock'")
            queue.conn.execute("select pg_terminate_backend(%s, 5000)", (pid,))
            thread.join(20)
            assert not thread.is_alive()
        _wait_for_end(database)
        _check_whole(queue)
    _answer_everything(queue)
