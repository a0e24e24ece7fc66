"""Telling plugins what connections came to, off the delivery path: none of them may slow mail down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from postward import hookspecs

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.hooks import Hooks
    from postward.model import ConnectionReport

AT_ONCE: Final = 1000


class Observers:
    """Calls `connection_closed` for each report, in tasks of a nursery that `begin` is given."""

    def __init__(self, hooks: Hooks, log: FilteringBoundLogger) -> None:
        self._hooks, self._log = hooks, log
        self._going_on = 0
        self._idle = trio.Event()
        self._nursery: trio.Nursery | None = None

    def begin(self, nursery: trio.Nursery) -> None:
        """Tell from now on, in tasks of this nursery."""
        self._nursery = nursery

    def tell(self, report: ConnectionReport) -> None:
        """Tell the plugins of a connection. While a thousand calls go on already, further ones are dropped, loudly."""
        if self._nursery is None or not self._hooks.plugins_for(hookspecs.connection_closed):
            return
        if self._going_on >= AT_ONCE:
            self._log.warning("observers-too-slow", dropped=str(report.host))
            return
        self._going_on += 1
        self._nursery.start_soon(self._tell, report)

    async def wait(self) -> None:
        """Wait until all that were called have returned."""
        while self._going_on:
            await self._idle.wait()

    async def _tell(self, report: ConnectionReport) -> None:
        try:
            await self._hooks.notify(hookspecs.connection_closed, connection=report)
        finally:
            self._going_on -= 1
            if not self._going_on:
                idle, self._idle = self._idle, trio.Event()
                idle.set()
