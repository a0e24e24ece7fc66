"""The journal: what happened on this node, in order, until every consumer has taken it.

It lives in the node's own database, so a result is written in the same transaction as the outcome it belongs to. Identical
results within one commit are one entry with a count, and the entries of one commit are one row. Consumers read it by
sequence; where each stands is kept next to what it counts (`store`), not here.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import trio
from sqlalchemy import Connection

from postward.errors import StoreError
from postward.model import JournalEntry, ResultBatch
from postward.store.codec import Result, Unreadable, encode, memory, pack, unpack
from postward.store.database import Database

BATCH_ROWS: Final = 2000
BATCH_BYTES: Final = 8 << 20
PACK_BYTES: Final = 2 << 20
MAX_BYTES: Final = 1 << 30
MAX_DAYS: Final = 14
POLL_SECONDS: Final = 5.0

# By encoding, which holds the day and tells the kinds apart: how often, the kind, and the result itself.
Rows: TypeAlias = dict[bytes, tuple[int, str, Result]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What was read of the journal: readable `entries`, and how far this goes, unreadable ones included.

    `unreadable` holds the sequences of damaged entries, with the reason.
    """

    entries: tuple[JournalEntry, ...]
    last: int
    unreadable: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What was thrown away because the journal had grown too old or too large: `results` counts sessions and messages."""

    entries: int
    results: int
    first_day: str
    last_day: str


class Journal:
    """The journal in a node's database. One per process; several processes may append to the same file."""

    def __init__(self, database: Database, node: str, positions: Mapping[str, int]) -> None:
        self.end = 0
        self._node, self._positions = node, positions
        self._database = database
        self._held: Rows = {}
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

    def _hold(self, rows: Rows, _connection: Connection) -> None:
        if self._held:
            _add(self._held, rows)
        else:
            # A copy: this function may run again, and then what others added would be in it.
            self._held = rows.copy()

    def begun(self) -> None:
        """A transaction begins (`Companion`)."""
        self._held = {}
        self._inserted = 0

    def before_commit(self, connection: Connection) -> None:
        """Write what the transaction has brought together (`Companion`)."""
        if self._held:
            self._inserted = _insert(connection, self._held)

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
        """Entries after a sequence, at most `limit` and about 8 MiB; None when there are none. Raises `StoreError`."""
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

    async def trim(self, passed: int) -> None:
        """Remove entries up to `passed`, which every consumer has taken."""

        def remove(connection: Connection) -> None:
            connection.exec_driver_sql("DELETE FROM node_journal WHERE sequence <= ?", (passed,))

        await self._database.write(remove)

    async def bound(self, today: str, *, max_bytes: int = MAX_BYTES, max_days: int = MAX_DAYS) -> Dropped | None:
        """Drop entries of days over `max_days` ago, and the oldest beyond `max_bytes` of payload; None if none had to go."""
        oldest = (datetime.date.fromisoformat(today) - datetime.timedelta(days=max_days)).isoformat()
        if not (await self._database.read(partial(_surplus, oldest, max_bytes))).entries:
            return None
        dropped = await self._database.write(partial(_drop, oldest, max_bytes))
        return dropped if dropped.entries else None


def _rows(results: Iterable[Result]) -> Rows:
    rows: Rows = {}
    for result in results:
        kind, encoded, readable = encode(result)
        before = rows.get(encoded)
        rows[encoded] = (1, kind, readable) if before is None else (before[0] + 1, kind, readable)
    return rows


def _add(rows: Rows, more: Rows) -> None:
    for encoded, row in more.items():
        before = rows.get(encoded)
        rows[encoded] = row if before is None else (before[0] + row[0], before[1], before[2])


