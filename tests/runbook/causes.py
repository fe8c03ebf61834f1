"""What goes wrong, caused for real on a desk. What takes long is not waited for: times on record are set back."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from dlqctl import receiver
from tests.runbook.desk import Desk


def it_is_silent(desk: Desk) -> None:
    desk.rows("update dlq_processing_log set processed_at = processed_at - interval '11 minutes'")


def it_is_blind(desk: Desk) -> None:
    desk.rows("alter table webhook_dlq force row level security")


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
    desk.as_history(
        "set default_transaction_read_only = off",
        "update dlq_processing_log set processed_at = processed_at - interval '11 min'",
    )


def it_is_writable(desk: Desk) -> None:
    desk.as_history("set default_transaction_read_only = off", "alter database dlq reset default_transaction_read_only")


def it_lacks_a_right(desk: Desk) -> None:
    desk.rows("revoke execute on function net.http_post from dlq_owner")
    desk.store()
    desk.cycle()


def it_was_killed(desk: Desk) -> None:
    desk.rows(
        "insert into dlq_processing_log (processed_at, duration) values (clock_timestamp() - interval '2 min', '1 s')"
    )
    desk.rows("select dlq._begin_run()")
    desk.rows("delete from dlq_processing_log where status <> 'interrupted'")


def somebody_made_net(desk: Desk) -> None:
    desk.rows("alter schema net owner to stranger")


def there_is_a_trigger(desk: Desk) -> None:
    desk.rows(
        "create or replace function public.f() returns trigger language plpgsql as 'begin return new; end';"
        " create or replace trigger intruder before insert on net.http_request_queue"
        " for each row execute function public.f()"
    )


def there_is_no_sender(desk: Desk) -> None:
    desk.kill_worker()
    desk.rows("drop schema net cascade")


def nobody_answers(desk: Desk) -> None:
    """What was handed out six minutes ago."""
    desk.kill_worker()
    desk.store()
    desk.rows("select process_dlq_entries()")
    desk.as_history(
        "update webhook_dlq set last_retry_at = last_retry_at - interval '6 minutes' where status = 'processing'"
    )


def the_engine_is_locked(desk: Desk) -> None:
    desk.store()
    desk.leave_open("select pg_advisory_xact_lock(6581361)")


def nobody_has_said_where(desk: Desk) -> None:
    desk.rows("delete from dlq.endpoints")
    desk.store()


def a_secret_is_missing(desk: Desk) -> None:
    desk.rows(
        "select dlq.set_endpoint('whatsapp', %s,"
        " signing => 'x-hub-signature-256', secret_names => '{WHATSAPP_APP_SECRET}')",
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
        desk.until(
            lambda: desk.rows("select 1 from net._http_response as r join dlq.in_flight as f on f.request_id = r.id")
        )
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
    desk.rows(
        "insert into webhook_dlq (service, payload, status, settled_at)"
        " values ('old', '1', 'discarded', now() - interval '31 d')"
    )
    desk.rows("create table orders (entry uuid references webhook_dlq); insert into orders select id from webhook_dlq")
    desk.rows("call dlq.maintain()")


def the_table_is_gone(desk: Desk) -> None:
    desk.rows("drop table orders")


def its_time_is_short(desk: Desk) -> None:
    desk.rows("insert into dlq.maintenance_log (began_at, status, left_over) values (now(), 'partial', 20)")


def a_channel(desk: Desk) -> None:
    desk.receiver.behave("pager", receiver.ok())
    desk.rows(
        "select dlq.set_alert_channel('pager', 'webhook', %s, allow_http => true, allow_private => true)",
        desk.receiver.url("pager"),
    )


def a_channel_refuses(desk: Desk) -> None:
    """What is raised, since nobody has said where to retry."""
    a_channel(desk)
    desk.receiver.behave("pager", receiver.always(404))
    nobody_has_said_where(desk)
    desk.rows("select dlq.evaluate_alerts()")
    desk.until(lambda: desk.rows("select dlq.deliver_alerts()") and desk.line("alerts")[0] == "error")


def the_channel_is_mended(desk: Desk) -> None:
    desk.receiver.behave("pager", receiver.ok())


def they_are_not_evaluated(desk: Desk) -> None:
    a_channel(desk)
    desk.as_history(
        "update dlq.alert_channels set created_at = created_at - interval '11 minutes'",
        "update dlq.alert_evaluation set evaluated_at = now() - interval '11 minutes'",
    )


def the_alerts_are_locked(desk: Desk) -> None:
    they_are_not_evaluated(desk)
    desk.leave_open("select dlq.evaluate_alerts()")


def public_may_read(desk: Desk) -> None:
    desk.rows("grant usage on schema net to public; grant select on net.http_request_queue to public")
    desk.rows(
        "select dlq.set_endpoint('whatsapp', %s, auth => 'bearer', auth_secret => 'KEY')", desk.receiver.url("whatsapp")
    )


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
        "insert into cron.job_run_details"
        " (jobid, runid, database, username, command, status, return_message, start_time)"
        " select j.jobid, nextval('cron.runid_seq'), j.database, j.username, j.command, 'failed',"
        " 'connection failed', now()"
        " from cron.job as j where j.jobname = 'process-dlq-entries'"
    )


def it_ran(desk: Desk) -> None:
    desk.rows("update cron.job_run_details set status = 'succeeded'")


def statement(*statements: str) -> Callable[[Desk], None]:
    def cause(desk: Desk) -> None:
        for one in statements:
            desk.rows(one)

    return cause
