"""How far each consumer of results is behind the journal, for people: read from both databases, changing nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from postward.errors import StoreError
from postward.store.engine import explain, open_engines

if TYPE_CHECKING:
    from collections.abc import Callable

    from postward.store.store import Store

T = TypeVar("T")

_BEHIND: Final = text("SELECT COALESCE(SUM(results), 0), COALESCE(MIN(day), '') FROM node_journal WHERE sequence > :position")
_END: Final = text("SELECT COALESCE(MAX(sequence), 0) FROM node_journal")
_CURSORS: Final = text("SELECT consumer, sequence, seen FROM core_nodes WHERE node = :node ORDER BY consumer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A consumer's `position` in a journal that goes to `end`: `results` are still to take, the oldest of `oldest_day`.

    `seen` is when its node last gave a sign of life, microseconds UTC; `oldest_day` is a UTC day, empty when nothing is left.
    """

    consumer: str
    position: int
    end: int
    results: int
    oldest_day: str
    seen: int


def standings(results_url: str, node_url: str, node: str) -> list[Standing]:
    """Where the consumers of `node` stand. Both databases must be there, with their tables. Raises `StoreError`."""
    cursors = read_once(results_url, partial(_cursors, node=node))
    return _joined(cursors, *read_once(node_url, partial(_behind, positions=_positions(cursors))))


async def standings_of(store: Store) -> list[Standing]:
    """Where the consumers of this node stand. Raises `StoreError`."""
    cursors = await store.results.read(partial(_cursors, node=store.node))
    return _joined(cursors, *await store.node_db.read(partial(_behind, positions=_positions(cursors))))


def _positions(cursors: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    return {consumer: position for consumer, (position, _) in cursors.items()}


def _joined(cursors: Mapping[str, tuple[int, int]], end: int, behind: Mapping[str, tuple[int, str]]) -> list[Standing]:
    return [
        Standing(
            consumer=consumer,
            position=position,
            end=end,
            results=behind[consumer][0],
            oldest_day=behind[consumer][1],
            seen=seen,
        )
        for consumer, (position, seen) in cursors.items()
    ]


def target_counts(url: str) -> dict[str, int]:
    """How many addresses of reports there are in each state that occurs. Raises `StoreError`."""
    return read_once(url, _targets)


def _targets(connection: Connection) -> dict[str, int]:
    query = text("SELECT state, COUNT(*) FROM core_outbox_targets GROUP BY state ORDER BY state")
    return {str(state): int(count) for state, count in connection.execute(query)}


def _cursors(connection: Connection, *, node: str) -> dict[str, tuple[int, int]]:
    return {str(row.consumer): (int(row.sequence), int(row.seen)) for row in connection.execute(_CURSORS, {"node": node})}


def _behind(connection: Connection, *, positions: Mapping[str, int]) -> tuple[int, dict[str, tuple[int, str]]]:
    found = {}
    for consumer, position in positions.items():
        results, day = connection.execute(_BEHIND, {"position": position}).one()
        found[consumer] = (int(results), str(day))
    return int(connection.execute(_END).scalar() or 0), found


def read_once(url: str, fn: Callable[[Connection], T]) -> T:
    """Run `fn` on a database that is there, with its tables, as one consistent state. Raises `StoreError`."""
    engines = open_engines(url)
    try:
        with engines.reader.connect() as connection, connection.begin() as transaction:
            value = fn(connection)
            transaction.rollback()
            return value
    except SQLAlchemyError as exc:
        raise explain(exc, engines.name) or StoreError(f"database {engines.name}: {str(exc).partition(chr(10))[0]}") from exc
    finally:
        engines.dispose()
