"""The desk of whoever is on call: a sandbox in which everything can be broken, and the runbook's commands typed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import dict_row

from dlqctl import receiver
from dlqctl.receiver import Receiver
from dlqctl.sandbox import Sandbox, command_env
from tests.command import dlqctl
from tests.net_worker import start_net_worker
from tests.runbook.page import Block

SECRET = "a-secret-of-the-runbook"


class Desk:
    """A sandbox with a service `whatsapp`; its handlers do as `receiver` is told. pg_cron has no job unless asked.

    Commands run in this process. systemctl and journalctl are stand-ins: they start the net-worker, or say nothing.
    """

    def __init__(self, box: Sandbox, handlers: Receiver) -> None:
        self.box = box
        self.receiver = handlers
        self._forgotten: psycopg.Connection | None = None
        self._cycle: threading.Thread | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        self._schemas = {name for (name,) in self._values("select nspname from pg_namespace")}

    # What there is.

    def rows(self, query: str, *parameters: Any, user: str = "postgres") -> list[dict[str, Any]]:
        with psycopg.connect(self.box.cluster.dsn(user=user), autocommit=True, row_factory=dict_row) as conn:
            cursor = conn.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def one(self, query: str, *parameters: Any) -> Any:
        (row,) = self.rows(query, *parameters)
        return next(iter(row.values()))

    def _values(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self.rows(query)]

    def line(self, name: str, user: str = "deployer") -> tuple[str, str]:
        """A line's level and detail, of health or of the schedule."""
        view = "dlq.health" if self.rows("select 1 from dlq.health where name = %s", name) else "dlq.cron_checks()"
        found = self.rows(f"select level, detail from {view} where name = %s", name, user=user)
        return (found[0]["level"], found[0]["detail"]) if found else ("ok", "there is no such line any more")

    def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.rows("select name, level, detail from dlq.health")
            time.sleep(0.05)

    # What happens.

    def fresh(self) -> None:
        """Forget what the last test has left."""
        self.receiver.behave("whatsapp", receiver.ok())
        self.rows(
            "truncate webhook_dlq, dlq.delivery_attempts, dlq_processing_log, dlq.maintenance_log, dlq.in_flight,"
            " dlq.pauses,"
            " dlq.endpoint_state, dlq.endpoints, dlq.secrets, dlq.replays, dlq.replayed_entries,"
            " dlq.alert_channels, dlq.alerts, dlq.alert_deliveries, dlq.alert_requests, net.http_request_queue,"
            " net._http_response"
        )
        self.rows("alter table webhook_dlq no force row level security; alter schema net owner to dlq_owner")
        self.rows("update dlq.settings set installed_at = now() - interval '1 hour', maintain_budget = default")
        self.rows("create extension if not exists pg_cron; grant usage on schema cron to deployer, onlooker")
        self.rows("select cron.unschedule(jobid) from cron.job")
        self.rows("select dlq.set_endpoint('whatsapp', %s, true, true)", self.receiver.url("whatsapp"))
        self.start_worker()
        self.cycle()

    def schedule(self) -> None:
        """Let pg_cron have its jobs, in the name of the role that installed."""
        self.rows("select cron.unschedule(jobid) from cron.job")
        self.rows("select dlq.schedule_jobs()", user="deployer")

    def cycle(self) -> None:
        self.rows("call dlq.run_cycle()")

    def store(self, count: int = 1, service: str = "whatsapp") -> None:
        """Store so many, due since an hour."""
        self.rows(
            "insert into webhook_dlq (service, payload, error_message, next_retry_at)"
            " select %s, to_jsonb(n), 'timeout', now() - interval '1 hour' from generate_series(1, %s) as n",
            service,
            count,
        )

    def leave_open(self, statement: str) -> None:
        """Run a statement in a transaction that somebody forgets to end."""
        self.end_forgotten()
        self._forgotten = psycopg.connect(self.box.cluster.dsn())
        self._forgotten.execute(statement.encode())

    def end_forgotten(self) -> None:
        if self._forgotten is not None:
            self._forgotten.close()
        if self._cycle is not None:
            self._cycle.join(20)

    def begin_cycle(self) -> None:
        """Begin a run, and return when its row is there."""
        runs = self.one("select count(*) from dlq_processing_log")
        self._cycle = threading.Thread(target=self.cycle, daemon=True)
        self._cycle.start()
        self.until(lambda: self.one("select count(*) from dlq_processing_log") > runs)

    def as_history(self, *statements: str) -> None:
        """Change what the log's triggers and the time would not let happen now."""
        with psycopg.connect(self.box.cluster.dsn(), autocommit=True) as conn:
            conn.execute("set session_replication_role = replica")
            for statement in statements:
                conn.execute(statement.encode())

    def workers(self) -> list[int]:
        """The process ids of the net-workers that are connected."""
        return [
            pid
            for (pid,) in self._values(
                "select w.pid from dlq.net_workers as w"
                " where w.stopped_at is null and w.seen_at > now() - interval '30 s'"
                " and exists (select from pg_stat_activity where application_name = 'dlqctl net-worker')"
            )
        ]

    def _pids(self) -> set[int]:
        return {*self.workers(), *(worker.pid for worker in self._workers if worker.poll() is None)}

    def kill_worker(self) -> None:
        """Kill every net-worker, a minute ago: that is not waited for."""
        for pid in self._pids():
            os.kill(pid, signal.SIGKILL)
        self.until(lambda: not self.rows("select 1 from pg_stat_activity where application_name = 'dlqctl net-worker'"))
        self._a_minute_goes_by()

    def stop_worker(self) -> None:
        """Have every net-worker stand still, since a minute."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)
        self._a_minute_goes_by()

    def _a_minute_goes_by(self) -> None:
        self.rows(
            "update dlq.net_workers set seen_at = seen_at - interval '61 s', started_at = started_at - interval '61 s'"
        )

    def start_worker(self) -> None:
        """Start the net-worker, unless it runs."""
        if not self.workers():
            self._workers.append(start_net_worker(self.box.cluster.dsn(user="sender")))
            self.until(self.workers)

    def close(self) -> None:
        self.end_forgotten()
        for worker in self._workers:
            worker.kill()
            worker.wait()

    # What is typed.

    def type_(self, block: Block, user: str = "deployer") -> None:
        """Run a block as it stands in the page. To look may end with the answer no, to do may not."""
        if block.language == "sql":
            self.rows(block.text, user="postgres" if block.as_superuser else user)
            return
        for words, file in block.commands():
            code, said = self._run(words, file, user)
            assert code == 0 or (block.part != "Do" and code == 1), f"{words}: exit {code}\n{said}"

    def _run(self, words: list[str], file: str | None, user: str) -> tuple[int, str]:
        match words:
            case ["systemctl", *_]:
                self.kill_worker()
                self.start_worker()
                return 0, ""
            case ["journalctl", *_]:
                return 0, ""
        program, *words = words
        assert program == "dlqctl"
        return self._dlqctl([self._meant(word) for word in words] + _as_here(words), SECRET if file else "", user)

    def _meant(self, word: str) -> str:
        word = re.sub("^https://example.com/hooks/", self.receiver.url(""), word)
        return str(self.one("select id from webhook_dlq order by created_at desc limit 1")) if word == "ID" else word

    def _dlqctl(self, words: list[str], stdin: str, user: str) -> tuple[int, str]:
        env = command_env(self.box) | {"DLQCTL_DATABASE_URL": self.box.cluster.url(user=user)}
        done = dlqctl(*words, stdin=stdin, env=env)
        return done.returncode, done.stdout + done.stderr


def _as_here(words: list[str]) -> list[str]:
    """What a command needs besides, in a sandbox."""
    match words:
        case ["endpoints", "set", *_]:
            return ["--allow-http", "--allow-private"]
        case ["migrate", *options] if "--net-worker" not in options:
            return ["--net-worker"]
    return []
