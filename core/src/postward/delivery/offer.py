"""What one delivery is for: a message, the recipients that are still open, and what it asks of the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from postward.model import Content, DsnRequest, Message, TlsWish
from postward.model.content import as_content
from postward.names import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one connection is for: a message and the recipients still open, or only a look (`message` None).

    `requests` are the wishes of RFC 3461 for each recipient, empty for none at all.
    """

    message: Message | None
    recipients: tuple[Address, ...]
    wish: TlsWish
    content: Content | None = None
    smtputf8: bool = False
    requests: Mapping[Address, DsnRequest] = field(default_factory=dict)

    @property
    def is_report(self) -> bool:
        """Whether it is for mail that is itself a report."""
        return self.message is not None and self.message.is_report

    @property
    def insists(self) -> bool:
        """Whether it must not go without REQUIRETLS. A bounce rather goes without than not at all (RFC 8689 §5)."""
        return self.wish is TlsWish.REQUIRE and (self.message is None or self.message.sender is not None)


def offer_of(message: Message, recipients: tuple[Address, ...]) -> Offer:
    """What is to be done with a message at one next hop."""
    content, wish = as_content(message.content), message.dsn
    requests = dict(zip(message.recipients, wish.requests, strict=True)) if wish and wish.requests else {}
    return Offer(
        message=message,
        recipients=recipients,
        wish=message.wish,
        content=content,
        smtputf8=_in_utf8(content.header),
        requests=requests,
    )


def _in_utf8(header: bytes) -> bool:
    """Whether a header needs SMTPUTF8: it has UTF-8. Octets of any other kind are no such text (RFC 6532 §3.2)."""
    try:
        return not header.decode().isascii()
    except UnicodeDecodeError:
        return False
