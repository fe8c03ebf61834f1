"""Each fault, the line of health or of the schedule that says so, and the blocks of the runbook that mend it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.runbook.causes import (
    a_channel_refuses,
    a_secret_is_missing,
    a_table_is_locked,
    given_up,
    handlers_fail,
    handlers_have_failed_for,
    in_the_schedule,
    it_can_be_sent,
    it_cannot_be_sent,
    it_could_not_connect,
    it_is_blind,
    it_is_disabled,
    it_is_read_only,
    it_is_set_right,
    it_is_set_wrong,
    it_is_silent,
    it_is_writable,
    it_lacks_a_right,
    it_ran,
    it_stores_again,
    it_was_killed,
    its_time_is_short,
    much_waits,
    nobody_answers,
    nobody_has_said_where,
    nothing_was_removed,
    public_may_read,
    somebody_made_net,
    something_cannot_go,
    statement,
    the_alerts_are_locked,
    the_channel_is_mended,
    the_engine_is_locked,
    the_table_is_gone,
    there_is_a_trigger,
    there_is_no_sender,
    they_are_mended,
    they_are_not_evaluated,
)
from tests.runbook.desk import Desk


@dataclass(frozen=True)
class Case:
    """A fault, the line that must say so within some time, and the blocks of its section that mend it.

    `do`: what those blocks contain, in the order in which they are typed; `then` comes before, and `after` afterwards.
    `name`: the line's, where it is not the section's.
    """

    fault: str
    section: str
    cause: Callable[[Desk], object]
    level: str
    says: str
    do: tuple[str, ...]
    within: str
    then: Callable[[Desk], object] = lambda desk: None
    after: Callable[[Desk], object] = lambda desk: None
    name: str = ""
    user: str = "deployer"
    typist: str = "deployer"

    @property
    def line(self) -> str:
        return self.name or self.section

    def __str__(self) -> str:
        return self.fault


PROCESS = ("dlqctl process",)
MIGRATE = ("dlqctl migrate",)
RESTART = ("systemctl restart",)
RESET = ("endpoints reset",)
OUR_JOB = "job process-dlq-entries"
MINUTE, TEN, CYCLE, CYCLES, DAYS = "a minute", "10 minutes", "the next run", "two cycles", "two days"
AT_ONCE = "at once"

CASES = [
    Case("cron's launcher dies", "processor", it_is_silent, "error", "ago, ok", PROCESS, TEN),
    Case("row level security hides the queue from the engine", "processor", it_is_blind, "error",
         "hides public.webhook_dlq", (*MIGRATE, *PROCESS), AT_ONCE),
    Case("a table is locked", "processor", a_table_is_locked, "error", "running", PROCESS, TEN,
         then=Desk.end_forgotten),
    Case("the database is read-only", "processor", it_is_read_only, "error", "ago, ok", PROCESS, TEN,
         then=it_is_writable),
    Case("the engine lacks a right", "processor", it_lacks_a_right, "warning", "error: 42501 dispatch_due",
         ("a right is missing", *PROCESS), CYCLE),
    Case("every run is killed", "processor", it_was_killed, "warning", "interrupted", PROCESS, CYCLE),
    Case("the sender is killed", "sender", Desk.kill_worker, "error", "no net-worker has been seen since",
         ("systemctl",), MINUTE),
    Case("the sender stands still", "sender", Desk.stop_worker, "error", "no net-worker has been seen since",
         ("systemctl",),
         MINUTE),
    Case("a copy of production", "sender", statement("update dlq.settings set database_oid = 1"), "error",
         "this is a copy",
         ("--this-is-production",), AT_ONCE),
    Case("pg_net is missing", "sender", there_is_no_sender, "error", "there is no sender", ("--net-worker",
         "systemctl"), AT_ONCE),
    Case("schema net is somebody else's", "sender", somebody_made_net, "error", "belongs to neither",
         ("the schema is somebody else's",), AT_ONCE),
    Case("a trigger on net's queue", "sender", there_is_a_trigger, "error", "the trigger intruder",
         ("there is a trigger",), AT_ONCE),
    Case("requests are not answered", "answers", nobody_answers, "error", "1 handed to the sender and not answered",
         RESTART,
         "5 minutes"),
    Case("runs come and do not get round", "overdue", Desk.store, "warning", "in whatsapp", PROCESS, CYCLES),
    Case("the engine is locked", "overdue", the_engine_is_locked, "warning", "in whatsapp",
         ("somebody holds the lock", *PROCESS), CYCLES),
    Case("an endpoint is removed", "endpoints", nobody_has_said_where, "error", "where to retry: whatsapp",
         ("endpoints set",),
         AT_ONCE),
    Case("a service is misspelt", "endpoints", nobody_has_said_where, "error", "where to retry: whatsapp",
         ("or discard it",),
         AT_ONCE),
    Case("a secret is missing", "secrets", a_secret_is_missing, "error", "WHATSAPP_APP_SECRET", ("secrets set",),
         AT_ONCE),
    Case("a handler answers 500", "circuits", handlers_fail(500), "warning", "(HTTP 500)", RESET, CYCLE,
         then=they_are_mended),
    Case("a secret was rotated", "circuits", handlers_fail(401), "warning", "(HTTP 401)", RESET, CYCLE,
         then=they_are_mended),
    Case("an endpoint is set wrong", "circuits", it_is_set_wrong, "warning", "(network_error)", RESET, CYCLE,
         then=it_is_set_right),
    Case("a handler stores what it is sent again", "circuits", it_stores_again, "warning", "(echoed)", RESET, CYCLE,
         then=they_are_mended),
    Case("an outage", "circuits", handlers_have_failed_for("61 minutes"), "error", "next try", RESET, "an hour",
         then=they_are_mended),
    Case("an outage of days", "circuits", handlers_have_failed_for("3 days"), "error", "use up retries again", RESET,
         "an hour",
         then=they_are_mended),
    Case("a service is paused", "paused", statement("select dlq.pause('deploying', 'whatsapp')"), "warning",
         "whatsapp by",
         ("dlqctl resume whatsapp",), AT_ONCE),
    Case("everything is paused", "paused", statement("select dlq.pause('deploying')"), "warning", "everything by",
         ("dlqctl resume --reason",), AT_ONCE),
    Case("an endpoint is disabled", "paused", it_is_disabled, "warning", "the endpoint of whatsapp is disabled",
         ("--enable",),
         AT_ONCE),
    Case("a flood", "pending", much_waits, "warning", "101 waiting", ("replay",), AT_ONCE),
    Case("one webhook is refused to the end", "failed", given_up(1), "warning", "1 failed", ("replay",),
         "its last retry",
         then=they_are_mended),
    Case("many are", "failed", given_up(11), "error", "11 failed", ("replay",), "their last retry",
         then=they_are_mended),
    Case("a webhook that cannot be sent", "failed", it_cannot_be_sent, "warning", "1 failed", ("dlqctl retry",),
         "its last retry", then=it_can_be_sent),
    Case("maintenance does not run", "retention", nothing_was_removed, "warning", "has not been removed yet",
         ("dlqctl maintain",),
         DAYS),
    Case("a row cannot be removed", "retention", something_cannot_go, "warning", ": 23503 ", ("dlqctl maintain",),
         "the daily run",
         then=the_table_is_gone),
    Case("maintenance does not come to the end", "retention", its_time_is_short, "warning", "partial",
         ("more time", "dlqctl maintain"), "the daily run"),
    Case("a channel of alerts refuses what it is sent", "alerts", a_channel_refuses, "error", "pager: refused",
         ("alerts test",), "the next minute", then=the_channel_is_mended),
    Case("alerts are not evaluated", "alerts", they_are_not_evaluated, "error", "not evaluated since",
         ("alerts evaluate",), TEN),
    Case("alerts are locked", "alerts", the_alerts_are_locked, "error", "has their lock",
         ("somebody has their lock", "alerts evaluate"), TEN),
    Case("PUBLIC may read what is sent", "pg_net grants", public_may_read, "warning", "PUBLIC may",
         ("close the tables", *MIGRATE), AT_ONCE),
    Case("pg_cron is dropped", "extension", in_the_schedule("drop extension pg_cron"), "error", "not installed",
         MIGRATE, AT_ONCE,
         user="postgres", typist="postgres"),
    Case("pg_cron's settings are hidden", "database", in_the_schedule("revoke pg_read_all_settings from onlooker"),
         "warning",
         "cannot be checked", ("let the role look",), AT_ONCE, user="onlooker"),
    Case("the job is dropped", "job", in_the_schedule("select cron.unschedule(jobid) from cron.job"), "error",
         "is not scheduled",
         MIGRATE, AT_ONCE, name=OUR_JOB),
    Case("the job is switched off", "job", in_the_schedule("update cron.job set active = false"), "error",
         "is switched off",
         MIGRATE, AT_ONCE, name=OUR_JOB),
    Case("a second processor", "job",
         in_the_schedule("select cron.schedule('second-processor', '* * * * *', 'select process_dlq_entries()')"),
         "error", "also calls", ("a job too many",), AT_ONCE, name="job second-processor", user="postgres"),
    Case("the job's role is renamed or dropped", "owner", in_the_schedule("update cron.job set username = 'gone'"),
         "error",
         "does not exist", ("the role is gone", *MIGRATE), AT_ONCE, name="owner gone", user="postgres"),
    Case("the job's role may not run it", "owner", in_the_schedule("update cron.job set username = 'weak'"), "error",
         "may not run", ("it lacks the right",), AT_ONCE, name="owner weak", user="postgres"),
    Case("a short statement_timeout", "owner", in_the_schedule("alter role deployer set statement_timeout = '3s'"),
         "warning",
         "statement_timeout = 3s", ("its time is short",), AT_ONCE, name="owner deployer"),
    Case("pg_cron cannot connect", "last run", it_could_not_connect, "error", "connection failed", PROCESS, CYCLE,
         name="last run of process-dlq-entries", after=it_ran),
]  # fmt: skip
