"""What the commands that look at a node stand on: its configuration, and its queue, opened beside a running service or without.

Nothing is created: a node that has never run has an empty queue.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from postward.errors import StoreError

if TYPE_CHECKING:
    import sqlite3

    from postward.clock import Clock
    from postward.config import Config
    from postward.queue import Admin
    from postward.store import Database

T = TypeVar("T")


def settings(file: Path | None) -> Config:
    """The configuration of `postward run`: also without a file. Raises `ConfigError`."""
    from postward.config import load
    from postward.config_file import exists

    if file is None and not exists():
        from postward.service.defaults import default_config

        return default_config()[0]
    return load(file)


def act_as_owner(path: Path) -> None:
    """Go on as the owner of `path` when this is root and it is another's, so that the service can use what is written here."""
    if os.geteuid() != 0:
        return
    try:
        owner = path.stat()
    except FileNotFoundError:
        return
    if owner.st_uid != 0:
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The queue of this node, open. `poke` is the socket of its service."""

    admin: Admin
    database: Database
    clock: Clock
    poke: Path

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` on the queue's tables, seeing one consistent state. Raises `StoreError`."""
        import sqlite3

        from postward.queue.rows import raw
        from postward.store.engine import explain

        try:
            return await self.database.read(lambda connection: fn(raw(connection)))
        except sqlite3.Error as exc:
            raise explain(exc, self.database.engines.name) or StoreError(f"database: {exc}") from exc


def with_queue(config: Config, work: Callable[[Site], Awaitable[T]], empty: T) -> T:
    """Open the queue and give what `work` makes of it; `empty` where there is no queue yet. Raises `StoreError`."""
    import trio

    if not has_queue(config):
        return empty

    async def run() -> T:
        async with _opened(config) as site:
            return await work(site)

    return trio.run(run)


def has_queue(config: Config) -> bool:
    """Whether the node has a queue that this program can use. Raises `StoreError` when its tables are of another version."""
    from postward.queue.tables import SCHEMA
    from postward.store import status
    from postward.store.engine import sqlite_url

    act_as_owner(config.core.data_dir)
    path = config.core.data_dir / "node.db"
    if not path.exists():
        return False
    (state,) = status(sqlite_url(path), {"queue": SCHEMA})
    if state.current and state.pending > 0:
        raise StoreError(f"database {path}: the tables of the queue are of an older version; `postward db upgrade` mends that")
    if state.pending < 0:
        raise StoreError(f"database {path}: the tables of the queue are of a newer version of this program")
    return state.current > 0


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[Site]:
    import trio

    from postward.clock import SystemClock
    from postward.queue import Admin
    from postward.queue.poke import NAME
    from postward.store import Database
    from postward.store.engine import open_engines, sqlite_url

    data, clock = config.core.data_dir, SystemClock()
    database = Database(open_engines(sqlite_url(data / "node.db")))
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        try:
            admin = Admin(database, data / "spool", clock)
            yield Site(admin=admin, database=database, clock=clock, poke=data / NAME)
        except BaseException as exc:  # noqa: BLE001 - raised again below, where the nursery cannot wrap it into a group
            failure = exc
        finally:
            await database.aclose()
    if failure is not None:
        raise failure
