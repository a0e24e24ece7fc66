"""What a message itself asks of TLS (RFC 8689 §3, §4.1)."""

from __future__ import annotations

import re
from typing import Final

from postward.model import TlsWish

_FIELD: Final = re.compile(rb"^tls-required[ \t]*:[ \t]*((?:.|\r?\n[ \t])*)", re.IGNORECASE | re.MULTILINE)
_MAX_HEADER: Final = 1024 * 1024


def header_of(content: bytes) -> bytes:
    """The header section of a message, without the empty line behind it; at most 1 MiB of it."""
    head = content[:_MAX_HEADER]
    if head.startswith((b"\r\n", b"\n")):
        return b""
    ends = [end for end in (head.find(b"\r\n\r\n"), head.find(b"\n\n")) if end >= 0]
    return head[: min(ends)] if ends else head


def wish_of(content: bytes, *, require: bool) -> TlsWish:
    """Which wish a message carries; `require` is REQUIRETLS of its envelope, and overrules the header (RFC 8689 §4.1).

    Several `TLS-Required` fields count only when all say `No`, because the field must not be repeated (§3).
    """
    if require:
        return TlsWish.REQUIRE
    values = [b" ".join(value.split()).lower() for value in _FIELD.findall(header_of(content))]
    return TlsWish.IGNORE if values and all(value == b"no" for value in values) else TlsWish.FOLLOW
