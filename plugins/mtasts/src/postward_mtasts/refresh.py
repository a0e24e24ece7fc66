"""Policies in use are renewed before they expire, whatever the record says; what nobody needs goes (RFC 8461 §3.3, §10.2).

Each entry carries the instant at which it has to be looked at again, so a round costs what is due and not what is stored.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from postward.model import MICROSECONDS, Mode
from postward.names import Domain
from postward_mtasts import cache, tables
from postward_mtasts.cache import Entry, Lookup
from postward_mtasts.fetch import FetchError
from postward_mtasts.record import StsRecord

if TYPE_CHECKING:
    from postward.core import Core
    from postward_mtasts.discovery import Discovery

PERIOD: Final = 60 * MICROSECONDS
SPREAD: Final = 3600.0
"""Seconds over which renewals are spread that have piled up, as behind a day without power."""

GAP: Final = 5.0
WIDTH: Final = 32
BATCH: Final = 64
TAKEN_FOR: Final = 1800 * MICROSECONDS


class Refresher:
    """Looks at every entry when its time has come."""

    def __init__(self, core: Core, discovery: Discovery) -> None:
        self._core, self._discovery = core, discovery

    async def run(self) -> None:
        """Work for ever."""
        while True:
            await self.round()
            await self._core.clock.sleep_until(self._core.clock.now() + PERIOD)

    async def round(self) -> None:
        """Look at all that is due. A policy host that does not answer holds up none of the others."""
        results, now = self._core.store.results, self._core.clock.now()
        left = await results.read(lambda connection: tables.count_due(connection, now))
        gap = min(GAP, SPREAD / max(1, left))
        limiter = trio.CapacityLimiter(WIDTH)
        async with trio.open_nursery() as nursery:
            while left > 0:
                now = self._core.clock.now()
                taken = await results.write(partial(tables.take_due, now=now, until=now + TAKEN_FOR, most=BATCH))
                for entry in taken:
                    token = object()
                    await limiter.acquire_on_behalf_of(token)
                    nursery.start_soon(self._within, entry, limiter, token)
                    left -= 1
                    if left > 0:
                        await trio.sleep(random.uniform(0, 2 * gap))
                if not taken:
                    break

    async def _within(self, entry: Entry, limiter: trio.CapacityLimiter, token: object) -> None:
        try:
            await self._look_at(entry)
        finally:
            limiter.release_on_behalf_of(token)

    async def _look_at(self, entry: Entry) -> None:
        now = self._core.clock.now()
        if cache.disposable(entry, now):
            await self._discovery.forget(entry)
            return
        if entry.valid(now) and cache.next_look(entry, now, 1.0) <= now:
            await self.renew(entry.domain)
            return
        due = cache.next_look(entry, now, random.random())
        await self._core.store.results.write(lambda connection: tables.look_at(connection, entry.domain, due))

    async def renew(self, domain: Domain) -> FetchError | None:
        """Fetch a policy whatever the record says, so that it does not expire while DNS is in trouble; the error, if any.

        A policy of mode `none` whose record is gone is forgotten instead (RFC 8461 §8.3): DNS that fails does not mean that.
        """
        found, failure = await self._discovery.look_up(domain)
        entry = await self._discovery.load(domain)
        if entry is not None and found is Lookup.ABSENT and entry.mode is Mode.NONE:
            await self._discovery.forget(entry)
            return None
        record_id = found.id if isinstance(found, StsRecord) else entry.record_id if entry else ""
        if not record_id:
            return None
        try:
            await self._discovery.fetch(domain, record_id, entry)
        except FetchError as exc:
            if entry is not None and entry.mode is not Mode.NONE:
                # RFC 8461 §10.2 SHOULD: the operator hears of it while there is time, except where nothing is lost.
                self._core.log.error(
                    "policy not renewed",
                    domain=domain,
                    mode=entry.mode,
                    expires_in_hours=max(0, round((entry.expires - self._core.clock.now()) / (3600 * MICROSECONDS))),
                    reason=exc.failure.reason,
                    detail=exc.failure.detail,
                    dns=failure.detail if failure else "",
                )
            return exc
        return None
