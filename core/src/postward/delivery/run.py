"""The delivery to one next hop while it goes on: what was tried, what was said, and what that means in the end.

A positive or permanent reply ends a recipient, anything else leaves it open for the next host (RFC 5321 §5.1). What is open at
the end is tried again later, unless every host said the same for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from postward.model import ConnectionReport, Delivery, Destination, RecipientOutcome, TlsPolicy, TlsResult
from postward.names import Address, Domain
from postward.smtp.reply import Reply

if TYPE_CHECKING:
    from postward.delivery.attempt import Session
    from postward.delivery.keep import Keeper
    from postward.delivery.offer import Offer

_TLS_FIRST: Final = 530  # RFC 3207 §4


@dataclass(slots=True)
class Run:
    """The delivery to one next hop, while it goes on."""

    destination: Destination
    offer: Offer
    policies: list[TlsPolicy]
    attempts: list[ConnectionReport] = field(default_factory=list)
    decided: dict[Address, RecipientOutcome] = field(default_factory=dict)
    last_reply: dict[Address, RecipientOutcome] = field(default_factory=dict)
    last_error: str = ""
    keeper: Keeper | None = None
    results: list[TlsResult] | None = None
    hosts: int = 0
    unmet: int = 0
    absent: int = 0
    refused: int = 0

    @property
    def open(self) -> tuple[Address, ...]:
        return tuple(address for address in self.offer.recipients if address not in self.decided)

    def settle(self, session: Session, host: Domain) -> None:
        """Note what a session decided: a positive or permanent reply ends a recipient, anything else leaves it open."""
        if session.error:
            self.last_error = as_reply(session)
        self.unmet += session.requiretls_unmet
        self.refused += session.refused is not None and session.refused.permanent
        for address, reply in zip(self.open, session.replies or (), strict=False):
            outcome = RecipientOutcome(
                address=address,
                delivered=reply.positive,
                permanent=reply.permanent,
                reply=str(reply),
                host=host,
                dsn_relayed=session.dsn_relayed,
            )
            decided = self.decided if reply.positive or reply.permanent else self.last_reply
            decided[address] = outcome

    def finish(self, *, permanent: bool, reply: str) -> Delivery:
        """Decide what is still open: `reply` for all, or else the last word on each, as a temporary failure."""
        for address in self.open:
            last = self.last_reply.get(address)
            if last is None or reply:
                said = reply or self.last_error or f"451 4.4.4 no host of {address.domain} could be tried"
                if not permanent and said.startswith("5"):
                    said = f"451 4.4.1 not every host of {address.domain} could be tried, one said: {said}"
                last = RecipientOutcome(address=address, delivered=False, permanent=permanent, reply=said)
            self.decided[address] = last
        return Delivery(
            recipients=tuple(self.decided[address] for address in self.offer.recipients),
            attempts=tuple(self.attempts),
        )


def not_final(reply: Reply) -> Reply:
    """A server that wants TLS, and with which TLS just broke, may have it mended by the next time."""
    return Reply(451, (f"TLS failed, and without it: {reply}",), "4.7.5") if reply.code == _TLS_FIRST else reply


def as_reply(session: Session) -> str:
    """Our own words in the form of a temporary SMTP reply; a server's reply stays as it is."""
    if session.error[:3].isdigit():
        return session.error
    enhanced = "4.7.5" if session.policy_failed or session.tls_broken else "4.4.1"
    return f"451 {enhanced} {session.error}"
