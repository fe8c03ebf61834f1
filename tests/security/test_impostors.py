"""What passes itself off as something else: schemas, functions, headers, numbers, runs; and who sits on a lock."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dlqctl.signatures import InvalidSignature, sign_hub, sign_standard, verify_hub, verify_standard
from tests.db.conftest import Queue
from tests.security.conftest import CLAIM, House
from tests.supabase import ADMIN
from tests.unit.test_signatures import WHSEC

# Schemas of somebody who may create some.

_TRAP = """
    create function {schema}.sprung() returns boolean language plpgsql as
      $$ begin raise warning 'runs as %', current_user; return true; end $$;
    grant usage on schema {schema} to public;
"""
_VAULT = """
    create view vault.decrypted_secrets as
      select gen_random_uuid() as id, n as name, 'chosen by mallory' as decrypted_secret
      from unnest(array['app', 'new']) as n where vault.sprung();
    create function vault.create_secret(text, text) returns uuid language sql as
      'select vault.sprung(); select null::uuid';
    create function vault.update_secret(uuid, text) returns void language sql as 'select vault.sprung(); select';
    grant select on vault.decrypted_secrets to public;
"""
_NET = """
    create view net._http_response as
      select 1::bigint as id, 200 as status_code, null::text as content_type, null::jsonb as headers,
        null::text as content, null::boolean as timed_out, null::text as error_msg, now() as created where net.sprung();
    create view net.http_request_queue as select 1::bigint as id where net.sprung();
    create function net.http_post(
      url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{}',
      timeout_milliseconds integer default 5000
    ) returns bigint language sql as 'select net.sprung(); select 1::bigint';
    create function net.wake() returns void language sql as 'select net.sprung(); select';
    grant all on net._http_response, net.http_request_queue to public;
"""


@contextmanager
def mallory(queue: Queue) -> Iterator[None]:
    """Be a role that may create schemas, and has nothing else."""
    queue.conn.execute("create role mallory")
    queue.conn.execute(f"grant create on database {queue.conn.info.dbname} to mallory".encode())
    try:
        queue.conn.execute("set role mallory")
        yield
    finally:
        queue.conn.execute("reset role")


@pytest.fixture
def sprung(queue: Queue) -> Iterator[list[str]]:
    """Who has run mallory's code."""
    said: list[str] = []

    def hear(notice: psycopg.errors.Diagnostic) -> None:
        if "runs as" in str(notice.message_primary):
            said.append(str(notice.message_primary))

    queue.conn.add_notice_handler(hear)
    yield said
    queue.conn.execute("reset role; drop owned by mallory cascade; drop role mallory")


def test_nobody_s_schema_is_taken_for_supabase_s_vault(queue: Queue, sprung: list[str]) -> None:
    """It would say with which secret to verify, be told those that are set, and run as dlq_owner."""
    queue.one("select dlq.set_secret('app', 'secret')")
    queue.endpoint(signing="x-hub-signature-256", secret_names=["app"])
    with mallory(queue):
        queue.conn.execute(("create schema vault;" + _TRAP.format(schema="vault") + _VAULT).encode())

    forged = Jsonb(sign_hub(b"{}", "chosen by mallory"))
    assert queue.one("select dlq.receive_webhook('shop', '{}', %s) ->> 'status'", forged) == "invalid_signature"
    queue.one("select dlq.set_secret('new', 'value')")
    assert queue.one("select dlq._secret('new')") == "value"
    assert sprung == []
    # A superuser's is one.
    queue.conn.execute("alter schema vault owner to postgres")
    assert queue.one("select dlq._secret('app')") == "chosen by mallory"
    assert sprung == ["runs as dlq_owner"]


def test_nobody_s_schema_is_taken_for_a_sender(queue: Queue, sprung: list[str]) -> None:
    """Where pg_net has been dropped, say. Each of its views and functions would run as dlq_owner."""
    entry_id = queue.store()
    queue.send(entry_id)
    queue.conn.execute("drop schema net cascade")
    with mallory(queue):
        queue.conn.execute(("create schema net;" + _TRAP.format(schema="net") + _NET).encode())
    queue.store(payload={"n": 2})
    queue.make_due()

    run = queue.one("select process_dlq_entries()")
    queue.conn.execute("select dlq.requeue_lost(), dlq.collect_responses()")

    assert sprung == []
    assert run["error"].startswith("WD004")
    assert queue.entry(entry_id)["status"] == "pending"
    (sender,) = queue.rows("select level, detail from dlq.health where name = 'sender'")
    assert (sender["level"], "belongs to neither" in sender["detail"]) == ("error", True)


def test_nobody_s_schema_is_taken_for_pg_cron(queue: Queue, sprung: list[str]) -> None:
    """What looks at the schedule runs as whoever asks, a superuser perhaps."""
    queue.conn.execute("drop extension if exists pg_cron")
    with mallory(queue):
        queue.conn.execute(
            (
                "create schema cron;"
                + _TRAP.format(schema="cron")
                + "create view cron.job as select 1::bigint as jobid,"
                " 'x' as jobname, 'x' as command where cron.sprung(); grant select on cron.job to public"
            ).encode()
        )
    queue.rows("select * from dlq.cron_checks()")
    assert sprung == []


