"""A queue that a test drives by hand: its clock, its sender, its crashes, and one look at all that it holds."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tests.faults.model import Answer, Model

EPOCH = "timestamptz '2030-01-01 00:00:00+00'"

SNAPSHOT = f"""
select jsonb_build_object(
  'entries', (select coalesce(jsonb_object_agg(e.id, jsonb_build_object(
      'service', e.service, 'status', e.status, 'retry_count', e.retry_count, 'unanswered_count', e.unanswered_count,
      'attempt_count', e.attempt_count, 'duplicate_of', e.duplicate_of, 'has_key', e.idempotency_key is not null,
      'next_retry_at', extract(epoch from e.next_retry_at - {EPOCH}),
      'settled_at', extract(epoch from e.settled_at - {EPOCH}))), '{{}}')
    from public.webhook_dlq as e),
  'in_flight', (select coalesce(jsonb_object_agg(f.entry_id, jsonb_build_object(
      'request', f.request_id, 'service', f.service, 'attempt', f.attempt, 'echoed', f.echoed, 'is_probe', f.is_probe,
      'is_missing', f.missing_since is not null)), '{{}}')
    from dlq.in_flight as f),
  'records', (select coalesce(jsonb_object_agg(e.id, coalesce(a.records, '{{}}')), '{{}}')
    from public.webhook_dlq as e
      left join (
        select
          a.entry_id, jsonb_object_agg(a.attempt, jsonb_build_array(a.outcome, a.status_code, a.is_probe)) as records
        from dlq.delivery_attempts as a
        group by a.entry_id) as a on a.entry_id = e.id),
  'circuits', (select coalesce(jsonb_object_agg(s.service, jsonb_build_object(
      'cap', s.cap, 'trips', s.trips, 'suspects', s.suspects, 'timed_out', s.timed_out_at is not null,
      'failing_since', extract(epoch from s.failing_since - {EPOCH}),
      'probe_at', case when s.cap = 0 then extract(epoch from s.probe_at - {EPOCH}) end)), '{{}}')
    from dlq.endpoint_state as s),
  'pauses', (select coalesce(jsonb_agg(p.service order by p.service), '[]') from dlq.pauses as p),
  'queue', (select coalesce(jsonb_agg(q.id order by q.id), '[]') from net.http_request_queue as q))
"""

# What a crash leaves. Of dlq_owner, so that it is no act of a person's, which would be audited row by row.
EMPTY = """
create function dlq.test_crash() returns void language sql security definer as $$
  delete from dlq.in_flight;
  delete from net.http_request_queue;
  delete from net._http_response;
  select setval(pg_get_serial_sequence('net.http_request_queue', 'id'), 1, false);
$$;
create function dlq.test_empty() returns void language sql security definer as $$
  select dlq.test_crash();
  delete from public.webhook_dlq;
  delete from public.dlq_processing_log;
  delete from dlq.delivery_attempts;
  delete from dlq.endpoints;
  delete from dlq.endpoint_state;
  delete from dlq.pauses;
