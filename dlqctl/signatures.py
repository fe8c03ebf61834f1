"""Signatures of webhooks: the same two schemes as in SQL, over the raw bytes of a body.

x-hub-signature-256, as Meta and GitHub send it: `sha256=` and the hexadecimal HMAC-SHA256 of the body under the
secret's bytes (https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries).
Standard Webhooks: headers webhook-id, webhook-timestamp (seconds) and webhook-signature, `v1,` and the base64
HMAC-SHA256 of `id.timestamp.body` under the secret `whsec_<base64>` (https://www.standardwebhooks.com).

A handler gives every secret that is valid at the moment, so that one can take another's place:

    verify_hub(body, request.headers, [os.environ["APP_SECRET"]])    # raises InvalidSignature
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Mapping

TOLERANCE_SECONDS = 300
_MOST_SIGNATURES = 16


class InvalidSignature(Exception):
    """The body is not what a holder of the secret has signed. `reason` says why; answer 401."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def sign_hub(body: bytes, secret: str) -> dict[str, str]:
    """Return the header that signs a body by x-hub-signature-256."""
    return {"x-hub-signature-256": _hub(body, secret)}


def verify_hub(body: bytes, headers: Mapping[str, str], secrets: Iterable[str]) -> None:
    """Return if the headers hold the signature of this body under one of the secrets.

    Header names are taken in any case. Raises InvalidSignature; ValueError if there is no secret to verify by.
    """
    keys = _given(secrets)
    signature = _header(headers, "x-hub-signature-256")
    if not signature.startswith("sha256="):
        raise InvalidSignature("x-hub-signature-256 does not begin with sha256=")
    if len(signature) != 71:
        raise InvalidSignature("x-hub-signature-256 is not 64 hexadecimal digits long")
    if not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", signature, re.ASCII):
        raise InvalidSignature("x-hub-signature-256 is not hexadecimal")
    _require_one([signature.lower()], [_hub(body, key) for key in keys])


def sign_standard(body: bytes, message_id: str, secrets: Iterable[str], *, at: float | None = None) -> dict[str, str]:
    """Return the headers that sign a body by Standard Webhooks, with one signature for each secret.

    `at` is in seconds since the epoch, now unless given. Raises ValueError for a secret without whsec_ and base64.
    """
    timestamp = str(int(time.time() if at is None else at))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(_standard(message_id, timestamp, body, key) for key in _given(secrets)),
    }


def verify_standard(
    body: bytes,
    headers: Mapping[str, str],
    secrets: Iterable[str],
    *,
    now: float | None = None,
    tolerance: float = TOLERANCE_SECONDS,
) -> None:
    """Return if the headers hold a signature of this body, not older than the tolerance, under one of the secrets.

    Header names are taken in any case; times are in seconds. Raises InvalidSignature; ValueError if there is no
    secret to verify by, or one without whsec_ and base64.
    """
    keys = _given(secrets)
    message_id = _header(headers, "webhook-id")
    timestamp = _header(headers, "webhook-timestamp")
    if not re.fullmatch(r"[0-9]{1,11}", timestamp, re.ASCII):
        raise InvalidSignature("webhook-timestamp is not in seconds")
    signatures = _header(headers, "webhook-signature").split(" ")
    if not any(signature.startswith("v1,") for signature in signatures):
        raise InvalidSignature("webhook-signature has no signature of version v1")
    current = time.time() if now is None else now
    if int(timestamp) < current - tolerance:
        raise InvalidSignature("webhook-timestamp is too old")
    if int(timestamp) > current + tolerance:
        raise InvalidSignature("webhook-timestamp is in the future")
    _require_one(signatures[:_MOST_SIGNATURES], [_standard(message_id, timestamp, body, key) for key in keys])


def _given(secrets: Iterable[str]) -> list[str]:
    found = [secrets] if isinstance(secrets, str) else list(secrets)
    if not found or not all(found):
        raise ValueError("at least one secret is needed, and none may be empty")
    return found


def _header(headers: Mapping[str, str], name: str) -> str:
    """Return a header's value. Of two spellings of one name neither: another reader might take the other."""
    values = [value for key, value in headers.items() if key.lower() == name]
    if len(values) != 1 or not values[0]:
        raise InvalidSignature(f"{name} is missing, or there twice")
    return values[0]


def _hub(body: bytes, secret: str) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _standard(message_id: str, timestamp: str, body: bytes, secret: str) -> str:
    prefix, _, encoded = secret.partition("whsec_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if prefix or not key:
        raise ValueError("a secret of Standard Webhooks is whsec_ and then base64")
    signed = f"{message_id}.{timestamp}.".encode(errors="surrogatepass") + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _require_one(given: list[str], right: list[str]) -> None:
    """Compare each with each, all of them whatever the first says, in a time that tells nothing of either."""
    matches = [
        hmac.compare_digest(one.encode(errors="surrogatepass"), other.encode()) for one in given for other in right
    ]
    if not any(matches):
        raise InvalidSignature("the signature is not one of this body under any of the secrets")
