"""The journal: what happened on this node, in order, until every consumer has taken it.

It lives in the node's own database, so a result is written in the same transaction as the outcome it belongs to. Identical
results within one commit are one row with a count. Consumers read it by sequence; where each stands is kept next to what
it counts (`store`), not here.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import trio
from sqlalchemy import Connection

from postward.errors import StoreError
from postward.model import JournalEntry, ResultBatch
from postward.store.codec import Result, UnreadableResult, decode, encode
from postward.store.database import Database

BATCH_ROWS: Final = 500
BATCH_BYTES: Final = 8 << 20
MAX_BYTES: Final = 1 << 30
MAX_DAYS: Final = 14
POLL_SECONDS: Final = 5.0

Row: TypeAlias = tuple[str, str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What was read of the journal: readable `entries`, and how far this goes, unreadable rows included.

    `unreadable` holds the sequences of damaged rows, with the reason.
    """

    entries: tuple[JournalEntry, ...]
    last: int
    unreadable: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What was thrown away because the journal had grown too old or too large."""

    rows: int
    results: int
    first_day: str
    last_day: str


class Journal:
    """The journal in a node's database. One per process; several processes may append to the same file."""

    def __init__(self, database: Database, node: str, positions: Mapping[str, int]) -> None:
        self.end = 0
        self._node, self._positions = node, positions
        self._database = database
        self._held: dict[Row, int] = {}
        self._inserted = self._written = 0
        self._growth = trio.Event()
        database.companion = self

    # --- writing ---

    async def append(self, *results: Result) -> None:
        """Journal results; they are on disk on return. Raises `StoreError`, `ValueError` for one over 1 MiB."""
        if results:
            rows = _rows(results)
            await self._database.write(partial(self._hold, rows))

    def append_in(self, connection: Connection, results: Iterable[Result]) -> None:
        """Journal results in the transaction of a `node_db.write`: they are stored if and only if that commits."""
        if connection.engine is not self._database.engines.writer:
            raise ValueError("the journal can only be written in a transaction of the node's own database")
        self._hold(_rows(results), connection)

    def _hold(self, rows: dict[Row, int], _connection: Connection) -> None:
        held = self._held
        for row, count in rows.items():
            held[row] = held.get(row, 0) + count

    def begun(self) -> None:
        """A transaction begins (`Companion`)."""
        self._held.clear()
        self._inserted = 0

    def before_commit(self, connection: Connection) -> None:
        """Write what the transaction has brought together (`Companion`)."""
        if self._held:
            rows = [(day, count, kind, payload) for (day, kind, payload), count in self._held.items()]
            connection.exec_driver_sql("INSERT INTO node_journal (day, count, kind, payload) VALUES (?, ?, ?, ?)", rows)
            self._inserted = int(connection.exec_driver_sql("SELECT last_insert_rowid()").scalar_one())

    def after_commit(self) -> None:
        """It is on disk (`Companion`)."""
        self._written = max(self._written, self._inserted)

    def settled(self) -> None:
        """Wake who waits for growth (`Companion`)."""
        self._grow(self._written)

    def _grow(self, end: int) -> None:
        if end > self.end:
            self.end = end
            growth, self._growth = self._growth, trio.Event()
            growth.set()

    # --- reading ---

    async def grown(self, beyond: int) -> None:
        """Wait until there are entries after `beyond`, also such as another process wrote (noticed within seconds)."""
        while self.end <= beyond:
            growth = self._growth
            if self._database.engines.in_memory:
                await growth.wait()
                continue
            with trio.move_on_after(POLL_SECONDS) as waited:
                await growth.wait()
            if waited.cancelled_caught:
                await self.refresh()

    async def refresh(self) -> int:
        """Look how far the journal goes, and return that."""
        self._grow(await self._database.read(_last_sequence))
        return self.end

    async def read(self, consumer: str, limit: int = BATCH_ROWS) -> ResultBatch | None:
        """What a consumer has not taken yet, at most `limit` entries; None when there is nothing.

        Raises `StoreError`, also when a newer version wrote the next entry, and `KeyError` when `consumer` is not enabled.
        """
        page = await self.page(self._positions[consumer], limit)
        while page is not None and not page.entries:
            page = await self.page(page.last, limit)
        return None if page is None else ResultBatch(node=self._node, consumer=consumer, entries=page.entries)

    async def page(self, after: int, limit: int = BATCH_ROWS) -> Page | None:
        """Entries after a sequence, at most `limit` rows and 8 MiB; None when there are none. Raises `StoreError`."""
        return await self._database.read(partial(_page, after, limit))

    async def first_day(self, after: int) -> str | None:
        """The earliest UTC day among the entries after a sequence; None when there are none."""

        def query(connection: Connection) -> str | None:
            found = connection.exec_driver_sql("SELECT MIN(day) FROM node_journal WHERE sequence > ?", (after,)).scalar()
            return None if found is None else str(found)

        return await self._database.read(query)

    # --- keeping it small ---

    async def continue_after(self, sequence: int) -> None:
        """Give only sequences beyond this one from now on: a journal that was lost or restored must not repeat them."""

        def raise_sequence(connection: Connection) -> None:
            changed = connection.exec_driver_sql(
                "UPDATE sqlite_sequence SET seq = ? WHERE name = 'node_journal' AND seq < ?", (sequence, sequence)
            )
            if not changed.rowcount and not _last_sequence(connection):
                connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES ('node_journal', ?)", (sequence,))

        await self._database.write(raise_sequence)
        await self.refresh()

    async def trim(self, passed: int) -> int:
        """Remove entries up to `passed`, which every consumer has taken. Returns how many rows went."""

        def remove(connection: Connection) -> int:
            return connection.exec_driver_sql("DELETE FROM node_journal WHERE sequence <= ?", (passed,)).rowcount

        return await self._database.write(remove)

    async def bound(self, today: str, *, max_bytes: int = MAX_BYTES, max_days: int = MAX_DAYS) -> Dropped | None:
        """Drop entries of days over `max_days` ago, and the oldest beyond `max_bytes` of payload; None if none had to go."""
        oldest = (datetime.date.fromisoformat(today) - datetime.timedelta(days=max_days)).isoformat()
        if not (await self._database.read(partial(_surplus, oldest, max_bytes))).rows:
            return None
        dropped = await self._database.write(partial(_drop, oldest, max_bytes))
        return dropped if dropped.rows else None


