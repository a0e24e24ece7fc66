"""Whom to tell, and in which message: the glue between what became of a job and the notices of `postward.dsn`.

A notice has the null sender, so nothing can come of it but its own loss (RFC 3464 §2, RFC 3461 §6.2). Of mail that must go over
TLS only the header is returned, and the notice demands TLS as well (RFC 8689 §5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from postward.dkim import signing_domain
from postward.dsn import Action, Notice, Recipient, build, status_of, without_eight_bit
from postward.log import fresh_cid
from postward.model import DsnRequest, DsnWish, TlsWish
from postward.model.content import header_of
from postward.names import Address, Domain
from postward.queue.outcome import Outcome, Told
from postward.queue.types import BounceMail, Job, NewMessage, NewRecipient, QueuedMessage

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.dkim import Signer

RETURNED: Final = 100 * 1024
# As the client words it when a server does not offer 8BITMIME.
_NO_EIGHT_BIT: Final = "554 5.6.3 "
Kind = Literal["failed", "delayed", "relayed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bouncer:
    """Writes the notices of one host, signed where it has a key for its own name."""

    hostname: Domain
    signer: Signer
    clock: Clock
    log: FilteringBoundLogger

    def wishes(self, job: Job) -> DsnWish:
        """What the next host is told of the sender's wishes, should it understand them (RFC 3461 §5.2.1)."""
        requests = tuple(DsnRequest(notify=each.notify, orcpt=each.orcpt) for each in job.recipients)
        return DsnWish(ret=job.message.ret, envid=job.message.envid, requests=requests)

    async def notices(self, job: Job, outcome: Outcome) -> list[BounceMail]:
        """The notices that an outcome asks for, one for each kind; none for mail that nobody is told about."""
        kinds: tuple[tuple[Kind, Sequence[Told]], ...] = (
            ("failed", outcome.failed),
            ("delayed", outcome.delayed),
            ("relayed", outcome.relayed),
        )
        found = [await self.notice(job.message, kind, told) for kind, told in kinds if told]
        if job.message.is_bounce and (plainer := await self._plainer(job, outcome)) is not None:
            found.append(plainer)
        return found

    async def _plainer(self, job: Job, outcome: Outcome) -> BounceMail | None:
        """Our own notice once more in ASCII, where the next host could not take it as it was: it must not be lost to that."""
        message = job.message
        if not any(end.state == "failed" and end.reply.startswith(_NO_EIGHT_BIT) for end in outcome.ends):
            return None
        whole = b"".join([piece async for piece in message.content.pieces()])
        content = without_eight_bit(whole) if message.eight_bit else None
        if content is None:
            return None
        self.log.info("notice-simplified", about=message.cid)
        recipients = tuple(NewRecipient(address=each.address, notify=each.notify) for each in job.recipients)
        return self._mail(content, recipients, message.wish)

    async def notice(self, message: QueuedMessage, kind: Kind, told: Sequence[Told]) -> BounceMail:
        """One notice to the sender of `message`, who must not be the null one."""
        sender = message.sender
        assert sender is not None, "nobody is told about mail from the null sender"
        now = self.clock.now()
        required = message.wish is TlsWish.REQUIRE
        # RET speaks of failures only (RFC 3461 §4.3).
        full = message.ret == "FULL" and kind == "failed" and not required
        content = build(
            Notice(
                kind=kind,
                reporting_mta=self.hostname,
                from_=Address("postmaster", self.hostname),
                to=sender,
                recipients=tuple(_recipient(each, kind, now) for each in told),
                date=now,
                arrival=message.received,
                envid=message.envid,
                original=await _beginning(message) if full else message.content.header,
                full=full,
            )
        )
        recipients = (NewRecipient(address=sender, notify=("NEVER",)),)
        mail = self._mail(content, recipients, TlsWish.REQUIRE if required else TlsWish.FOLLOW)
        self.log.info("notice-queued", notice=kind, to=str(sender), notice_cid=mail.message.cid, about=message.cid)
        return mail

    def _mail(self, content: bytes, recipients: tuple[NewRecipient, ...], wish: TlsWish) -> BounceMail:
        header, now = header_of(content), self.clock.now()
        domain = signing_domain(header, self.signer)
        if domain is not None:
            content = self.signer.sign(content, domain, at=now)
        return BounceMail(
            message=NewMessage(
                cid=fresh_cid(),
                sender=None,
                recipients=recipients,
                received=now,
                eight_bit=not content.isascii(),
                wish=wish,
                smtputf8=not header.isascii(),
                is_bounce=True,
            ),
            content=content,
        )


def _recipient(told: Told, kind: Kind, now: int) -> Recipient:
    action: Action = kind
    return Recipient(
        address=told.recipient.address,
        action=action,
        status="2.0.0" if kind == "relayed" else status_of(told.reply, permanent=kind == "failed"),
        reply=told.reply,
        orcpt=told.recipient.orcpt,
        remote_mta=told.host,
        last_attempt=now,
        will_retry_until=told.retry_until,
    )


async def _beginning(message: QueuedMessage) -> bytes:
    """As much of a message as is returned."""
    if message.content.whole is not None:
        return message.content.whole[:RETURNED]
    kept = bytearray()
    try:
        async for piece in message.content.pieces():
            kept += piece
            if len(kept) >= RETURNED:
                break
    except OSError:
        # Whoever waits for the notice is better off with the header than with nothing.
        return message.content.header
    return bytes(kept[:RETURNED])
