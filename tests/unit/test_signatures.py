"""Signatures in Python: against published vectors, another implementation, and every change of one bit."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from dlqctl.signatures import InvalidSignature, sign_hub, sign_standard, verify_hub, verify_standard

GITHUBS_SECRET, GITHUBS_BODY = "It's a Secret to Everybody", b"Hello, World!"
GITHUBS_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
# The vector in Standard Webhooks' own test suites.
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD_ID, STANDARD_AT, STANDARD_BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
STANDARD_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
WHSEC = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


def test_github_s_published_vector() -> None:
    assert sign_hub(GITHUBS_BODY, GITHUBS_SECRET) == {"x-hub-signature-256": GITHUBS_SIGNATURE}
    verify_hub(GITHUBS_BODY, {"X-Hub-Signature-256": GITHUBS_SIGNATURE.upper().replace("SHA", "sha")}, [GITHUBS_SECRET])


def test_standard_webhooks_published_vector() -> None:
    headers = sign_standard(STANDARD_BODY, STANDARD_ID, [STANDARD_SECRET], at=STANDARD_AT)
    assert headers["webhook-signature"] == STANDARD_SIGNATURE
    verify_standard(STANDARD_BODY, headers, [STANDARD_SECRET], now=STANDARD_AT)


@given(body=st.text(), at=st.integers(0, 2**33), message_id=st.text("abc_-123", min_size=1))
def test_the_package_standardwebhooks_signs_the_same_and_takes_ours(body: str, at: int, message_id: str) -> None:
    theirs = Webhook(WHSEC)
    signature = theirs.sign(message_id, datetime.fromtimestamp(at, UTC), body)
    headers = sign_standard(body.encode(), message_id, [WHSEC], at=at)
    assert headers["webhook-signature"] == signature


def test_the_package_standardwebhooks_takes_what_is_signed_now_and_nothing_else() -> None:
    headers = sign_standard(b"{}", "id", [WHSEC])
    Webhook(WHSEC).verify("{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(WHSEC).verify("{ }", headers)


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("", "missing"),
        (GITHUBS_SIGNATURE[7:], "sha256="),
        ("sha1=" + GITHUBS_SIGNATURE[7:], "sha256="),
        (GITHUBS_SIGNATURE[:-1], "64"),
        (GITHUBS_SIGNATURE + "0", "64"),
        (GITHUBS_SIGNATURE[:-1] + "g", "hexadecimal"),
        (GITHUBS_SIGNATURE[:-1] + "٣", "hexadecimal"),
        (GITHUBS_SIGNATURE[:-1] + "8", "not one of this body"),
    ],
)
def test_what_is_wrong_with_a_hub_signature_is_said(signature: str, reason: str) -> None:
    with pytest.raises(InvalidSignature, match=reason):
        verify_hub(GITHUBS_BODY, {"x-hub-signature-256": signature}, [GITHUBS_SECRET])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"webhook-id": ""}, "webhook-id is missing"),
        ({"webhook-timestamp": ""}, "webhook-timestamp is missing"),
        ({"webhook-timestamp": "soon"}, "not in seconds"),
        ({"webhook-timestamp": "-1"}, "not in seconds"),
        ({"webhook-timestamp": str(STANDARD_AT - 301)}, "too old"),
        ({"webhook-timestamp": str(STANDARD_AT + 301)}, "in the future"),
        ({"webhook-timestamp": str(STANDARD_AT + 1)}, "not one of this body"),
        ({"webhook-id": "another"}, "not one of this body"),
        ({"webhook-signature": ""}, "webhook-signature is missing"),
        ({"webhook-signature": "v2,abc"}, "no signature of version v1"),
        ({"webhook-signature": "v1,abc"}, "not one of this body"),
    ],
)
def test_what_is_wrong_with_a_standard_signature_is_said(changes: dict[str, str], reason: str) -> None:
    headers = sign_standard(STANDARD_BODY, STANDARD_ID, [STANDARD_SECRET], at=STANDARD_AT) | changes
    with pytest.raises(InvalidSignature, match=reason):
        verify_standard(STANDARD_BODY, headers, [STANDARD_SECRET], now=STANDARD_AT)


def test_while_a_secret_is_replaced_old_and_new_are_both_taken() -> None:
    old, new = "old", "new"
    verify_hub(b"x", sign_hub(b"x", old), [new, old])
    with pytest.raises(InvalidSignature):
        verify_hub(b"x", sign_hub(b"x", old), [new])
    both = sign_standard(b"x", "id", [WHSEC, STANDARD_SECRET])
    verify_standard(b"x", both, [WHSEC])
    verify_standard(b"x", both, [STANDARD_SECRET])


@pytest.mark.parametrize("secrets", [[], [""], ["a", ""]])
def test_without_a_secret_nothing_is_verified(secrets: list[str]) -> None:
    with pytest.raises(ValueError, match="secret"):
        verify_hub(b"", {"x-hub-signature-256": GITHUBS_SIGNATURE}, secrets)


@pytest.mark.parametrize("secret", ["abc", "whsec_", "whsec_?", "xwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
def test_a_secret_that_is_not_of_standard_webhooks_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        sign_standard(b"", "id", [secret])


@settings(max_examples=300)
@given(body=st.binary(min_size=1, max_size=64), secret=st.text("abc", min_size=1), bit=st.integers(0, 511))
def test_no_body_with_one_bit_changed_verifies(body: bytes, secret: str, bit: int) -> None:
    headers = sign_hub(body, secret)
    changed = bytearray(body)
    changed[bit // 8 % len(body)] ^= 1 << bit % 8
    verify_hub(body, headers, [secret])
    with pytest.raises(InvalidSignature):
        verify_hub(bytes(changed), headers, [secret])
