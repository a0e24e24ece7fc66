"""Names the plugin that blocks the event loop.

Plugins share one thread. A call that computes or waits without trio stops every delivery, and no time limit can end it; what
can be done is to say within a second who it is.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final

import trio

from postward import hooks
from postward.contract import Implementation

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

PATIENCE: Final = 0.5
EVERY: Final = 0.1

# Private on purpose: the frames of these functions are what tells which implementation a thread is in.
_CALLERS: Final = frozenset({hooks._ask.__code__, hooks._ask_sync.__code__})


@asynccontextmanager
async def watch_loop(log: FilteringBoundLogger) -> AsyncIterator[None]:
    """Watch the loop that this is entered on, from a thread, until it is left. Logs `loop-blocked` and `loop-resumed`."""
    stop = threading.Event()
    token, loop = trio.lowlevel.current_trio_token(), threading.get_ident()
    thread = threading.Thread(target=_watch, args=(token, loop, stop, log), name="postward-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def _watch(token: trio.lowlevel.TrioToken, loop: int, stop: threading.Event, log: FilteringBoundLogger) -> None:
    while not stop.wait(EVERY):
        answered = threading.Event()
        asked = time.monotonic()
        try:
            token.run_sync_soon(answered.set)
        except trio.RunFinishedError:
            return
        if answered.wait(PATIENCE) or stop.is_set():
            continue
        plugin, hook, where = _culprit(sys._current_frames().get(loop))
        log.error("loop-blocked", plugin=plugin, hook=hook, where=where, seconds=round(time.monotonic() - asked, 1))
        while not answered.wait(PATIENCE):
            if stop.is_set():
                return
        log.warning("loop-resumed", plugin=plugin, hook=hook, seconds=round(time.monotonic() - asked, 1))


def _culprit(frame: FrameType | None) -> tuple[str, str, str]:
    """Plugin, hook and place that a thread is in; empty names when it is in no hook."""
    where = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
    for inner in _outwards(frame):
        one = inner.f_locals.get("one") if inner.f_code in _CALLERS else None
        if isinstance(one, Implementation):
            return one.plugin, one.spec.name, where
    return "", "", where


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
