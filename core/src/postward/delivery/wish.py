"""What a message itself asks of TLS (RFC 8689 §3, §4.1)."""

from __future__ import annotations

import re
from typing import Final

from postward.model import TlsWish
from postward.model.content import header_of

_FIELD: Final = re.compile(rb"^tls-required[ \t]*:[ \t]*((?:.|\r?\n[ \t])*)", re.IGNORECASE | re.MULTILINE)


def wish_of(content: bytes, *, require: bool) -> TlsWish:
    """Which wish a message carries; `require` is REQUIRETLS of its envelope, and overrules the header (RFC 8689 §4.1).

    Several `TLS-Required` fields count only when all say `No`, because the field must not be repeated (§3).
    """
    if require:
        return TlsWish.REQUIRE
    values = [b" ".join(value.split()).lower() for value in _FIELD.findall(header_of(content))]
    return TlsWish.IGNORE if values and all(value == b"no" for value in values) else TlsWish.FOLLOW
