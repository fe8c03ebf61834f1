"""The queue as it is meant to be, in plain Python: what the server is compared with after every step.

Times are seconds. There are two clocks, as in the queue: `now` is dlq._now(), by which it decides; `moment()` is the
real clock, by which pg_net's times are compared. Where the queue may choose (the jitter, which of two equally overdue
entries goes first, which of two requests with one body an echo belongs to), the model is told what it chose, and
asserts that it might.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from tests.faults.circuit import MINUTE, Circuit, Settings

# The endpoint's own fault: it is down, overloaded, does not know us, or is not there.
ENDPOINTS_FAULT = {401, 403, 404, 408, 429}
SETTLED = {"reprocessed", "failed", "discarded"}
SLACK = 20.0  # an answer is created so long before its request was dispatched at most


@dataclass
class Endpoint:
    max_in_flight: int = 20
    enabled: bool = True
    raw: bool = False
    schedule: tuple[float, ...] | None = None
    timeout: float = 5.0


@dataclass(frozen=True)
class Window:
    """A time that is known up to the jitter, until it has been seen."""

    earliest: float
    latest: float

    def holds(self, time: float) -> bool:
        return self.earliest - 0.001 <= time <= self.latest + 0.001


@dataclass(frozen=True)
class Record:
    """One row of dlq.delivery_attempts."""

    outcome: str
    status_code: int | None = None
    is_probe: bool = False


@dataclass
class Entry:
    service: str
    body: str
    key: str | None = None
    status: str = "pending"
    next_retry_at: Window | None = None
    settled_at: float | None = None
    duplicate_of: str | None = None
    retry_count: int = 0
    unanswered_count: int = 0
    attempt_count: int = 0
    records: dict[int, Record] = field(default_factory=dict)
    # Attempts that are not on record: a crash took the request, and a person had taken the entry out of `processing`.
    forgotten: set[int] = field(default_factory=set)
    why_failed: str | None = None

    @property
    def has_nul(self) -> bool:
        return self.body.startswith("\0")


@dataclass
class Request:
    """One row of dlq.in_flight."""

    id: int
    service: str
    body: str
    attempt: int
    dispatched_at: float
    timeout: float
    generation: int | None  # None: of no net._http_response
    is_probe: bool
    echoed: bool = False
    missing_since: float | None = None


@dataclass(frozen=True)
class Answer:
    """One row of net._http_response. `headers` is None where they are no object."""

    id: int | None
    status_code: int | None = None
    error: str | None = None
    retry_after: float | None = None
    location: bool = False
    has_headers: bool = True
    created: float = 0.0

    @property
    def is_unreadable(self) -> bool:
        """Whether judging it must look into its headers, and there are none."""
        return not self.has_headers and self.error is None and self.status_code in {200, 204, 429, 503}


@dataclass(frozen=True)
class Verdict:
    """How one attempt ended."""

    entry_id: str
    outcome: str
    status_code: int | None = None
    wait: float | None = None
    timed_out: bool = False

    @property
    def is_failure(self) -> bool:
        return self.outcome in {"http_error", "network_error", "echoed", "not_sent"}

    @property
    def is_sick(self) -> bool | None:
        """Whether it speaks against the endpoint, for it, or says nothing of it."""
        if self.outcome in {"unanswered", "not_sent"}:
            return None
        if self.outcome in {"network_error", "echoed"}:
            return True
        if self.outcome == "delivered":
            return False
        assert self.status_code is not None
        return self.status_code in ENDPOINTS_FAULT or not 400 <= self.status_code < 500


@dataclass
class Net:
    """pg_net: what is queued, what the sender took without a trace (0.11 to 0.17 do), and what was answered."""

    generation: int = 0
    queue: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


class Model:
    """The queue. Its methods are what can happen to it; those of the engine return what the engine returns."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.now = 0.0
        self.real = 0.0
        self.net = Net()
        self.endpoints: dict[str, Endpoint] = {}
        self.pauses: dict[str, float | None] = {}
        self.circuits: dict[str, Circuit] = {}
        self.entries: dict[str, Entry] = {}
        self.in_flight: dict[str, Request] = {}

    def moment(self) -> float:
        """The real clock: no two moments are the same."""
        self.real += 0.001
        return self.real

    # What the configuration says of a service.

    def route(self, service: str) -> Endpoint | None:
        return self.endpoints.get(service) or self.endpoints.get("*")

    def schedule(self, service: str) -> tuple[float, ...]:
        route = self.route(service)
        return (route and route.schedule) or self.settings.schedule

    def is_paused(self, service: str) -> bool:
        ends = [self.pauses[name] for name in (service, "*") if name in self.pauses]
        return any(end is None or end > self.now for end in ends)

    def in_flight_of(self, service: str) -> int:
        return sum(request.service == service for request in self.in_flight.values())

    # A webhook comes in.

    def store(
        self,
        new_id: str | None,
        returned: str | None,
        duplicate_of: str | None,
        *,
        service: str,
        body: str,
        key: str | None = None,
        names: str | None = None,
    ) -> None:
        """A handler stores a failure, and `returned` is what it is told.

        `new_id`, `duplicate_of`: the row that this made, if any; `names`: the entry that the headers name.
        """
        if key is not None:
            for known, entry in self.entries.items():
                if (entry.service, entry.key) == (service, key):
                    assert (new_id, returned) == (None, known), "a key again stores nothing"
                    if names == known or known in self.in_flight:
                        self.echo(known)
                    return
        assert new_id is not None, "a webhook that comes in is kept"

        originals = self.originals(service, body, names)
        assert (duplicate_of in originals) if originals else duplicate_of is None, "echoes are recognised, alone"
        if duplicate_of is not None:
            assert returned in (None, duplicate_of)
            self.echo(duplicate_of)
            echo = Entry(service, body, status="discarded", settled_at=self.now, duplicate_of=duplicate_of)
            self.entries[new_id] = echo
            return
        assert returned in (None, new_id)
        wait = self.schedule(service)[0]
        self.entries[new_id] = Entry(service, body, key, next_retry_at=self.after(wait))

    def originals(self, service: str, body: str, names: str | None) -> set[str]:
        """The entries of which this failure may be the echo."""
        if names in self.entries:
            return {names}
        same = {i: r for i, r in self.in_flight.items() if (r.service, r.body) == (service, body)}
        return {i for i, r in same.items() if not r.echoed} or set(same)

    def echo(self, entry_id: str) -> None:
        """The handler has stored this entry's failure again: it is not delivered, whatever was or will be answered."""
        if entry_id in self.in_flight:
            self.in_flight[entry_id].echoed = True
            return
        entry = self.entries[entry_id]
        if entry.status == "reprocessed":
            schedule = self.schedule(entry.service)
            entry.retry_count += 1
            if entry.retry_count >= len(schedule):
                self.fail(entry, "retries")
            else:
                self.wait(entry, self.after(schedule[entry.retry_count]))

    def after(self, wait: float, at_least: float = 0.0) -> Window:
        jittered = wait * (1 + self.settings.jitter)
        return Window(self.now + max(wait, at_least), self.now + max(jittered, at_least))

    def fail(self, entry: Entry, why: str) -> None:
        entry.status, entry.next_retry_at, entry.settled_at, entry.why_failed = "failed", None, self.now, why

    def wait(self, entry: Entry, until: Window | None) -> None:
        entry.status, entry.next_retry_at, entry.settled_at, entry.why_failed = "pending", until, None, None

    # The engine's three steps.

    def requeue_lost(self) -> int:
        """Give back what will never be answered."""
        self.in_flight = {i: request for i, request in self.in_flight.items() if i in self.entries}
        since = self.since()
        answered = {answer.id for answer in self.net.answers if answer.created >= since}
        for request in self.in_flight.values():
            if request.id in self.net.queue or request.id in answered:
                request.missing_since = None
            elif request.missing_since is None:
                request.missing_since = self.moment()
        lost = [
            entry_id
            for entry_id, request in self.in_flight.items()
            if request.generation != self.net.generation
            or (request.missing_since is not None and request.missing_since < self.real - request.timeout - MINUTE)
        ]
        lost += [i for i, entry in self.entries.items() if entry.status == "processing" and i not in self.in_flight]
        self.settle([Verdict(entry_id, "unanswered") for entry_id in lost])
        return len(lost)

    def collect_responses(self) -> tuple[int, int, int]:
        """Settle what was answered. If an answer cannot be read, each request is settled by itself."""
        verdicts: dict[int, list[Verdict]] = defaultdict(list)
        is_unreadable = False
        for entry_id, request in sorted(self.in_flight.items()):
            answers = self.answers_to(request)
            if answers and request.generation == self.net.generation:
                verdict = self.judge(entry_id, request, answers)
                is_unreadable |= verdict is None
                if entry_id in self.entries:
                    verdicts[request.id].append(verdict or Verdict(entry_id, "unanswered"))
        if is_unreadable:
            for _, group in sorted(verdicts.items()):
                self.settle(group)
        else:
            self.settle([verdict for group in verdicts.values() for verdict in group])
        all_of_them = [verdict for group in verdicts.values() for verdict in group]
        return (
            sum(verdict.outcome == "delivered" for verdict in all_of_them),
            sum(verdict.is_failure for verdict in all_of_them),
            sum(verdict.outcome == "unanswered" for verdict in all_of_them),
        )

    def since(self) -> float:
        return min((request.dispatched_at for request in self.in_flight.values()), default=0.0) - SLACK

    def answers_to(self, request: Request) -> list[Answer]:
        """The answers that may be this request's: with its id, and not created long before it."""
        return [a for a in self.net.answers if a.id == request.id and a.created >= request.dispatched_at - SLACK]

    def judge(self, entry_id: str, request: Request, answers: list[Answer]) -> Verdict | None:
        """How the attempt ended, by its answer; None if that cannot be read."""
        twins = sum(
            other.id == request.id and other.generation == request.generation and bool(self.answers_to(other))
            for other in self.in_flight.values()
        )
        if len(answers) > 1 or twins > 1 or request.id in self.net.queue:
            return Verdict(entry_id, "unanswered")
        (answer,) = answers
        status = answer.status_code
        if request.echoed:
            return Verdict(entry_id, "echoed", status)
        if answer.error is not None or status is None:
            timed_out = "timeout" in (answer.error or "").lower()
            return Verdict(entry_id, "network_error", status, timed_out=timed_out)
        if answer.is_unreadable:
            return None
        is_redirect = answer.location and status not in {201, 202}
        if 200 <= status < 300 and not is_redirect:
            return Verdict(entry_id, "delivered", status)
        return Verdict(entry_id, "http_error", status, answer.retry_after if status in {429, 503} else None)

    def settle(self, verdicts: list[Verdict]) -> None:
        """Record how attempts ended, move their entries on, and let each service's circuit hear of it."""
        by_service: dict[str, list[tuple[Verdict, Request | None]]] = defaultdict(list)
        for verdict in verdicts:
            request = self.in_flight.pop(verdict.entry_id, None)
            by_service[self.entries[verdict.entry_id].service].append((verdict, request))
        for service, settled in by_service.items():
            for verdict, request in settled:
                self.move(verdict, request)
            self.tell(service, settled)

    def move(self, verdict: Verdict, request: Request | None) -> None:
        entry = self.entries[verdict.entry_id]
        schedule = self.schedule(entry.service)
        is_probe = request is not None and request.is_probe
        is_in_vain = is_probe and verdict.is_sick is True
        entry.attempt_count += verdict.outcome == "not_sent"
        entry.records[entry.attempt_count] = Record(verdict.outcome, verdict.status_code, is_probe)
        entry.retry_count += verdict.is_failure and not is_in_vain
        entry.unanswered_count += verdict.outcome == "unanswered"

        if entry.status in SETTLED:  # a person was quicker
            return
        if verdict.outcome == "delivered":
            entry.status, entry.next_retry_at, entry.settled_at = "reprocessed", None, self.now
        elif entry.status == "pending" and verdict.outcome != "not_sent":
            pass  # a person has made it due again
        elif is_in_vain:
            self.wait(entry, Window(self.now, self.now))
        elif verdict.outcome == "unanswered":
            if entry.unanswered_count >= self.settings.max_unanswered:
                self.fail(entry, "unanswered")
            else:
                nth = entry.unanswered_count - 1
                at = self.now + (MINUTE * 2 ** min(nth - 1, 5) if nth else 0.0)
                self.wait(entry, Window(at, at))
        elif verdict.status_code == 410:
            self.fail(entry, "gone")
        elif entry.retry_count >= len(schedule):
            self.fail(entry, "retries")
        else:
            self.wait(entry, self.after(schedule[entry.retry_count], self.asked(entry.service, verdict) or 0.0))

    def asked(self, service: str, verdict: Verdict) -> float | None:
        return None if verdict.wait is None else min(verdict.wait, max(self.schedule(service)))

    def tell(self, service: str, settled: Iterable[tuple[Verdict, Request | None]]) -> None:
        circuit = self.circuits.get(service, Circuit())
        news = [v for v, request in settled if request is not None and circuit.hears_of(request.dispatched_at)]
        sick = [v for v in news if v.is_sick is True]
        asked = [wait for v in sick if (wait := self.asked(service, v)) is not None]
        route = self.route(service)
        circuit.hear(
            well=sum(v.is_sick is False for v in news),
            sick={v.entry_id for v in sick},
            timeouts=sum(v.timed_out for v in sick),
            asked=max(asked, default=None),
            most=None if route is None else route.max_in_flight,
            now=self.now,
            moment=self.moment(),
            settings=self.settings,
        )
        if circuit.is_healthy:
            self.circuits.pop(service, None)
        else:
            self.circuits[service] = circuit

    def dispatch_due(self, sent: dict[str, int], not_sent: Collection[str]) -> tuple[int, int]:
        """The engine sent `sent` (entry: request) and could not make `not_sent`: check that it might, and had to."""
        chosen = [*sent, *not_sent]
        assert not set(chosen) & set(self.in_flight), "no entry is in flight twice"
        room = max(0, self.settings.max_in_flight - len(self.in_flight))
        waiting: dict[str, list[str]] = defaultdict(list)
        for entry_id, entry in self.entries.items():
            if entry.next_retry_at is not None and entry.next_retry_at.earliest <= self.now:
                waiting[entry.service].append(entry_id)
        callable_now = {service for service in waiting if self.slots(service) > 0}
        busy = callable_now | {request.service for request in self.in_flight.values()}
        even = max(1, self.settings.max_in_flight // (1 + len(busy)))  # one share is for whoever comes next
        free = {
            service: min(self.slots(service), even) - self.in_flight_of(service)
            for service in waiting
            if service in callable_now
        }
        waiting = {service: due for service, due in waiting.items() if free.get(service, 0) > 0}
        due = {service: [i for i in ids if i not in self.in_flight] for service, ids in waiting.items()}
        share = max(1, room // max(1, len(waiting)))
        quota = {service: min(free[service], share, len(ids)) for service, ids in due.items()}
        count = dict.fromkeys(quota, 0)
        for entry_id in chosen:
            service = self.entries[entry_id].service
            assert entry_id in due.get(service, ()), "sent is what is due, of services that may be called"
            count[service] += 1
        assert all(count[service] <= quota[service] for service in quota), "caps hold"
        assert len(chosen) == min(room, sum(quota.values())), "what may be sent is sent"
        fullest = max(count.values(), default=0)
        for service, ids in due.items():
            assert count[service] >= min(quota[service], fullest - 1), "one of each service in turn"
            times = {i: self.retry_at(i) for i in ids}
            left = [times[i] for i in ids if i not in chosen]
            assert all(times[i] <= min(left, default=times[i]) for i in chosen if i in times), "the most overdue first"

        for entry_id in not_sent:
            entry = self.entries[entry_id]
            assert self.is_unsendable(entry), "what can be sent is sent"
            self.settle([Verdict(entry_id, "not_sent")])
        for entry_id, request_id in sent.items():
            entry = self.entries[entry_id]
            assert not self.is_unsendable(entry)
            route = self.route(entry.service)
            assert route is not None
            entry.status, entry.next_retry_at = "processing", None
            entry.attempt_count += 1
            is_probe = entry.service in self.circuits and self.circuits[entry.service].is_open
            # A stranger has set the ids back: what is answered already is somebody else's, and this one counts as lost.
            is_answered = any(a.id == request_id and a.created >= self.moment() - SLACK for a in self.net.answers)
            self.in_flight[entry_id] = Request(
                request_id,
                entry.service,
                entry.body,
                entry.attempt_count,
                self.moment(),
                route.timeout,
                None if is_answered else self.net.generation,
                is_probe,
            )
            self.net.queue.append(request_id)
        return len(sent), len(not_sent)

    def slots(self, service: str) -> int:
        """How many of its entries a service may have under way by itself."""
        route = self.route(service)
        if route is None or not route.enabled or self.is_paused(service):
            return 0
        return self.circuits.get(service, Circuit()).slots(route.max_in_flight, self.now)

    def is_unsendable(self, entry: Entry) -> bool:
        route = self.route(entry.service)
        return entry.has_nul and route is not None and route.raw

    def retry_at(self, entry_id: str) -> float:
        window = self.entries[entry_id].next_retry_at
        assert window is not None
        return window.earliest

    # The sender, and what befalls it.

    def answer(self, answer: Answer) -> None:
        """The sender answers a request: out of the queue and into the answers at once."""
        self.net.queue = [i for i in self.net.queue if i != answer.id]
        self.net.taken = [i for i in self.net.taken if i != answer.id]
        self.net.answers.append(answer)

    def crash(self) -> None:
        """The server is gone and back: the unlogged tables are empty, and request ids start again."""
        for entry_id, request in self.in_flight.items():
            entry = self.entries.get(entry_id)
            if entry is not None and entry.status != "processing":
                entry.forgotten.add(request.attempt)
        self.in_flight = {}
        self.net = Net(self.net.generation)

    def recreate_net(self) -> None:
        """pg_net is dropped and created: other tables, other ids."""
        self.net = Net(self.net.generation + 1)

    # What people do.

    def amend(self, entry_id: str, status: str, *, fresh: bool = False) -> None:
        """A person updates an entry's status; `fresh`: and its retry_count to 0."""
        entry = self.entries[entry_id]
        if entry.status == "processing" and entry_id not in self.in_flight:
            entry.forgotten.add(entry.attempt_count)  # lost in a crash, and now nobody will notice
        if fresh:
            entry.retry_count = 0
        if status == "pending":
            self.wait(entry, entry.next_retry_at or Window(self.now, self.now))
        elif status != entry.status:
            entry.status, entry.next_retry_at, entry.settled_at = status, None, self.now
            entry.why_failed = "by hand" if status == "failed" else None

    def say(self, entry_id: str, verb: str) -> bool:
        """A person retries, redelivers or discards an entry; False: it is in no state for that."""
        entry = self.entries[entry_id]
        fits = {"retry": "pending failed discarded", "redeliver": "reprocessed", "discard": "pending failed"}
        if entry.status not in fits[verb].split() or (verb == "retry" and entry.duplicate_of is not None):
            return False
        if verb == "discard":
            entry.status, entry.next_retry_at, entry.settled_at, entry.why_failed = "discarded", None, self.now, None
        else:
            entry.retry_count = entry.unanswered_count = 0
            self.wait(entry, Window(self.now, self.now))
        return True

    def make_due(self, entry_id: str) -> None:
        entry = self.entries[entry_id]
        if entry.status == "pending":
            entry.next_retry_at = Window(self.now, self.now)