def _insert(connection: Connection, rows: Rows) -> int:
    """Write entries as few packs; returns the last sequence."""
    packs: dict[tuple[str, str], list[tuple[int, bytes, Result]]] = {}
    for encoded, (count, kind, result) in rows.items():
        packs.setdefault((result.day, kind), []).append((count, encoded, result))
    # The transaction has begun IMMEDIATE, so no other process gives the same sequences.
    last = _last_sequence(connection)
    values = []
    for (day, kind), entries in packs.items():
        for part in _parts(entries):
            last += len(part)
            payload = pack((count, encoded) for count, encoded, _ in part)
            memory.put(payload, [(count, result) for count, _, result in part])
            values.append((last, len(part), sum(count for count, _, _ in part), day, kind, payload))
    query = "INSERT INTO node_journal (sequence, entries, results, day, kind, payload) VALUES (?, ?, ?, ?, ?, ?)"
    connection.exec_driver_sql(query, values)
    return last


def _parts(entries: list[tuple[int, bytes, Result]]) -> Iterator[list[tuple[int, bytes, Result]]]:
    """Pieces that are no larger than a batch."""
    part: list[tuple[int, bytes, Result]] = []
    size = 0
    for entry in entries:
        part.append(entry)
        size += len(entry[1])
        if len(part) >= BATCH_ROWS or size >= PACK_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _last_sequence(connection: Connection) -> int:
    query = "SELECT seq FROM sqlite_sequence WHERE name = 'node_journal'"
    return int(connection.exec_driver_sql(query).scalar() or 0)


def _page(after: int, limit: int, connection: Connection) -> Page | None:
    query = "SELECT sequence, entries, kind, payload FROM node_journal WHERE sequence > ? ORDER BY sequence LIMIT ?"
    entries: list[JournalEntry] = []
    unreadable: list[tuple[int, str]] = []
    position = after
    size = 0
    for last, number, kind, payload in connection.exec_driver_sql(query, (after, limit)):
        first = max(position, last - number) + 1
        if len(entries) + last + 1 - first > limit and position > after:
            break  # whole packs, where possible, so that none is read twice
        try:
            found = unpack(kind, payload)
        except StoreError:
            if position > after:
                break  # hand over what stands before it
            raise
        if isinstance(found, Unreadable) or len(found) != number:
            reason = found.reason if isinstance(found, Unreadable) else "it does not hold as many entries as it should"
            unreadable += [(sequence, reason) for sequence in range(first, last + 1)]
            position = last
        else:
            for sequence, (count, result) in enumerate(found[number - (last + 1 - first) :][:limit], first):
                if isinstance(result, Unreadable):
                    unreadable.append((sequence, result.reason))
                else:
                    entries.append(JournalEntry(sequence=sequence, count=count, result=result))
                position = sequence
        size += len(payload)
        if len(entries) >= limit or size >= BATCH_BYTES:
            break
    return Page(entries=tuple(entries), last=position, unreadable=tuple(unreadable)) if position > after else None


_SURPLUS: Final = (
    "FROM node_journal WHERE day < ? OR sequence <= COALESCE((SELECT MAX(sequence) FROM ("
    "SELECT sequence, SUM(LENGTH(payload)) OVER (ORDER BY sequence DESC) AS held FROM node_journal) AS running"
    " WHERE held > ?), 0)"
)


def _surplus(oldest: str, max_bytes: int, connection: Connection) -> Dropped:
    # By day and not by sequence: one old day among new ones, as a foreign source may bring, must take nothing with it.
    columns = "COALESCE(SUM(entries), 0), COALESCE(SUM(results), 0), COALESCE(MIN(day), ''), COALESCE(MAX(day), '')"
    entries, results, first, last = connection.exec_driver_sql(f"SELECT {columns} {_SURPLUS}", (oldest, max_bytes)).one()
    return Dropped(entries=entries, results=results, first_day=first, last_day=last)


def _drop(oldest: str, max_bytes: int, connection: Connection) -> Dropped:
    dropped = _surplus(oldest, max_bytes, connection)
    connection.exec_driver_sql(f"DELETE {_SURPLUS}", (oldest, max_bytes))
    return dropped
