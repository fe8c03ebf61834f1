"""Signatures in SQL: against published vectors, and with Python's of the same name on thousands of random webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from dlqctl.signatures import InvalidSignature, sign_hub, sign_standard, verify_hub, verify_standard
from tests.db.conftest import Queue
from tests.unit.test_signatures import (
    GITHUBS_BODY,
    GITHUBS_SECRET,
    GITHUBS_SIGNATURE,
    STANDARD_AT,
    STANDARD_BODY,
    STANDARD_ID,
    STANDARD_SECRET,
    STANDARD_SIGNATURE,
    WHSEC,
)

HUB, STANDARD = "x-hub-signature-256", "standard-webhooks"


@pytest.fixture(autouse=True)
def _secrets(queue: Queue) -> None:
    for name, value in (("github", GITHUBS_SECRET), ("vector", STANDARD_SECRET), ("whsec", WHSEC), ("new", "new")):
        queue.one("select dlq.set_secret(%s, %s)", name, value)


def verify(queue: Queue, body: bytes, headers: Any, names: list[str], scheme: str = HUB) -> tuple[bool, str | None]:
    query = "select * from dlq.verify_signature(%s, %s, %s, %s)"
    (row,) = queue.rows(query, body, Jsonb(headers), names, scheme)
    return row["is_valid"], row["reason"]


def test_the_published_vectors(queue: Queue) -> None:
    assert verify(queue, GITHUBS_BODY, {"X-Hub-Signature-256": GITHUBS_SIGNATURE}, ["github"]) == (True, None)
    signed = "select dlq._sign(%s, dlq._signing_keys(%s, array[%s]), %s, to_timestamp(%s), %s)"
    headers = queue.one(signed, STANDARD, STANDARD, "vector", STANDARD_ID, STANDARD_AT, STANDARD_BODY)
    assert headers == {
        "webhook-id": STANDARD_ID,
        "webhook-timestamp": str(STANDARD_AT),
        "webhook-signature": STANDARD_SIGNATURE,
    }
    assert queue.one(signed, HUB, HUB, "github", "", 0, GITHUBS_BODY) == {"x-hub-signature-256": GITHUBS_SIGNATURE}


def test_sql_and_python_have_the_same_hmac_for_keys_of_any_length(queue: Queue, conn: psycopg.Connection) -> None:
    rng = random.Random(7)
    keys = [rng.randbytes(rng.randrange(150)) for _ in range(10_000)]
    bodies = [rng.randbytes(rng.choice((0, 1, 55, 56, 63, 64, 900))) for _ in keys]
    rows = conn.execute(
        """
        select encode(dlq._hmac_sha256(dlq._hmac_pads(k), b), 'hex')
        from unnest(%s::bytea[], %s::bytea[]) with ordinality as w (k, b, nth) order by nth
        """,
        (keys, bodies),
    ).fetchall()
    assert [row[0] for row in rows] == [
        hmac.new(key, body, hashlib.sha256).hexdigest() for key, body in zip(keys, bodies, strict=True)
    ]


def judge(check: Any, *arguments: Any, **options: Any) -> str | None:
    try:
        check(*arguments, **options)
    except InvalidSignature as error:
        return error.reason
    return None


def test_sql_and_python_give_the_same_reason_for_every_mutilation(queue: Queue) -> None:
    rng = random.Random(11)
    right = {**sign_hub(b"body", GITHUBS_SECRET), **sign_standard(b"body", "id", [WHSEC])}
    seen = set()
    for _ in range(400):
        headers = dict(right)
        for name in rng.sample(sorted(headers), rng.randrange(3)):
            value = headers.pop(name)
            at = rng.randrange(len(value))
            cut = rng.choice(("", value[:at], value[:at] + rng.choice("0g,=v z") + value[at + 1 :], value + "0", value))
            headers[rng.choice((name, name.upper(), name.title()))] = cut
        body = rng.choice((b"body", b"body", b"bodY"))
        for scheme, name, secret, check in (
            (HUB, "github", GITHUBS_SECRET, verify_hub),
            (STANDARD, "whsec", WHSEC, verify_standard),
        ):
            reason = judge(check, body, headers, [secret])
            assert verify(queue, body, headers, [name], scheme) == (reason is None, reason), (headers, body)
            seen.add(reason)
    assert None in seen
    assert len(seen) > 8


@dataclass(frozen=True)
class Case:
    """A webhook, its secret, and what becomes of its signature on the way."""

    scheme: str
    body: bytes
    key: bytes
    message_id: str
    age: int  # in seconds
    change: str
    at: int  # where it is changed: taken modulo what is there
    garbage: str

    @property
    def secret(self) -> str:
        """By which Python and SQL know the key."""
        return "whsec_" + base64.b64encode(self.key).decode() if self.scheme == STANDARD else self.key.hex()

    def signed(self, now: int) -> dict[str, str]:
        if self.scheme == HUB:
            return sign_hub(self.body, self.secret)
        return sign_standard(self.body, self.message_id, [self.secret], at=now - self.age)

    def arrives(self, signed: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        """The body and headers as they arrive."""
        headers, body = dict(signed), self.body
        name = sorted(signed)[self.at % len(signed)]
        match self.change:
            case "bit of the body":
                body = flipped(body, self.at) if body else b"\0"
            case "bit of a header":
                headers[name] = flipped(headers[name].encode(), self.at).decode("latin-1")
            case "no header":
                del headers[name]
            case "garbage":
                headers[name] = self.garbage
            case "garbage beside it":
                headers["webhook-signature"] = f"{self.garbage} {headers.get('webhook-signature', '')}"
            case "cut":
                headers[name] = headers[name][: self.at % len(headers[name])]
            case "spelling":
                headers[name.title()] = headers.pop(name)
            case "two spellings":
                headers[name.title()] = headers[name]
        return body, headers


def flipped(text: bytes, bit: int) -> bytes:
    changed = bytearray(text)
    changed[bit // 8 % len(text)] ^= 1 << bit % 8
    return bytes(changed)


CHANGES = (
    "nothing",
    "bit of the body",
    "bit of a header",
    "no header",
    "garbage",
    "garbage beside it",
    "cut",
    "spelling",
    "two spellings",
)
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
CASES = st.builds(
    Case,
    scheme=st.sampled_from((HUB, STANDARD)),
    body=st.binary(max_size=80),
    key=st.binary(min_size=1, max_size=80),
    message_id=_TEXT,
    age=st.sampled_from((0, 0, 0, 200, -200, 400, -400, 10**9)),
    change=st.sampled_from(CHANGES),
    at=st.integers(0, 5000),
    garbage=_TEXT,
)
_AT_A_TIME, _TIMES = 50, 200


@settings(
    max_examples=_TIMES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(cases=st.lists(CASES, min_size=_AT_A_TIME, max_size=_AT_A_TIME))
def test_sql_and_python_agree_on_ten_thousand_webhooks(
    agreement: tuple[Queue, Counter[str]], cases: list[Case]
) -> None:
    """On the signature of each, and on the verdict and its reason after what became of it."""
    queue, seen = agreement
    now = int(time.time())
    signed = [case.signed(now) for case in cases]
    arrived = [case.arrives(headers) for case, headers in zip(cases, signed, strict=True)]
    arrived = [(body, {n: v.replace("\0", "0") for n, v in headers.items()}) for body, headers in arrived]
    names = [f"case_{n}" for n in range(len(cases))]
    with queue.conn.transaction(force_rollback=True):
        queue.conn.execute(
            "insert into dlq.secrets (name, value) select * from unnest(%s::text[], %s::text[])",
            (names, [case.secret for case in cases]),
        )
        rows = queue.rows(
            """
            select v.is_valid, v.reason,
              dlq._sign(
                c.scheme, dlq._signing_keys(c.scheme, array[c.name]), c.id, to_timestamp(c.at), c.sent) as signed
            from unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bytea[], %s::bytea[], %s::text[])
                with ordinality as c (scheme, name, id, at, sent, body, headers, nth)
              cross join lateral dlq.verify_signature(c.body, c.headers::jsonb, array[c.name], c.scheme) as v
            order by c.nth
            """,
            [case.scheme for case in cases],
            names,
            [case.message_id for case in cases],
            [now - case.age for case in cases],
            [case.body for case in cases],
            [body for body, _ in arrived],
            [json.dumps(headers) for _, headers in arrived],
        )
    for case, headers, (body, given_), row in zip(cases, signed, arrived, rows, strict=True):
        assert row["signed"] == headers, case
        check = verify_hub if case.scheme == HUB else verify_standard
        reason = judge(check, body, given_, [case.secret])
        assert (row["is_valid"], row["reason"]) == (reason is None, reason), (case, given_)
        if case.change.startswith("bit"):
            same_hex = case.scheme == HUB and {n: v.lower() for n, v in given_.items()} == headers
            assert reason is not None or same_hex, case
        seen[str(reason)] += 1


@pytest.fixture
def agreement(queue: Queue) -> Iterator[tuple[Queue, Counter[str]]]:
    """A queue whose secrets change off the record, and the verdicts, which are looked at in the end."""
    queue.conn.execute("alter table dlq.secrets disable trigger audit")
    seen: Counter[str] = Counter()
    yield queue, seen
    print(f"{seen.total()} webhooks: {dict(seen)}")
    assert seen.total() >= _AT_A_TIME * _TIMES
    assert seen["None"] > seen.total() / 20
    assert len(seen) > 12


@pytest.mark.parametrize("scheme", [HUB, STANDARD])
def test_no_bit_of_a_body_or_its_headers_may_change(queue: Queue, scheme: str) -> None:
    """Every one of them. But for the case of a hexadecimal digit, which is the same digit."""
    body = b"body"
    headers = sign_hub(body, GITHUBS_SECRET) if scheme == HUB else sign_standard(body, "id", [WHSEC])
    changed = [(flipped(body, bit), headers) for bit in range(8 * len(body))]
    for name, value in headers.items():
        texts = {flipped(value.encode(), bit).decode("latin-1") for bit in range(8 * len(value))}
        same = value.lower() if scheme == HUB else value
        changed += [
            (body, headers | {name: t}) for t in texts if "\0" not in t and not (scheme == HUB and t.lower() == same)
        ]
    name, secret, check = ("github", GITHUBS_SECRET, verify_hub) if scheme == HUB else ("whsec", WHSEC, verify_standard)
    verdicts = queue.rows(
        """
        select v.is_valid
        from unnest(%s::bytea[], %s::text[]) as c (body, headers)
          cross join lateral dlq.verify_signature(c.body, c.headers::jsonb, array[%s], %s) as v
        """,
        [b for b, _ in changed], [json.dumps(h) for _, h in changed], name, scheme,
    )  # fmt: skip
    assert len(verdicts) > 500
    assert not any(row["is_valid"] for row in verdicts)
    assert all(judge(check, b, h, [secret]) for b, h in changed)


@pytest.mark.parametrize("headers", [None, [], "x", {}, {"x-hub-signature-256": None}, {"x-hub-signature-256": 1}])
def test_headers_of_any_shape_are_judged(queue: Queue, headers: object) -> None:
    assert verify(queue, b"body", headers, ["github"])[0] is False


def test_old_and_new_secret_are_taken_together(queue: Queue) -> None:
    assert verify(queue, b"x", sign_hub(b"x", GITHUBS_SECRET), ["new", "github"]) == (True, None)
    assert verify(queue, b"x", sign_hub(b"x", GITHUBS_SECRET), ["new"])[0] is False
    both = sign_standard(b"x", "id", [WHSEC, STANDARD_SECRET])
    assert verify(queue, b"x", both, ["vector"], STANDARD) == (True, None)


@pytest.mark.parametrize(
    ("names", "scheme"),
    [([], HUB), (None, HUB), (["github"], "md5"), (["github"], None), (["nowhere"], HUB), (["github"], STANDARD)],
)
def test_what_cannot_be_verified_is_an_error_not_a_verdict(queue: Queue, names: Any, scheme: Any) -> None:
    with pytest.raises(psycopg.Error) as error:
        verify(queue, b"x", sign_hub(b"x", "x"), names, scheme)
    assert error.value.sqlstate == "WD005"
    assert GITHUBS_SECRET not in str(error.value)


# What is retried.


@pytest.mark.parametrize("payload", [{"ä": '日本 " \\ \n', "n": 1.50, "e": 1e3}, [], "text", None, {"big": "x" * 5000}])
def test_a_retry_is_signed_over_the_bytes_that_are_sent(queue: Queue, payload: Any) -> None:
    queue.endpoint(signing=HUB, secret_names=["github", "new"])
    queue.send(queue.store(payload=payload))
    (request,) = queue.rows("select headers, body from net.http_request_queue")
    verify_hub(bytes(request["body"]), request["headers"], [GITHUBS_SECRET])
    assert verify(queue, bytes(request["body"]), request["headers"], ["github"]) == (True, None)


def test_a_retry_by_standard_webhooks_carries_a_signature_of_each_secret(queue: Queue) -> None:
    queue.endpoint(signing=STANDARD, secret_names=["whsec", "vector"])
    entry_id = queue.store()
    queue.send(entry_id)
    (request,) = queue.rows("select headers, body from net.http_request_queue")
    assert request["headers"]["webhook-id"] == entry_id
    for secret in (WHSEC, STANDARD_SECRET):
        verify_standard(bytes(request["body"]), request["headers"], [secret])


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ("bearer", {"authorization": "Bearer new"}),
        ("apikey", {"apikey": "new"}),
        ("both", {"authorization": "Bearer new", "apikey": "new"}),
    ],
)
def test_a_key_is_sent_as_the_endpoint_says(queue: Queue, auth: str, expected: dict[str, str]) -> None:
    queue.endpoint(auth=auth, auth_secret="new", headers=Jsonb({"Authorization": "old", "ApiKey": "old"}))
    queue.send(queue.store())
    headers = queue.one("select headers from net.http_request_queue")
    assert {**{"authorization": "old", "apikey": "old"}, **expected}.items() <= headers.items()


def test_while_a_secret_is_missing_entries_wait_and_use_up_nothing(queue: Queue) -> None:
    queue.endpoint("other")
    queue.endpoint(auth="bearer", auth_secret="nowhere")
    waiting, sent = queue.store(), queue.store("other")
    queue.make_due()
    queue.one("select process_dlq_entries()")
    status = "select status || retry_count || attempt_count from webhook_dlq where id = %s"
    assert (queue.one(status, waiting), queue.one(status, sent)) == ("pending00", "processing01")
    (health,) = queue.rows("select level, detail, remediation from dlq.health where name = 'secrets'")
    assert health["level"] == "error"
    assert "there is no secret nowhere" in health["detail"]

    queue.one("select dlq.set_secret('nowhere', 'x')")
    queue.one("select process_dlq_entries()")
    assert queue.one(status, waiting) == "processing01"


def test_a_key_that_would_begin_another_header_is_not_sent(queue: Queue) -> None:
    queue.one("select dlq.set_secret('key', %s)", "k\r\nx-forged: 1")
    queue.endpoint(auth="bearer", auth_secret="key")
    queue.store()
    queue.make_due()
    assert queue.dispatch() == 0
    assert "line break" in queue.one("select detail from dlq.health where name = 'secrets'")


@pytest.mark.parametrize("body", [b'{"b": 1,\t"a":1e3}', b"a=1&b=\xff", b""])
def test_a_raw_body_goes_out_as_it_came_with_its_own_signature(queue: Queue, body: bytes) -> None:
    queue.endpoint(body="raw", headers=Jsonb({"X-Own": "1"}))
    came = {
        **sign_hub(body, "the provider's"),
        "Content-Type": "application/x-thing; a=b",
        "Host": "here",
        "Content-Length": "5",
        "Webhook-Id": "the provider's",
        "User-Agent": "the provider's",
    }
    entry_id = str(queue.one("select store_dlq_entry('shop', raw_body => %s, headers => %s)", body, Jsonb(came)))
    queue.send(entry_id)
    (request,) = queue.rows("select headers, body from net.http_request_queue")
    assert bytes(request["body"]) == body
    verify_hub(body, request["headers"], ["the provider's"])
    assert request["headers"] == {
        "x-hub-signature-256": came["x-hub-signature-256"],
        "content-type": "application/x-thing; a=b",
        "webhook-id": "the provider's",
        "x-own": "1",
        "idempotency-key": entry_id,
        "dlq-entry": entry_id,
        "dlq-attempt": "1",
    }
    assert queue.one("select digest = sha256(%s) from dlq.in_flight", body)


def test_a_raw_body_with_a_nul_is_not_sent_cut_off(queue: Queue) -> None:
    queue.endpoint(body="raw")
    entry_id = str(queue.one("select store_dlq_entry('shop', raw_body => %s)", b"a\x00b"))
    queue.make_due()
    queue.one("select process_dlq_entries()")
    attempt = queue.rows("select outcome, error from dlq.delivery_attempts where entry_id = %s", entry_id)
    assert [(row["outcome"], row["error"][:5]) for row in attempt] == [("not_sent", "22P05")]


def test_an_echo_of_a_raw_retry_is_recognised_by_its_bytes_and_by_its_header(
    queue: Queue, conn: psycopg.Connection
) -> None:
    queue.endpoint(body="raw")
    store = "select store_dlq_entry('shop', raw_body => %s, headers => %s)"
    theirs = {"webhook-id": "the provider's"}
    for body, is_named in ((b'{"a":  1}', False), (b"another", True)):
        entry_id = queue.one(store, b'{"a":  1}', Jsonb(theirs))
        queue.send(str(entry_id))
        headers = {"dlq-entry": str(entry_id), **theirs} if is_named else theirs
        assert queue.one(store, body, Jsonb(headers)) == entry_id
        conn.execute("delete from webhook_dlq; delete from dlq.in_flight")


def test_a_scheme_needs_secrets_and_is_given_up_by_name(queue: Queue) -> None:
    queue.endpoint(signing=HUB, secret_names=["github"], auth="bearer", auth_secret="new")
    wrongs: list[dict[str, Any]] = [{"signing": "md5"}, {"auth": "basic"}, {"body": "xml"}, {"secret_names": []}]
    for wrong in wrongs:
        with pytest.raises(psycopg.Error) as error:
            queue.endpoint(**wrong)
        assert error.value.sqlstate == "WD002"
    with pytest.raises(psycopg.Error):
        queue.endpoint("bare", signing=HUB)
    queue.endpoint(signing="none", auth="none")
    (row,) = queue.rows("select signing, secret_names, auth, auth_secret from dlq.endpoints where service = 'shop'")
    assert set(row.values()) == {None}


# Secrets.


def test_a_secret_is_nobody_s_to_read(queue: Queue, conn: psycopg.Connection) -> None:
    for role in ("dlq_admin", "dlq_reader", "dlq_writer", "dlq_net_worker"):
        for query in ("select value from dlq.secrets", "select dlq._secret('github')"):
            conn.execute(f"set role {role}".encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(query.encode())
            conn.execute("reset role")


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("a b", "x"), ("a", ""), (None, "x"), ("a", None)])
def test_a_secret_needs_a_name_and_a_value(queue: Queue, name: str | None, value: str | None) -> None:
    with pytest.raises(psycopg.Error) as error:
        queue.one("select dlq.set_secret(%s::text, %s::text)", name, value)
    assert error.value.sqlstate == "WD002"


def test_secrets_are_listed_by_name_with_who_needs_them(queue: Queue) -> None:
    queue.endpoint(signing=HUB, secret_names=["github", "gone"])
    listed = {row["name"]: (row["is_there"], row["used_by"]) for row in queue.rows("select * from dlq.list_secrets()")}
    assert listed["github"] == (True, ["shop"])
    assert listed["gone"] == (False, ["shop"])
    assert listed["new"] == (True, [])
    assert queue.one("select dlq.remove_secret('new')") is True
    assert queue.one("select dlq.remove_secret('new')") is False


def test_vault_has_the_first_word_where_there_is_one(queue: Queue, conn: psycopg.Connection) -> None:
    # An emulation of Supabase's Vault: its view and its two functions, without the encryption.
    conn.execute("""
        create schema vault;
        create table vault.secrets (id uuid primary key default gen_random_uuid(), name text unique, secret text);
        create view vault.decrypted_secrets as select id, name, secret as decrypted_secret from vault.secrets;
        create function vault.create_secret(secret text, name text) returns uuid language sql as
          'insert into vault.secrets (name, secret) values ($2, $1) returning id';
        create function vault.update_secret(id uuid, secret text) returns void language sql as
          'update vault.secrets set secret = $2 where id = $1';
    """)
    assert queue.one("select dlq._secret('github')") == GITHUBS_SECRET
    conn.execute("""
        grant usage on schema vault to dlq_owner;
        grant select, insert, update on vault.secrets, vault.decrypted_secrets to dlq_owner;
        insert into vault.secrets (name, secret) values ('github', 'the vault''s'), ('empty', '');
    """)
    assert queue.one("select dlq._secret('github')") == "the vault's"
    with pytest.raises(psycopg.Error) as error:
        queue.one("select dlq._secret('empty')")
    assert error.value.sqlstate == "WD005"
    for value in ("one", "two"):
        queue.one("select dlq.set_secret('new', %s)", value)
        assert queue.one("select dlq._secret('new')") == value
    assert queue.one("select count(*) from dlq.secrets where name = 'new'") == 0


def test_keys_are_padded_as_the_rfc_says(queue: Queue) -> None:
    pads = bytes(queue.one("select dlq._hmac_pads('key')"))
    assert pads == bytes(b ^ 0x36 for b in b"key".ljust(64, b"\0")) + bytes(b ^ 0x5C for b in b"key".ljust(64, b"\0"))
    assert base64.b64encode(bytes(queue.one("select dlq._hmac_pads('')")))[:4] == b"NjY2"
