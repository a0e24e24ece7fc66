"""One piece of work per key at a time, its result shared by everybody who asked meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import trio

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True, eq=False)
class _Flight(Generic[V]):
    done: trio.Event = field(default_factory=trio.Event)
    result: tuple[V] | None = None
    error: Exception | None = None


class SingleFlight(Generic[K, V]):
    """Runs work once for concurrent callers.

    When the caller that does the work is cancelled, the next one takes over: one impatient delivery does not spoil the others.
    """

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[V]] = {}

    async def run(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """The result of `work`, or of the work under way for `key`. An exception reaches every caller."""
        while (under_way := self._flights.get(key)) is not None:
            await under_way.done.wait()
            if under_way.result is not None:
                return under_way.result[0]
            if under_way.error is not None:
                raise under_way.error
        flight = self._flights[key] = _Flight()
        try:
            value = await work()
            flight.result = (value,)
            return value
        except Exception as exc:
            flight.error = exc
            raise
        finally:
            del self._flights[key]
            flight.done.set()
