"""The envelope of a message (RFC 5321 §2.3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from postward.names import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Who sends to whom, and what the content asks of the way. `sender` is None for the null path.

    `require_tls`: REQUIRETLS (RFC 8689). `smtputf8`: the header holds UTF-8 (RFC 6531); that of addresses is seen without it.
    `eight_bit`: the content has octets above 127 (RFC 6152). `size`: octets of the content, 0 where unknown (RFC 1870).
    """

    sender: Address | None
    recipients: tuple[Address, ...]
    require_tls: bool = False
    smtputf8: bool = False
    eight_bit: bool = False
    size: int = 0
