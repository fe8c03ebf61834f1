"""Every section of the runbook mends what it is about: the state is caused, looked at and mended by the page's own commands.

Only what takes long is not waited for: times on record are set back instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

import psycopg

from dlqctl import receiver
from tests.runbook.desk import Desk
from tests.runbook.page import FIRST, PAGE, Block, blocks, sections

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="not in a checkout")


@dataclass(frozen=True)
class Case:
    """A state, caused for real: the line that must say so, and the blocks of its section that mend it.

    `do`: what those blocks contain, in the order in which they are typed; `then` is done before that, and `after` afterwards.
    `name`: the line's, where it is not the section's.
    """

    section: str
    cause: Callable[[Desk], object]
    level: str
    says: str
    do: tuple[str, ...] = ()
    then: Callable[[Desk], object] = lambda desk: None
    after: Callable[[Desk], object] = lambda desk: None
    name: str = ""
    user: str = "deployer"
    typist: str = "deployer"

    @property
    def line(self) -> str:
        return self.name or self.section

    def __str__(self) -> str:
        return f"{self.section}: {self.says}"


def it_is_silent(desk: Desk) -> None:
    desk.rows("update dlq_processing_log set processed_at = processed_at - interval '11 minutes'")


def it_is_blind(desk: Desk) -> None:
    desk.rows("alter table webhook_dlq force row level security")
    with pytest.raises(psycopg.Error):
        desk.cycle()
    it_is_silent(desk)


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


def handlers_fail(desk: Desk) -> None:
    desk.receiver.behave("whatsapp", receiver.always(500))
    desk.store(80)
    desk.cycle()
    assert desk.rows("select 1 from dlq.circuits where state = 'open'"), desk.rows("select * from dlq.circuits")


def handlers_have_failed_for_long(desk: Desk) -> None:
    handlers_fail(desk)
    desk.rows("update dlq.endpoint_state set failing_since = failing_since - interval '61 minutes'")


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


def its_role_is_gone(desk: Desk) -> None:
    desk.schedule()
    desk.rows("update cron.job set username = 'gone'")


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
OUR_JOB = "job process-dlq-entries"

CASES = [
    Case("processor", it_is_silent, "error", "ago, ok", PROCESS),
    Case("processor", it_is_blind, "error", "ago, ok", ("dlqctl migrate", *PROCESS)),
    Case("processor", it_lacks_a_right, "warning", "error: 42501 dispatch_due", ("a right is missing", *PROCESS)),
    Case("processor", it_was_killed, "warning", "interrupted", PROCESS),
    Case("sender", Desk.kill_worker, "error", "no net-worker has been seen since", ("systemctl",)),
    Case("sender", statement("update dlq.settings set database_oid = 1"), "error", "this is a copy", ("--this-is-production",)),
    Case("sender", there_is_no_sender, "error", "there is no sender", ("--net-worker", "systemctl")),
    Case("sender", somebody_made_net, "error", "belongs to neither", ("the schema is somebody else's",)),
    Case(
        "sender",
        statement(
            "create function public.f() returns trigger language plpgsql as 'begin return new; end'",
            "create trigger intruder before insert on net.http_request_queue for each row execute function public.f()",
        ),
        "error",
        "the trigger intruder",
        ("there is a trigger",),
        then=statement("drop function public.f() cascade", "create function public.f() returns trigger language plpgsql as 'begin return new; end'",
            "create trigger intruder before insert on net.http_request_queue for each row execute function public.f()"),
    ),
    Case("answers", nobody_answers, "error", "1 handed to the sender and not answered", RESTART),
    Case("overdue", Desk.store, "warning", "in whatsapp", PROCESS[:1]),
    Case("overdue", the_engine_is_locked, "warning", "in whatsapp", ("somebody holds the lock", "dlqctl process")),
    Case("endpoints", nobody_has_said_where, "error", "nobody has said where to retry: whatsapp", ("endpoints set",)),
    Case("endpoints", nobody_has_said_where, "error", "nobody has said where to retry: whatsapp", ("or discard it",)),
    Case("secrets", a_secret_is_missing, "error", "WHATSAPP_APP_SECRET", ("secrets set",)),
    Case("circuits", handlers_fail, "warning", "whatsapp fails since", ("endpoints reset",), then=they_are_mended),
    Case("circuits", handlers_have_failed_for_long, "error", "(HTTP 500)", ("endpoints reset",), then=they_are_mended),
    Case("paused", statement("select dlq.pause('deploying', 'whatsapp')"), "warning", "whatsapp by", ("resume",)),
    Case("pending", much_waits, "warning", "101 waiting", ("replay",)),
    Case("failed", given_up(1), "warning", "1 failed", ("replay",), then=they_are_mended),
    Case("failed", given_up(11), "error", "11 failed", ("replay",), then=they_are_mended),
    Case("retention", nothing_was_removed, "warning", "has not been removed yet", ("dlqctl maintain",)),
    Case("retention", something_cannot_go, "warning", "orders", ("dlqctl maintain",), then=the_table_is_gone),
    Case("retention", its_time_is_short, "warning", "partial", ("more time", "dlqctl maintain")),
    Case("pg_net grants", public_may_read, "warning", "PUBLIC may", ("close the tables", *MIGRATE)),
    Case("extension", in_the_schedule("drop extension pg_cron"), "error", "not installed", MIGRATE, user="postgres", typist="postgres"),
    Case("database", in_the_schedule("revoke pg_read_all_settings from onlooker"), "warning", "cannot be checked", ("let the role look",), user="onlooker"),
    Case("job", in_the_schedule("select cron.unschedule(jobid) from cron.job"), "error", "is not scheduled", MIGRATE, name=OUR_JOB),
    Case("job", in_the_schedule("update cron.job set active = false"), "error", "is switched off", MIGRATE, name=OUR_JOB),
    Case("job", in_the_schedule("select cron.schedule('second-processor', '* * * * *', 'select process_dlq_entries()')"), "error", "also calls", ("a job too many",), name="job second-processor", user="postgres"),
    Case("owner", its_role_is_gone, "error", "does not exist", ("the role is gone", *MIGRATE), name="owner gone", user="postgres"),
    Case("owner", in_the_schedule("alter role deployer set statement_timeout = '3s'"), "warning", "statement_timeout = 3s", ("its time is short",), name="owner deployer"),
    Case("last run", it_could_not_connect, "error", "connection failed", PROCESS, name="last run of process-dlq-entries", after=it_ran),
    Case("owner", in_the_schedule("update cron.job set username = 'weak'"), "error", "may not run", ("it lacks the right",), name="owner weak", user="postgres"),
]

@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_section_mends_what_it_is_about(desk: Desk, case: Case) -> None:
    case.cause(desk)
    level, detail = desk.line(case.line, case.user)
    assert level == case.level, detail
    assert case.says in detail

    found = blocks(case.section)
    for block in found:
        if block.part == "Look":
            desk.type_(block, case.typist)
    case.then(desk)
    for what in case.do:
        for block in picked(found, what):
            desk.type_(block, case.typist)
    case.after(desk)

    desk.until(lambda: desk.line(case.line, case.user)[0] == "ok")


def test_what_is_typed_first_answers_when_something_is_wrong(desk: Desk) -> None:
    given_up(11)(desk)
    for block in blocks(FIRST):
        desk.type_(block)


def picked(found: list[Block], what: str) -> list[Block]:
    chosen = [block for block in found if block.part == "Do" and what in block.text]
    assert chosen, f"no block to do contains {what}"
    return chosen


def test_every_block_of_a_section_is_typed() -> None:
    untyped = []
    for section in sections():
        chosen = [block for case in CASES if case.section == section for what in case.do for block in picked(blocks(section), what)]
        looks = any(case.section == section for case in CASES) or section == FIRST
        untyped += [b.text for b in blocks(section) if b not in chosen and not (looks and b.part in ("", "Look"))]
    assert untyped == []
