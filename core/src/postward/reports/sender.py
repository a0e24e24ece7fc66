"""Send what the outbox holds: several targets side by side, each leased, sent, settled and told.

A plugin may send a report its own way (`deliver_report`); otherwise core posts to `https:`, and puts the mail for `mailto:`
into the queue, where there is one that is being delivered, or delivers it at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from postward import hookspecs
from postward.errors import StoreError
from postward.model import MICROSECONDS, Delivered
from postward.names import Address
from postward.reports.https import send_https
from postward.reports.mailto import Send, send_mail
from postward.reports.outbox import LEASE, Claimed, Ended, Outbox
from postward.reports.rows import MAIL, WEB, State
from postward.reports.targets import BadTarget, MailTarget, parse_target

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.dkim import Signer
    from postward.hooks import Hooks
    from postward.http import HttpClient
    from postward.reports.post import Post

AT_ONCE: Final = 8
# What only goes into the queue shares its transactions.
QUEUED_AT_ONCE: Final = 64
ASK_QUEUE_EVERY: Final = 5.0
_LOOK_AGAIN: Final = 60 * MICROSECONDS
_AFTER_TROUBLE: Final = 10.0
# As long as a database server takes to restart, seconds.
_SETTLE_AGAIN: Final = (1.0, 4.0, 15.0, 40.0, 60.0)


@dataclass(slots=True)
class SendRun:
    """What one pass over the outbox came to: targets by how their attempt ended; `later` will be tried again.

    `queued` are mails that the queue has now; what becomes of them is told when it is known.
    """

    queued: int = 0
    delivered: int = 0
    failed: int = 0
    suppressed: int = 0
    later: int = 0


class Sender:
    """Sends due targets. `send` delivers one message at once; `post` takes them into the queue instead.

    `private_addresses` lets HTTPS reach private networks. `counted` is told the kind of report and the outcome of each attempt.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        hooks: Hooks,
        clock: Clock,
        signer: Signer,
        http: HttpClient,
        send: Send,
        post: Post | None = None,
        log: FilteringBoundLogger,
        private_addresses: bool = False,
        at_once: int = AT_ONCE,
        counted: Callable[[str, str], None] = lambda kind, outcome: None,
    ) -> None:
        self._outbox, self._hooks, self._clock, self._log = outbox, hooks, clock, log
        self._signer, self._http, self._send, self._private = signer, http, send, private_addresses
        self._post, self._at_once, self._counted = post, at_once, counted
        self._kicked = trio.Event()

    def kick(self) -> None:
        """Look into the outbox now, because something was put there."""
        kicked, self._kicked = self._kicked, trio.Event()
        kicked.set()

    async def send_due(self, told: Callable[[], None] = lambda: None) -> SendRun:
        """Send everything that is due now, and return when every attempt has ended; `told` is called for each of them.

        Raises `StoreError`.
        """
        run, errors = SendRun(), list[StoreError]()

        async def worker(nursery: trio.Nursery, way: str, batch: int, more: int) -> None:
            """Work, and bring in the next hand, up to `more` of them, when there was something to do."""
            try:
                while items := await self._outbox.claim_some(self._clock.now(), batch, way):
                    if more:
                        nursery.start_soon(worker, nursery, way, batch, more - 1)
                        more = 0
                    await self._attempt(run, items)
                    for _ in items:
                        told()
            except StoreError as exc:
                errors.append(exc)

        # A plugin that sends takes its time, so nothing else may wait behind it with a lease that runs.
        batch = 1 if self._post is None or self._hooks.plugins_for(hookspecs.deliver_report) else QUEUED_AT_ONCE
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker, nursery, MAIL, batch, self._at_once - 1)
            nursery.start_soon(worker, nursery, WEB, 1, self._at_once - 1)
        if errors:
            raise errors[0]
        return run

    async def collect(self) -> SendRun:
        """Store and tell what has become of the mails in the queue. Raises `StoreError`."""
        run = SendRun()
        if self._post is not None:
            while ended := await self._post.collect():
                for each in ended:
                    await self._told(run, each)
            for each in await self._outbox.give_up_silent(self._clock.now()):
                await self._told(run, each)
        return run

    async def run_forever(self) -> None:
        """Send whatever becomes due, for the life of the program."""
        async with trio.open_nursery() as nursery:
            if self._post is not None:
                nursery.start_soon(self._collect_forever)
            await self._send_forever()

    async def _collect_forever(self) -> None:
        while True:
            try:
                await self.collect()
            except StoreError as exc:
                self._log.error("outbox-unusable", error=str(exc))
            await trio.sleep(ASK_QUEUE_EVERY)

    async def _send_forever(self) -> None:
        while True:
            kicked = self._kicked
            try:
                await self.send_due()
                due = await self._outbox.next_due()
            except StoreError as exc:
                self._log.error("outbox-unusable", error=str(exc))
                await trio.sleep(_AFTER_TROUBLE)
                continue
            # Another node may have put reports there, so look again even if nothing is due for us.
            until = min(due or math.inf, self._clock.now() + _LOOK_AGAIN)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait, int(until), nursery.cancel_scope)
                await kicked.wait()
                nursery.cancel_scope.cancel()

    async def _wait(self, until: int, scope: trio.CancelScope) -> None:
        await self._clock.sleep_until(until)
        scope.cancel()

    async def _attempt(self, run: SendRun, items: Sequence[Claimed | Ended]) -> None:
        mails: list[tuple[Claimed, Address]] = []
        for item in items:
            if isinstance(item, Ended):
                await self._told(run, item)
            elif (address := await self._attempt_one(run, item)) is not None:
                mails.append((item, address))
        if mails and self._post is not None:
            refused = await self._post.put(mails)
            run.queued += len(mails) - len(refused)
            turned_away = {id(claimed) for claimed, _ in refused}
            for claimed, _ in mails:
                if id(claimed) not in turned_away:
                    self._counted(claimed.report.kind, "queued")
            for claimed, delivered in refused:
                await self._end(run, claimed, delivered, self._bound(claimed))

    async def _attempt_one(self, run: SendRun, claimed: Claimed) -> Address | None:
        """Make one attempt; where it is for the queue to make, whom the mail is for."""
        log = self._bound(claimed)
        # Longer than the lease would mean that another node sends beside us.
        with trio.move_on_after(LEASE / MICROSECONDS * 0.9):
            try:
                delivered = await self._deliver(claimed)
            except StoreError:
                raise
            except Exception as exc:  # noqa: BLE001 - it must not end the attempts beside it, which may have been accepted
                log.error("report-attempt-failed", error=repr(exc))
                delivered = Delivered(accepted=False, detail=f"{type(exc).__name__} while sending")
            if isinstance(delivered, Address):
                return delivered
            await self._end(run, claimed, delivered, log)
            return None
        log.warning("report-attempt-too-long", attempt=claimed.attempts)
        self._counted(claimed.report.kind, "later")
        run.later += 1
        return None

    async def _end(self, run: SendRun, claimed: Claimed, delivered: Delivered, log: FilteringBoundLogger) -> None:
        ended = await self._settle(claimed, delivered, log)
        if ended is None and not delivered.accepted:
            log.info("report-later", attempt=claimed.attempts, detail=delivered.detail)
        if ended is None:
            self._counted(claimed.report.kind, "later")
        await self._told(run, ended)

    def _bound(self, claimed: Claimed) -> FilteringBoundLogger:
        return self._log.bind(cid=claimed.cid, report_id=claimed.report.report_id, target=claimed.target.uri)

    async def _settle(self, claimed: Claimed, delivered: Delivered, log: FilteringBoundLogger) -> Ended | None:
        """Store how an attempt ended, also while the program is ending or the database is away for a moment.

        What is sent and not stored would be sent again.
        """
        for pause in _SETTLE_AGAIN:
            try:
                with trio.CancelScope(shield=True):
                    return await self._outbox.settle(claimed, delivered, self._clock.now())
            except StoreError as exc:
                log.warning("report-not-settled", accepted=delivered.accepted, error=str(exc), again_in=pause)
            await trio.sleep(pause)
        return await self._outbox.settle(claimed, delivered, self._clock.now())

    async def _deliver(self, claimed: Claimed) -> Delivered | Address:
        """How an attempt ended; whom the mail is for where the queue is to have it."""
        report, target = claimed.report, claimed.target
        outcome = await self._hooks.first(hookspecs.deliver_report, report=report, target=target)
        if outcome is not None and outcome.error is not None:
            return Delivered(accepted=False, detail=f"plugin {outcome.plugin} failed: {outcome.error}")
        if outcome is not None and outcome.value is not None:
            return outcome.value
        try:
            place = parse_target(target.uri)
        except BadTarget as exc:
            return Delivered(accepted=False, permanent=True, detail=str(exc))
        with trio.move_on_after(hookspecs.LIMITS["deliver_report"]):
            if isinstance(place, MailTarget) and self._post is not None:
                return place.address
            if isinstance(place, MailTarget):
                return await send_mail(report, place.address, signer=self._signer, send=self._send, now=self._clock.now())
            return await send_https(report, place, http=self._http, private_addresses=self._private)
        return Delivered(accepted=False, detail="took too long")

    async def _told(self, run: SendRun, ended: Ended | None) -> None:
        if ended is None:
            run.later += 1
            return
        outcome = ended.outcome
        if outcome.state == State.DELIVERED:
            run.delivered += 1
        elif outcome.state == State.SUPPRESSED:
            run.suppressed += 1
        else:
            run.failed += 1
        self._counted(ended.report.kind, outcome.state)
        self._log.info(
            f"report-{outcome.state}",
            cid=ended.cid,
            kind=ended.report.kind,
            report_id=ended.report.report_id,
            domain=ended.report.policy_domain,
            target=outcome.target.uri,
            attempts=outcome.attempts,
            detail=outcome.detail,
        )
        await self._hooks.notify(hookspecs.report_done, report=ended.report, outcome=outcome)
