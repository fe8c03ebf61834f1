"""Every section of docs/runbook.md mends what it is about: the state is caused, looked at and mended as it says."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from dlqctl.cluster import Cluster, start_cluster
from dlqctl.migrate import migrate
from dlqctl.receiver import Receiver
from tests.runbook.cases import CASES, Case
from tests.runbook.causes import given_up
from tests.runbook.desk import Desk
from tests.runbook.page import FIRST, PAGE, Block, blocks, sections
from tests.standby import standby_of

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="not in a checkout")


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


def test_a_standby_says_so_and_takes_over_when_the_runbook_promotes_it() -> None:
    with start_cluster(pg_net=False) as primary:
        migrate(primary.dsn(), cron=False, net_worker=True)
        with standby_of(primary) as replica, psycopg.connect(replica.dsn(), autocommit=True) as conn:
            query = "select level, detail from dlq.health where name = 'server'"
            assert (conn.execute(query).fetchone() or ("",))[0] == "warning"
            look, promote = blocks("server")
            conn.execute(look.text.encode())
            primary.stop("immediate")
            conn.execute(promote.text.encode())
            assert (conn.execute(query).fetchone() or ("",))[0] == "ok"


def test_a_bad_request_at_the_head_of_pg_nets_queue_is_seen_and_taken_out(
    pg_net_cluster: Cluster, receiver: Receiver
) -> None:
    dsn = pg_net_cluster.dsn()
    migrate(dsn, cron=False)
    restart, take_out = (b for b in blocks("answers") if b.part == "Do" and b.language == "sql")

    def ask(query: str) -> Any:
        with psycopg.connect(dsn, autocommit=True) as conn:
            cursor = conn.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    ask(f"select dlq.set_endpoint('whatsapp', '{receiver.url('whatsapp')}', true, true)")
    ask(
        "insert into net.http_request_queue (id, method, url, headers, body, timeout_milliseconds)"
        " values (-1, 'POST', 'http://127.0.0.1:9/', '[1]', null, 1000)"
    )
    ask("insert into webhook_dlq (service, payload, next_retry_at) values ('whatsapp', '1', now())")
    ask("select process_dlq_entries()")
    ask("update webhook_dlq set last_retry_at = last_retry_at - interval '6 minutes' where status = 'processing'")
    assert ask("select level from dlq.health where name = 'answers'") == [("error",)]

    for block in (restart, take_out, restart):
        ask(block.text)

    deadline = time.monotonic() + 30
    while ask("select level from dlq.health where name = 'answers'") != [("ok",)]:
        assert time.monotonic() < deadline, receiver.requests
        ask("select process_dlq_entries()")
        time.sleep(0.1)
    assert ask("select status from webhook_dlq") == [("reprocessed",)]


# What the two above type, on servers of their own.
TYPED_APART = ("pg_promote", "net.worker_restart", "delete from net.http_request_queue")


def test_every_block_of_a_section_is_typed() -> None:
    untyped = []
    for section in sections():
        chosen = [
            block
            for case in CASES
            if case.section == section
            for what in case.do
            for block in picked(blocks(section), what)
        ]
        looks = any(case.section == section for case in CASES) or section == FIRST
        looks |= section == "server"
        left = [b for b in blocks(section) if b not in chosen and not (looks and b.part in ("", "Look"))]
        untyped += [b.text for b in left if not any(what in b.text for what in TYPED_APART)]
    assert untyped == []
