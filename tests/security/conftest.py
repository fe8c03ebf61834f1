"""A server with the roles of Supabase, on which somebody who is no superuser has installed dlqctl, and who is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from dlqctl.cluster import Cluster
from dlqctl.migrate import migrate
from tests.db.conftest import queue as queue  # the same queue
from tests.migration.migrating import do
from tests.supabase import ADMIN, supabase_like

CLAIM: dict[str, Any] = {"role": "authenticated", "sub": "7f9c", "app_metadata": {"dlq_admin": True}}
NO_CLAIM: dict[str, Any] = {
    "role": "authenticated",
    "sub": "7f9c",
    "app_metadata": {"dlq_admin": False},
    "user_metadata": {"dlq_admin": True},
}

SECRETS = (
    "+31612345678",
    "PAYLOAD-OF-ANOTHER",
    "TEXT-OF-ANOTHER",
    "HEADER-OF-ANOTHER",
    "VALUE-OF-A-SECRET",
    "KEY-OF-ANOTHER",
)
"""What stands in the seeded entry and its surroundings, and in nothing that is not to be seen."""


@dataclass(frozen=True)
class House:
    """The server. `install` is who installed, `superuser` who may look at everything."""

    cluster: Cluster

    @property
    def superuser(self) -> str:
        return self.cluster.dsn(user=ADMIN)

    @contextmanager
    def as_(self, role: str, claims: dict[str, Any] | None = None) -> Iterator[psycopg.Connection]:
        """A transaction in a role, rolled back at the end; over HTTP's road if it is one of the API's."""
        api = role in ("anon", "authenticated", "service_role")
        user = "authenticator" if api else ADMIN
        with psycopg.connect(self.cluster.dsn(user=user)) as conn:
            conn.execute(f"set {'role' if api else 'session authorization'} {role}".encode())
            if claims is not None:
                conn.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
            yield conn
            conn.rollback()


@pytest.fixture(scope="session")
def house() -> Iterator[House]:
    """Such a server, with an entry that has everything and is in flight, an endpoint with a secret, and a stranger."""
    with supabase_like() as cluster:
        migrate(cluster.dsn(), cron=False, net_worker=True)
        do(cluster.dsn(user=ADMIN), "create role stranger login", "grant create on schema public to stranger")
        with psycopg.connect(cluster.dsn(), row_factory=dict_row) as conn:
            conn.execute("select dlq.set_secret('TOKEN', 'VALUE-OF-A-SECRET')")
            conn.execute(
                "select dlq.set_endpoint('shop', 'https://handler.example/', auth => 'bearer', auth_secret => 'TOKEN',"
                ' headers => \'{"x-own": "HEADER-OF-ANOTHER"}\')'
            )
            conn.execute(
                """
                insert into webhook_dlq
                  (service, payload, raw_body, phone_number, error_message, headers, idempotency_key, next_retry_at)
                values
                  ('shop', %s, 'PAYLOAD-OF-ANOTHER', '+31612345678', 'TEXT-OF-ANOTHER', %s, 'KEY-OF-ANOTHER', now())
                """,
                (Jsonb({"secret": "PAYLOAD-OF-ANOTHER"}), Jsonb({"x-a": "HEADER-OF-ANOTHER"})),
            )
            conn.execute("select process_dlq_entries()")
            conn.execute(
                """
                insert into dlq.delivery_attempts
                  (entry_id, dispatched_at, settled_at, attempt, outcome, service, error, reply)
                select id, now(), now(), 0, 'http_error', 'shop', 'TEXT-OF-ANOTHER', 'PAYLOAD-OF-ANOTHER'
                from webhook_dlq
                """
            )
        do(cluster.dsn(user=ADMIN), "analyze")
        yield House(cluster)
