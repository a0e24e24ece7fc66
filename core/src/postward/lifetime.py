"""What plugins hold open for as long as the program runs (`lifespan`), each in a task of its own.

Entered in the body of the program itself, a plugin's nursery would enclose everything behind it, and a crash in it would
cancel all deliveries. In a task of its own it ends itself alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from postward import hookspecs
from postward.errors import PluginError
from postward.hooks import Hooks, apart, describe

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.core import Core
    from postward.hooks import Outcome

LEAVE_WITHIN: Final = 5.0


class _Holder:
    """One plugin's context manager, entered by `run` and left when `leave` says so."""

    def __init__(self, plugin: str, manager: AbstractAsyncContextManager[None], log: FilteringBoundLogger) -> None:
        self._plugin, self._manager, self._log = plugin, manager, log
        self._scope = trio.CancelScope()
        self._entered, self._leaving, self._left = trio.Event(), trio.Event(), trio.Event()
        self._problem: PluginError | None = None

    async def entered(self) -> PluginError | None:
        """Wait until it is entered; what went wrong with that."""
        await self._entered.wait()
        return self._problem

    async def run(self) -> None:
        """Hold it open until it is to be left."""
        try:
            with self._scope:
                async with self._manager:
                    # From here on only `leave` ends it, so that a cancellation does not end all at once.
                    self._scope.shield = True
                    self._entered.set()
                    await self._leaving.wait()
        except BaseException as exc:  # noqa: BLE001 - plugin code must not take the program down
            error, cancelled = apart(exc)
            if not self._entered.is_set():
                if cancelled is not None and trio.current_effective_deadline() == float("-inf"):
                    raise cancelled from None
                self._problem = PluginError(self._plugin, f"hook 'lifespan' cannot be entered: it {describe(error or exc)}")
            else:
                self._complain(describe(error or exc))
        else:
            if not self._leaving.is_set():
                self._complain("ended by itself")
            elif self._scope.cancelled_caught:
                self._complain(f"was not left within {LEAVE_WITHIN:g} s")
        finally:
            self._entered.set()
            self._left.set()

    async def leave(self) -> None:
        """Leave it, within a limit; errors are logged."""
        self._leaving.set()
        self._scope.deadline = trio.current_time() + LEAVE_WITHIN
        await self._left.wait()

    def _complain(self, reason: str) -> None:
        self._log.error("hook-failed", plugin=self._plugin, hook="lifespan", error=reason)


@asynccontextmanager
async def held_open(hooks: Hooks, core_for: Callable[[str], Core], log: FilteringBoundLogger) -> AsyncIterator[None]:
    """Enter every plugin's lifespan in order, and leave them in reverse. Raises `PluginError` when one cannot be entered."""
    plugins = hooks.plugins_for(hookspecs.lifespan)
    problem: PluginError | None = None
    holders: list[_Holder] = []
    if not plugins:
        yield
        return
    try:
        async with trio.open_nursery() as nursery:
            try:
                for plugin in plugins:
                    outcome: Outcome[AbstractAsyncContextManager[None]]
                    outcome = await hooks.call_one(plugin, hookspecs.lifespan, core=core_for(plugin))
                    if outcome.error is not None:
                        problem = PluginError(plugin, f"hook 'lifespan' {describe(outcome.error, named=False)}")
                        break
                    if outcome.value is None:
                        continue
                    holder = _Holder(plugin, outcome.value, log)
                    holders.append(holder)
                    # Not `nursery.start`, which waits for a shielded task when it is cancelled itself.
                    nursery.start_soon(holder.run)
                    problem = await holder.entered()
                    if problem is not None:
                        break
                if problem is None:
                    yield
            finally:
                with trio.CancelScope(shield=True):
                    for holder in reversed(holders):
                        await holder.leave()
    except BaseExceptionGroup as group:
        # The holders raise nothing: it is what the program itself raised, which no nursery of ours should wrap.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    if problem is not None:
        raise problem
