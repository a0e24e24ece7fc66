"""The store: the results database, this node's own database, and the journal between them.

`consume` is what makes a result count once: a plugin's writes and its position in the journal are one transaction in the
results database, and a batch that comes again is recognised there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio
from sqlalchemy import Connection

from postward.clock import Clock
from postward.model import MICROSECONDS, ResultBatch, Schema, day_of
from postward.store import cursors, migrations, tables
from postward.store.cursors import StaleBatch
from postward.store.database import Database
from postward.store.engine import Engines, open_engines, sqlite_url
from postward.store.journal import Journal

T = TypeVar("T")

# A session that began before midnight may be journalled behind it: a day counts as handed over only this much later.
SETTLE: Final = 300 * MICROSECONDS
# Entries that were given out and then lost with their journal: their sequences are not used again.
_SPARE: Final = 10_000


class Store:
    """The databases of one node. `write` and `read` are those of the results database, which nodes may share.

    `node_db` is always local and SQLite; it holds the journal and the queue.
    """

    def __init__(self, *, results: Database, node_db: Database, node: str, clock: Clock) -> None:
        self.results, self.node_db, self.node = results, node_db, node
        self._clock = clock
        self._positions: dict[str, int] = {}
        self.journal = Journal(node_db, node, self._positions)

    @property
    def consumers(self) -> tuple[str, ...]:
        """The plugins that results are handed to."""
        return tuple(self._positions)

    async def write(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in a transaction of the results database; see `Database.write`."""
        return await self.results.write(fn)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` on the results database; see `Database.read`."""
        return await self.results.read(fn)

    async def consume(self, batch: ResultBatch, fn: Callable[[Connection], None]) -> None:
        """Commit what `fn` writes together with the consumer's position behind `batch`.

        When the whole batch was consumed before, `fn` is not called: that is a replay, and counted already. `fn` is to write
        what the whole batch says. Raises `StaleBatch` (a `StoreError`) when part of it was consumed by another process on
        this node, and whatever `fn` raises; then nothing is stored, and the results come again.
        """
        await self._move(batch.node, batch.consumer, batch.entries[0].sequence, batch.entries[-1].sequence, fn)

    async def pass_over(self, consumer: str, last: int) -> None:
        """Move a consumer's position to `last`, unless it stands there already by `consume`. Raises as `consume` does."""
        position = self.position(consumer)
        if position < last:
            await self._move(self.node, consumer, position + 1, last, None)

    async def _move(self, node: str, consumer: str, first: int, last: int, fn: Callable[[Connection], None] | None) -> None:
        if node != self.node:
            raise ValueError(f"a batch of node {node!r} cannot be consumed on node {self.node!r}")

        def commit(connection: Connection) -> None:
            if cursors.take(connection, node=node, consumer=consumer, first=first, last=last) and fn is not None:
                fn(connection)

        try:
            await self.results.write(commit)
        except StaleBatch as exc:
            self._positions[consumer] = exc.position
            raise
        self._positions[consumer] = max(last, self._positions.get(consumer, 0))

    def position(self, consumer: str) -> int:
        """The last sequence that a consumer has taken. Raises `KeyError` for one that is not enabled."""
        return self._positions[consumer]

    async def beat(self) -> None:
        """Tell the other nodes that this one lives, and which days its consumers have completely taken."""
        now = self._clock.now()
        settled = cursors.day_before(day_of(now - SETTLE))
        days = {}
        for consumer, position in self._positions.items():
            waiting = await self.journal.first_day(position)
            days[consumer] = settled if waiting is None else min(settled, cursors.day_before(waiting))
        await self.results.write(partial(cursors.beat, node=self.node, days=days, now=now))

    async def closed_until(self, consumer: str) -> int:
        """The instant up to which no live node has results left for a consumer: windows that end by then may be reported.

        A node that has been silent for six hours is not waited for. 0 when nothing is known yet.
        """
        now = self._clock.now()
        return await self.results.read(partial(cursors.closed_until, consumer=consumer, now=now))

    async def _begin(self, consumers: Sequence[str]) -> None:
        """Find the positions; a consumer that is new begins at the end of the journal, one that is gone is forgotten."""
        end = await self.journal.refresh()
        highest = await self.results.read(partial(cursors.highest, node=self.node))
        if highest > end:
            await self.journal.continue_after(highest + _SPARE)
            end = self.journal.end
        register = partial(cursors.register, node=self.node, consumers=consumers, end=end, now=self._clock.now())
        self._positions.update(await self.results.write(register))


@asynccontextmanager
async def open_store(
    *,
    url: str,
    node_path: Path,
    node: str,
    schemas: Mapping[str, Schema],
    consumers: Sequence[str],
    clock: Clock,
    inline: bool = False,
    node_schemas: Mapping[str, Schema] | None = None,
) -> AsyncIterator[Store]:
    """Open both databases, upgraded to this program's tables, and close them when what was handed in is written.

    `url` is the results database, `sqlite://` one in memory; `node_path` the node's own file, `:memory:` one in memory.
    `schemas` are the distributions' tables in the results database, `node_schemas` those in the node's; core's own are added.
    `consumers` are the plugins that take results. `inline`: no threads. Raises `StoreError`.
    """
    results_schemas = {"core": tables.RESULTS, **schemas}
    local_schemas = {"node": tables.NODE, **(node_schemas or {})}
    open_one = partial(_open, inline=inline)
    results = await open_one(url, results_schemas)
    try:
        node_db = await open_one(sqlite_url(node_path), local_schemas)
    except BaseException:
        await results.aclose()
        raise
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(results.run)
            await nursery.start(node_db.run)
            store = Store(results=results, node_db=node_db, node=node, clock=clock)
            await store._begin(consumers)
            yield store
        except BaseException as exc:  # noqa: BLE001 - raised again below, where the nursery cannot wrap it into a group
            failure = exc
        finally:
            # The node's first: its last writes may hold what a sender was promised.
            await node_db.aclose()
            await results.aclose()
    if failure is not None:
        raise failure


async def _open(url: str, schemas: Mapping[str, Schema], *, inline: bool) -> Database:
    prepare = partial(_prepare, url, schemas)
    if inline:
        await trio.lowlevel.checkpoint()
        engines = prepare()
    else:
        engines = await trio.to_thread.run_sync(prepare)
    return Database(engines, inline=inline)


def _prepare(url: str, schemas: Mapping[str, Schema]) -> Engines:
    engines = open_engines(url)
    try:
        if engines.in_memory:
            migrations.upgrade_memory(engines.writer, schemas)
        else:
            migrations.upgrade(url, schemas)
    except BaseException:
        engines.dispose()
        raise
    return engines
