"""Wall time behind a seam, so that a UTC day can pass in a millisecond.

`trio.current_time()` measures waits; this clock says what day it is. Tests and the lab give another one.
"""

from __future__ import annotations

import time
from typing import Protocol

import trio

from postward.model import MICROSECONDS, day_of


class Clock(Protocol):
    """What core needs of a clock: the instant, and to wait for one."""

    def now(self) -> int:
        """The current instant in microseconds UTC."""

    async def sleep_until(self, instant: int) -> None:
        """Wait until `now()` has reached `instant`; return at once if it has."""


class SystemClock:
    """The machine's clock. A wait notices a clock that was set within a minute."""

    def now(self) -> int:
        return time.time_ns() // 1000

    async def sleep_until(self, instant: int) -> None:
        # In steps, because no event tells that wall time was set.
        while (left := instant - self.now()) > 0:  # noqa: ASYNC110
            await trio.sleep(min(left / MICROSECONDS, 60))


class SettableClock:
    """A clock that can be moved forward, for the lab and for tests: real time plus what was added.

    `start` fixes the first instant; None takes the machine's.
    """

    def __init__(self, start: int | None = None) -> None:
        self._real = time.time_ns() // 1000
        self._start = self._real if start is None else start
        self._added = 0
        self._moved = trio.Event()

    def now(self) -> int:
        return self._start + self._added + time.time_ns() // 1000 - self._real

    def advance(self, microseconds: int) -> None:
        """Move forward and wake everybody who waits for an instant that has come."""
        self._added += microseconds
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def sleep_until(self, instant: int) -> None:
        while (left := instant - self.now()) > 0:
            moved = self._moved
            with trio.move_on_after(left / MICROSECONDS):
                await moved.wait()


def today(clock: Clock) -> str:
    """The current UTC day, `YYYY-MM-DD`."""
    return day_of(clock.now())
