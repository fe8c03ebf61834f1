"""The queue does what the model says, step by step, whatever befalls it: a state machine that hypothesis drives.

The sender is played by hand, and so are crashes: the unlogged tables are emptied and request ids start again, which is
what a crash leaves. `DLQCTL_FAULTS=long` runs thousands of examples instead of tens. A failure prints its steps as
Python that runs, and how to have it replayed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.faults.circuit import DAY, MINUTE
from tests.faults.driven import EPOCH, SNAPSHOT, Server
from tests.faults.model import SETTLED, Answer, Endpoint, Model, Window

IS_LONG = os.environ.get("DLQCTL_FAULTS") == "long"
T = TypeVar("T")
SERVICES = ["shop", "bank", "lab"]
STEPS = ["requeue_lost", "collect_responses", "dispatch_due", "process", "cycle"]

ANSWERS = {
    "200": Answer(None, 200),
    "201 with a Location": Answer(None, 201, location=True),
    "200 after a redirect": Answer(None, 200, location=True),
    "302": Answer(None, 302, location=True),
    "400": Answer(None, 400),
    "401": Answer(None, 401),
    "410": Answer(None, 410),
    "429, in 10 minutes": Answer(None, 429, retry_after=10 * MINUTE),
    "500": Answer(None, 500),
    "503, in a day": Answer(None, 503, retry_after=DAY),
    "refused": Answer(None, error="Couldn't connect to server"),
    "timeout": Answer(None, error="Timeout of 5000 ms reached"),
    "neither status nor error": Answer(None),
    "200 with headers that are none": Answer(None, 200, has_headers=False),
    "429 with headers that are none": Answer(None, 429, has_headers=False),
}


class Queue(RuleBasedStateMachine):
    """The server and the model, side by side.

    Which rules can be drawn never depends on what the server chose, so that hypothesis can replay what it drew: a rule
    for which there is nothing to do does nothing.
    """

    server: Server
    entries = Bundle("entries")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.server.reset()
        self.ids: list[str] = []  # entry n of the printed steps is ids[n]
        self.seen: dict[str, Any] = self.server.one(SNAPSHOT)

    # What the configuration is.

    @initialize(
        target=entries,
        most=st.integers(1, 4),
        has_template=st.booleans(),
        raw=st.booleans(),
        waiting=st.lists(st.tuples(st.sampled_from(SERVICES), st.integers(1, 8)), min_size=1, max_size=3),
    )
    def install(self, most: int, has_template: bool, raw: bool, waiting: list[tuple[str, int]]) -> MultipleResults[int]:
        self._set_endpoint("shop", Endpoint(most))
        self._set_endpoint("bank", Endpoint(3, raw=raw))
        if has_template:
            self._set_endpoint("*", Endpoint(4))
        stored = [self.store_many(service, count) for service, count in waiting]
        return multiple(*(number for some in stored for number in some.values))

    def _set_endpoint(self, service: str, endpoint: Endpoint) -> None:
        known = self.model.endpoints.get(service)
        if known is not None and endpoint.schedule is None:
            endpoint = replace(endpoint, schedule=known.schedule)
        url = "https://handler.example/" + ("{service}" if service == "*" else "hook")
        schedule = None if endpoint.schedule is None else [f"{wait} s" for wait in endpoint.schedule]
        self.server.run(
            "select dlq.set_endpoint(%s, %s, max_in_flight => %s, enabled => %s, body => %s,"
            " retry_schedule => %s::interval[])",
            service,
            url,
            endpoint.max_in_flight,
            endpoint.enabled,
            "raw" if endpoint.raw else "json",
            schedule,
        )
        self.model.endpoints[service] = endpoint

    # A webhook comes in.

    def _store(
        self,
        service: str,
        body: str,
        key: str | None = None,
        names: str | None = None,
        header: str = "webhook-id",
        insert: bool = False,
    ) -> int:
        returned: str | None = None
        new_id: str | None
        if insert:
            new_id, duplicate_of = self.server.insert(service, body)
        else:
            headers = None if names is None else {header: names}
            returned, new_id, duplicate_of = self.server.store(service, body, key, headers, self.model.entries.keys())
        self.model.store(new_id, returned, duplicate_of, service=service, body=body, key=key, names=names)
        self.ids.append(new_id or str(returned))
        return len(self.ids) - 1

    @rule(
        target=entries,
        service=st.sampled_from(SERVICES),
        body=st.sampled_from(["a", "b", "c", "\0d"]),
        key=st.sampled_from([None, "k", "l"]),
    )
    def store(self, service: str, body: str, key: str | None) -> int:
        return self._store(service, body, key)

    def store_many(self, service: str, count: int) -> MultipleResults[int]:
        return multiple(*(self._store(service, f"number {len(self.ids)}", insert=True) for _ in range(count)))

    @rule(target=entries, service=st.sampled_from(SERVICES), count=st.integers(2, 6))
    def store_some(self, service: str, count: int) -> MultipleResults[int]:
        return self.store_many(service, count)

    @rule(entry=entries, by=st.sampled_from(["Webhook-Id", "dlq-entry", "a header and a key", "body"]))
    def store_again(self, entry: int, by: str) -> None:
        entry_id = self.ids[entry]
        known = self.model.entries.get(entry_id)
        match by:
            case _ if known is None:
                pass
            case "body":
                self._store(known.service, known.body)
            case "a header and a key":
                self._store(known.service, known.body, key=known.key or "k", names=entry_id)
            case header:
                self._store(known.service, "another body", names=entry_id, header=header)

    @rule(nth=st.integers(0, 5), insert=st.booleans())
    def handler_stores_its_failure_again(self, nth: int, insert: bool) -> None:
        for request in self._nth([*self.model.in_flight.values()], nth):
            self._store(request.service, request.body, insert=insert)

    # The engine ticks.

    def _learn_dispatched(self) -> tuple[int, int]:
        """Tell the model what was sent, as far as the engine may choose."""
        self.seen = self.server.one(SNAPSHOT)
        sent = {
            entry_id: row["request"]
            for entry_id, row in self.seen["in_flight"].items()
            if entry_id not in self.model.in_flight or self.model.in_flight[entry_id].attempt != row["attempt"]
        }
        not_sent = [
            entry_id
            for entry_id, records in self.seen["records"].items()
            for attempt, (outcome, _, _) in records.items()
            if outcome == "not_sent" and int(attempt) not in self.model.entries[entry_id].records
        ]
        by_request = dict(sorted(sent.items(), key=lambda item: item[1]))
        return self.model.dispatch_due(by_request, not_sent)

    def requeue_lost(self) -> None:
        assert self.server.one("select unanswered from dlq.requeue_lost()") == self.model.requeue_lost()

    def collect_responses(self) -> None:
        counts = self.server.run("select delivered, failed, unanswered from dlq.collect_responses()")
        assert counts == self.model.collect_responses()

    def dispatch_due(self) -> None:
        counts = self.server.run("select dispatched, failed from dlq.dispatch_due()")
        assert counts == self._learn_dispatched()

    def process(self) -> None:
        said = self.server.one("select public.process_dlq_entries()")
        lost = self.model.requeue_lost()
        delivered, failed, unanswered = self.model.collect_responses()
        sent, not_sent = self._learn_dispatched()
        assert said.pop("run") > 0
        assert said == {
            "status": "ok",
            "processed": delivered,
            "failed": failed + not_sent,
            "dispatched": sent,
            "unanswered": unanswered + lost,
        }

    def cycle(self) -> None:
        self.server.cycle()
        self.model.requeue_lost()
        self.model.collect_responses()
        self._learn_dispatched()

    @rule(step=st.sampled_from(STEPS))
    def tick(self, step: str) -> None:
        getattr(self, step)()

    @rule(minutes=st.sampled_from([6, 70]), step=st.sampled_from(["dispatch_due", "process", "cycle"]))
    def send_what_is_due(self, minutes: int, step: str) -> None:
        self.time_passes(minutes)
        getattr(self, step)()

    # The sender answers.

    def _nth(self, items: list[T], nth: int) -> list[T]:
        """One of these, counted round and round; none if there are none."""
        return [items[nth % len(items)]] if items else []

    def _answer(self, request_id: int | None, how: str) -> None:
        answer = replace(ANSWERS[how], id=request_id, created=self.model.moment())
        self.server.answer(answer)
        self.model.answer(answer)

    def _answer_all(self, how: str, services: Collection[str] = SERVICES, first: str | None = None) -> None:
        """Answer all that is under way of these services alike; the first of them otherwise."""
        ids = {request.id for request in self.model.in_flight.values() if request.service in services}
        for request_id in sorted(ids & {*self.model.net.queue, *self.model.net.taken}):
            self._answer(request_id, first or how)
            first = None

    @rule(nth=st.integers(0, 5), how=st.sampled_from([*ANSWERS]))
    def answer(self, nth: int, how: str) -> None:
        for request_id in self._nth(self.model.net.queue + self.model.net.taken, nth):
            self._answer(request_id, how)

    @rule(
        services=st.sampled_from([["shop"], ["bank"], ["lab"], SERVICES]),
        first=st.sampled_from([None, *ANSWERS]),
        how=st.sampled_from([*ANSWERS]),
        step=st.sampled_from([None, "collect_responses", "process", "cycle"]),
    )
    def answer_all(self, services: list[str], first: str | None, how: str, step: str | None) -> None:
        self._answer_all(how, services, first)
        if step is not None:
            getattr(self, step)()

    @rule(who=st.sampled_from([None, -1, 1_000_000, "one that was answered"]), how=st.sampled_from([*ANSWERS]))
    def answer_oddly(self, who: int | str | None, how: str) -> None:
        if isinstance(who, str):
            for answer in self.model.net.answers[-1:]:
                self._answer(answer.id, how)
        else:
            self._answer(who, how)

    @rule(
        times=st.integers(1, 4),
        minutes=st.sampled_from([1, 6, 70, 1000]),
        first=st.sampled_from([None, *ANSWERS]),
        how=st.sampled_from(["200", "400", "410", "500", "401", "timeout", "503, in a day", "200 after a redirect"]),
    )
    def work(self, times: int, minutes: int, first: str | None, how: str) -> None:
        """So many times: time passes, what is due is sent, all but the first is answered alike, and that is settled."""
        for _ in range(times):
            self.time_passes(minutes)
            self.process()
            self.everything_holds()
            self._answer_all(how, first=first)
            self.process()
            self.everything_holds()

    # What befalls it.

    @rule(
        what=st.sampled_from(["crash", "recreate_net", "set_ids_back", "expire", "take_one"]),
        minutes=st.sampled_from([0, 70]),
        real_seconds=st.sampled_from([0, 40, 400]),
        step=st.sampled_from([None, *STEPS]),
    )
    def misfortune(self, what: str, minutes: int, real_seconds: int, step: str | None) -> None:
        """Something befalls what has just been sent."""
        self.time_passes(minutes)
        self.dispatch_due()
        self.everything_holds()
        getattr(self, what)()
        self.time_passes(0, real_seconds)
        if step is not None:
            getattr(self, step)()

    def crash(self) -> None:
        self.server.crash()
        self.model.crash()

    def recreate_net(self) -> None:
        self.server.recreate_net()
        self.model.recreate_net()

    def set_ids_back(self) -> None:
        """A stranger does, who may: pg_net grants its sequence to PUBLIC. The next id has been handed out before."""
        known = [request.id for request in self.model.in_flight.values()]
        known += [answer.id for answer in self.model.net.answers if answer.id is not None and answer.id > 0]
        sequence = "pg_get_serial_sequence('net.http_request_queue', 'id')"
        self.server.run(f"select setval({sequence}, %s, false)", min(known, default=1))

    def expire(self) -> None:
        """Answers are gone before they were collected."""
        self._answer_all("200")
        self.server.run("delete from net._http_response")
        self.model.net.answers = []

    def take_one(self) -> None:
        """The sender has it, and it is neither queued nor answered: pg_net 0.11 to 0.17."""
        for request_id in self.model.net.queue[:1]:
            self.server.run("delete from net.http_request_queue where id = %s", request_id)
            self.model.net.taken += [i for i in self.model.net.queue if i == request_id]
            self.model.net.queue = [i for i in self.model.net.queue if i != request_id]

    @rule(minutes=st.sampled_from([0, 1, 17, 2000]), real_seconds=st.sampled_from([0, 40, 400]))
    def time_passes(self, minutes: int, real_seconds: int = 0) -> None:
        """By dlq._now() and by the real clock, which tests can set apart."""
        self.model.now += minutes * MINUTE
        self.server.set_clock(self.model.now)
        if real_seconds:
            self.model.real += real_seconds
            self.server.age(real_seconds)

    # What people do.

    @rule(service=st.sampled_from([None, *SERVICES]), minutes=st.sampled_from([None, 10]))
    def pause(self, service: str | None, minutes: int | None) -> None:
        until = None if minutes is None else self.model.now + minutes * MINUTE
        self.server.run(
            f"select dlq.pause('a test', %s, {EPOCH} + %s::double precision * interval '1 second')", service, until
        )
        self.model.pauses[service or "*"] = until

    @precondition(lambda self: self.model.pauses)
    @rule()
    def resume(self) -> None:
        for service in [*self.model.pauses]:
            assert self.server.one("select dlq.resume(%s)", None if service == "*" else service)
            del self.model.pauses[service]

    @rule(
        service=st.sampled_from([*SERVICES, "*"]),
        most=st.integers(1, 4),
        enabled=st.sampled_from([True, True, False]),
        raw=st.booleans(),
        schedule=st.sampled_from([None, (2 * MINUTE,), (MINUTE, 30 * MINUTE, 4 * MINUTE, MINUTE)]),
    )
    def set_endpoint(
        self, service: str, most: int, enabled: bool, raw: bool, schedule: tuple[float, ...] | None
    ) -> None:
        self._set_endpoint(service, Endpoint(most, enabled, raw, schedule))

    @rule(service=st.sampled_from([*SERVICES, "*"]), verb=st.sampled_from(["remove", "reset", "reset"]))
    def undo(self, service: str, verb: str) -> None:
        if verb == "remove":
            was_there = self.model.endpoints.pop(service, None) is not None
            assert self.server.one("select dlq.remove_endpoint(%s)", service) is was_there
        elif service != "*":
            was_there = self.model.circuits.pop(service, None) is not None
            assert self.server.one("select dlq.reset_endpoint(%s, 'a test')", service) is was_there

    @rule(
        entry=entries, how=st.sampled_from(["pending", "discarded", "failed", "pending, with all its retries", "due"])
    )
    def update(self, entry: int, how: str) -> None:
        """By hand, in SQL."""
        entry_id = self.ids[entry]
        status, is_fresh = how.partition(",")[0], "," in how
        if entry_id not in self.model.entries:
            return
        if how == "due":
            self.server.run(
                "update public.webhook_dlq set next_retry_at = dlq._now() where status = 'pending' and id = %s",
                entry_id,
            )
            self.model.make_due(entry_id)
            return
        fresh = ", retry_count = 0" if is_fresh else ""
        self.server.run(f"update public.webhook_dlq set status = %s{fresh} where id = %s", status, entry_id)
        self.model.amend(entry_id, status, fresh=is_fresh)

    @rule(entry=entries, verb=st.sampled_from(["retry", "redeliver", "discard"]))
    def say(self, entry: int, verb: str) -> None:
        if self.ids[entry] in self.model.entries:
            was_done = self.server.one(f"select dlq.{verb}(%s, 'a test')", self.ids[entry])
            assert was_done is self.model.say(self.ids[entry], verb)

    @rule(entry=consumes(entries))
    def delete(self, entry: int) -> None:
        self.server.run("delete from public.webhook_dlq where id = %s", self.ids[entry])
        self.model.entries.pop(self.ids[entry], None)

    # What holds after every step.

    @invariant()
    def everything_holds(self) -> None:
        self.seen = self.server.one(SNAPSHOT)
        self.nothing_is_lost()
        self.entries_agree()
        self.in_flight_agrees()
        self.circuits_agree()
        self.caps_hold()
        self.attempts_are_numbered_without_gaps()
        self.every_end_has_its_reason()

    def nothing_is_lost(self) -> None:
        assert self.seen["entries"].keys() == self.model.entries.keys()

    def entries_agree(self) -> None:
        for entry_id, entry in self.model.entries.items():
            row = dict(self.seen["entries"][entry_id])
            next_retry_at = row.pop("next_retry_at")
            if entry.next_retry_at is not None and next_retry_at is not None:
                assert entry.next_retry_at.holds(next_retry_at), f"{next_retry_at} is not in {entry.next_retry_at}"
                entry.next_retry_at = Window(next_retry_at, next_retry_at)
            assert (next_retry_at is None) == (entry.next_retry_at is None)
            assert row == {
                "service": entry.service,
                "status": entry.status,
                "retry_count": entry.retry_count,
                "unanswered_count": entry.unanswered_count,
                "attempt_count": entry.attempt_count,
                "duplicate_of": entry.duplicate_of,
                "has_key": entry.key is not None,
                "settled_at": entry.settled_at,
            }
            records = {int(attempt): tuple(record) for attempt, record in self.seen["records"][entry_id].items()}
            assert records == {n: (r.outcome, r.status_code, r.is_probe) for n, r in entry.records.items()}

    def in_flight_agrees(self) -> None:
        assert self.seen["queue"] == sorted(self.model.net.queue)
        assert self.seen["in_flight"] == {
            entry_id: {
                "request": request.id,
                "service": request.service,
                "attempt": request.attempt,
                "echoed": request.echoed,
                "is_probe": request.is_probe,
                "is_missing": request.missing_since is not None,
            }
            for entry_id, request in self.model.in_flight.items()
        }

    def circuits_agree(self) -> None:
        assert self.seen["pauses"] == sorted(self.model.pauses)
        for row in self.seen["circuits"].values():
            row["suspects"] = set(row["suspects"])
        assert self.seen["circuits"] == {
            service: {
                "cap": circuit.cap,
                "trips": circuit.trips,
                "suspects": circuit.suspects,
                "timed_out": circuit.timed_out,
                "failing_since": circuit.failing_since,
                "probe_at": circuit.probe_at if circuit.is_open else None,
            }
            for service, circuit in self.model.circuits.items()
        }

    def caps_hold(self) -> None:
        """Of the server alone: a probe is the only one of its service that was sent since its circuit opened."""
        rows = self.seen["in_flight"].values()
        assert len(rows) <= self.model.settings.max_in_flight
        for service in SERVICES:
            assert sum(row["service"] == service and row["is_probe"] for row in rows) <= 1

    def attempts_are_numbered_without_gaps(self) -> None:
        for entry_id, row in self.seen["entries"].items():
            entry = self.model.entries[entry_id]
            open_ends = {self.seen["in_flight"][entry_id]["attempt"]} if entry_id in self.seen["in_flight"] else set()
            if row["status"] == "processing":
                open_ends = {row["attempt_count"]}
            numbers = {int(attempt) for attempt in self.seen["records"][entry_id]}
            assert numbers | open_ends | entry.forgotten == set(range(1, row["attempt_count"] + 1))
            assert not numbers & open_ends

    def every_end_has_its_reason(self) -> None:
        for entry_id, row in self.seen["entries"].items():
            entry = self.model.entries[entry_id]
            assert (row["settled_at"] is not None) == (row["status"] in SETTLED)
            assert (entry.why_failed is not None) == (row["status"] == "failed")
            records = self.seen["records"][entry_id]
            last = records[max(records, key=int)] if records else (None, None, False)
            if row["status"] == "reprocessed":
                assert last[0] == "delivered"
                assert last[1] in range(200, 300)
            match entry.why_failed:
                case "gone":
                    assert last[1] == 410
                case "unanswered":
                    assert row["unanswered_count"] >= self.model.settings.max_unanswered
                case "retries":
                    assert row["retry_count"] > 0


@pytest.fixture
def server(database: str) -> Iterator[Server]:
    server = Server(database, Model())
    yield server
    server.conn.close()


def test_the_queue_does_what_the_model_says(server: Server) -> None:
    machine = type("Machine", (Queue,), {"server": server})
    profile = settings(
        max_examples=2000 if IS_LONG else 100,
        stateful_step_count=60 if IS_LONG else 40,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
    )
    run_state_machine_as_test(machine, settings=profile)
