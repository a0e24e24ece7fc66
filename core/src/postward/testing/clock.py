"""Wall time over trio's clock: it stands still while a test computes, and a day passes when the test says so."""

from __future__ import annotations

from typing import Final

import trio

from postward.model import MICROSECONDS

START: Final = 1_795_521_600 * MICROSECONDS  # Tuesday, 2026-11-24, 12:00 UTC


class HarnessClock:
    """Implements `postward.clock.Clock`. It follows `trio.current_time()`, and `advance` moves it alone.

    To sleep moves both; with an autojumping trio clock that takes no time. `start` is the first instant, microseconds UTC.
    """

    def __init__(self, start: int = START) -> None:
        self._offset = start - _trio_now()
        self._moved = trio.Event()

    def now(self) -> int:
        """The instant."""
        return self._offset + _trio_now()

    def advance(self, microseconds: int) -> None:
        """Move forward at once, and wake who waits for an instant that has come. Raises `ValueError` for a step back."""
        if microseconds < 0:
            raise ValueError("time does not run backwards")
        self._offset += microseconds
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def sleep_until(self, instant: int) -> None:
        """Wait for an instant."""
        while (left := instant - self.now()) > 0:
            moved = self._moved
            # Rounding may leave a microsecond, which must not become a busy wait.
            with trio.move_on_after(left / MICROSECONDS + 1e-6):
                await moved.wait()


def _trio_now() -> int:
    return round(trio.current_time() * MICROSECONDS)