# Functions of somebody who may create some in public.

_CALLED = """
    select distinct p.oid, p.proname, p.proargnames[:p.pronargs],
      array(select format_type(y, null) from unnest(p.proargtypes) as y)
    from pg_proc as p
    where p.proowner = 'dlq_owner'::regrole and p.pronamespace = 'public'::regnamespace
      and exists (
        select from pg_proc as c
        where c.proowner = 'dlq_owner'::regrole and c.prosrc ~ ('\\mpublic\\.' || p.proname || '\\('))
"""
_CALLS = {
    "store_dlq_entry": ("select public.receive_webhook('{}'::bytea)",),
    "dlq_health": ("select public.administer_dlq('health'::text)",),
    "process_dlq_entries": ("select public.administer_dlq('process'::text)",),
}


def test_no_function_in_public_is_called_in_place_of_ours(house: House) -> None:
    """With every choice of our arguments, each as good a match for a call that names just those."""
    headers = json.dumps({**sign_hub(b"{}", "VALUE-OF-A-SECRET"), "dlq-service": "shop"})
    sprung: list[str] = []
    tried = 0
    with psycopg.connect(house.superuser) as conn:
        conn.add_notice_handler(lambda notice: sprung.append(str(notice.message_primary)))
        conn.execute(
            "select dlq.set_endpoint('shop', 'https://handler.example/', signing => 'x-hub-signature-256',"
            " secret_names => '{TOKEN}')"
        )
        conn.execute("select set_config('request.headers', %s, true)", (headers,))
        conn.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(CLAIM),))
        called = {name: list(zip(names or (), types, strict=True)) for _, name, names, types in conn.execute(_CALLED)}
        assert called.keys() == _CALLS.keys()
        for name, arguments in called.items():
            few = range(max(0, len(arguments) - 2), len(arguments))  # those named are all but two
            choices = [list(c) for n in few for c in itertools.combinations(arguments, n)]
            choices += [[*arguments, ("further", "integer default 0")], [*arguments, ("variadic more", "integer[]")]]
            for choice in choices:
                with conn.transaction(force_rollback=True):
                    conn.execute("set local session authorization stranger")
                    conn.execute(
                        f"create function public.{name}({', '.join(f'{a} {t}' for a, t in choice)}) returns jsonb"
                        " language plpgsql as"
                        " $$ begin raise warning 'runs as %', current_user; return null; end $$".encode()
                    )
                    conn.execute(f"set local session authorization {ADMIN}; discard plans".encode())
                    for call in _CALLS[name]:
                        # Of two that match as well PostgreSQL takes neither: spite, and no more.
                        with suppress(psycopg.errors.AmbiguousFunction), conn.transaction():
                            assert conn.execute(call.encode()).fetchone() is not None
                        tried += 1
                assert sprung == [], choice
        conn.rollback()
    assert tried > 30


# Headers that two readers would read differently.


def _std(queue: Queue) -> None:
    queue.one("select dlq.set_secret('whsec', %s)", WHSEC)
    queue.endpoint("std", signing="standard-webhooks", secret_names=["whsec"])


def test_a_replay_under_another_spelling_of_the_id_is_not_another_webhook(queue: Queue) -> None:
    """One spelling was verified, and the other remembered: every replay was accepted again."""
    _std(queue)
    signed = sign_standard(b"{}", "msg_1", [WHSEC])
    receive = "select dlq.receive_webhook('std', '{}', %s) ->> 'status'"
    assert queue.one(receive, Jsonb(signed)) == "accepted"
    for n, spelling in enumerate(("Webhook-Id", "WEBHOOK-ID", "webhook-iD")):
        assert queue.one(receive, Jsonb({spelling: f"new_{n}", **signed})) == "invalid_signature"
    assert queue.one(receive, Jsonb(signed)) == "duplicate"
    assert queue.one("select count(*) from webhook_dlq") == 1


