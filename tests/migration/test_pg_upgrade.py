"""What pg_upgrade does to a queue: docs/operating.md says it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import psycopg

from dlqctl.cluster import Cluster, _as_server_user, _make_folder, start_cluster
from dlqctl.migrate import migrate
from tests.migration.migrating import ask, do, program


def test_an_upgraded_server_has_everything_and_calls_nobody_until_it_is_said_to_be_production() -> None:
    pg_upgrade, initdb = program("pg_upgrade"), program("initdb")
    folder = _make_folder()
    user = _as_server_user(folder)
    with start_cluster(pg_net=False) as old:
        migrate(old.dsn(), cron=False, net_worker=True)
        do(
            old.dsn(),
            "select dlq.set_endpoint('shop', 'https://handler.example/')",
            "insert into webhook_dlq (service, payload, next_retry_at)"
            " select 'shop', to_jsonb(n), now() from generate_series(1, 3) as n",
            "select process_dlq_entries()",
        )
        assert ask(old.dsn(), "select count(*) from dlq.in_flight") == 3
        old.stop()
        new = Cluster(old.binaries, folder, old.database, pg_net=False)
        try:
            words: list[str | Path] = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
            subprocess.run(
                [initdb, *words, "-U", "postgres", "-D", new.data_dir], check=True, stdout=subprocess.DEVNULL, **user
            )
            words = ["-U", "postgres", "-s", folder, "-d", old.data_dir, "-D", new.data_dir, "-b", old.binaries.bin_dir]
            done = subprocess.run([pg_upgrade, *words, "-B", initdb.parent], capture_output=True, text=True, **user)
            assert done.returncode == 0, done.stdout
            with (new.data_dir / "postgresql.conf").open("a") as file:
                file.write(f"unix_socket_directories = '{folder}'\nlisten_addresses = ''\n")
            new.start()

            assert ask(new.dsn(), "select detail from dlq.health where name = 'sender'") == ask(
                new.dsn(), "select dlq._why_not_sending()"
            )
            assert ask(new.dsn(), "select count(*) from dlq.in_flight") == 3
            migrate(new.dsn(), cron=False, net_worker=True, this_is_production=True)
            with psycopg.connect(new.dsn(), autocommit=True) as conn:
                (run,) = conn.execute("select process_dlq_entries()").fetchone() or ({},)
            assert (run["unanswered"], run["dispatched"]) == (3, 3)
        finally:
            new.stop()
            shutil.rmtree(folder, ignore_errors=True)
