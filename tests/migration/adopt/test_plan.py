"""What is decided before anything is changed: who may do what afterwards, and what is in the way."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from dlqctl import adopt as module
from dlqctl.adopt_columns import Options
from dlqctl.bundle import ROOT
from dlqctl.cluster import Cluster
from tests.migration.adopt import home_made
from tests.migration.adopt.adopting import WORDS, adopt, adopted, flat, refused, rows
from tests.migration.migrating import ask, do, dump, run

# Who may do what.


def test_roles_that_used_the_old_queue_use_the_new_one(home: str, role: Callable[..., str]) -> None:
    writer, worker, looker, owner = role("w1"), role("w2"), role("w3"), role("w4")
    do(
        home,
        "alter table webhook_dlq add tenant int",
        f"grant insert on webhook_dlq to {writer}",
        f"grant select, insert on webhook_dlq to {worker}",
        f"grant select on webhook_dlq to {looker}",
        "grant insert on webhook_dlq to public",
        f"alter table webhook_dlq owner to {owner}",
    )

    said = flat(adopted(home))

    for words in (
        "w1 (insert): dlq_writer",
        "w2 (select, insert): dlq_admin",
        "w3 (select): nothing",
        "w4 (owner): dlq_admin",
    ):
        assert words in said
    assert "public (insert): nothing" in said
    insert = (
        "insert into webhook_dlq (service, payload, status, retry_count, next_retry_at, created_at, tenant)"
        " values ('a', '{}', 'pending', 0, now(), now(), 1)"
    )
    do(make_conninfo(home, user=writer), insert)
    for name in (worker, owner):
        do(make_conninfo(home, user=name), insert + " returning id")
    for query in (insert, "select from webhook_dlq"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            do(make_conninfo(home, user=looker), query)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        do(make_conninfo(home, user=writer), "select from webhook_dlq")


def test_no_grants_gives_nobody_anything(home: str, role: Callable[..., str]) -> None:
    do(home, f"grant insert on webhook_dlq to {role('w1')}")

    adopted(home, "--no-grants")

    assert ask(home, "select pg_has_role('w1', 'dlq_writer', 'member')") is False


def test_a_team_that_is_no_superuser_adopts_its_own_queue_behind_row_security(
    cluster: Cluster, empty_database: str, role: Callable[..., str]
) -> None:
    team = role("team", "login createrole")
    dsn = make_conninfo(empty_database, user=team)
    name = ask(empty_database, "select current_database()")
    do(
        empty_database,
        f"alter database {name} owner to {team}",
        # What it would have if it, and not another test, had made them.
        f"""
        do $$ declare r name; begin
          for r in select rolname from pg_roles where rolname ~ '^dlq_' loop
            execute format('grant %I to {team} with admin option', r);
          end loop;
        end $$
        """,
    )
    do(
        dsn,
        home_made.TABLES,
        home_made.PROCESSOR,
        home_made.rows(40),
        "alter table webhook_dlq enable row level security",
        "alter table dlq_processing_log enable row level security",
    )

    outcome = adopt(dsn)

    assert outcome.code == 0, outcome
    assert "40 entries and 4 runs" in outcome.err
    do(dsn, "insert into webhook_dlq (service, payload) values ('a', '{}') returning id")
    assert adopt(dsn, "--drop-old").code == 0
    assert run("--dsn", dsn, "migrate", "--check", "--no-cron").err == "nothing differs\n"
    do(empty_database, f"alter database {name} owner to postgres")


def test_a_queue_of_somebody_else_is_left_alone(home: str, role: Callable[..., str]) -> None:
    stranger = role("stranger", "login createrole")

    assert f'grant "postgres" to "{stranger}"' in flat(refused(make_conninfo(home, user=stranger)))


# What is in the way.


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("create table notes (entry uuid references webhook_dlq)", "table public.notes refers to it"),
        ("create table more () inherits (webhook_dlq)", "table public.more inherits from it"),
        ("create table webhook_dlq_old ()", "public.webhook_dlq_old is taken"),
        ("create table dlq_processing_log_old ()", "public.dlq_processing_log_old is taken"),
        ("create function process_dlq_entries_old() returns int language sql as 'select 1'", "_old() is taken"),
        ("alter table webhook_dlq drop constraint webhook_dlq_pkey", "is unique and never null"),
        (
            "alter table webhook_dlq enable row level security;"
            " create policy no on webhook_dlq as restrictive using (false)",
            "policy no hides rows",
        ),
        (
            "alter table webhook_dlq enable row level security, force row level security",
            "row level security hides rows of it from its owner",
        ),
        ("alter table webhook_dlq alter status drop not null; update webhook_dlq set status = null", "have no status"),
    ],
)
def test_what_is_in_the_way_is_named_with_the_statement_that_removes_it(home: str, statement: str, named: str) -> None:
    do(home, statement)

    assert named in flat(refused(home))
    with psycopg.connect(home) as conn:
        (problem,) = module.look(conn, Options(), cron=False, net_worker=True).problems
    do(home, problem.hint.partition(";")[0])

    adopted(home)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("create view webhook_dlq as select 1 as id", "is a view"),
        ("create table webhook_dlq (id uuid, service text) partition by list (service)", "is partitioned"),
        ("create table webhook_dlq (id uuid primary key, service text)", "--map COLUMN=payload"),
    ],
)
def test_what_cannot_be_a_queue_is_refused(empty_database: str, statement: str, named: str) -> None:
    do(empty_database, statement)

    assert named in flat(refused(empty_database))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--map", "nothing=payload"), "there is no column nothing"),
        (("--map", "payload=id"), "can fill none of that name"),
        (("--map", "payload=created_at"), "cannot be read as created_at"),
        (("--service", "whatsapp=wa"), "is a good name and stays"),
        (("--default-service", "A b"), "cannot be a service's name"),
    ],
)
def test_options_that_fit_nothing_are_refused(home: str, words: tuple[str, ...], named: str) -> None:
    assert named in flat(refused(home, *words))


def test_what_depends_on_the_old_tables_is_named_and_keeps_them_from_being_dropped(home: str) -> None:
    do(
        home,
        "create view failures as select * from webhook_dlq where status = 'failed'",
        "create function touch() returns trigger language plpgsql as 'begin return new; end'",
        "create trigger touch before update on webhook_dlq for each row execute function touch()",
        "create publication changes for table webhook_dlq",
    )

    said = flat(adopted(home))

    for name in ("view public.failures reads it", "trigger touch fires on it", "publication changes contains it"):
        assert name in said
    assert "view public.failures" in adopt(home, "--drop-old").err
    assert ask(home, "select count(*) from dlq.adoption") == 1


def test_where_there_is_nothing_to_adopt_it_says_what_to_type(empty_database: str, database: str) -> None:
    for dsn in (empty_database, database):
        outcome = adopt(dsn)
        assert (outcome.code, outcome.err.rstrip().endswith("-> dlqctl migrate")) == (1, True)
    assert adopt(database, "--drop-old").code == 1


def test_without_a_terminal_it_does_not_begin_unasked(home: str) -> None:
    before = dump(home)

    outcome = run("--dsn", home, "adopt", *WORDS)

    assert outcome.code == 1
    assert outcome.err.rstrip().endswith("--yes")
    assert dump(home) == before


def test_every_command_of_its_page_can_be_typed(home: str) -> None:
    do(
        home,
        "alter table webhook_dlq drop constraint webhook_dlq_status_check, add msg text, drop error_message",
        "update webhook_dlq set status = 'zombie', service = 'Meta (EU)' where status = 'failed'",
    )
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/adopt.md").read_text(), re.S)
    typed = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    explained = next(words for words in typed if "--map" in words)
    typed.remove(explained)
    typed.remove(["verify-cron"])  # there is no pg_cron here

    for words in (explained, *typed):
        more = (*WORDS, "--yes") if words[0] == "adopt" else ()
        # As the page has it, this queue needs the explanations.
        told = explained[2:] if words in (["adopt"], ["adopt", "--check"]) else ()
        assert run("--dsn", home, *words, *more, *told).code == 0, words

    assert rows(home, "select service, count(*) from webhook_dlq group by 1 order by 1") == [
        ("meta-eu", 10),
        ("whatsapp", 30),
    ]


def test_check_shows_the_plan_eighty_columns_wide_and_changes_nothing(home: str) -> None:
    before = dump(home)

    outcome = run("--dsn", home, "adopt", "--check", *WORDS)

    assert (outcome.code, outcome.err) == (0, "nothing is in the way: dlqctl adopt\n")
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert dump(home) == before
    assert run("--dsn", home, "migrate", *WORDS).err.count("dlqctl adopt --check") == 1


def test_a_job_of_another_role_is_unscheduled_and_others_that_process_are_named(cron_database: str) -> None:
    dsn = cron_database
    do(
        dsn,
        "drop role if exists scheduler",
        "create role scheduler login",
        "create extension pg_cron",
        "grant usage on schema cron to scheduler",
        home_made.TABLES,
        home_made.PROCESSOR,
        home_made.rows(40),
    )
    try:
        do(make_conninfo(dsn, user="scheduler"), home_made.JOB, home_made.JOB.replace("process-dlq-entries", "mine"))

        outcome = run("--dsn", dsn, "adopt", "--yes", "--net-worker")

        assert outcome.code == 0, outcome
        assert "process-dlq-entries of scheduler" in flat(outcome)
        assert "job mine also calls the processor" in flat(outcome)
        assert rows(dsn, "select jobname, username from cron.job order by 1") == [
            ("dlq-alerts", "postgres"),
            ("dlq-maintain", "postgres"),
            ("mine", "scheduler"),
            ("process-dlq-entries", "postgres"),
        ]
    finally:
        do(dsn, "select cron.unschedule(jobid) from cron.job", "drop owned by scheduler cascade", "drop role scheduler")
