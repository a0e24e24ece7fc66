"""The envelope of a message (RFC 5321 §2.3.1), and what its sender wants to hear of it (RFC 3461)."""

from __future__ import annotations

from dataclasses import dataclass

from postward.model import DsnRequest
from postward.names import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Who sends to whom, and what the content asks of the way. `sender` is None for the null path.

    `require_tls`: REQUIRETLS (RFC 8689). `smtputf8`: the header holds UTF-8 (RFC 6531); that of addresses is seen without it.
    `eight_bit`: the content has octets above 127 (RFC 6152). `size`: octets of the content, 0 where unknown (RFC 1870). Before
    the content was read both are what the client declared. `ret` is `FULL`, `HDRS` or empty, `envid` is xtext as given, and
    `dsn` has one request for each recipient, or none at all (RFC 3461).
    """

    sender: Address | None
    recipients: tuple[Address, ...]
    require_tls: bool = False
    smtputf8: bool = False
    eight_bit: bool = False
    size: int = 0
    ret: str = ""
    envid: str = ""
    dsn: tuple[DsnRequest, ...] = ()
