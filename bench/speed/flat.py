"""Flat: what is due costs, what is stored does not. The same work over 1,000 settled rows, and up to 10,000,000.

    python -m bench.speed.flat [--settled 1000,10000,...,10000000] [--waiting 1000000] [--rounds 60]

For each size a server, all in turn: a tick with 100 due (dispatch, and collect its answers), dlq.health, dlqctl list
as its query, an idle cycle, and the rows that it writes. So many wait beside the largest size, not due; beside the
others in proportion.
Payloads are small, so that it is rows that are many; loaded without triggers, indexes built afterwards, then analyzed.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

from bench.chart import Series, line_chart
from bench.plans import Planwatch
from bench.quiet import Quiet, Stopwatch, quiet
from bench.report import Report, quantile, tell
from dlqctl.entries import list_entries

CHART = Path("docs/pictures/tick.svg")
DUE = 100
WARM_UP = 8
WHAT = ("dispatch", "collect", "health", "list", "idle cycle")

# Eighteen of twenty are delivered, one is discarded, one has failed; spread over 30 days, as ids are.
STORE: LiteralString = """
insert into public.webhook_dlq
  (id, service, payload, status, attempt_count, created_at, updated_at, settled_at, next_retry_at)
select
  bench.id_at(t.at, n), 's' || n % 20, '{"n": 1}',
  case
    when n > %(settled)s then 'pending'
    when n % 20 = 0 then 'failed'
    when n % 20 = 1 then 'discarded'
    else 'reprocessed'
  end,
  1, t.at, t.at,
  case when n <= %(settled)s then t.at + interval '1 minute' end,
  case when n > %(settled)s then now() + interval '1 hour' + n * interval '1 ms' end
from generate_series(%(from)s::bigint, %(to)s::bigint) as n
  cross join lateral (select now() - (%(of)s - n + 1) * (interval '30 days' / %(of)s) as at) as t
"""
ATTEMPTS: LiteralString = """
insert into dlq.delivery_attempts (entry_id, attempt, dispatched_at, settled_at, status_code, outcome, service)
select e.id, 1, e.created_at, coalesce(e.settled_at, e.created_at), 200,
  case when e.status = 'reprocessed' then 'delivered' else 'http_error' end, e.service
