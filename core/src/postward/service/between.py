"""Between the workers of a service: each tells the others what it has taken for their destinations.

A small message goes along, so that its worker need not read it back: what one process commits makes worthless what the others
have of the database in memory. That is a hint. The queue is what counts: what is lost, late or from before a worker's own time
is looked for there, because it may have been claimed, delivered and forgotten meanwhile.
"""

from __future__ import annotations

import marshal
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import trio

from postward.names import Domain
from postward.queue.handover import pack, unpack
from postward.queue.runner import REMEMBERED_SECONDS
from postward.queue.types import shard_of

if TYPE_CHECKING:
    import socket

    from postward.queue.types import Job
    from postward.service.workers import Place

FRESH: Final = REMEMBERED_SECONDS / 2
# With the names, which take up to 52 KB, it must stay below what a socket sends at once (net.core.wmem_default, 208 KiB).
_DATAGRAM: Final = 140 * 1024
_ROOM_FOR_ONE: Final = 32
_HELD: Final = 1024 * 1024
_NAMES: Final = 200


class _Outbox:
    """What one other worker is to be told. Names are never lost; messages are while it does not listen."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = trio.socket.from_stdlib_socket(sock)
        self._names: dict[Domain, None] = {}
        # Packed, because a short message may have recipients that take far more room than it does.
        self._jobs: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._everything = False
        self._news = trio.Event()

    def put_all(self) -> None:
        self._everything = True
        self._news.set()

    def put(self, names: Collection[Domain], jobs: Sequence[Job], now: float) -> None:
        self._names.update(dict.fromkeys(names))
        for job in jobs:
            if self._held >= _HELD or job.message.size >= _DATAGRAM:
                continue
            plain: Any = pack(job)
            packed = marshal.dumps(plain)
            if len(packed) + _ROOM_FOR_ONE <= _DATAGRAM:
                self._jobs.append((now, packed))
                self._held += len(packed) + _ROOM_FOR_ONE
        self._news.set()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._names or self._jobs or self._everything:
                data = marshal.dumps(self._take())
                # One that is being started again reads what it finds; one that is gone for good takes all with it.
                with suppress(OSError):
                    await self.socket.send(data)

    def _take(self) -> tuple[bool, list[str], list[tuple[float, bytes]]]:
        jobs: list[tuple[float, bytes]] = []
        size = 0
        while self._jobs and size + len(self._jobs[0][1]) + _ROOM_FOR_ONE <= _DATAGRAM:
            jobs.append(self._jobs.popleft())
            size += len(jobs[-1][1]) + _ROOM_FOR_ONE
        self._held -= size
        everything, self._everything = self._everything, False
        names = list(islice(self._names, _NAMES))
        for name in names:
            del self._names[name]
        return everything, [str(name) for name in names], jobs


class Between:
    """Tells the workers of other destinations, and listens to them, while `run` is running."""

    def __init__(
        self,
        place: Place,
        wake: Callable[[Collection[Domain], Sequence[Job]], None],
        wake_all: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place, self._wake, self._wake_all, self._clock = place, wake, wake_all, clock
        self._started = clock()
        self._outboxes = {index: _Outbox(sock) for index, sock in enumerate(place.wakes) if index != place.index}
        self._inbox = trio.socket.from_stdlib_socket(place.inbox)

    def tell(self, domains: Collection[Domain], jobs: Sequence[Job]) -> None:
        """Mail for these destinations has been queued this moment; those of this worker are passed over."""
        for index, outbox in self._outboxes.items():
            names = [domain for domain in domains if shard_of(domain) % self._place.count == index]
            if names:
                outbox.put(names, [job for job in jobs if job.domain in names], self._clock())

    def tell_all(self) -> None:
        """The queue was changed: all others are to look at all of their parts."""
        for outbox in self._outboxes.values():
            outbox.put_all()

    async def run(self) -> None:
        """Send and listen until cancelled."""
        async with trio.open_nursery() as nursery:
            for outbox in self._outboxes.values():
                nursery.start_soon(outbox.run)
            while True:
                self._hear(await self._inbox.recv(2 * _DATAGRAM))

    def _hear(self, data: bytes) -> None:
        everything, names, told = marshal.loads(data)
        if everything:
            self._wake_all()
        now = self._clock()
        jobs = [unpack(marshal.loads(packed)) for at, packed in told if at >= self._started and now - at < FRESH]
        self._wake({*(Domain(name) for name in names), *(job.domain for job in jobs)}, jobs)
