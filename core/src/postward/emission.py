"""Handing journalled results to plugins: each in its own pace, in order, until it has taken them.

One task per consumer reads the journal behind its position and calls `emit`. A failure, of the plugin or of the database,
makes only that consumer wait and try the same batch again. A heartbeat tells the other nodes how far this one is, and keeps
the journal small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from postward import hookspecs
from postward.clock import today
from postward.errors import PluginError, StoreError
from postward.model import MICROSECONDS, ResultBatch
from postward.store.cursors import StaleBatch
from postward.store.journal import BATCH_ROWS

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.hooks import Hooks, Outcome
    from postward.store import Store

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 300.0
HEARTBEAT: Final = 60 * MICROSECONDS
LINGER: Final = 0.05
TRIM_ROWS: Final = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerState:
    """How a consumer does: its `position`, how many entries it is `behind`, its `failures` in a row, and the last `error`."""

    position: int
    behind: int
    failures: int
    error: str


class _Consumer:
    __slots__ = ("error", "failures", "name", "reached")

    def __init__(self, name: str) -> None:
        self.name = name
        # How far the journal was when nothing was left for it; its position alone cannot say that where entries were dropped.
        self.reached = 0
        self.failures = 0
        self.error = ""


class Emitter:
    """Hands the journal to `consumers`, names of plugins, while `run` is running."""

    def __init__(self, hooks: Hooks, store: Store, consumers: Sequence[str], clock: Clock, log: FilteringBoundLogger) -> None:
        self._hooks, self._store, self._clock, self._log = hooks, store, clock, log
        self._consumers = {name: _Consumer(name) for name in consumers}
        self._hurrying = 0
        self._nudge = trio.Event()
        self._moved = trio.Event()
        self._trimmed = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand out results until cancelled."""
        async with trio.open_nursery() as nursery:
            for consumer in self._consumers.values():
                nursery.start_soon(self._serve, consumer)
            nursery.start_soon(self._keep_house)
            task_status.started()

    @property
    def consumers(self) -> tuple[str, ...]:
        """The plugins that take results."""
        return tuple(self._consumers)

    def position(self, plugin: str) -> int:
        """The sequence of the last entry that a plugin has taken. Raises `KeyError` for one that takes none."""
        return self._store.position(plugin)

    def state(self, plugin: str) -> ConsumerState:
        """How a plugin does. Raises `KeyError` for one that takes no results."""
        consumer = self._consumers[plugin]
        position = self._store.position(plugin)
        behind = max(0, self._store.journal.end - max(position, consumer.reached))
        return ConsumerState(position=position, behind=behind, failures=consumer.failures, error=consumer.error)

    async def caught_up(self, timeout: float | None = None) -> bool:
        """Wait until every consumer has taken what stands in the journal now, and say so to the other nodes.

        False when that did not happen within `timeout` seconds; None waits without limit. A consumer in a back-off is tried
        at once. Raises `StoreError`.
        """
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            self._hurrying += 1
            nudge, self._nudge = self._nudge, trio.Event()
            nudge.set()
            try:
                end = await self._store.journal.refresh()
                while any(self._reached(consumer) < end for consumer in self._consumers.values()):
                    await self._moved.wait()
            finally:
                self._hurrying -= 1
            await self.beat()
            return True
        return False

    async def beat(self) -> None:
        """Write the heartbeat and keep the journal small, now. Raises `StoreError`."""
        await self._trim()
        await self._bound()
        await self._store.beat()

    def _reached(self, consumer: _Consumer) -> int:
        return max(consumer.reached, self._store.position(consumer.name))

    def _announce(self) -> None:
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    # --- one consumer ---

    async def _serve(self, consumer: _Consumer) -> None:
        while True:
            before = self._store.position(consumer.name)
            try:
                await self._step(consumer)
            except StaleBatch as exc:
                # Another process of this node took part of the batch: no failure, and what is left can be read at once.
                if self._store.position(consumer.name) <= before:
                    await self._back_off(consumer, exc)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the other consumers go on
                await self._back_off(consumer, exc)
            else:
                consumer.failures, consumer.error = 0, ""

    async def _step(self, consumer: _Consumer) -> None:
        """Hand over one batch, or wait until there is one. Raises what went wrong."""
        journal, name = self._store.journal, consumer.name
        position, end = self._store.position(name), journal.end
        page = await journal.page(position)
        if page is None:
            consumer.reached = max(consumer.reached, end)
            self._announce()
            await journal.grown(max(end, position))
            await self._linger()
            return
        for sequence, reason in page.unreadable:
            self._log.error("journal-entry-unreadable", plugin=name, sequence=sequence, reason=reason)
        if page.entries:
            batch = ResultBatch(node=self._store.node, consumer=name, entries=page.entries)
            outcome: Outcome[None] = await self._hooks.call_one(name, hookspecs.emit, batch=batch)
            error = outcome.error
            if error is not None and self._store.position(name) < page.entries[-1].sequence:
                if isinstance(error.__cause__, StaleBatch):
                    raise error.__cause__
                raise error if isinstance(error, Exception) else PluginError(name, repr(error))
        await self._store.pass_over(name, page.last)
        self._announce()
        if self._lowest() - self._trimmed >= TRIM_ROWS:
            await self._trim()
        if len(page.entries) < BATCH_ROWS:
            await self._linger()

    async def _linger(self) -> None:
        # Results come in bursts: a moment's patience makes fewer and larger batches.
        if not self._hurrying:
            with trio.move_on_after(LINGER):
                await self._nudge.wait()

    async def _back_off(self, consumer: _Consumer, error: Exception) -> None:
        consumer.failures += 1
        consumer.error = str(error) or type(error).__name__
        pause = min(FIRST_PAUSE * 2 ** min(consumer.failures - 1, 20), LONGEST_PAUSE)
        behind = self.state(consumer.name).behind
        self._log.warning(
            "emit-failed", plugin=consumer.name, error=consumer.error, failures=consumer.failures, behind=behind, again_in=pause
        )
        with trio.move_on_after(pause):
            await self._nudge.wait()

    # --- housekeeping ---

    async def _keep_house(self) -> None:
        while True:
            try:
                await self.beat()
            except StoreError as exc:
                self._log.error("heartbeat-failed", error=str(exc))
            await self._clock.sleep_until(self._clock.now() + HEARTBEAT)

    def _lowest(self) -> int:
        # Without consumers nobody ever asks for what stands there.
        return min((self._reached(consumer) for consumer in self._consumers.values()), default=self._store.journal.end)

    async def _trim(self) -> None:
        lowest = self._lowest()
        if lowest > self._trimmed:
            await self._store.journal.trim(lowest)
            self._trimmed = lowest

    async def _bound(self) -> None:
        dropped = await self._store.journal.bound(today(self._clock))
        if dropped is not None:
            behind = {name: self.state(name).behind for name in self._consumers}
            self._log.error(
                "journal-dropped",
                results=dropped.results,
                first_day=dropped.first_day,
                last_day=dropped.last_day,
                behind=behind,
                hint="these results were never counted: a plugin has not taken results for too long",
            )
