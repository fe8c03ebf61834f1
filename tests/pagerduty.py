"""A PagerDuty on loopback: takes what the Events API v2 takes, refuses the rest, and at times is busy or broken.

The schema is written from the published reference of POST /v2/enqueue: fields, lengths and severities.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from dlqctl.receiver import Reply, Request

ROUTING_KEY = "R0UT1NGKEYR0UT1NGKEYR0UT1NGKEY00"

EVENT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["routing_key", "event_action"],
    "properties": {
        "routing_key": {"type": "string", "minLength": 32, "maxLength": 32},
        "event_action": {"enum": ["trigger", "acknowledge", "resolve"]},
        "dedup_key": {"type": "string", "minLength": 1, "maxLength": 255},
        "client": {"type": "string"},
        "client_url": {"type": "string", "format": "uri"},
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["href"],
                "additionalProperties": False,
                "properties": {"href": {"type": "string", "pattern": "^https?://"}, "text": {"type": "string"}},
            },
        },
        "images": {"type": "array"},
        "payload": {
            "type": "object",
            "required": ["summary", "source", "severity"],
            "additionalProperties": False,
            "properties": {
                "summary": {"type": "string", "minLength": 1, "maxLength": 1024},
                "source": {"type": "string", "minLength": 1},
                "severity": {"enum": ["critical", "error", "warning", "info"]},
                "timestamp": {
                    "type": "string",
                    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:?\d\d|Z)$",
                },
                "component": {"type": "string"},
                "group": {"type": "string"},
                "class": {"type": "string"},
                "custom_details": {"type": "object"},
            },
        },
    },
    "allOf": [
        {"if": {"properties": {"event_action": {"const": "trigger"}}}, "then": {"required": ["payload"]}},
        {"if": {"properties": {"event_action": {"const": "resolve"}}}, "then": {"required": ["dedup_key"]}},
    ],
}
_VALIDATOR = Draft202012Validator(EVENT, format_checker=FormatChecker())


@dataclass
class PagerDuty:
    """What it was sent and what came of it. `trouble`: the statuses that it answers first, one a request."""

    trouble: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    """The events that it accepted, in order."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, body: bytes) -> Reply:
        """Answer a request as the Events API does."""
        with self._lock:
            event = json.loads(body)
            errors = [error.message for error in _VALIDATOR.iter_errors(event)]
            if self.trouble:
                reply = Reply(self.trouble.pop(0), b"", {"Retry-After": "1"})
            elif errors:
                reply = self._reply(
                    400, {"status": "invalid event", "message": "Event object is invalid", "errors": errors}
                )
            else:
                self.events.append(event)
                reply = self._reply(
                    202, {"status": "success", "message": "Event processed", "dedup_key": event.get("dedup_key")}
                )
            self.answers.append(reply.status)
            return reply

    def behaviour(self, request: Request, nth: int) -> Reply:
        """As what a receiver's service does."""
        return self.take(request.body)

    @property
    def actions(self) -> list[str]:
        return [event["event_action"] for event in self.events]

    @property
    def open(self) -> set[str]:
        """The dedup keys of the incidents that are open, by the events as they came."""
        keys: set[str] = set()
        for event in self.events:
            (keys.discard if event["event_action"] == "resolve" else keys.add)(event["dedup_key"])
        return keys

    @staticmethod
    def _reply(status: int, body: dict[str, Any]) -> Reply:
        return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})
