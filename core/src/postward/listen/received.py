"""The trace of a message: its Received field, the count of those before, and what a submitted message lacks
(RFC 5321 §4.4, §6.3; RFC 6409 §8; RFC 8689 §4.1).

What the client said of itself is a stranger's text: it stands in the field only where it is a name, and otherwise in a comment,
without anything that ends one.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Final

from postward.errors import InvalidName
from postward.model import MICROSECONDS, TlsInfo
from postward.names import Address, Domain, IpAddress

_LINE: Final = 78
_MAX_SHOWN: Final = 255
_NOT_IN_COMMENTS: Final = re.compile(r"[^!-'*-\[\]-~]")
_PROTOCOL: Final = re.compile(r"[A-Za-z0-9]{1,20}")
_ID: Final = re.compile(r"[A-Za-z0-9.-]{1,64}")
_RECEIVED: Final = re.compile(rb"(?im)^received[ \t]*:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How a message came in.

    `helo` is as the client said it; `peer` is None on a unix socket; `protocol` is a word of the registry of RFC 3848, such as
    `ESMTPSA`; `cid` names the message; `recipient` is its only one or None; `received` is in microseconds.
    """

    helo: str
    peer: IpAddress | None
    tls: TlsInfo | None
    protocol: str
    hostname: Domain
    cid: str
    received: int
    recipient: Address | None = None
    require_tls: bool = False


def received_field(arrival: Arrival) -> bytes:
    """The Received field, folded, with its CRLF. A recipient outside ASCII makes it UTF-8 (RFC 6532).

    Raises `ValueError` for a protocol or a cid that cannot stand in it.
    """
    if _PROTOCOL.fullmatch(arrival.protocol) is None or _ID.fullmatch(arrival.cid) is None:
        raise ValueError("a protocol or an id that is no atom")
    clauses = [_from(arrival), f"by {_literal_or_name(arrival.hostname)}", f"with {arrival.protocol}"]
    if arrival.tls is not None:
        clauses.append(f"({_shown(arrival.tls.protocol)} cipher {_shown(arrival.tls.cipher)})")
    if arrival.require_tls:
        clauses.append("(requiretls)")
    clauses.append(f"id {arrival.cid}")
    if arrival.recipient is not None:
        clauses.append(f"for <{arrival.recipient}>")
    clauses[-1] += ";"
    clauses.append(_date(arrival.received))
    return f"{_folded('Received', clauses)}\r\n".encode("utf-8", "replace")


def count_hops(header: bytes) -> int:
    """How many Received fields a header section holds, to notice a loop."""
    return sum(1 for _ in _RECEIVED.finditer(header))


def complete(header: bytes, hostname: Domain, now: int) -> bytes:
    """The fields to put in front of a submitted message that lacks Date or Message-ID; empty when it has both.

    `now` is in microseconds.
    """
    fields = b""
    if not _has(header, b"date"):
        fields += f"Date: {_date(now)}\r\n".encode()
    if not _has(header, b"message-id"):
        right = f"[{hostname[1:-1]}]" if hostname.is_literal else hostname
        fields += f"Message-ID: <{secrets.token_hex(16)}@{right}>\r\n".encode()
    return fields


def _has(header: bytes, name: bytes) -> bool:
    return re.search(rb"(?im)^" + name + rb"[ \t]*:", header) is not None


def _from(arrival: Arrival) -> str:
    """`from helo ([address])`: what is no name goes into the comment (RFC 5321 §4.4, TCP-info)."""
    literal = "" if arrival.peer is None else _literal(arrival.peer)
    try:
        return f"from {_literal_or_name(Domain(arrival.helo))}{f' ({literal})' if literal else ''}"
    except InvalidName:
        said = f"helo={_shown(arrival.helo)}"
        return f"from {literal} ({said})" if literal else f"from localhost ({said})"


def _literal(ip: IpAddress) -> str:
    return f"[IPv6:{ip.compressed.partition('%')[0]}]" if ip.version == 6 else f"[{ip}]"


def _literal_or_name(domain: Domain) -> str:
    return _literal(domain.ip) if domain.is_literal else str(domain)


def _shown(text: str) -> str:
    """A stranger's text as one word of a comment: no blanks, brackets, backslashes, controls or octets above 127."""
    return _NOT_IN_COMMENTS.sub("?", text[:_MAX_SHOWN]) or "-"


def _date(instant: int) -> str:
    return _date_of(instant // MICROSECONDS)


@lru_cache(maxsize=4)
def _date_of(second: int) -> str:
    return format_datetime(datetime.fromtimestamp(second, UTC))


def _folded(name: str, clauses: list[str]) -> str:
    lines, line = [], f"{name}:"
    for clause in clauses:
        if len(line) + 1 + len(clause) > _LINE and line != f"{name}:":
            lines.append(line)
            line = "\t" + clause
        else:
            line += " " + clause
    return "\r\n".join([*lines, line])
