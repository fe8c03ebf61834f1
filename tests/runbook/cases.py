"""What goes wrong, and which line of health or of the schedule says so: caused for real on a desk.

Only what takes long is not waited for: times on record are set back instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pytest

from dlqctl import receiver
from tests.runbook.desk import Desk


@dataclass(frozen=True)
class Case:
    """A fault, the line that must say so within some time, and the blocks of its section that mend it.

    `do`: what those blocks contain, in the order in which they are typed; `then` is done before that, and `after` afterwards.
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


def it_is_silent(desk: Desk) -> None:
    desk.rows("update dlq_processing_log set processed_at = processed_at - interval '11 minutes'")


def it_is_blind(desk: Desk) -> None:
    desk.rows("alter table webhook_dlq force row level security")
    with pytest.raises(psycopg.Error):
        desk.cycle()
    it_is_silent(desk)


def a_table_is_locked(desk: Desk) -> None:
    """Against writing, by somebody who does not go on."""
    desk.store()
    desk.leave_open("lock table webhook_dlq in share mode")
    desk.begin_cycle()
    it_is_silent(desk)


def it_is_read_only(desk: Desk) -> None:
    desk.rows("alter database dlq set default_transaction_read_only = on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        desk.cycle()
    desk.as_history("set default_transaction_read_only = off", "update dlq_processing_log set processed_at = processed_at - interval '11 min'")


def it_is_writable(desk: Desk) -> None:
    desk.as_history("set default_transaction_read_only = off", "alter database dlq reset default_transaction_read_only")


def it_lacks_a_right(desk: Desk) -> None:
    desk.rows("revoke execute on function net.http_post from dlq_owner")
    desk.store()
    desk.cycle()


def it_was_killed(desk: Desk) -> None:
    desk.rows("insert into dlq_processing_log (processed_at, duration) values (clock_timestamp() - interval '2 min', '1 s')")
    desk.rows("select dlq._begin_run()")
    desk.rows("delete from dlq_processing_log where status <> 'interrupted'")


def somebody_made_net(desk: Desk) -> None:
    desk.rows("alter schema net owner to stranger")


def there_is_a_trigger(desk: Desk) -> None:
    desk.rows(
        "create or replace function public.f() returns trigger language plpgsql as 'begin return new; end';"
        " create or replace trigger intruder before insert on net.http_request_queue for each row execute function public.f()"
    )


def there_is_no_sender(desk: Desk) -> None:
    desk.kill_worker()
    desk.rows("drop schema net cascade")


def nobody_answers(desk: Desk) -> None:
    """What was handed out six minutes ago."""
    desk.kill_worker()
    desk.store()
    desk.rows("select process_dlq_entries()")
    desk.as_history("update webhook_dlq set last_retry_at = last_retry_at - interval '6 minutes' where status = 'processing'")


def the_engine_is_locked(desk: Desk) -> None:
    desk.store()
    desk.leave_open("select pg_advisory_xact_lock(6581361)")


def nobody_has_said_where(desk: Desk) -> None:
    desk.rows("delete from dlq.endpoints")
    desk.store()


def a_secret_is_missing(desk: Desk) -> None:
    desk.rows(
        "select dlq.set_endpoint('whatsapp', %s, signing => 'x-hub-signature-256', secret_names => '{WHATSAPP_APP_SECRET}')",
        desk.receiver.url("whatsapp"),
    )
    desk.store()


def handlers_fail(status: int) -> Callable[[Desk], None]:
    def cause(desk: Desk) -> None:
        desk.receiver.behave("whatsapp", receiver.always(status))
        desk.store(80)
        desk.cycle()

    return cause


def handlers_have_failed_for(time: str) -> Callable[[Desk], None]:
    def cause(desk: Desk) -> None:
        handlers_fail(500)(desk)
        desk.rows("update dlq.endpoint_state set failing_since = failing_since - %s::interval, probe_at = now()", time)
        desk.rows("update webhook_dlq set next_retry_at = now() - interval '1 hour'")
        desk.rows("select process_dlq_entries()")  # a probe, after three days the last one
        desk.until(lambda: desk.rows("select 1 from net._http_response as r join dlq.in_flight as f on f.request_id = r.id"))
        desk.rows("select dlq.collect_responses()")

    return cause


def it_stores_again(desk: Desk) -> None:
    desk.receiver.behave("whatsapp", receiver.store_again(desk.box.dsn))
    desk.store(80)
    desk.cycle()


def it_is_set_wrong(desk: Desk) -> None:
    desk.rows("select dlq.set_endpoint('whatsapp', 'http://127.0.0.1:9/')")
    desk.store(80)
    desk.cycle()


def it_is_set_right(desk: Desk) -> None:
    desk.rows("select dlq.set_endpoint('whatsapp', %s)", desk.receiver.url("whatsapp"))


def it_is_disabled(desk: Desk) -> None:
    desk.rows("select dlq.set_endpoint('whatsapp', %s, enabled => false)", desk.receiver.url("whatsapp"))
    desk.store()


def it_cannot_be_sent(desk: Desk) -> None:
    """Bytes that are no text, to an endpoint that wants them as they came."""
    desk.rows("select dlq.set_endpoint('whatsapp', %s, body => 'raw')", desk.receiver.url("whatsapp"))
    desk.rows("insert into webhook_dlq (service, raw_body, next_retry_at) values ('whatsapp', '\\x000000', now())")
    desk.as_history("update webhook_dlq set retry_count = 5")
    desk.cycle()


def it_can_be_sent(desk: Desk) -> None:
    desk.rows("select dlq.set_endpoint('whatsapp', %s, body => 'json')", desk.receiver.url("whatsapp"))


def they_are_mended(desk: Desk) -> None:
    desk.receiver.behave("whatsapp", receiver.ok())


def much_waits(desk: Desk) -> None:
    """For its time, since nobody knows that the handlers are well again."""
    desk.store(101)
    desk.rows("update webhook_dlq set next_retry_at = now() + interval '1 hour'")


def given_up(count: int) -> Callable[[Desk], None]:
    """So many fail for the last time."""

    def cause(desk: Desk) -> None:
        desk.receiver.behave("whatsapp", receiver.always(500))
        desk.store(count)
        desk.as_history("update webhook_dlq set retry_count = 5")
        desk.cycle()

    return cause


def nothing_was_removed(desk: Desk) -> None:
    desk.rows("update dlq.settings set installed_at = installed_at - interval '49 hours'")


def something_cannot_go(desk: Desk) -> None:
    desk.rows("insert into webhook_dlq (service, payload, status, settled_at) values ('old', '1', 'discarded', now() - interval '31 d')")
    desk.rows("create table orders (entry uuid references webhook_dlq); insert into orders select id from webhook_dlq")
    desk.rows("call dlq.maintain()")


def the_table_is_gone(desk: Desk) -> None:
    desk.rows("drop table orders")


def its_time_is_short(desk: Desk) -> None:
    desk.rows("insert into dlq.maintenance_log (began_at, status, left_over) values (now(), 'partial', 20)")


def public_may_read(desk: Desk) -> None:
    desk.rows("grant usage on schema net to public; grant select on net.http_request_queue to public")
    desk.rows("select dlq.set_endpoint('whatsapp', %s, auth => 'bearer', auth_secret => 'KEY')", desk.receiver.url("whatsapp"))


def in_the_schedule(statement: str) -> Callable[[Desk], None]:
    """What goes wrong with jobs that were in order."""

    def cause(desk: Desk) -> None:
        desk.schedule()
        desk.rows(statement)

    return cause


def it_could_not_connect(desk: Desk) -> None:
    """Not for real: pg_cron here runs jobs without connecting."""
    desk.schedule()
    desk.rows(
        "insert into cron.job_run_details (jobid, runid, database, username, command, status, return_message, start_time)"
        " select j.jobid, nextval('cron.runid_seq'), j.database, j.username, j.command, 'failed', 'connection failed', now()"
        " from cron.job as j where j.jobname = 'process-dlq-entries'"
    )


def it_ran(desk: Desk) -> None:
    desk.rows("update cron.job_run_details set status = 'succeeded'")


def statement(*statements: str) -> Callable[[Desk], None]:
    return lambda desk: [desk.rows(one) for one in statements] and None


PROCESS = ("dlqctl process",)
MIGRATE = ("dlqctl migrate",)
RESTART = ("systemctl restart",)
RESET = ("endpoints reset",)
OUR_JOB = "job process-dlq-entries"
MINUTE, TEN, CYCLE, CYCLES, DAYS = "a minute", "10 minutes", "the next run", "two cycles", "two days"
AT_ONCE = "at once"

CASES = [
    Case("cron's launcher dies", "processor", it_is_silent, "error", "ago, ok", PROCESS, TEN),
    Case("row level security hides the queue from the engine", "processor", it_is_blind, "error", "ago, ok",
         (*MIGRATE, *PROCESS), TEN),
    Case("a table is locked", "processor", a_table_is_locked, "error", "running", PROCESS, TEN, then=Desk.end_forgotten),
    Case("the database is read-only", "processor", it_is_read_only, "error", "ago, ok", PROCESS, TEN, then=it_is_writable),
    Case("the engine lacks a right", "processor", it_lacks_a_right, "warning", "error: 42501 dispatch_due",
         ("a right is missing", *PROCESS), CYCLE),
    Case("every run is killed", "processor", it_was_killed, "warning", "interrupted", PROCESS, CYCLE),
    Case("the sender is killed", "sender", Desk.kill_worker, "error", "no net-worker has been seen since", ("systemctl",), MINUTE),
    Case("the sender stands still", "sender", Desk.stop_worker, "error", "no net-worker has been seen since", ("systemctl",),
         MINUTE),
    Case("a copy of production", "sender", statement("update dlq.settings set database_oid = 1"), "error", "this is a copy",
         ("--this-is-production",), AT_ONCE),
    Case("pg_net is missing", "sender", there_is_no_sender, "error", "there is no sender", ("--net-worker", "systemctl"), AT_ONCE),
    Case("schema net is somebody else's", "sender", somebody_made_net, "error", "belongs to neither",
         ("the schema is somebody else's",), AT_ONCE),
    Case("a trigger on net's queue", "sender", there_is_a_trigger, "error", "the trigger intruder", ("there is a trigger",), AT_ONCE),
    Case("requests are not answered", "answers", nobody_answers, "error", "1 handed to the sender and not answered", RESTART,
         "5 minutes"),
    Case("runs come and do not get round", "overdue", Desk.store, "warning", "in whatsapp", PROCESS, CYCLES),
    Case("the engine is locked", "overdue", the_engine_is_locked, "warning", "in whatsapp",
         ("somebody holds the lock", *PROCESS), CYCLES),
    Case("an endpoint is removed", "endpoints", nobody_has_said_where, "error", "where to retry: whatsapp", ("endpoints set",),
         AT_ONCE),
    Case("a service is misspelt", "endpoints", nobody_has_said_where, "error", "where to retry: whatsapp", ("or discard it",),
         AT_ONCE),
    Case("a secret is missing", "secrets", a_secret_is_missing, "error", "WHATSAPP_APP_SECRET", ("secrets set",), AT_ONCE),
    Case("a handler answers 500", "circuits", handlers_fail(500), "warning", "(HTTP 500)", RESET, CYCLE, then=they_are_mended),
    Case("a secret was rotated", "circuits", handlers_fail(401), "warning", "(HTTP 401)", RESET, CYCLE, then=they_are_mended),
    Case("an endpoint is set wrong", "circuits", it_is_set_wrong, "warning", "(network_error)", RESET, CYCLE, then=it_is_set_right),
    Case("a handler stores what it is sent again", "circuits", it_stores_again, "warning", "(echoed)", RESET, CYCLE,
         then=they_are_mended),
    Case("an outage", "circuits", handlers_have_failed_for("61 minutes"), "error", "next try", RESET, "an hour",
         then=they_are_mended),
    Case("an outage of days", "circuits", handlers_have_failed_for("3 days"), "error", "use up retries again", RESET, "an hour",
         then=they_are_mended),
    Case("a service is paused", "paused", statement("select dlq.pause('deploying', 'whatsapp')"), "warning", "whatsapp by",
         ("dlqctl resume whatsapp",), AT_ONCE),
    Case("everything is paused", "paused", statement("select dlq.pause('deploying')"), "warning", "everything by",
         ("dlqctl resume --reason",), AT_ONCE),
    Case("an endpoint is disabled", "paused", it_is_disabled, "warning", "the endpoint of whatsapp is disabled", ("--enable",),
         AT_ONCE),
    Case("a flood", "pending", much_waits, "warning", "101 waiting", ("replay",), AT_ONCE),
    Case("one webhook is refused to the end", "failed", given_up(1), "warning", "1 failed", ("replay",), "its last retry",
         then=they_are_mended),
    Case("many are", "failed", given_up(11), "error", "11 failed", ("replay",), "their last retry", then=they_are_mended),
    Case("a webhook that cannot be sent", "failed", it_cannot_be_sent, "warning", "1 failed", ("dlqctl retry",),
         "its last retry", then=it_can_be_sent),
    Case("maintenance does not run", "retention", nothing_was_removed, "warning", "has not been removed yet", ("dlqctl maintain",),
         DAYS),
    Case("a row cannot be removed", "retention", something_cannot_go, "warning", "orders", ("dlqctl maintain",), "the daily run",
         then=the_table_is_gone),
    Case("maintenance does not come to the end", "retention", its_time_is_short, "warning", "partial",
         ("more time", "dlqctl maintain"), "the daily run"),
    Case("PUBLIC may read what is sent", "pg_net grants", public_may_read, "warning", "PUBLIC may",
         ("close the tables", *MIGRATE), AT_ONCE),
    Case("pg_cron is dropped", "extension", in_the_schedule("drop extension pg_cron"), "error", "not installed", MIGRATE, AT_ONCE,
         user="postgres", typist="postgres"),
    Case("pg_cron's settings are hidden", "database", in_the_schedule("revoke pg_read_all_settings from onlooker"), "warning",
         "cannot be checked", ("let the role look",), AT_ONCE, user="onlooker"),
    Case("the job is dropped", "job", in_the_schedule("select cron.unschedule(jobid) from cron.job"), "error", "is not scheduled",
         MIGRATE, AT_ONCE, name=OUR_JOB),
    Case("the job is switched off", "job", in_the_schedule("update cron.job set active = false"), "error", "is switched off",
         MIGRATE, AT_ONCE, name=OUR_JOB),
    Case("a second processor", "job",
         in_the_schedule("select cron.schedule('second-processor', '* * * * *', 'select process_dlq_entries()')"),
         "error", "also calls", ("a job too many",), AT_ONCE, name="job second-processor", user="postgres"),
    Case("the job's role is renamed or dropped", "owner", in_the_schedule("update cron.job set username = 'gone'"), "error",
         "does not exist", ("the role is gone", *MIGRATE), AT_ONCE, name="owner gone", user="postgres"),
    Case("the job's role may not run it", "owner", in_the_schedule("update cron.job set username = 'weak'"), "error",
         "may not run", ("it lacks the right",), AT_ONCE, name="owner weak", user="postgres"),
    Case("a short statement_timeout", "owner", in_the_schedule("alter role deployer set statement_timeout = '3s'"), "warning",
         "statement_timeout = 3s", ("its time is short",), AT_ONCE, name="owner deployer"),
    Case("pg_cron cannot connect", "last run", it_could_not_connect, "error", "connection failed", PROCESS, CYCLE,
         name="last run of process-dlq-entries", after=it_ran),
]  # fmt: skip
