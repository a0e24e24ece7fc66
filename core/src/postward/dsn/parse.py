"""Read a delivery status notification, ours or anybody's (RFC 3464 §2, RFC 6522 §3, RFC 6533 §4).

Other systems get details wrong in many ways: what can be understood is taken, the rest is empty. Only the first MiB is looked
at, in which the report stands even when a large message is returned behind it.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from postward.dsn.fields import from_embedded
from postward.dsn.original import message_id_of
from postward.errors import PostwardError
from postward.model import MICROSECONDS

LARGEST: Final = 1 << 20
MAX_RECIPIENTS: Final = 1000
_MAX_DEPTH: Final = 4
_MAX_PARTS: Final = 50
_MAX_FIELDS: Final = 100
_MAX_VALUE: Final = 2000
_BOUNDARY: Final = re.compile(r'(?i);\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
_FOLD: Final = re.compile(rb"\r?\n(?=[ \t])")
_EMPTY: Final = re.compile(rb"(?:^|\n)[ \t]*\r?\n")
_STATUS: Final = re.compile(r"(?<![0-9.])([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9.])")
_ACTIONS: Final = frozenset({"failed", "delayed", "delivered", "relayed", "expanded"})
_ACTION_OF: Final = {"2": "delivered", "4": "delayed", "5": "failed"}
_STATUS_TYPES: Final = ("message/delivery-status", "message/global-delivery-status")
_RETURNED_TYPES: Final = ("message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers")


class NotStatusReport(PostwardError):
    """A message that is no delivery status notification, or has nothing in it that could be understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientStatus:
    """What a report says of one recipient; what it does not say is empty or 0.

    `recipient` is the final address, `original` the one that the sender used, both without their types; `action` and `status`
    are always there, one guessed from the other where it must be. Instants are in microseconds.
    """

    recipient: str
    action: str
    status: str
    original: str = ""
    remote_mta: str = ""
    diagnostic: str = ""
    last_attempt: int = 0
    will_retry_until: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """What a report says: about which message, and what became of each of at most 1000 recipients.

    `message_id` is that of the message that is returned, with its brackets; texts are a stranger's and may hold anything.
    """

    reporting_mta: str
    envelope_id: str
    arrival: int
    message_id: str
    recipients: tuple[RecipientStatus, ...]


def parse(content: bytes) -> StatusReport:
    """Read a report. Raises `NotStatusReport`, and nothing else."""
    status: bytes | None = None
    message_id = ""
    for media_type, data in _leaves(content[:LARGEST]):
        if media_type in _STATUS_TYPES and status is None:
            status = data
        elif media_type in _RETURNED_TYPES and status is not None:
            message_id = message_id_of(data)
            break
    if status is None:
        raise NotStatusReport("no delivery report in the message")
    about: Mapping[str, str] = {}
    recipients: list[RecipientStatus] = []
    for fields in _blocks(status):
        if "final-recipient" not in fields and "original-recipient" not in fields:
            about = about or fields
        elif len(recipients) < MAX_RECIPIENTS and (recipient := _recipient(fields)) is not None:
            recipients.append(recipient)
    if not recipients:
        raise NotStatusReport("a delivery report about nobody")
    return StatusReport(
        reporting_mta=_untyped(about.get("reporting-mta", "")),
        envelope_id=about.get("original-envelope-id", ""),
        arrival=_instant(about.get("arrival-date", "")),
        message_id=message_id,
        recipients=tuple(recipients),
    )


def _recipient(fields: Mapping[str, str]) -> RecipientStatus | None:
    match = _STATUS.search(fields.get("status", ""))
    status = match[1] if match else ""
    action = fields.get("action", "").partition("(")[0].strip().lower()
    if action not in _ACTIONS:
        action = _ACTION_OF.get(status[:1], "")
    final, original = _address(fields.get("final-recipient", "")), _address(fields.get("original-recipient", ""))
    if not action or not (final or original):
        return None
    return RecipientStatus(
        recipient=final or original,
        action=action,
        status=status or {"failed": "5.0.0", "delayed": "4.0.0"}.get(action, "2.0.0"),
        original=original,
        remote_mta=_untyped(fields.get("remote-mta", "")),
        diagnostic=_untyped(fields.get("diagnostic-code", "")),
        last_attempt=_instant(fields.get("last-attempt-date", "")),
        will_retry_until=_instant(fields.get("will-retry-until", "")),
    )


def _untyped(value: str) -> str:
    kind, semicolon, text = value.partition(";")
    return text.strip() if semicolon and " " not in kind.strip() else value.strip()


def _address(value: str) -> str:
    text = _untyped(value)
    if value.lower().lstrip().startswith("utf-8"):
        text = from_embedded(text)
    return text[1:-1] if text.startswith("<") and text.endswith(">") else text


def _instant(value: str) -> int:
    try:
        moment = parsedate_to_datetime(value)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * MICROSECONDS
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0


def _blocks(data: bytes) -> Iterator[Mapping[str, str]]:
    """The groups of fields between empty lines; of equal fields the first counts."""
    for block in _EMPTY.split(data.strip(b"\r\n")):
        fields: dict[str, str] = {}
        for line in _FOLD.sub(b"", block).splitlines()[:_MAX_FIELDS]:
            name, colon, value = line[:_MAX_VALUE].partition(b":")
            if colon:
                fields.setdefault(name.decode("ascii", "replace").strip().lower(), value.decode("utf-8", "replace").strip())
        if fields:
            yield fields


def _leaves(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Media type and decoded content of the parts that are not multipart, in order, without recursion into messages."""
    todo, seen = [(content, 0)], 0
    while todo and seen < _MAX_PARTS:
        part, depth = todo.pop()
        seen += 1
        header, body = _divided(part)
        media_type, boundary = _type(header)
        if media_type.startswith("multipart/") and boundary and depth < _MAX_DEPTH:
            todo += [(piece, depth + 1) for piece in reversed(_pieces(body, boundary))]
        else:
            yield media_type, _decoded(body, _field(header, b"content-transfer-encoding"))


def _divided(part: bytes) -> tuple[bytes, bytes]:
    match = _EMPTY.search(part)
    return (part, b"") if match is None else (part[: match.start()], part[match.end() :])


def _field(header: bytes, name: bytes) -> str:
    for line in _FOLD.sub(b"", header).split(b"\n"):
        start, colon, value = line.partition(b":")
        if colon and start.strip().lower() == name:
            return value[:_MAX_VALUE].decode("latin-1").strip()
    return ""


def _type(header: bytes) -> tuple[str, str]:
    value = _field(header, b"content-type")
    match = _BOUNDARY.search(value)
    boundary = "" if match is None else re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2]
    return value.partition(";")[0].strip().lower(), boundary


def _pieces(body: bytes, boundary: str) -> list[bytes]:
    """What stands between the lines of a boundary, at most 50 pieces."""
    mark = re.compile(rb"(?m)^--" + re.escape(boundary.encode("latin-1")) + rb"(--)?[ \t]*\r?$\n?")
    pieces: list[bytes] = []
    start = -1
    for match in mark.finditer(body):
        if start >= 0:
            pieces.append(body[start : match.start()])
        start = match.end()
        if match[1] or len(pieces) >= _MAX_PARTS:
            return pieces
    return [*pieces, body[start:]] if start >= 0 else []


def _decoded(body: bytes, encoding: str) -> bytes:
    try:
        if encoding.lower() == "base64":
            return binascii.a2b_base64(body)
        return binascii.a2b_qp(body) if encoding.lower() == "quoted-printable" else body
    except binascii.Error:
        return body