def test_two_spellings_of_one_header_are_none(queue: Queue) -> None:
    _std(queue)
    queue.one("select dlq.set_secret('hub', 'secret')")
    for name in ("X-Hub-Signature-256", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"):
        _refused_twice(queue, name)


def _refused_twice(queue: Queue, name: str) -> None:
    headers = {**sign_hub(b"{}", "secret"), **sign_standard(b"{}", "id", [WHSEC])}
    headers[name] = headers[name.lower()]
    hub = name.startswith("X")
    said = queue.one(
        "select reason from dlq.verify_signature('{}', %s, %s, %s)",
        Jsonb(headers), ["hub" if hub else "whsec"], "x-hub-signature-256" if hub else "standard-webhooks",
    )  # fmt: skip
    assert said == f"{name.lower()} is missing, or there twice"
    with pytest.raises(InvalidSignature, match="there twice"):
        verify_hub(b"{}", headers, ["secret"]) if hub else verify_standard(b"{}", headers, [WHSEC])


def test_no_tolerance_is_not_any_age(queue: Queue) -> None:
    _std(queue)
    old = Jsonb(sign_standard(b"{}", "id", [WHSEC], at=1))
    query = "select reason from dlq.verify_signature('{}', %s, '{whsec}', 'standard-webhooks', null)"
    assert queue.one(query, old) == "webhook-timestamp is too old"


# Numbers that are small to send and big to write.

BOMBS = ("1e131071", "-1e131071", "1e400", "1e-16383", "0e-16383", "-0.0e-16000", "9e9999")


def test_a_number_that_grows_when_it_is_written_is_kept_as_bytes(queue: Queue) -> None:
    """27 KB of them kept the engine for 90 s, with 3 GB of memory, at every attempt."""
    queue.endpoint("shop", max_in_flight=100)
    for number in BOMBS:
        for body in (f'{{"a": [{{"b": {number}}}]}}', f"[[], {{}}, [{number}]]", number):
            _kept_as_bytes(queue, number, body.encode())


def _kept_as_bytes(queue: Queue, number: str, body: bytes) -> None:
    entry_id = str(queue.one("select store_dlq_entry('shop', raw_body => %s)", body))
    entry = queue.entry(entry_id)
    assert (entry["payload"], bytes(entry["raw_body"])) == (None, body)
    queue.send(entry_id)
    assert queue.one("select max(octet_length(body)) from net.http_request_queue") < 2 * len(body) + 50
    for refused in (
        f"select store_dlq_entry('shop', '{body.decode()}')",
        f"insert into webhook_dlq (service, payload) values ('shop', '{body.decode()}')",
        f"select store_dlq_entry('shop', '{{}}', headers => '{{\"x\": {number}}}')",
    ):
        with pytest.raises(psycopg.Error) as caught:
            queue.conn.execute(refused.encode())
        assert caught.value.sqlstate == "WD001"


def test_a_heap_of_them_costs_next_to_nothing(queue: Queue) -> None:
    entry_id = str(queue.one("select store_dlq_entry('shop', raw_body => %s)", b"[%s1]" % (b"1e131071," * 9_000)))
    queue.make_due()
    queue.conn.execute("set statement_timeout = '5s'")
    assert queue.one("select process_dlq_entries() ->> 'dispatched'") == "1"
    assert queue.entry(entry_id)["status"] == "processing"


def test_a_number_that_a_double_holds_is_a_payload(queue: Queue) -> None:
    for number in ("1.7976931348623157e308", "5e-324", "0", "-0.0", "0.000", "1e399", "12345678901234567890"):
        entry_id = str(queue.one("select store_dlq_entry('shop', raw_body => %s)", f"[{number}]".encode()))
        assert queue.entry(entry_id)["payload"] is not None, number


def test_a_body_nested_without_end_is_kept_as_bytes_and_can_be_worked_with(queue: Queue) -> None:
    depths = (1_000, 9_000, 12_000, 14_000, 100_000)
    for depth in depths:
        queue.one("select store_dlq_entry('shop', raw_body => %s)", b"[" * depth + b"]" * depth)
    queue.make_due()
    assert queue.dispatch() == len(depths)
    assert queue.one("select count(*) from webhook_dlq where payload is null") >= 1
    queue.conn.execute("update webhook_dlq set status = 'failed'; delete from webhook_dlq")


# History.


def test_a_run_that_is_closed_is_not_opened_again(queue: Queue, database: str) -> None:
    """dlq_admin runs the cycle, and so may call its parts: with the number of any run."""
    queue.conn.execute("select process_dlq_entries()")
    rows = "select * from dlq_processing_log order by id"
    before = queue.rows(rows)
    queue.store()
    queue.make_due()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("set role dlq_admin")
        run = before[0]["id"]
        for call in (
            "select dlq._step(%s, 'no such step')",
            "select dlq._step(%s, 'dispatch_due')",
            "select dlq._next_pass(%s, 1, '-1 hour')",
            "select dlq._next_pass(%s, 1, '1 hour')",
        ):
            conn.execute(call.encode(), (run,))
    assert queue.rows(rows) == before


# The engine's lock.


def test_whoever_sits_on_the_engine_s_lock_stops_it_and_is_found(queue: Queue, database: str, clock: Any) -> None:
    """Any login may take an advisory lock. Nothing is lost by it, and health does not say that all is well."""
    entry_id = queue.store()
    queue.make_due()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("set role dlq_writer")
        conn.execute("select pg_advisory_lock(6581361)")
        assert queue.one("select process_dlq_entries() ->> 'status'") == "busy"
        assert queue.entry(entry_id)["status"] == "pending"
        found = queue.one(
            "select pid from pg_locks where locktype = 'advisory' and objid = 6581361"
            " and database = (select oid from pg_database where datname = current_database())"
        )
        assert found == conn.info.backend_pid
        clock.set_forward("11 minutes")
        assert queue.one("select level from dlq.health where name = 'overdue'") == "warning"
        conn.execute("select pg_advisory_unlock(6581361)")
    assert queue.one("select process_dlq_entries() ->> 'dispatched'") == "1"
