"""Secrets: how they get in, and that nothing shows one, whatever the server logs and whoever looks."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dlqctl.cluster import Cluster, loopback_is_direct, start_cluster
from dlqctl.errors import DlqctlError
from dlqctl.migrate import migrate
from dlqctl.receiver import Receiver, always
from dlqctl.secrets import set_secret
from dlqctl.signatures import sign_hub

SIGNING, KEY, CONTROL = "s3cret-that-signs", "s3cret-key-of-a-gateway", "s3cret-bound-to-a-statement"


@pytest.fixture(scope="module")
def talkative() -> Iterator[Cluster]:
    """A server that logs whatever it can be made to log."""
    settings = {"log_statement": "all", "log_min_duration_statement": "0", "log_parameter_max_length_on_error": "-1"}
    with start_cluster(pg_net=False, settings=settings) as cluster:
        migrate(cluster.dsn(), cron=False, net_worker=True)
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            conn.execute("create role operator_of_secrets login in role dlq_admin")
            # From 16 on auto_explain logs what is bound to the statements inside functions in SQL.
            with contextlib.suppress(psycopg.errors.UndefinedFile):
                conn.execute("load 'auto_explain'")
                conn.execute("alter system set session_preload_libraries = 'auto_explain'")
                conn.execute("alter system set auto_explain.log_min_duration = 0")
                conn.execute("alter system set auto_explain.log_nested_statements = on")
                conn.execute("select pg_reload_conf()")
        yield cluster


@pytest.fixture
def superuser(talkative: Cluster) -> Iterator[psycopg.Connection]:
    with psycopg.connect(talkative.dsn(), autocommit=True) as conn:
        yield conn
        conn.execute("truncate webhook_dlq, dlq.delivery_attempts, dlq.in_flight, dlq.endpoints, dlq.secrets")


def dlqctl(cluster: Cluster, *words: str, stdin: str | bytes = "") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "dlqctl", "--dsn", cluster.dsn(user="operator_of_secrets"), *words],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        env={**os.environ, **loopback_is_direct()},
        capture_output=True,
        check=False,
    )


def test_nothing_shows_a_secret(talkative: Cluster, superuser: psycopg.Connection, receiver: Receiver) -> None:
    said = b""
    receiver.behave("shop", always(401))
    for words, stdin in (
        (("secrets", "set", "SIGNING"), "an earlier value"),
        (("secrets", "set", "SIGNING"), f"{SIGNING}\n"),
        (("--debug", "secrets", "set", "KEY"), KEY),
        (("--debug", "secrets", "set", "not a name"), KEY),
        (("secrets", "set", "not a name"), KEY),
        (("endpoints", "set", "shop", receiver.url("shop"), "--allow-http", "--allow-private",
          "--signing", "x-hub-signature-256", "--secret", "SIGNING", "--auth", "both", "--auth-secret", "KEY"), ""),
        (("secrets", "list", "--format", "json"), ""),
        (("endpoints", "list"), ""),
        (("health",), ""),
        (("--debug", "verify-signatures", "--include-valid"), ""),
    ):  # fmt: skip
        done = dlqctl(talkative, *words, stdin=stdin)
        said += done.stdout + done.stderr

    body = b'{"n": 1}'
    with psycopg.connect(talkative.dsn(user="operator_of_secrets"), autocommit=True) as conn:
        conn.execute("select dlq.receive_webhook('shop', %s, %s, 'boom')", (body, Jsonb(sign_hub(body, SIGNING))))
        conn.execute("update webhook_dlq set next_retry_at = now() where status = 'pending'")
        conn.execute("select process_dlq_entries()")
        conn.execute("select dlq.sign_probes('shop')")
        row = superuser.execute("select headers, body from net.http_request_queue").fetchone()
        assert row is not None
        assert row[0]["apikey"] == KEY, "it is sent"
        # A handler that fails on the retry, and keeps it with all its headers.
        row = superuser.execute(
            "select store_dlq_entry('shop', raw_body => q.body, headers => q.headers) from net.http_request_queue as q"
        ).fetchone()
        for query in ("select dlq._secret('KEY')", "select value from dlq.secrets"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as denied:
                conn.execute(query.encode())
            said += str(denied.value).encode()
        # A scheme that the secret has not the form of: an error that is near its value.
        with pytest.raises(psycopg.Error) as wrong:
            conn.execute("select * from dlq.verify_signature('x', '{}', '{SIGNING}', 'standard-webhooks')")
        said += f"{wrong.value} {wrong.value.diag.message_detail} {wrong.value.diag.context}".encode()
        set_secret(conn, "KEY", KEY)
        said += shown_to(superuser)

    superuser.execute("select dlq.set_secret('CONTROL', %s)", (CONTROL,))
    log = talkative.log_path.read_bytes()
    assert CONTROL.encode() in log, "what is bound is logged: the log is worth looking at"
    assert b"copy pg_temp.dlqctl_secret" in log
    for secret in (SIGNING, KEY):
        as_pads = bytes(byte ^ 0x36 for byte in secret.encode())
        for form in (secret, secret.encode().hex(), as_pads.hex()):
            assert form.encode() not in said
            assert form.encode() not in log


# Supabase's Vault as it looks from outside, without the encryption. Its functions are in PL/pgSQL there too.
VAULT = """
    create schema vault;
    create table vault.secrets (id uuid primary key default gen_random_uuid(), name text unique, secret text);
    create view vault.decrypted_secrets as select id, name, secret as decrypted_secret from vault.secrets;
    create function vault.create_secret(new_secret text, new_name text) returns uuid language plpgsql as
      'declare v_id uuid; begin insert into vault.secrets (name, secret) values (new_name, new_secret)
       returning id into v_id; return v_id; end';
    create function vault.update_secret(secret_id uuid, new_secret text) returns void language plpgsql as
      'begin update vault.secrets as s set secret = new_secret where s.id = secret_id; end';
    grant usage on schema vault to dlq_owner;
    grant select, insert, update on vault.secrets, vault.decrypted_secrets to dlq_owner