$$;
alter function dlq.test_crash() owner to dlq_owner;
alter function dlq.test_empty() owner to dlq_owner;
"""


class Server:
    """A database with dlqctl in it, and the model's settings; dlq._now() is the session's setting test.now."""

    def __init__(self, dsn: str, model: Model) -> None:
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.resets = 0
        own = model.settings
        self.run("set synchronous_commit = off")
        self.run("set jit = off")
        self.run(
            "create or replace function dlq._now() returns timestamptz language sql stable as"
            " $$ select current_setting('test.now')::timestamptz $$"
        )
        self.run(
            "create or replace function dlq._cycle_budget() returns interval language sql as $$ select interval '0' $$"
        )
        self.run("alter table net.http_request_queue drop constraint http_request_queue_pkey")  # pg_net's has none
        self.run(EMPTY)
        self.run(
            "update dlq.settings set retry_schedule = %s::interval[], probe_schedule = %s::interval[], jitter = %s,"
            " max_unanswered = %s, max_in_flight = %s, outage_patience = %s::interval",
            [f"{wait} s" for wait in own.schedule],
            [f"{wait} s" for wait in own.probe_schedule],
            own.jitter,
            own.max_unanswered,
            own.max_in_flight,
            f"{own.outage_patience} s",
        )

    def run(self, query: str, *parameters: Any) -> Any:
        """Run a statement; returns its first row, if it returns any."""
        cursor = self.conn.execute(query.encode(), parameters or None)
        return cursor.fetchone() if cursor.description else None

    def one(self, query: str, *parameters: Any) -> Any:
        return self.run(query, *parameters)[0]

    def reset(self) -> None:
        """Empty the queue: by delete, which is quicker than truncate where there is little; vacuumed now and then."""
        self.resets += 1
        if self.resets % 50 == 0:
            self.run("vacuum")
        self.run("select dlq.test_empty()")
        self.set_clock(0)
        self.run("select setseed(0.5)")  # the same jitter whenever the same steps are replayed

    def set_clock(self, now: float) -> None:
        self.run(f"select set_config('test.now', ({EPOCH} + %s * interval '1 second')::text, false)", now)

    def age(self, seconds: float) -> None:
        """Set the real clock forward: everything that it has stamped is older."""
        for table, column in (
            ("dlq.in_flight", "dispatched_at"),
            ("dlq.in_flight", "missing_since"),
            ("dlq.endpoint_state", "cap_changed_at"),
            ("dlq.endpoint_state", "timed_out_at"),
            ("net._http_response", "created"),
        ):
            self.run(f"update {table} set {column} = {column} - %s * interval '1 second'", seconds)

    def store(
        self, service: str, body: str, key: str | None, headers: dict[str, str] | None, known: Collection[str]
    ) -> tuple[str, str | None, str | None]:
        """Store a failure as a handler does. Returns what this returned, the new row's id, and whose echo that is."""
        has_nul = body.startswith("\0")
        returned = self.one(
            "select public.store_dlq_entry(service => %s, payload => %s, raw_body => %s, headers => %s,"
            " idempotency_key => %s)",
            service,
            None if has_nul else Jsonb(body),
            body.encode() if has_nul else None,
            None if headers is None else Jsonb(headers),
            key,
        )
        new = self.run("select id, duplicate_of from public.webhook_dlq where id <> all (%s::uuid[])", [*known])
        new_id, duplicate_of = new or (None, None)
        return str(returned), new_id and str(new_id), duplicate_of and str(duplicate_of)

    def insert(self, service: str, body: str) -> tuple[str, str | None]:
        """Store a failure by a plain insert. Returns its id, and whose echo it is."""
        new_id, duplicate_of = self.run(
            "insert into public.webhook_dlq (service, payload, raw_body) values (%s, %s, %s)"
            " returning id, duplicate_of",
            service,
            None if body.startswith("\0") else Jsonb(body),
            body.encode() if body.startswith("\0") else None,
        )
        return str(new_id), duplicate_of and str(duplicate_of)

    def answer(self, answer: Answer) -> None:
        headers: Any = {}
        if answer.retry_after is not None:
            headers["retry-after"] = str(int(answer.retry_after))
        if answer.location:
            headers["Location"] = "/elsewhere"
        if not answer.has_headers:
            headers = ["no object"]
        self.run(
            "with sent as (delete from net.http_request_queue where id = %s)"
            " insert into net._http_response (id, status_code, headers, error_msg, timed_out)"
            " values (%s, %s, %s, %s, %s)",
            answer.id,
            answer.id,
            answer.status_code,
            Jsonb(headers),
            answer.error,
            answer.error is not None and answer.error.startswith("Timeout"),
        )

    def crash(self) -> None:
        self.run("select dlq.test_crash()")

    def recreate_net(self) -> None:
        self.run("truncate net.http_request_queue restart identity")
        self.run("create unlogged table net.another (like net._http_response including all)")
        self.run("drop table net._http_response")
        self.run("alter table net.another rename to _http_response")
        self.run("alter table net._http_response owner to dlq_owner")

    def cycle(self) -> None:
        """One pass: the budget is nothing, since answers are for the test to give."""
        self.run("call dlq.run_cycle()")