from public.webhook_dlq as e
"""
# A version 7 uuid of a time, as the default makes one of now.
ID_AT: LiteralString = """
create schema bench;
create function bench.id_at(at timestamptz, n bigint) returns uuid language sql immutable as $$
  select (
    lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid
$$;
"""


@dataclass(frozen=True)
class Size:
    settled: int
    waiting: int


def load(q: Quiet, size: Size) -> None:
    """Replace what is stored by so much."""
    began = time.monotonic()
    run = q.conn.execute
    run("truncate public.webhook_dlq, dlq.delivery_attempts, dlq.in_flight, net.http_request_queue, net._http_response")
    run("set session_replication_role = replica")
    indexes = run(
        "select i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) from pg_index as i"
        " where i.indrelid = 'public.webhook_dlq'::regclass and not i.indisprimary"
    ).fetchall()
    for name, _ in indexes:
        run(f"drop index {name}".encode())
    total = size.settled + size.waiting
    for begin in range(1, total + 1, 1_000_000):
        end = min(total, begin + 999_999)
        values = {"settled": size.settled, "from": begin, "to": end, "of": total}
        text = STORE.replace("% ", "%% ")
        run(text.encode(), values)
    run("alter table dlq.delivery_attempts drop constraint delivery_attempts_pkey")
    run("alter table dlq.delivery_attempts disable trigger audit")
    run(ATTEMPTS)
    run("alter table dlq.delivery_attempts enable always trigger audit")
    run("set maintenance_work_mem = '1GB'")
    run("alter table dlq.delivery_attempts add constraint delivery_attempts_pkey primary key (entry_id, attempt)")
    for _, definition in indexes:
        run(definition.encode())
    run("set session_replication_role = origin")
    run("vacuum analyze")
    run("checkpoint")
    tell(f"{size.settled:,} settled and {size.waiting:,} waiting loaded in {time.monotonic() - began:.0f} s")


def prepare(q: Quiet) -> None:
    q.conn.execute(ID_AT)
    q.conn.execute("select dlq.set_endpoint('*', 'http://127.0.0.1:9/{service}', true, true, max_in_flight => 100)")


def measure(servers: dict[int, Quiet], rounds: int) -> dict[int, Stopwatch]:
    """In each round each of the servers does the same, so that whatever else the machine does befalls all of them."""
    watches = {settled: Stopwatch(q.conn) for settled, q in servers.items()}
    for nth in range(rounds + WARM_UP):
        for settled, q in servers.items():
            if nth == WARM_UP:
                watches[settled] = Stopwatch(q.conn)
            _one_round(q, watches[settled])
    return watches


def _one_round(q: Quiet, watch: Stopwatch) -> None:
    q.conn.execute(
        "insert into public.webhook_dlq (service, payload, next_retry_at)"
        " select 'due', jsonb_build_object('n', n), now() - interval '1 s' from generate_series(1, %s) as n",
        (DUE,),
    )
    run = str(q.one("select dlq._begin_run()"))
    watch.query("dispatch", f"select dlq._step({run}, 'dispatch_due')")
    q.answer()
    watch.query("collect", f"select dlq._step({run}, 'collect_responses')")
    q.conn.execute("select dlq._end_run(%s)", (int(run),))
    watch.query("health", "select * from dlq.health")
    watch.time("list", lambda: list(list_entries(q.conn, {}, 20).rows))
    watch.query("idle cycle", "call dlq.run_cycle()")
    assert not q.one("select count(*) from dlq.in_flight"), "not every request was settled"


def written_by_an_idle_cycle(q: Quiet) -> tuple[int, int, int]:
    """How many rows one idle cycle inserts, updates and deletes, in any table of ours or the sender's."""
    q.conn.execute("call dlq.run_cycle()")
    before = _written(q)
    q.conn.execute("call dlq.run_cycle()")
    inserted, updated, deleted = (now - then for now, then in zip(_written(q), before, strict=True))
    return inserted, updated, deleted


def _written(q: Quiet) -> tuple[int, int, int]:
    q.conn.execute("select pg_stat_force_next_flush()")
    (row,) = q.conn.execute(
        "select sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del)"
        " from pg_stat_all_tables where schemaname in ('public', 'dlq', 'net')"
    ).fetchall()
    return int(row[0]), int(row[1]), int(row[2])


def _cell(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:.2f}, {quantile(times, 0.99) * 1e3:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settled", default="1000,10000,100000,1000000,10000000")
    parser.add_argument("--waiting", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--chart", type=Path, help=f"write the chart there: {CHART}")
    args = parser.parse_args()
    counts = [int(part) for part in args.settled.split(",")]
    report = Report("flat", "What does the same work cost over ever more stored rows?")
    with contextlib.ExitStack() as stack:
        servers = {n: stack.enter_context(quiet(settings={"max_wal_size": "16GB"})) for n in counts}
        report.server(servers[counts[-1]].conn)
        for settled, q in servers.items():
            prepare(q)
            load(q, Size(settled, args.waiting * settled // counts[-1]))
        watches = measure(servers, args.rounds)
        inserted, updated, deleted = written_by_an_idle_cycle(servers[counts[-1]])
        watch = Planwatch(servers[counts[-1]].conn)
        _one_round(servers[counts[-1]], watch)
        report.plans(f"What a round reads, and how, over {counts[-1]:,} settled rows", watch)
        size = servers[counts[-1]].one("select pg_size_pretty(pg_total_relation_size('public.webhook_dlq'))")
    for title, kind in (("by the clock", "wall"), ("computed by the server", "cpu")):
        rows = [(f"{settled:,}", *(_cell(getattr(w, kind)[what]) for what in WHAT)) for settled, w in watches.items()]
        report.table(f"Milliseconds {title}: median, and 99 of 100", ("settled rows", *WHAT), rows)
    base = watches.get(10_000, watches[counts[0]])
    largest = watches[counts[-1]]
    for what in WHAT:
        for kind, words in (("wall", what), ("cpu", f"{what}, computed")):
            big, small = getattr(largest, kind)[what], getattr(base, kind)[what]
            times = statistics.median(big) / statistics.median(small)
            report.ratio(f"{words}: {counts[-1]:,} over 10,000", times, at_most=1.2)
            report.ratio(f"{words}: the same, 99 of 100", quantile(big, 0.99) / quantile(small, 0.99), at_most=2)
    report.ratio("an idle cycle, ms", statistics.median(largest.wall["idle cycle"]) * 1e3, at_most=5)
    report.ratio("rows that an idle cycle writes: its own, inserted", inserted, at_most=1)
    report.ratio("and updated when it ends", updated, at_most=1)
    report.ratio("and deleted", deleted, at_most=0)
    report.conditions |= {"waiting": args.waiting, "webhook_dlq": size}
    if args.chart:
        lines = {what: [(n, statistics.median(w.cpu[what]) * 1e3) for n, w in watches.items()] for what in WHAT}
        args.chart.parent.mkdir(parents=True, exist_ok=True)
        series = [Series(what, points) for what, points in lines.items()]
        args.chart.write_text(line_chart("What does not grow with what is stored", "settled rows", "ms", series))
    report.save()


if __name__ == "__main__":
    main()