"""


def test_nor_does_the_log_on_its_way_into_vault(talkative: Cluster, superuser: psycopg.Connection) -> None:
    """From 16 on auto_explain logs what EXECUTE … USING is given, and not what a PL/pgSQL statement takes."""
    values = ("s3cret-for-the-vault", "s3cret-that-follows-it")
    superuser.execute(VAULT.encode())
    try:
        for value in values:
            set_secret(superuser, "VAULTED", value)
            assert superuser.execute("select secret from vault.secrets").fetchall() == [(value,)]
    finally:
        superuser.execute("drop schema vault cascade")
    log = talkative.log_path.read_text(errors="replace")
    assert "vault.create_secret" in log or talkative.binaries.major < 16
    assert [value for value in values if value in log] == []


def shown_to(conn: psycopg.Connection) -> bytes:
    """Everything in every table and view of ours, but for what keeps secrets and what sends them; and who runs what."""
    relations = conn.execute(
        """
        select c.oid::regclass::text
        from pg_class as c
        where c.relowner = 'dlq_owner'::regrole and c.relkind in ('r', 'v')
          and c.oid not in ('dlq.secrets'::regclass, 'net.http_request_queue'::regclass)
        """
    ).fetchall()
    assert len(relations) > 10
    queries = [f"select to_jsonb(r)::text from {name} as r" for (name,) in relations]
    queries += [
        "select query from pg_stat_activity",
        "select dlq_health()::text",
        "select l::text from dlq.list_secrets() as l",
    ]
    return "\n".join(str(value) for query in queries for (value,) in conn.execute(query.encode())).encode()


def test_a_value_arrives_as_it_was_given(talkative: Cluster, superuser: psycopg.Connection) -> None:
    kept = "select dlq._secret('ODD')"
    for value in ("back\\slash\\.", "tab\tand\nline", "\\.", "\\N", "'q\"$1;--", "日本 ä", " x "):
        set_secret(superuser, "ODD", value)
        assert superuser.execute(kept.encode()).fetchone() == (value,)
    for stdin in (" x", " x\n", " x\r\n"):
        done = dlqctl(talkative, "secrets", "set", "ODD", stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b"set: ODD\n")
        assert superuser.execute(kept.encode()).fetchone() == (" x",)


@pytest.mark.parametrize(("stdin", "code"), [(b"\xff\xfe", 2), (b"a\0b", 2), (b"", 1), (b"\n", 1)])
def test_what_is_no_value_is_refused_in_one_line(
    talkative: Cluster, superuser: psycopg.Connection, stdin: bytes, code: int
) -> None:
    done = dlqctl(talkative, "secrets", "set", "ODD", stdin=stdin)
    assert (done.returncode, done.stdout) == (code, b"")
    assert len(done.stderr.splitlines()) == 1
    assert superuser.execute("select count(*) from dlq.secrets").fetchone() == (0,)


def test_on_a_terminal_the_value_is_asked_for_and_not_echoed(talkative: Cluster, superuser: psycopg.Connection) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "dlqctl", "--dsn", talkative.dsn(), "secrets", "set", "TYPED"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while b"TYPED: " not in shown:
            shown += os.read(ours, 1024)
        os.write(ours, b"typed-value\n")
        assert process.wait(30) == 0
        shown += os.read(ours, 1024)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"set: TYPED" in shown
    assert b"typed-value" not in shown
    assert superuser.execute("select dlq._secret('TYPED')").fetchone() == ("typed-value",)


def test_a_role_without_temporary_tables_is_told_what_to_grant(
    talkative: Cluster, superuser: psycopg.Connection
) -> None:
    superuser.execute("revoke temporary on database dlq from public")
    try:
        with (
            psycopg.connect(talkative.dsn(user="operator_of_secrets"), autocommit=True) as conn,
            pytest.raises(DlqctlError) as error,
        ):
            set_secret(conn, "A", "x")
        assert error.value.hint == "grant temporary on database dlq to operator_of_secrets"
    finally:
        superuser.execute("grant temporary on database dlq to public")


def test_a_dump_holds_secrets_unless_it_is_told_not_to(talkative: Cluster, superuser: psycopg.Connection) -> None:
    pg_dump = talkative.binaries.bin_dir / "pg_dump"
    if not pg_dump.exists():
        pytest.skip("pg_dump is not installed")
    set_secret(superuser, "A", SIGNING)
    command = [str(pg_dump), "--dbname", talkative.dsn()]
    assert SIGNING in subprocess.check_output(command, text=True)
    assert SIGNING not in subprocess.check_output([*command, "--exclude-table-data=dlq.secrets"], text=True)
