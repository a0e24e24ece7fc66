"""One destination while it is served: the jobs that were claimed for it, and the lanes that work on them.

A lane is a task with a connection of its own. There are few at first and more as mail gets through, so that a destination
that is down costs one connection, and one that is well gets as many as it may have.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from postward.queue.types import RECIPIENTS_PER_JOB

if TYPE_CHECKING:
    from postward.names import Domain
    from postward.queue.types import Job

FIRST_LANES: Final = 2
CLAIM: Final = 50
HANDED_OVER: Final = 200

Claim = Callable[["Destination", int], Awaitable["list[Job]"]]


class Destination:
    """The claimed jobs of one domain. `taken` counts the jobs of each message that must not be claimed again meanwhile.

    `lanes` may be at work, `idle` of them waiting for a job; `allowed` is how many there may be just now.
    """

    def __init__(self, domain: Domain, *, most: int, claim: Claim, first: int = FIRST_LANES) -> None:
        self.domain = domain
        self.taken = Counter[int]()
        self.lanes = self.idle = 0
        self.allowed = min(first, most)
        self.dead = False
        self._most = most
        self._claim = claim
        self._jobs: deque[Job] = deque()
        self._waiting = trio.lowlevel.ParkingLot()
        self._more = True
        self._claiming = False

    @property
    def backlog(self) -> int:
        """How many claimed jobs wait for a lane."""
        return len(self._jobs)

    def more(self) -> None:
        """Something was queued: a lane that waits is to look."""
        self._more = True
        self._waiting.unpark()

    def offer(self, job: Job) -> bool:
        """Take a job that was committed this moment, so that nobody has to read it. False: it has to be looked for.

        Not while jobs are read, which may bring the same one again after it has been settled; nor before older mail that
        nobody has looked for.
        """
        if self.dead or self._claiming or self._more or len(self._jobs) >= HANDED_OVER:
            return False
        self.taken[job.message.id] += 1
        self._jobs.append(job)
        self._waiting.unpark()
        return True

    def succeeded(self) -> None:
        """Mail got through: one more lane may work."""
        self.allowed = min(self.allowed + 1, self._most)

    def suffered(self) -> bool:
        """No server said a word. Half as many lanes may go on; whether that was one time too many."""
        self.allowed //= 2
        return self.allowed == 0

    def stop(self) -> list[Job]:
        """No job is given out any more; those that nobody has begun are given back, and remain due."""
        self.dead = True
        self._waiting.unpark_all()
        return self.leave()

    def leave(self) -> list[Job]:
        """The jobs that nobody has begun, which are forgotten here."""
        jobs = list(self._jobs)
        self._jobs.clear()
        for job in jobs:
            self.done(job)
        return jobs

    def done(self, job: Job) -> None:
        """A job has been settled, or is given back."""
        self.taken[job.message.id] -= 1
        if not self.taken[job.message.id]:
            del self.taken[job.message.id]
        if len(job.recipients) >= RECIPIENTS_PER_JOB:
            # The rest of them could not be claimed before.
            self.more()

    @property
    def unfinished(self) -> bool:
        """Whether something was queued that no lane has looked for."""
        return self._more

    async def next_job(self, patience: float) -> Job | None:
        """A job for a lane; None when none comes within `patience` seconds, or the destination is stopped."""
        with trio.move_on_after(patience):
            while not self.dead:
                if self._jobs:
                    # Also behind a claim that took longer than the patience, or a slow disk would keep all lanes from working.
                    return self._jobs.popleft()
                if self._more and not self._claiming:
                    await self._fill()
                    continue
                self.idle += 1
                try:
                    await self._waiting.park()
                finally:
                    self.idle -= 1
        return None

    async def _fill(self) -> None:
        self._claiming, self._more = True, False
        try:
            # What is claimed must not be lost to a lane whose patience ends meanwhile.
            with trio.CancelScope(shield=True):
                jobs = await self._claim(self, CLAIM)
        except BaseException:
            self._more = True
            raise
        finally:
            self._claiming = False
        if self.dead:
            return
        self._more = self._more or len(jobs) >= CLAIM
        self.taken.update(job.message.id for job in jobs)
        self._jobs.extend(jobs)
        # This lane takes one of them; whoever finds nothing left looks whether there is more.
        if (others := len(jobs) - 1 + self._more) > 0:
            self._waiting.unpark(count=others)
