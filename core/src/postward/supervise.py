"""Tasks that live as long as the program: started again after a failure, never taking anything else down."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 300.0
HEALTHY_AFTER: Final = 600.0


async def keep_running(name: str, work: Callable[[], Awaitable[BaseException | None]], log: FilteringBoundLogger) -> None:
    """Run `work` until it returns None; after an error, raised or returned, again after 1 s, doubling to 5 min.

    A run of ten minutes counts as healthy and starts the back-off anew.
    """
    pause = FIRST_PAUSE
    while True:
        started = trio.current_time()
        try:
            error = await work()
        except Exception as exc:  # noqa: BLE001 - whatever a task of ours or of a plugin does, the others go on
            error = exc
        if error is None:
            return
        if trio.current_time() - started > HEALTHY_AFTER:
            pause = FIRST_PAUSE
        log.error("task-failed", task=name, error=repr(error), again_in_seconds=pause)
        await trio.sleep(pause * random.uniform(0.8, 1.2))
        pause = min(pause * 2, LONGEST_PAUSE)
