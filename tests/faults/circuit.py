"""The circuit breaker as it is meant to be: how much a service is sent, by how its last requests went."""

from __future__ import annotations

from dataclasses import dataclass, field

MINUTE = 60.0
DAY = 86_400.0


@dataclass(frozen=True)
class Settings:
    schedule: tuple[float, ...] = (5 * MINUTE, 15 * MINUTE, 60 * MINUTE)
    probe_schedule: tuple[float, ...] = (MINUTE, 2 * MINUTE, 4 * MINUTE, 8 * MINUTE, 15 * MINUTE)
    jitter: float = 0.1
    max_unanswered: int = 3
    max_in_flight: int = 6
    outage_patience: float = DAY


@dataclass
class Circuit:
    """How much a service's endpoint is trusted with. `cap` None: all that it allows; 0: open, nothing but probes."""

    cap: int | None = None
    trips: int = 0
    suspects: set[str] = field(default_factory=set)
    failing_since: float | None = None
    probe_at: float | None = None
    cap_changed_at: float | None = None
    timed_out: bool = False

    @property
    def is_open(self) -> bool:
        return self.cap == 0

    @property
    def is_healthy(self) -> bool:
        return self.cap is None and self.failing_since is None and not self.timed_out

    def slots(self, most: int, now: float) -> int:
        if self.is_open:
            assert self.probe_at is not None
            return 1 if self.probe_at <= now else 0
        return most if self.cap is None else min(self.cap, most)

    def hears_of(self, dispatched_at: float) -> bool:
        """Whether an answer to a request of that time says anything that the cap does not know already."""
        return self.cap_changed_at is None or dispatched_at > self.cap_changed_at

    def hear(
        self,
        well: int,
        sick: set[str],
        timeouts: int,
        asked: float | None,
        most: int | None,
        now: float,
        moment: float,
        settings: Settings,
    ) -> None:
        """Move the cap by the answers of one pass: how many speak for the endpoint, whose entries' speak against it.

        `most` is what the endpoint allows, None where there is none any more; `asked`, the longest Retry-After.
        """
        if well and well >= len(sick):
            self.suspects, self.failing_since = set(), None
            if self.cap is not None:
                self.cap, self.cap_changed_at = max(1, 2 * self.cap), moment
        elif sick:
            self.suspects |= sick
            if self.failing_since is None:
                self.failing_since = now
            if self.is_open or len(self.suspects) >= 3:
                self.suspects, self.cap_changed_at = set(), moment
                full = [cap for cap in (self.cap, most) if cap is not None]
                self.cap = min(full) // 2 if full else None
                if self.is_open and self.failing_since <= now - settings.outage_patience:
                    self.cap = 1
                if self.is_open:
                    self.trips += 1
                    pause = settings.probe_schedule[min(self.trips, len(settings.probe_schedule)) - 1]
                    self.probe_at = now + max(pause, asked or 0.0)
        if self.cap is not None and most is not None and self.cap >= most:
            self.cap, self.trips = None, 0
        if timeouts > well:
            self.timed_out = True
        elif well:
            self.timed_out = False