def _rows(results: Iterable[Result]) -> dict[Row, int]:
    rows: dict[Row, int] = {}
    for result in results:
        row = (result.day, *encode(result))
        rows[row] = rows.get(row, 0) + 1
    return rows


def _last_sequence(connection: Connection) -> int:
    query = "SELECT seq FROM sqlite_sequence WHERE name = 'node_journal'"
    return int(connection.exec_driver_sql(query).scalar() or 0)


def _page(after: int, limit: int, connection: Connection) -> Page | None:
    query = "SELECT sequence, count, kind, payload FROM node_journal WHERE sequence > ? ORDER BY sequence LIMIT ?"
    entries: list[JournalEntry] = []
    unreadable: list[tuple[int, str]] = []
    last = size = 0
    # The driver's own cursor: this is read for every result, and SQLAlchemy's rows cost as much as the decoding.
    for sequence, count, kind, payload in connection.connection.cursor().execute(query, (after, limit)):
        try:
            result = decode(kind, payload)
        except UnreadableResult as exc:
            unreadable.append((sequence, str(exc)))
        except StoreError:
            if last:
                break  # hand over what stands before it
            raise
        else:
            entries.append(JournalEntry(sequence=sequence, count=count, result=result))
        last = sequence
        size += len(payload)
        if size >= BATCH_BYTES:
            break
    return Page(entries=tuple(entries), last=last, unreadable=tuple(unreadable)) if last else None


_SURPLUS: Final = (
    "FROM node_journal WHERE day < ? OR sequence <= COALESCE((SELECT MAX(sequence) FROM ("
    "SELECT sequence, SUM(LENGTH(payload)) OVER (ORDER BY sequence DESC) AS held FROM node_journal) AS running"
    " WHERE held > ?), 0)"
)


def _surplus(oldest: str, max_bytes: int, connection: Connection) -> Dropped:
    # By day and not by sequence: one old day among new ones, as a foreign source may bring, must take nothing with it.
    query = f"SELECT COUNT(*), COALESCE(SUM(count), 0), COALESCE(MIN(day), ''), COALESCE(MAX(day), '') {_SURPLUS}"
    rows, results, first, last = connection.exec_driver_sql(query, (oldest, max_bytes)).one()
    return Dropped(rows=rows, results=results, first_day=first, last_day=last)


def _drop(oldest: str, max_bytes: int, connection: Connection) -> Dropped:
    dropped = _surplus(oldest, max_bytes, connection)
    connection.exec_driver_sql(f"DELETE {_SURPLUS}", (oldest, max_bytes))
    return dropped
