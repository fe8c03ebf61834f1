"""`dlqctl verify-signatures` over real HTTP: against handlers that verify, and against those careless in ten ways."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Iterator

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from dlqctl.cli import cli
from dlqctl.cluster import loopback_is_direct
from dlqctl.receiver import Behaviour, Receiver, Reply, Request, always, close_without_reply
from dlqctl.signatures import InvalidSignature, verify_hub, verify_standard
from dlqctl.verify_signatures import PROBES, judge

HUB, STANDARD = "x-hub-signature-256", "standard-webhooks"
SECRET, NEW_SECRET = "kept-to-oneself", "the-next-one"
WHSEC = "whsec_" + base64.b64encode(b"a key that nobody else knows ...").decode()
NEW_WHSEC = "whsec_" + base64.b64encode(b"another key that nobody knows ..").decode()


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", loopback_is_direct()["no_proxy"])


@pytest.fixture
def admin(database: str, conn: psycopg.Connection) -> Iterator[str]:
    """The DSN of a role that is no more than dlq_admin, in a database with the secrets."""
    for name, value in (("hub", SECRET), ("hub_2", NEW_SECRET), ("std", WHSEC), ("std_2", NEW_WHSEC)):
        conn.execute("select dlq.set_secret(%s, %s)", (name, value))
    conn.execute("create role operator_of_tests login in role dlq_admin")
    yield make_conninfo(database, user="operator_of_tests")
    conn.execute("drop role operator_of_tests")


def endpoint(
    conn: psycopg.Connection, service: str, url: str, signing: str | None, *names: str, **more: object
) -> None:
    options = {"signing": signing, "secret_names": list(names) or None, **more}
    given = "".join(f", {name} => %({name})s" for name in options)
    conn.execute(
        f"select dlq.set_endpoint(%(service)s, %(url)s, true, true, 500{given})".encode(),
        {"service": service, "url": url, **options},
    )


def verify(dsn: str, *words: str) -> Result:
    result = CliRunner().invoke(cli, ["verify-signatures", "--dsn", dsn, *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def table(result: Result) -> dict[str, dict[str, object]]:
    return {row["handler"]: row for row in json.loads(result.stdout)}


# Handlers.


def takes(is_right: Callable[[Request], bool], refusal: int = 401, delay: float = 0) -> Behaviour:
    return lambda request, nth: Reply(200 if is_right(request) else refusal, delay=delay)


def hub(*secrets: str) -> Callable[[Request], bool]:
    return lambda request: _verifies(verify_hub, request, secrets)


def standard(*secrets: str) -> Callable[[Request], bool]:
    return lambda request: _verifies(verify_standard, request, secrets)


def _verifies(check: Callable[..., None], request: Request, secrets: tuple[str, ...]) -> bool:
    try:
        check(request.body, dict(request.headers), secrets)
    except InvalidSignature:
        return False
    return True


def given(request: Request) -> str:
    return str(request.headers["x-hub-signature-256"] or "")


def right(body: bytes) -> str:
    return "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


def rewritten(body: bytes, *separators: str) -> bytes:
    """The JSON of a body as Python (blanks after the separators) or JavaScript (none) writes it."""
    return json.dumps(json.loads(body), separators=(separators[0], separators[1])).encode()


def of_the_time(request: Request, tolerance: float) -> bool:
    """Standard Webhooks, with another idea of how old a webhook may be."""
    try:
        verify_standard(request.body, dict(request.headers), [WHSEC], tolerance=tolerance)
    except InvalidSignature:
        return False
    return True


VERIFYING: dict[str, tuple[Behaviour, str, tuple[str, ...]]] = {
    "hub": (takes(hub(SECRET)), HUB, ("hub",)),
    "hub-rotating": (takes(hub(NEW_SECRET, SECRET)), HUB, ("hub", "hub_2")),
    "says-403": (takes(hub(SECRET), 403), HUB, ("hub",)),
    "says-400": (takes(hub(SECRET), 400), HUB, ("hub",)),
    "slow": (takes(hub(SECRET), delay=0.2), HUB, ("hub",)),
    "std": (takes(standard(WHSEC)), STANDARD, ("std",)),
    "std-rotating": (takes(standard(NEW_WHSEC)), STANDARD, ("std", "std_2")),
}

# Each takes exactly these probes.
CARELESS: dict[str, tuple[Behaviour, str, str]] = {
    "trusts-all": (takes(lambda r: True), HUB, " ".join(name for name in PROBES if name != "stale")),
    "presence-only": (takes(lambda r: bool(given(r))), HUB, "forged close cut tampered respaced compacted"),
    "prefix-only": (takes(lambda r: given(r)[:16] == right(r.body)[:16]), HUB, "close cut"),
    "as-far-as-given": (takes(lambda r: given(r) != "" and right(r.body).startswith(given(r))), HUB, "cut"),
    "optional": (takes(lambda r: given(r) in ("", right(r.body))), HUB, "unsigned"),
    "parses-first": (takes(lambda r: given(r) == right(rewritten(r.body, ", ", ": "))), HUB, "compacted"),
    "stringifies": (takes(lambda r: given(r) == right(rewritten(r.body, ",", ":"))), HUB, "respaced"),
    "another-body": (takes(lambda r: given(r) == right(r.body.lower())), HUB, "tampered"),
    "timeless": (takes(lambda r: of_the_time(r, 1e9)), STANDARD, "stale"),
    "redirects": (takes(hub(SECRET), 302), HUB, " ".join(name for name in PROBES if name != "stale")),
}  # fmt: skip


def test_ten_handlers_of_which_three_are_careless(admin: str, conn: psycopg.Connection, receiver: Receiver) -> None:
    careless = ["presence-only", "prefix-only", "parses-first"]
    for service, (behaviour, scheme, names) in VERIFYING.items():
        receiver.behave(service, behaviour)
        endpoint(conn, service, receiver.url(service), scheme, *names)
    for service in careless:
        receiver.behave(service, CARELESS[service][0])
        endpoint(conn, service, receiver.url(service), HUB, "hub")

    result = verify(admin)

    assert result.exit_code == 1
    assert result.stderr == "7/10 handlers verify\n"
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["handler", "verdict", "method", *PROBES, "detail"]
    verdicts = {line[0]: line[1:3] for line in lines[1:]}
    assert verdicts == {
        **{service: ["verifies", scheme] for service, (_, scheme, _) in VERIFYING.items()},
        **{service: ["careless", HUB] for service in careless},
    }
    assert verify(admin, *VERIFYING).exit_code == 0
    assert verify(admin, *VERIFYING).stderr == "7/7 handlers verify\n"
    assert receiver.errors == []
    assert all(not hub(SECRET)(request) for request in receiver.requests), "nothing was rightly signed"
    assert {json.loads(request.body)["dlqctl"] for request in receiver.requests} == {"probe"}


def test_each_carelessness_is_named_by_what_it_takes(admin: str, conn: psycopg.Connection, receiver: Receiver) -> None:
    for service, (behaviour, scheme, _) in CARELESS.items():
        receiver.behave(service, behaviour)
        endpoint(conn, service, receiver.url(service), scheme, "std" if scheme == STANDARD else "hub")
    result = verify(admin, "--format", "json")
    assert (result.exit_code, result.stderr) == (1, f"0/{len(CARELESS)} handlers verify\n")
    for service, row in table(result).items():
        taken = CARELESS[service][2].split()
        assert (row["verdict"], row["detail"]) == ("careless", f"takes {', '.join(taken)}"), service
        assert [name for name in PROBES if row[name] in (200, 302)] == taken
    assert receiver.errors == []


def test_what_is_rightly_signed_is_sent_only_when_asked_for(
    admin: str, conn: psycopg.Connection, receiver: Receiver
) -> None:
    for service, behaviour in (("good", takes(hub(SECRET))), ("closed", always(403))):
        receiver.behave(service, behaviour)
        endpoint(conn, service, receiver.url(service), HUB, "hub")
    rows = table(verify(admin, "--format", "json"))
    assert [rows[s]["verdict"] for s in ("good", "closed")] == ["verifies", "verifies"]
    assert "valid" not in rows["good"]
    assert receiver.summary()["services"]["good"]["requests"] == 7

    result = verify(admin, "--include-valid", "--format", "json")
    rows = table(result)
    assert (rows["good"]["verdict"], rows["good"]["valid"]) == ("verifies", 200)
    assert (rows["closed"]["verdict"], rows["closed"]["valid"]) == ("refuses all", 403)
    assert (result.exit_code, result.stderr) == (1, "1/2 handlers verify\n")


def test_what_is_no_evidence_is_not_counted(admin: str, conn: psycopg.Connection, receiver: Receiver) -> None:
    behaviours = {
        "broken": always(500), "absent": always(404), "busy": always(429), "mute": close_without_reply(),
        "late": takes(hub(SECRET), delay=3),
    }  # fmt: skip
    for service, behaviour in behaviours.items():
        receiver.behave(service, behaviour)
        endpoint(conn, service, receiver.url(service), HUB, "hub")
    endpoint(conn, "down", receiver.down("down"), HUB, "hub")
    endpoint(conn, "forgotten", receiver.url("forgotten"), HUB, "hub", "nowhere")
    endpoint(conn, "plain", receiver.url("plain"), None)

    result = verify(admin, "--format", "json")

    rows = table(result)
    assert (result.exit_code, result.stderr) == (1, "0/8 handlers verify\n")
    assert {rows[service]["verdict"] for service in (*behaviours, "down", "forgotten")} == {"not known"}
    assert rows["plain"]["verdict"] == "unsigned"
    assert [rows[service]["unsigned"] for service in ("broken", "mute", "late", "down")] == [500, *["no answer"] * 3]
    assert rows["forgotten"]["detail"] == "there is no secret nowhere"
    assert not {"plain", "forgotten"} & {request.service for request in receiver.requests}


def test_the_template_s_services_are_those_that_have_entries(
    admin: str, conn: psycopg.Connection, receiver: Receiver
) -> None:
    receiver.behave("orders", takes(hub(SECRET)))
    endpoint(conn, "*", receiver.url("{service}"), HUB, "hub")
    endpoint(conn, "off", receiver.url("off"), HUB, "hub", enabled=False)
    conn.execute("select store_dlq_entry('orders', '{}'), store_dlq_entry('off', '{}')")
    assert list(table(verify(admin, "--format", "json"))) == ["orders"]
    receiver.behave("off", takes(hub(SECRET)))
    assert list(table(verify(admin, "off", "new", "--format", "json"))) == ["new", "off"], "who is named is called"


def test_a_refusal_behind_a_gateway_is_evidence_only_with_its_key(
    admin: str, conn: psycopg.Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gated(request: Request, nth: int) -> Reply:
        has_key = (request.headers["authorization"], request.headers["apikey"]) == ("Bearer gate-key", "gate-key")
        return Reply(200 if has_key and request.headers["X-Own"] == "1" else 401)

    receiver.behave("edge", gated)
    conn.execute("select dlq.set_secret('GATE', 'gate-key')")
    own = Jsonb({"X-Own": "1"})
    endpoint(conn, "edge", receiver.url("edge"), HUB, "hub", auth="both", auth_secret="GATE", headers=own)
    monkeypatch.setenv("GATE", "gate-key")
    row = table(verify(admin, "--format", "json"))["edge"]
    assert (row["verdict"], row["unsigned"]) == ("not known", 401)
    assert "--auth-from-env GATE" in str(row["detail"])
    row = table(verify(admin, "--auth-from-env", "GATE", "--format", "json"))["edge"]
    assert row["verdict"] == "careless", "past the gateway nobody verifies"


def test_what_a_careless_handler_stored_of_it_is_not_retried(
    admin: str, conn: psycopg.Connection, receiver: Receiver, database: str
) -> None:
    def stores(request: Request, nth: int) -> Reply:
        with psycopg.connect(database, autocommit=True) as own:
            own.execute(
                "select store_dlq_entry('shop', raw_body => %s, error_message => 'what is this?')", (request.body,)
            )
        return Reply(200)

    receiver.behave("shop", stores)
    endpoint(conn, "shop", receiver.url("shop"), HUB, "hub")
    conn.execute("select store_dlq_entry('shop', '{\"n\": 1}')")
    result = verify(admin)
    assert "discarded what handlers stored of it as failed webhooks: 7" in result.stderr
    rows = conn.execute("select status, count(*) from webhook_dlq group by status order by status").fetchall()
    assert rows == [("discarded", 7), ("pending", 1)]


def test_a_copy_of_production_calls_nobody(admin: str, conn: psycopg.Connection, receiver: Receiver) -> None:
    endpoint(conn, "shop", receiver.url("shop"), HUB, "hub")
    conn.execute("update dlq.settings set database_oid = 1")
    with pytest.raises(psycopg.Error) as error:
        verify(admin)
    assert error.value.sqlstate == "WD004"
    assert receiver.requests == []


def test_without_an_endpoint_there_is_nothing_to_be_proud_of(admin: str) -> None:
    for words in ((), ("nowhere",)):
        result = CliRunner().invoke(cli, ["verify-signatures", "--dsn", admin, *words])
        assert "endpoint" in str(result.exception)
        assert result.exit_code == 1


def test_the_database_signs_marked_bodies_and_nothing_else(
    admin: str, conn: psycopg.Connection, receiver: Receiver
) -> None:
    endpoint(conn, "shop", receiver.url("shop"), HUB, "hub")
    with psycopg.connect(admin, autocommit=True) as own:
        bodies = [bytes(row[0]) for _ in range(2) for row in own.execute("select body from dlq.sign_probes('shop')")]
        assert len(set(bodies)) == len(bodies) == 6
        assert {json.loads(body)["dlqctl"] for body in bodies} == {"probe"}
        for service in ("nowhere", None):
            with pytest.raises(psycopg.Error) as error:
                own.execute("select dlq.sign_probes(%s)", (service,))
            assert error.value.sqlstate == "WD006"
    for role in ("dlq_reader", "dlq_writer"):
        conn.execute(f"set role {role}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select dlq.sign_probes('shop')")
        conn.execute("reset role")


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ({"unsigned": 401, "forged": 403, "tampered": 400}, "verifies"),
        ({"unsigned": 401, "forged": 401, "tampered": 204}, "careless"),
        ({"unsigned": 500, "forged": 401, "tampered": 204}, "careless"),
        ({"unsigned": 401, "forged": 301}, "careless"),
        ({"unsigned": 401, "forged": 404}, "not known"),
        ({"unsigned": 401, "forged": "no answer", "valid": 200}, "not known"),
        ({"unsigned": 401, "valid": 401}, "refuses all"),
        ({"unsigned": 401, "valid": 500}, "verifies"),
    ],
)
def test_verdicts(answers: dict[str, int | str], verdict: str) -> None:
    assert judge(answers)[0] == verdict


def test_no_secret_and_no_signature_is_shown(
    admin: str, conn: psycopg.Connection, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    endpoint(conn, "shop", receiver.url("shop"), HUB, "hub")
    endpoint(conn, "std", receiver.url("std"), STANDARD, "std")
    endpoint(conn, "down", receiver.down("down"), HUB, "hub")
    said = "".join(
        CliRunner(env=dict(os.environ)).invoke(cli, ["--debug", "verify-signatures", "--dsn", admin, *words]).output
        for words in ((), ("--include-valid", "--format", "json"), ("nowhere",), ("--format", "csv"))
    ) + "".join(capfd.readouterr())
    assert len(receiver.requests) > 30
    for request in receiver.requests:
        for signature in (given(request)[7:], str(request.headers["webhook-signature"] or "")[3:]):
            assert not signature or signature not in said
    assert not [secret for secret in (SECRET, WHSEC, WHSEC[6:]) if secret in said]
