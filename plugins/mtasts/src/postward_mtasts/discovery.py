"""From a domain to the policy that acts for it now: TXT record, cache, fetch (RFC 8461 §3, §5.1), and the daily refresh.

The policy domain is the next hop as it was written, never a name that a CNAME of it leads to: a forged alias must not bring
the policy of somebody else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from postward.dns import Status
from postward.errors import InvalidName
from postward.model import MICROSECONDS, Failure, Mode, ResultType, TlsPolicy
from postward.names import Domain
from postward_mtasts import cache, record, tables
from postward_mtasts.cache import Entry, Lookup, Step
from postward_mtasts.fetch import FetchError, fetch
from postward_mtasts.flight import SingleFlight
from postward_mtasts.record import RecordError, StsRecord

if TYPE_CHECKING:
    from postward.core import Core

# With the minute for the fetch it stays below the limit of the hook, so that slowness is a recorded problem and no crash.
LOOKUP_LIMIT: Final = 20.0
REFRESH_PERIOD: Final = 3600 * MICROSECONDS
REFRESH_SPREAD: Final = 1800.0
REFRESH_GAP: Final = 5.0
REFRESH_WIDTH: Final = 8

Looked = tuple[StsRecord | Lookup, Failure | None]


class Discovery:
    """The policies of other domains, as this program knows them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._flights: SingleFlight[Domain, TlsPolicy | None] = SingleFlight()

    async def policy(self, domain: Domain) -> TlsPolicy | None:
        """The policy to apply to a next-hop domain, or what went wrong as its `problem`; None when it has none.

        Concurrent calls for one domain share one lookup and one fetch. Raises `StoreError`.
        """
        return await self._flights.run(domain, lambda: self._discover(domain))

    async def _discover(self, domain: Domain) -> TlsPolicy | None:
        found, failure = await self._look_up(domain)
        return await self._decide(domain, found, failure, await self._load(domain))

    async def _decide(
        self, domain: Domain, found: StsRecord | Lookup, failure: Failure | None, entry: Entry | None
    ) -> TlsPolicy | None:
        now = self._core.clock.now()
        step = cache.next_step(entry, found, now)
        if step is Step.FETCH and isinstance(found, StsRecord):
            return await self._renew(domain, found, entry)
        if isinstance(found, StsRecord) and entry is not None and (step is Step.PROBLEM or entry.record_id != found.id):
            failure = cache.backed_off(entry)
        if step is Step.CACHED and entry is not None:
            await self._in_use(entry, now)
            return cache.apply(entry, (cache.fallback(failure),) if failure else ())
        if step is Step.FORGET and entry is not None:
            await self._forget(entry)
        if step is Step.PROBLEM and failure is not None:
            return cache.problem(domain, failure)
        return None

    async def _look_up(self, domain: Domain) -> Looked:
        """The record, or what there is instead, and then why."""
        try:
            name = Domain(f"_mta-sts.{domain}")
        except InvalidName:
            return Lookup.ABSENT, None
        answer = None
        with trio.move_on_after(LOOKUP_LIMIT):
            answer = await self._core.dns.query(name, "TXT")
        if answer is None:
            return Lookup.FAILED, _fetch_error("dns-timeout", f"{name}: no answer within {LOOKUP_LIMIT:.0f} s")
        if answer.failure is not None:
            return Lookup.FAILED, _fetch_error(answer.failure.slug, f"{name}: {answer.failure.detail or answer.failure.rcode}")
        if answer.status is not Status.ABSENT:
            try:
                if (chosen := record.choose(answer.texts)) is not None:
                    return chosen, None
            except RecordError as exc:
                return Lookup.INVALID, _fetch_error(exc.slug, f"{name}: {exc}")
        return Lookup.ABSENT, _fetch_error("no-mta-sts-record", f"{name}: no record, although a policy is cached")

    async def _renew(self, domain: Domain, found: StsRecord, entry: Entry | None) -> TlsPolicy | None:
        try:
            renewed = await self._fetch(domain, found.id, entry, in_use=True)
        except FetchError as exc:
            now = self._core.clock.now()
            if entry is not None and entry.valid(now) and entry.mode is not Mode.NONE:
                await self._in_use(entry, now)
                return cache.apply(entry, (cache.fallback(exc.failure),))
            return cache.problem(domain, exc.failure, exc.evidence)
        return cache.apply(renewed)

    async def _fetch(self, domain: Domain, record_id: str, entry: Entry | None, *, in_use: bool) -> Entry:
        """Fetch and remember, success or failure. Raises `FetchError`."""
        results, log = self._core.store.results, self._core.log
        try:
            fetched = await fetch(self._core.http, domain)
        except FetchError as exc:
            failure, now = exc.failure, self._core.clock.now()
            log.warning("policy not fetched", domain=domain, id=record_id, reason=failure.reason, detail=failure.detail)
            error = "".join(letter if letter.isprintable() else "?" for letter in failure.detail[:300])
            await results.write(lambda connection: tables.save_failure(connection, domain, record_id, error, now))
            raise
        now = self._core.clock.now()
        renewed = cache.fetched(entry, domain, record_id, fetched.text, now)
        if in_use:
            renewed = replace(renewed, last_use=now)
        log.info("policy fetched", domain=domain, id=record_id, mode=renewed.mode, max_age=fetched.policy.max_age)
        if fetched.media_type != "text/plain":
            log.info("policy has a surprising media type", domain=domain, media_type=fetched.media_type)
        await results.write(lambda connection: tables.save(connection, renewed))
        return renewed

    async def _load(self, domain: Domain) -> Entry | None:
        entry = await self._core.store.results.read(lambda connection: tables.load(connection, domain))
        return None if entry is None else cache.sound(entry)

    async def _forget(self, *entries: Entry) -> None:
        await self._core.store.results.write(lambda connection: tables.forget(connection, *entries))

    async def _in_use(self, entry: Entry, now: int) -> None:
        """Remember that the policy is needed; a day's precision is enough and spares a write per delivery."""
        if now - entry.last_use >= cache.DAY:
            await self._core.store.results.write(lambda connection: tables.touch(connection, entry.domain, now))

    # --- refresh ---

    async def keep_fresh(self) -> None:
        """Renew policies in use before they expire, for ever. One that cannot be renewed is logged (RFC 8461 §10.2)."""
        while True:
            await self.refresh_due()
            await self._core.clock.sleep_until(self._core.clock.now() + REFRESH_PERIOD)

    async def refresh_due(self) -> None:
        """Renew what is due, spread over up to half an hour, and drop what is of no use any more."""
        due = await self._sweep()
        random.shuffle(due)
        gap = min(REFRESH_GAP, REFRESH_SPREAD / max(1, len(due)))
        limiter = trio.CapacityLimiter(REFRESH_WIDTH)
        async with trio.open_nursery() as nursery:
            for number, entry in enumerate(due):
                if number:
                    await trio.sleep(random.uniform(0, 2 * gap))
                await limiter.acquire_on_behalf_of(entry)
                nursery.start_soon(self._refresh_within, entry, limiter)

    async def _sweep(self) -> list[Entry]:
        now = self._core.clock.now()
        due: list[Entry] = []
        page = await self._page("")
        while page:
            useless = [entry for entry in page if cache.disposable(entry, now)]
            due += (replace(entry, text="") for entry in page if entry not in useless and cache.refresh_due(entry, now))
            await self._forget(*useless)
            page = await self._page(page[-1].domain)
        return due

    async def _page(self, after: str) -> Sequence[Entry]:
        return await self._core.store.results.read(lambda connection: tables.load_page(connection, after))

    async def _refresh_within(self, entry: Entry, limiter: trio.CapacityLimiter) -> None:
        try:
            await self._flights.run(entry.domain, lambda: self._refresh(entry.domain))
        finally:
            limiter.release_on_behalf_of(entry)

    async def _refresh(self, domain: Domain) -> TlsPolicy | None:
        """Fetch the policy whatever the record says, so that it does not expire while DNS is in trouble.

        Where that fails, a delivery that waits for it gets what any other one would get now.
        """
        found, failure = await self._look_up(domain)
        entry = await self._load(domain)
        if entry is None or (found is Lookup.ABSENT and entry.mode is Mode.NONE):
            return await self._decide(domain, found, failure, entry)
        record_id = found.id if isinstance(found, StsRecord) else entry.record_id
        try:
            return cache.apply(await self._fetch(domain, record_id, entry, in_use=False))
        except FetchError:
            return await self._decide(domain, found, failure, await self._load(domain))


def _fetch_error(reason: str, detail: str) -> Failure:
    return Failure(result_type=ResultType.STS_POLICY_FETCH_ERROR, reason=reason, detail=detail)
