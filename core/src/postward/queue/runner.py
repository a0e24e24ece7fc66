"""Delivering what is due: destinations in turn, each with a few lanes, every outcome stored before the next message.

The database is the only state that counts. A destination belongs to one worker, so what is claimed is remembered in memory
alone; a program that dies leaves everything due that was not settled. Lanes are given out one destination after the other, and
a lane makes room after a while when others wait, so that neither a slow destination nor a busy one blocks anybody.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from postward.delivery.keep import Keeper
from postward.errors import StoreError
from postward.log import correlated_as
from postward.model import MICROSECONDS, Delivery, Message, TlsResult
from postward.queue.destination import CLAIM, FIRST_LANES, Destination
from postward.queue.ending import AFTER_TROUBLE, Endings, RunnerCounts
from postward.queue.outcome import outcome_of, without_reply
from postward.queue.retry import RULES, RetryRules, pause_for

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.delivery.pipeline import Pipeline
    from postward.names import Domain
    from postward.queue.bounce import Bouncer
    from postward.queue.store import Queue
    from postward.queue.types import Job

LANES: Final = 400
PER_DESTINATION: Final = 10
IDLE: Final = 2.0
TURN: Final = 10.0
LOOK_AGAIN: Final = 30 * MICROSECONDS
HELD_BYTES: Final = 32 * 1024 * 1024
CLAIMS_AT_ONCE: Final = 4
REMEMBERED_SECONDS: Final = 10.0
"""So long it is known that a job has been settled; who tells of jobs from elsewhere must do it in much less."""
_REMEMBERED: Final = 10_000
_CRASHED: Final = "451 4.3.0 delivering this message failed unexpectedly; the log says more"


class Runner:
    """Delivers from `queue` through `pipeline` while `run` is running. `lanes` bounds all connections together.

    `announce` is told the destinations of notices, in place of `wake`; `delivered_after` is told how many seconds each
    delivery to a recipient took.
    """

    def __init__(
        self,
        *,
        queue: Queue,
        pipeline: Pipeline,
        bouncer: Bouncer,
        clock: Clock,
        log: FilteringBoundLogger,
        lanes: int = LANES,
        per_destination: int = PER_DESTINATION,
        rules: RetryRules = RULES,
        announce: Callable[[Collection[Domain]], None] | None = None,
        delivered_after: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._queue, self._pipeline, self._bouncer = queue, pipeline, bouncer
        self._clock, self._log, self._rules = clock, log, rules
        self._most, self._per_destination = lanes, per_destination
        self.counts = RunnerCounts()
        told = announce or self.wake
        self._endings = Endings(queue, bouncer, clock, log, counts=self.counts, announce=told, delivered_after=delivered_after)
        self._active: dict[Domain, Destination] = {}
        # How often in a row no server of a destination could be spoken to.
        self._silent: OrderedDict[Domain, int] = OrderedDict()
        # Destinations that made room for others, and come again behind them.
        self._rested: set[Domain] = set()
        self._nursery: trio.Nursery | None = None
        # Jobs that were settled a short while ago, of which another process may still tell.
        self._done: OrderedDict[tuple[int, Domain], float] = OrderedDict()
        self._kicked = trio.Event()
        self._wanted = False
        self._held = 0
        self._claiming = trio.CapacityLimiter(CLAIMS_AT_ONCE)
        self._stopping = False
        self._empty = trio.Event()

    def wake(self, domains: Collection[Domain], jobs: Sequence[Job] = ()) -> None:
        """Mail for these destinations has been queued: `jobs`, as far as they are at hand, committed this moment."""
        at_hand: dict[Domain, list[Job]] = {}
        for job in jobs:
            at_hand.setdefault(job.domain, []).append(job)
        for domain in domains:
            if (destination := self._active.get(domain)) is None:
                self.kick()
                continue
            if domain not in at_hand or not all(self._hand_over(destination, job) for job in at_hand[domain]):
                destination.more()
            if self._nursery is not None and self._may_grow(destination):
                # Those that are there may be at work for long.
                self._start_lane(self._nursery, destination)

    def wake_all(self) -> None:
        """Somebody changed what is in the queue: every destination may have mail that is due."""
        for destination in self._active.values():
            destination.more()
        self.kick()

    def _hand_over(self, destination: Destination, job: Job) -> bool:
        """Whether nobody needs to look for this job, because it was taken or has been done already."""
        number = job.message.id
        if number in destination.taken or (number, job.domain) in self._done:
            return True
        if self._held > HELD_BYTES or not destination.offer(job):
            return False
        self._held += _in_memory(job)
        return True

    def _remember(self, job: Job) -> None:
        now = trio.current_time()
        self._done[job.message.id, job.domain] = now
        while now - next(iter(self._done.values())) > REMEMBERED_SECONDS:
            self._done.popitem(last=False)

    def kick(self) -> None:
        """Look into the queue now."""
        self._kicked.set()

    async def stop(self, within: float) -> None:
        """Begin nothing new, and wait up to `within` seconds for what goes on. Then `run` may be cancelled."""
        self._stopping = True
        for destination in self._active.values():
            self._give_back(destination)
        self.kick()
        with trio.move_on_after(within):
            while self._active:
                await self._empty.wait()

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                while not self._stopping:
                    self._kicked = trio.Event()
                    try:
                        await self._start_due(nursery)
                        due = await self._queue.next_due(self._active)
                    except StoreError as exc:
                        self._log.error("queue-unusable", error=str(exc), again_in_seconds=AFTER_TROUBLE)
                        await trio.sleep(AFTER_TROUBLE)
                        continue
                    await self._wait(due)
        finally:
            self._nursery = None

    async def _start_due(self, nursery: trio.Nursery) -> None:
        now = self._clock.now()
        limit = max(self._most - self.counts.lanes, 0) + 1
        domains = await self._queue.due(now, limit, {*self._active, *self._rested})
        if len(domains) < limit and self._rested:
            # All others have their turn.
            self._rested.clear()
            domains += await self._queue.due(now, limit - len(domains), {*self._active, *domains})
        # Lanes may have come and gone meanwhile.
        room = max(self._most - self.counts.lanes, 0)
        self._wanted = len(domains) > room
        for domain in domains[:room] if not self._stopping else ():
            # One that has been silent is asked by one connection.
            first = 1 if domain in self._silent else FIRST_LANES
            destination = Destination(domain, most=self._per_destination, claim=self._claim, first=first)
            self._active[domain] = destination
            self.counts.destinations = len(self._active)
            self._start_lane(nursery, destination)

    async def _wait(self, due: int | None) -> None:
        """Wait until something may be due: by its instant, by a kick, or because another process put it there."""
        now = self._clock.now()
        until = min(now + LOOK_AGAIN if due is None else max(due, now), now + LOOK_AGAIN)
        if self._wanted:
            # Everything is taken: the end of any lane is a kick.
            until = now + LOOK_AGAIN
        # Not by the clock alone: one that is set back a day would let everything sleep for a day.
        with trio.move_on_after(LOOK_AGAIN / MICROSECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._at, until, nursery.cancel_scope)
                await self._kicked.wait()
                nursery.cancel_scope.cancel()

    async def _at(self, instant: int, scope: trio.CancelScope) -> None:
        await self._clock.sleep_until(instant)
        scope.cancel()

    # --- lanes ---

    def _start_lane(self, nursery: trio.Nursery, destination: Destination) -> None:
        destination.lanes += 1
        self.counts.lanes += 1
        nursery.start_soon(self._lane, nursery, destination)

    async def _lane(self, nursery: trio.Nursery, destination: Destination) -> None:
        keeper = Keeper()
        until = trio.current_time() + TURN
        try:
            # A lane that others want does not wait for work.
            while (job := await destination.next_job(0 if self._wanted else IDLE)) is not None:
                if self._may_grow(destination):
                    self._start_lane(nursery, destination)
                try:
                    await self._do(destination, job, keeper)
                finally:
                    self._release(job)
                    destination.done(job)
                if self._wanted and trio.current_time() > until:
                    self._rested.add(destination.domain)
                    break
                if destination.lanes > destination.allowed:
                    break
        except StoreError as exc:
            self._log.error("queue-unusable", error=str(exc), domain=destination.domain)
            self._give_back(destination)
            await trio.sleep(AFTER_TROUBLE)
        except Exception:  # noqa: BLE001 - one destination's trouble must not end the others
            self._log.exception("delivery-crashed", domain=destination.domain)
            await self._wait_with(destination)
        finally:
            try:
                await keeper.close()
            except Exception:  # noqa: BLE001 - how a connection ends is its own trouble
                self._log.exception("delivery-crashed", domain=destination.domain)
            finally:
                self._end_lane(destination)

    def _end_lane(self, destination: Destination) -> None:
        destination.lanes -= 1
        self.counts.lanes -= 1
        if not destination.lanes:
            for job in destination.leave():
                self._release(job)
            del self._active[destination.domain]
            self.counts.destinations = len(self._active)
            if not self._active:
                empty, self._empty = self._empty, trio.Event()
                empty.set()
            # While it was busy nobody waited for what it has yet to try.
            self.kick()
        elif self._wanted:
            self.kick()

    def _may_grow(self, destination: Destination) -> bool:
        return (
            (destination.backlog > 0 or destination.unfinished)
            and not destination.dead
            and not destination.idle
            and destination.lanes < destination.allowed
            and self.counts.lanes < self._most
            and not self._wanted
        )

    async def _claim(self, destination: Destination, limit: int) -> list[Job]:
        # Contents come with the jobs: while much of them is in memory already, only as many as are worked on at once.
        async with self._claiming:
            scarce = self._held > HELD_BYTES
            jobs = await self._queue.claim(destination.domain, self._clock.now(), 1 if scarce else limit, destination.taken)
            if destination.dead:
                return []
            if scarce and jobs:
                destination.more()
            self._held += sum(_in_memory(job) for job in jobs)
            return jobs

    def _release(self, job: Job) -> None:
        self._held -= _in_memory(job)

    # --- one job ---

    async def _do(self, destination: Destination, job: Job, keeper: Keeper) -> None:
        with correlated_as(job.message.cid):
            results: list[TlsResult] = []
            message = Message(
                sender=job.message.sender,
                recipients=tuple(recipient.address for recipient in job.recipients),
                content=job.message.content,
                wish=job.message.wish,
                is_report=job.message.is_report,
                dsn=self._bouncer.wishes(job),
            )
            first = not any(recipient.attempts for recipient in job.recipients)
            delivery = await self._deliver(job.domain, message, keeper, results, first=first)
            crashed = delivery is None
            delivery = delivery or without_reply(job, _CRASHED)
            outcome = outcome_of(job, delivery, self._clock.now(), rules=self._rules)
            await self._endings.write(job, delivery, outcome, results)
            self._remember(job)
        if crashed:
            return
        if not outcome.dead:
            self._silent.pop(destination.domain, None)
            destination.succeeded()
        elif destination.suffered():
            self._give_back(destination)
            await self._grow_old(destination, delivery.recipients[0].reply)
            await self._wait_with(destination)

    async def _grow_old(self, destination: Destination, reply: str) -> None:
        """Tell of mail that waits behind a silent destination for long, or give it up, as if each had been tried."""
        claim = partial(self._queue.claim_old, destination.domain, limit=CLAIM, taken=destination.taken, rules=self._rules)
        while not self._stopping and (jobs := await claim(now=self._clock.now())):
            for job in jobs:
                delivery = without_reply(job, reply)
                with correlated_as(job.message.cid):
                    outcome = outcome_of(job, delivery, self._clock.now(), rules=self._rules)
                    await self._endings.write(job, delivery, outcome, [])

    async def _deliver(
        self, domain: Domain, message: Message, keeper: Keeper, results: list[TlsResult], *, first: bool
    ) -> Delivery | None:
        try:
            return await self._pipeline.deliver_to(domain, message, keeper=keeper, results=results, first=first)
        except Exception:  # noqa: BLE001 - a message that makes us stumble waits as any other, and stands in nobody's way
            self._log.exception("delivery-crashed", domain=domain)
            await keeper.close("the delivery of a message crashed")
            return None

    async def _wait_with(self, destination: Destination) -> None:
        """No server of it said a word, so the rest of its mail would fare no better: the whole destination waits."""
        self._give_back(destination)
        domain = destination.domain
        times = self._silent.pop(domain, 0) + 1
        self._silent[domain] = times
        if len(self._silent) > _REMEMBERED:
            self._silent.popitem(last=False)
        pause = pause_for(times, random.random(), rules=self._rules)
        try:
            await self._queue.postpone(domain, self._clock.now() + pause)
        except StoreError as exc:
            self._log.error("queue-unusable", error=str(exc), domain=domain)
        self._log.info("destination-waits", domain=domain, times=times, again_in_seconds=pause // MICROSECONDS)

    def _give_back(self, destination: Destination) -> None:
        """Begin nothing more of it now; what was claimed remains due."""
        for job in destination.stop():
            self._release(job)


def _in_memory(job: Job) -> int:
    return job.message.size if job.message.content.whole is not None else 0
