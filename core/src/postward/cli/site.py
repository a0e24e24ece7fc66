"""What the commands that look at a node stand on: its configuration, and its queue, opened beside a running service or without.

Nothing is created: a node that has never run has an empty queue.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from postward.errors import StoreError

if TYPE_CHECKING:
    import sqlite3

    from postward.config import Config
    from postward.queue import Admin

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
    """The queue of this node, open for changes. `poke` is the socket of its service."""

    admin: Admin
    poke: Path


def read_queue(config: Config, fn: Callable[[sqlite3.Connection], T], empty: T) -> T:
    """Run `fn` on the queue's tables, seeing one consistent state; `empty` where there is no queue yet. Raises `StoreError`.

    It goes to SQLite directly: to show a page must not cost the half second that SQLAlchemy takes to be imported.
    """
    import sqlite3

    act_as_owner(config.core.data_dir)
    path = config.core.data_dir / "node.db"
    if not path.exists():
        return empty
    try:
        # Not mode=ro: where no service runs, SQLite must be able to set up the write-ahead log beside the file.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)) as database:
            database.execute("PRAGMA busy_timeout=10000")
            database.execute("PRAGMA query_only=ON")
            database.execute("BEGIN")
            return fn(database) if _is_usable(database, path) else empty
    except sqlite3.Error as exc:
        from postward.store.engine import explain

        raise explain(exc, str(path)) or StoreError(f"database {path}: {exc}") from exc


def _is_usable(database: sqlite3.Connection, path: Path) -> bool:
    """Whether the tables of the queue are there. Raises `StoreError` when they are of another version."""
    from postward.queue.tables import SCHEMA

    if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'queue_schema_version'").fetchone():
        return False
    (version,) = database.execute("SELECT version FROM queue_schema_version").fetchone() or (0,)
    if version > len(SCHEMA.migrations):
        raise StoreError(f"database {path}: the tables of the queue are of a newer version of this program")
    if version < len(SCHEMA.migrations):
        raise StoreError(f"database {path}: the tables of the queue are of an older version; `postward db upgrade` mends that")
    return True


def with_queue(config: Config, work: Callable[[Site], Awaitable[T]], empty: T) -> T:
    """Open the queue and give what `work` makes of it; `empty` where there is no queue yet. Raises `StoreError`."""
    import trio

    if not read_queue(config, lambda _: True, False):
        return empty

    async def run() -> T:
        async with _opened(config) as site:
            return await work(site)

    return trio.run(run)


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[Site]:
    import trio

    from postward.clock import SystemClock
    from postward.queue import Admin
    from postward.queue.poke import NAME
    from postward.store import Database
    from postward.store.engine import open_engines, sqlite_url

    data = config.core.data_dir
    database = Database(open_engines(sqlite_url(data / "node.db")))
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        try:
            admin = Admin(database, data / "spool", SystemClock())
            yield Site(admin=admin, poke=data / NAME)
        except BaseException as exc:  # noqa: BLE001 - raised again below, where the nursery cannot wrap it into a group
            failure = exc
        finally:
            await database.aclose()
    if failure is not None:
        raise failure
