"""Reports through our own queue: each mail is put there once, and what became of it comes back once.

Outbox and queue are two databases, so each step can be repeated. The id of the mail follows from its target; the queue takes
an id once, and remembers what became of a report until that stands in the outbox.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

import trio

from postward.dkim import NoKey
from postward.model import Delivered
from postward.queue.types import BounceMail, NewMessage, NewRecipient
from postward.reports.mailto import sender_of, signed_mail, wish_for

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.dkim import Signer
    from postward.names import Address, Domain
    from postward.queue.store import Queue
    from postward.queue.types import Job
    from postward.reports.outbox import Claimed, Ended, Outbox

ENDS_AT_ONCE: Final = 200


class Post:
    """Puts mails of `outbox` into `queue`. `queued` is told of each, as by the listeners."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        queue: Queue,
        signer: Signer,
        clock: Clock,
        log: FilteringBoundLogger,
        queued: Callable[[Collection[Domain], Sequence[Job]], None] = lambda _domains, _jobs: None,
    ) -> None:
        self._outbox, self._queue, self._signer, self._clock, self._log = outbox, queue, signer, clock, log
        self.queued = queued

    async def put(self, mails: Sequence[tuple[Claimed, Address]]) -> list[tuple[Claimed, Delivered]]:
        """Put mails into the queue, each target's to its address; those that cannot be, and why. Raises `StoreError`."""
        now = self._clock.now()
        refused: list[tuple[Claimed, Delivered]] = []
        queued: list[tuple[Claimed, BounceMail]] = []
        for claimed, address in mails:
            try:
                queued.append((claimed, self._mail(claimed, address, now)))
            except (NoKey, ValueError) as exc:
                refused.append((claimed, Delivered(accepted=False, detail=str(exc))))
            # Signing takes a while, and others have work to do.
            await trio.lowlevel.checkpoint()
        jobs = await self._queue.put_once([mail for _, mail in queued])
        await self._outbox.hand_over([(claimed, mail.message.cid) for claimed, mail in queued], now)
        for (claimed, mail), new in zip(queued, jobs, strict=True):
            if new is not None:
                cid, target = mail.message.cid, claimed.target.uri
                self._log.info("report-queued", cid=claimed.cid, message=cid, report_id=claimed.report.report_id, target=target)
                self.queued({each.address.domain for each in mail.message.recipients}, new)
        return refused

    def _mail(self, claimed: Claimed, address: Address, now: int) -> BounceMail:
        content = signed_mail(claimed.report, address, signer=self._signer, now=now)
        message = NewMessage(
            cid=cid_of(claimed.key, claimed.position),
            sender=sender_of(claimed.report),
            recipients=(NewRecipient(address=address),),
            received=now,
            eight_bit=not content.isascii(),
            wish=wish_for(claimed.report),
            smtputf8=not address.is_ascii,
            envid=tag_of(claimed.key, claimed.position),
            is_report=True,
        )
        return BounceMail(message=message, content=content)

    async def collect(self) -> list[Ended]:
        """Store what has become of mails, some at a time; those targets whose end that was. Raises `StoreError`."""
        found = await self._queue.report_ends(ENDS_AT_ONCE)
        ended: list[Ended] = []
        for end in found:
            key, _, position = end.envid.partition(".")
            if not position.isdigit():
                continue
            said = " ".join(part for part in (end.reply, f"({end.host})" if end.host else "") if part)
            delivered = Delivered(accepted=end.delivered, permanent=end.permanent, detail=said)
            settled = await self._outbox.settle_queued(key, int(position), delivered, end.attempts, self._clock.now())
            ended += [] if settled is None else [settled]
        if found:
            await self._queue.forget_report_ends([end.cid for end in found])
        return ended


def cid_of(key: str, position: int) -> str:
    """The id of the mail to a target in the queue: always the same, so that it cannot be queued twice."""
    return hashlib.sha256(tag_of(key, position).encode()).hexdigest()[:12]


def tag_of(key: str, position: int) -> str:
    """What a target is called in the envelope (RFC 3461 §4.4, ENVID), and so in notices about its mail."""
    return f"{key}.{position}"
