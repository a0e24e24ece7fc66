"""Where each node's consumers stand, kept beside what they count, so that both move in one transaction."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import Connection, CursorResult, text

from postward.errors import StoreError
from postward.model import MICROSECONDS, Window

GRACE: Final = 6 * 3600 * MICROSECONDS


class StaleBatch(StoreError):
    """Part of a batch was already consumed, by another process on this node. Read again from `position` on."""

    routine = True

    def __init__(self, consumer: str, position: int) -> None:
        self.position = position
        super().__init__(f"results up to {position} were already taken for {consumer!r}; read again")


def register(connection: Connection, *, node: str, consumers: Iterable[str], end: int, now: int) -> dict[str, int]:
    """Make exactly `consumers` stand in the table for `node`, new ones at `end`, and return all positions."""
    found = _positions(connection, node)
    wanted = list(consumers)
    for consumer in found.keys() - set(wanted):
        _execute(connection, "DELETE FROM core_nodes WHERE node = :node AND consumer = :consumer", node=node, consumer=consumer)
    for consumer in wanted:
        # Two processes of a node may start at once; the first one decides where a new consumer begins.
        _execute(
            connection,
            "INSERT INTO core_nodes (node, consumer, sequence, day_done, seen) VALUES (:node, :consumer, :end, '', :now)"
            " ON CONFLICT (node, consumer) DO UPDATE SET seen = excluded.seen",
            node=node, consumer=consumer, end=end, now=now,
        )  # fmt: skip
    return _positions(connection, node)


def highest(connection: Connection, node: str) -> int:
    """The furthest position of any consumer of a node; 0 when there is none."""
    found = _execute(connection, "SELECT MAX(sequence) FROM core_nodes WHERE node = :node", node=node).scalar()
    return int(found or 0)


def take(connection: Connection, *, node: str, consumer: str, first: int, last: int) -> bool:
    """Move a cursor over `first` … `last`; False when it already stands behind them.

    Raises `StaleBatch` when it stands inside, `StoreError` when there is no such consumer.
    """
    key = {"node": node, "consumer": consumer}
    # The UPDATE comes first because it locks the row on PostgreSQL: whoever else moves this cursor waits.
    _execute(connection, "UPDATE core_nodes SET seen = seen WHERE node = :node AND consumer = :consumer", **key)
    query = "SELECT sequence FROM core_nodes WHERE node = :node AND consumer = :consumer"
    position = _execute(connection, query, **key).scalar()
    if position is None:
        raise StoreError(f"{consumer!r} is not enabled on node {node!r}: it has no position in the journal")
    if position >= last:
        return False
    if position >= first:
        raise StaleBatch(consumer, int(position))
    move = "UPDATE core_nodes SET sequence = :last WHERE node = :node AND consumer = :consumer"
    _execute(connection, move, last=last, **key)
    return True


def beat(connection: Connection, *, node: str, days: dict[str, str], now: int) -> None:
    """Give a sign of life, and the last UTC day that each consumer has completely taken."""
    for consumer, day in days.items():
        _execute(
            connection,
            "UPDATE core_nodes SET day_done = :day, seen = :now WHERE node = :node AND consumer = :consumer",
            node=node, consumer=consumer, day=day, now=now,
        )  # fmt: skip


def closed_until(connection: Connection, *, consumer: str, now: int) -> int:
    """The instant up to which no live node has anything left for a consumer; 0 when that is not known."""
    query = "SELECT MIN(day_done) FROM core_nodes WHERE consumer = :consumer AND seen >= :alive"
    day = _execute(connection, query, consumer=consumer, alive=now - GRACE).scalar()
    return Window.of_day(day).end if day else 0


def day_before(day: str) -> str:
    """The UTC day before `day`."""
    return (datetime.date.fromisoformat(day) - datetime.timedelta(days=1)).isoformat()


def _positions(connection: Connection, node: str) -> dict[str, int]:
    rows = _execute(connection, "SELECT consumer, sequence FROM core_nodes WHERE node = :node", node=node)
    return {str(row.consumer): int(row.sequence) for row in rows}


def _execute(connection: Connection, statement: str, **values: object) -> CursorResult[Any]:
    return connection.execute(text(statement), values)
