"""Failure reports: one message that failed, in the form of ARF (RFC 5965, RFC 6591, RFC 9991 §4)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from postward.errors import PostwardError
from postward.model import MICROSECONDS

MAX_FIELDS: Final = 500
MAX_VALUE: Final = 1000
MAX_HEADER: Final = 64 * 1024
_FIELD: Final = re.compile(rb"([!-9;-~]{1,76})[ \t]*:[ \t]*(.*)", re.DOTALL)
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_LINE: Final = re.compile(rb"\r?\n|\r")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/=\s]+")
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_TYPES: Final = frozenset({"adsp", "bodyhash", "revoked", "signature", "spf", "dmarc"})


class FailureError(PostwardError):
    """A part that is no feedback report."""


class Failure(msgspec.Struct, frozen=True):
    """What was said of one message. `arrival` is microseconds UTC, 0 where unknown; texts are a stranger's, bounded, one line.

    `auth_failure` says what failed: `dmarc`, or a mechanism by itself. The header fields are those of the message, if it came.
    """

    feedback_type: str
    user_agent: str
    version: str
    auth_failure: tuple[str, ...]
    delivery_result: str
    identity_alignment: tuple[str, ...]
    source_ip: str
    arrival: int
    incidents: int
    reported_domain: str
    mail_from: str
    rcpt_to: tuple[str, ...]
    dkim_domain: str
    dkim_selector: str
    dkim_identity: str
    spf_dns: str
    auth_results: tuple[str, ...]
    header_from: str
    subject: str
    message_id: str
    defects: tuple[str, ...]


def read_failure(part: bytes, message: bytes = b"") -> Failure:
    """Read a part `message/feedback-report`; `message` is the one it is about, or its header. Raises `FailureError`."""
    defects: set[str] = set()
    fields = _fields(_plain(part, defects))
    header = _fields(message[:MAX_HEADER].split(b"\r\n\r\n")[0].split(b"\n\n")[0])
    kind = _one(fields, "feedback-type", defects, once=True).lower()
    if not kind:
        raise FailureError("no Feedback-Type")
    failures = tuple(word for value in fields.get("auth-failure", ()) for word in re.split(r"[\s,]+", value.lower()) if word)
    if kind == "auth-failure" and not set(failures) & _TYPES:
        defects.add("auth-failure-missing")
    return Failure(
        feedback_type=kind,
        user_agent=_one(fields, "user-agent", defects, once=True),
        version=_one(fields, "version", defects, once=True),
        auth_failure=failures[:10],
        delivery_result=_one(fields, "delivery-result", defects).lower(),
        identity_alignment=_words(_one(fields, "identity-alignment", defects)),
        source_ip=_one(fields, "source-ip", defects),
        arrival=_instant(_one(fields, "arrival-date", defects) or _one(fields, "received-date", defects), defects),
        incidents=_number(_one(fields, "incidents", defects), defects),
        reported_domain=_one(fields, "reported-domain", defects).lower(),
        mail_from=_one(fields, "original-mail-from", defects),
        rcpt_to=tuple(fields.get("original-rcpt-to", ())[:100]),
        dkim_domain=_one(fields, "dkim-domain", defects).lower(),
        dkim_selector=_one(fields, "dkim-selector", defects),
        dkim_identity=_one(fields, "dkim-identity", defects),
        spf_dns=_one(fields, "spf-dns", defects),
        auth_results=tuple(fields.get("authentication-results", ())[:20]),
        header_from=_one(header, "from", set()),
        subject=_one(header, "subject", set()),
        message_id=_one(header, "message-id", set()),
        defects=tuple(sorted(defects)),
    )


def _plain(part: bytes, defects: set[str]) -> bytes:
    """The part as text: several programs write base64 and do not say so, which RFC 5965 §2 forbids anyway."""
    text = part.strip()
    if b":" in text or not _BASE64.fullmatch(text):
        return text
    try:
        decoded = base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError):
        return text
    defects.add("arf-base64")
    return decoded


def _fields(text: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for number, line in enumerate(_LINE.split(_FOLD.sub(b" ", text))):
        if number >= MAX_FIELDS:
            break
        if match := _FIELD.fullmatch(line):
            value = _UNSEEN.sub(" ", match[2].strip().decode("utf-8", "replace"))[:MAX_VALUE]
            found.setdefault(match[1].decode("ascii").lower(), []).append(value)
    return found


def _one(fields: dict[str, list[str]], name: str, defects: set[str], *, once: bool = False) -> str:
    values = fields.get(name, [])
    if len(values) > 1 or (once and not values):
        defects.add("arf-field-count")
    return values[0] if values else ""


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[\s,]+", text.lower()) if word)[:10]


def _number(text: str, defects: set[str]) -> int:
    if not text:
        return 1
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    defects.add("count-not-a-count")
    return 1


def _instant(text: str, defects: set[str]) -> int:
    if not text:
        return 0
    try:
        return max(int(parsedate_to_datetime(text).timestamp() * MICROSECONDS), 0)
    except (ValueError, TypeError, OverflowError, IndexError):
        defects.add("date-format")
        return 0


def header_part(parts: Sequence[tuple[str, bytes]]) -> bytes:
    """Of the parts that follow a feedback report, the message that it is about, or its header."""
    return next((data for kind, data in parts if kind in ("message/rfc822", "text/rfc822-headers", "message/global")), b"")
