"""A turn of the engine beside its floor: what one entry costs the server, from due to delivered.

    python -m bench.speed.turn [--sender pg_net|net-worker] [--batch 200] [--rounds 30]

Ours: claim, sign, post, put in flight, look for what is lost, collect, settle, record, the run's row. The floor, in
turn with it: claim with skip locked, a bare net.http_post, and two updates, over a table with the same indexes and no
trigger. The sender's part is played by hand in both, and not timed. Before it a minute's answers are stored, as a
sender that goes all the time would have left them. Those of the rounds, which are ten times as quick as pg_net, are
made as old. Of the look for what is lost a fifth is counted: a cycle takes it every five seconds, and pg_net a second
for a turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import LiteralString

from bench.plans import Planwatch
from bench.quiet import Quiet, Stopwatch, quiet
from bench.report import Report, median_us
from bench.world import Sender, senders

WARM_UP = 5
OURS = ("dispatch", "wait", "requeue", "collect", "run")
FLOOR = ("claim and post", "settle")
COUNTED = {"requeue": 1 / 5}

SETTLED: LiteralString = """
insert into {table} (service, payload, status, created_at, updated_at, settled_at)
select 's' || n %% 20, jsonb_build_object('n', n, 'text', repeat('x', 900)), 'reprocessed', now(), now(), now()
from generate_series(1, 20000) as n
"""
DUE: LiteralString = """
insert into {table} (service, payload, created_at, updated_at, next_retry_at)
select 'shop', jsonb_build_object('n', n, 'text', repeat('x', 900)), now(), now(), now() - n * interval '1 ms'
from generate_series(1, %s) as n
"""
CLAIM_AND_POST: LiteralString = """
with due as materialized (
  select f.id, f.payload
  from bench.floor as f
  where f.status = 'pending' and f.service = 'shop' and f.next_retry_at <= now()
  order by f.next_retry_at
  limit %s
  for update skip locked
),
posted as materialized (
  select d.id, net.http_post('http://127.0.0.1:9/shop', d.payload) from due as d
)
update bench.floor as f
set status = 'processing', next_retry_at = null, last_retry_at = now(), updated_at = now()
from posted as p
where f.id = p.id
"""
SETTLE: LiteralString = """
update bench.floor set status = 'reprocessed', settled_at = now(), updated_at = now() where status = 'processing'
"""
AGE: LiteralString = """
update net._http_response set created = created - interval '1 minute'
where id > 0 and created > now() - interval '1 minute'
"""


def prepare(q: Quiet, batch: int, rounds: int) -> None:
    """An endpoint whose webhooks are signed; due entries for so many rounds, beside some that are settled; a floor."""
    run = q.conn.execute
    run("select dlq.set_secret('SECRET', 'It''s a secret to everybody')")
    run(
        "select dlq.set_endpoint('shop', 'http://127.0.0.1:9/shop', true, true, max_in_flight => %s,"
        " signing => 'x-hub-signature-256', secret_names => '{SECRET}')",
        (batch,),
    )
    run("update dlq.settings set max_in_flight = %s", (2 * batch,))  # an even share of it, with one left, is a batch
    run("create schema bench")
    run("create table bench.floor (like public.webhook_dlq including defaults including indexes)")
    run("set session_replication_role = replica")
    for table in ("public.webhook_dlq", "bench.floor"):
        run(SETTLED.replace("{table}", table).replace("%%", "%").encode())
        run(DUE.replace("{table}", table).encode(), (batch * rounds,))
    run("set session_replication_role = origin")
    run(
        "insert into net._http_response (id, status_code, headers, created)"
        " select -n, 200, '{}', now() - n * interval '5 ms' from generate_series(1, 12000) as n"
    )
    run("vacuum analyze")


def measure(q: Quiet, batch: int, rounds: int) -> tuple[Stopwatch, Planwatch]:
    """Each round is one turn of ours, then one of the floor. One more is for its plans."""
    prepare(q, batch, rounds + WARM_UP + 1)
    watch = Stopwatch(q.conn)
    for nth in range(rounds + WARM_UP):
        if nth == WARM_UP:
            watch = Stopwatch(q.conn)
        _one_round(q, batch, watch)
    plans = Planwatch(q.conn)
    _one_round(q, batch, plans)
    for table in ("public.webhook_dlq", "bench.floor"):
        left = q.conn.execute(f"select count(*) from {table} where status <> 'reprocessed'".encode()).fetchone()
        assert left == (0,), f"{left} of {table} were not delivered: the rounds did not do the same work"
    return watch, plans


def _one_round(q: Quiet, batch: int, watch: Stopwatch) -> None:
    run = str(q.one("select dlq._begin_run()"))
    watch.query("dispatch", f"select dlq._step({run}, 'dispatch_due')")
    watch.query("wait", f"select dlq._next_pass({run}, 1, '1 hour')")
    q.answer()
    watch.query("requeue", f"select dlq._step({run}, 'requeue_lost')")
    watch.query("collect", f"select dlq._step({run}, 'collect_responses')")
    watch.query("run", f"select dlq._end_run({run})")
    watch.time("claim and post", lambda: q.conn.execute(CLAIM_AND_POST, (batch,)))
    q.answer()
    watch.query("settle", SETTLE)
    q.conn.execute(AGE)
    q.conn.execute("vacuum net._http_response")


def ratio(watch: Stopwatch, kind: str) -> float:
    """Ours over the floor, by medians, in wall time or in computing."""
    return _sum(getattr(watch, kind), OURS) / _sum(getattr(watch, kind), FLOOR)


def _sum(times: dict[str, list[float]], parts: Sequence[str]) -> float:
    return sum(median_us(times[part]) * COUNTED.get(part, 1) for part in parts)


def report_on(report: Report, sender: Sender, batch: int, rounds: int) -> None:
    with quiet(sender, settings={"pg_net.batch_size": str(batch)} if sender == "pg_net" else {}) as q:
        report.server(q.conn)
        watch, plans = measure(q, batch, rounds)
    rows: list[tuple[str, ...]] = []
    for part in (*OURS, *FLOOR):
        rows.append((part, *(f"{median_us(times[part], batch):.1f}" for times in (watch.wall, watch.cpu))))
    for name, parts in (("ours", OURS), ("the floor", FLOOR)):
        sums = (_sum(times, parts) / batch for times in (watch.wall, watch.cpu))
        rows.append((f"**{name}**", *(f"{value:.1f}" for value in sums)))
    title = f"{sender}, {batch} entries a turn, {rounds} rounds: µs an entry, medians"
    report.table(title, ("", "by the clock", "computed"), rows)
    report.plans(f"{sender}, {batch} entries a turn: what is read, and how", plans)
    report.ratio(f"{sender}, {batch} a turn: ours over the floor", ratio(watch, "wall"), at_most=3)
    report.ratio(f"{sender}, {batch} a turn: the same, computed", ratio(watch, "cpu"), at_most=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sender", action="append", choices=("net-worker", "pg_net"))
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    report = Report("turn", "What does a turn of the engine cost, beside a bare post and two updates?")
    for sender in senders(args.sender or ("pg_net", "net-worker")):
        for batch in args.batch or (200, 1000):
            report_on(report, sender, batch, args.rounds)
    report.save()


if __name__ == "__main__":
    main()
