"""What becomes of the messages that were tried: stored with its results and notices, then counted and told in the log."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from postward.errors import StoreError
from postward.model import MICROSECONDS

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.model import Delivery, TlsResult
    from postward.names import Domain
    from postward.queue.bounce import Bouncer
    from postward.queue.outcome import Outcome
    from postward.queue.store import Queue
    from postward.queue.types import BounceMail, Job

AFTER_TROUBLE: Final = 5.0


@dataclass(slots=True)
class RunnerCounts:
    """What has happened since the start, and what goes on now."""

    delivered: int = 0
    deferred: int = 0
    failed: int = 0
    lanes: int = 0
    destinations: int = 0


class Endings:
    """Writes them down. `announce` is told the destinations of notices, `delivered_after` how many seconds a delivery took."""

    def __init__(
        self,
        queue: Queue,
        bouncer: Bouncer,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        counts: RunnerCounts,
        announce: Callable[[Collection[Domain]], None],
        delivered_after: Callable[[float], None],
    ) -> None:
        self._queue, self._bouncer, self._clock, self._log = queue, bouncer, clock, log
        self._counts, self._announce, self._delivered_after = counts, announce, delivered_after

    async def write(self, job: Job, delivery: Delivery, outcome: Outcome, results: list[TlsResult]) -> None:
        """Store what became of a job, however long that takes: until then, it must not be done again."""
        # What a server has taken would be sent again if the end of the program came in between.
        with trio.CancelScope(shield=True):
            bounces = await self._notices(job, outcome)
            stored = await self._store(job, outcome, results, bounces)
        while not stored:
            await trio.sleep(AFTER_TROUBLE)
            stored = await self._store(job, outcome, results, bounces)
        if bounces:
            self._announce({recipient.address.domain for mail in bounces for recipient in mail.message.recipients})
        self._tell(job, delivery, outcome)

    async def _notices(self, job: Job, outcome: Outcome) -> list[BounceMail]:
        try:
            return await self._bouncer.notices(job, outcome)
        except Exception:  # noqa: BLE001 - a notice that cannot be written must not have the message sent again
            self._log.exception("notice-not-written", sender=str(job.message.sender))
            return []

    async def _store(self, job: Job, outcome: Outcome, results: list[TlsResult], bounces: list[BounceMail]) -> bool:
        try:
            await self._queue.settle(job, outcome.ends, results=results, bounces=bounces)
        except StoreError as exc:
            self._log.error("outcome-not-stored", error=str(exc), again_in_seconds=AFTER_TROUBLE)
        except ValueError:
            if not bounces:
                raise
            self._log.exception("notice-not-written", sender=str(job.message.sender))
            bounces.clear()
            return await self._store(job, outcome, results, bounces)
        else:
            return True
        return False

    def _tell(self, job: Job, delivery: Delivery, outcome: Outcome) -> None:
        now = self._clock.now()
        for recipient, end in zip(job.recipients, outcome.ends, strict=True):
            if end.state == "delivered":
                self._counts.delivered += 1
                self._delivered_after((now - job.message.received) / MICROSECONDS)
            elif end.state == "failed":
                self._counts.failed += 1
                if job.message.sender is None:
                    # Nobody is told by mail, so at least whoever reads the log is.
                    self._log.error("undeliverable-for-good", recipient=str(recipient.address), bounce=job.message.is_bounce)
            else:
                self._counts.deferred += 1
            self._log.info(
                f"message-{end.state}",
                sender=str(job.message.sender or "<>"),
                recipient=str(recipient.address),
                host=end.host or (str(delivery.attempts[-1].host) if delivery.attempts else ""),
                reply=end.reply,
                attempt=recipient.attempts + 1,
                waited_seconds=(now - job.message.received) // MICROSECONDS,
                again_in_seconds=(end.next_try - now) // MICROSECONDS if end.next_try else None,
            )
