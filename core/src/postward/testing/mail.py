"""Mail hosts in memory: the product's own server, behind it a mailbox, and around it every trouble that the field knows."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from postward.lab.ca import Issued, tlsa
from postward.lab.mx import Behaviour, Mail, Mailbox, MailHost
from postward.names import Address, Domain
from postward.smtp.server import Reply


@dataclass(slots=True)
class MailServer:
    """One MX host. `issued` is its certificate, None where it has none; `mails` is what it took, `sessions` who came.

    `replies` maps a recipient, or the word `MAIL`, to what is answered, such as `"451 4.7.1 later"`. Change `behaviour`,
    `replies` and `domains` at any time; they act from the next connection on.
    """

    name: Domain
    address: str
    domains: set[Domain]
    issued: Issued | None
    behaviour: Behaviour = Behaviour.NORMAL
    replies: Mapping[str, str] = field(default_factory=dict)
    sessions: int = 0
    mailbox: Mailbox = field(default_factory=Mailbox)
    _context: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def mails(self) -> list[Mail]:
        """What it took, oldest first."""
        return self.mailbox.mails

    def to(self, recipient: str) -> list[Mail]:
        """What it took for one address."""
        return self.mailbox.to(Address.parse(recipient))

    def tlsa(self, usage: int = 3, selector: int = 1, matching: int = 1) -> str:
        """The data of a TLSA record for its certificate, for DANE (RFC 6698 §2.2). Raises `ValueError` without one."""
        if self.issued is None:
            raise ValueError(f"{self.name} has no certificate")
        return tlsa(self.issued.certificate, usage, selector, matching)

    def renew(self, issued: Issued | None) -> None:
        """Show another certificate from now on; None for no TLS at all."""
        self.issued, self._context = issued, None

    async def __call__(self, transport: trio.abc.Stream) -> None:
        """Serve one connection."""
        self.sessions += 1
        host = MailHost(
            name=self.name,
            domains=frozenset(self.domains),
            context=self._server_context(),
            mailbox=self.mailbox,
            behaviour=self.behaviour,
            replies={who: _reply(text) for who, text in self.replies.items()},
        )
        await host.answering()(transport, "192.0.2.250")

    def _server_context(self) -> ssl.SSLContext | None:
        if self.issued is None:
            return None
        if self.behaviour is not Behaviour.NORMAL:  # which may change it
            return self.issued.server_context()
        if self._context is None:
            self._context = self.issued.server_context()
        return self._context


def _reply(text: str) -> Reply:
    """`451 4.7.1 later` as a reply; the enhanced code may be missing."""
    code, _, rest = text.partition(" ")
    enhanced, _, words = rest.partition(" ")
    if enhanced.count(".") == 2 and enhanced.replace(".", "").isdigit():
        return Reply(int(code), (words,), enhanced)
    return Reply(int(code), (rest,))
