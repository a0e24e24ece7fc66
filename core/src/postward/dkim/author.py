"""Which domain signs a message: that of its author, or the nearest above it with a key (RFC 6376 §6.3, RFC 9989 §4.4).

What a reader takes for the author is what counts, so anything but one plain address in one From field is left unsigned.
"""

from __future__ import annotations

import re
from typing import Final

from postward.dkim.canonical import fields_of
from postward.dkim.sign import Signer
from postward.errors import InvalidName
from postward.names import Domain

_MAX_VALUE: Final = 10_000
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\\.|[()]|[^"\\()]+|"', re.DOTALL)
_NAMED: Final = re.compile(r"[^<>,:;]*<\s*[^<>,:;@\s]+\s*@([^<>,:;@]+)>\s*")
_BARE: Final = re.compile(r"\s*[^<>,:;@\s]+\s*@([^<>,:;@]+)")


def signing_domain(header: bytes, signer: Signer) -> Domain | None:
    """The domain to sign with: of the single address in the single From field, or the nearest above it that has a key.

    A domain above still aligns for DMARC when alignment is relaxed. None where there is no key, and for no author or several.
    """
    domain = author_domain(header)
    while domain is not None and domain not in signer.domains:
        domain = domain.parent
    return domain


def author_domain(header: bytes) -> Domain | None:
    """The domain of the author; None when From is missing, repeated, or not one address."""
    values = [field.value for field in fields_of(header) if field.name == b"from"]
    if len(values) != 1 or len(values[0]) > _MAX_VALUE:
        return None
    plain = _without_comments(values[0].decode("utf-8", "replace"))
    match = _NAMED.fullmatch(plain) or _BARE.fullmatch(plain)
    if match is None:
        return None
    try:
        return Domain("".join(match[1].split()))
    except InvalidName:
        return None


def _without_comments(text: str) -> str:
    """The text without comments, with a letter for each quoted string, so that what is left has no hidden signs."""
    depth, kept = 0, ""
    for token in _TOKEN.findall(text):
        if token == '"':  # without its other end
            return ""
        if token == "(":
            depth += 1
        elif token == ")":
            depth -= 1
        elif depth == 0:
            kept += "q" if token[0] == '"' else token
    return kept if depth == 0 else ""
