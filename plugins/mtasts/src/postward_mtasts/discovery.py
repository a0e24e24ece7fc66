"""From a domain to the policy that acts for it now: TXT record, cache, fetch (RFC 8461 §3.1, §3.3, §5.1).

The policy domain is the next hop as it was written, never a name that a CNAME of it leads to: a forged alias must not bring
the policy of somebody else. DNS is asked for every delivery, so a new id is seen before any message fails for good (RFC 8461
§5, §5.1).
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from postward.dns import Status
from postward.errors import InvalidName
from postward.model import Failure, Mode, ResultType, TlsPolicy
from postward.names import Domain
from postward_mtasts import cache, record, tables
from postward_mtasts.cache import Entry, Lookup, Step
from postward_mtasts.fetch import FetchError, fetch
from postward_mtasts.flight import SingleFlight
from postward_mtasts.memory import Memory, remembered
from postward_mtasts.record import RecordError, StsRecord

if TYPE_CHECKING:
    from postward.core import Core
    from postward_mtasts.figures import Figures

# With the minute for the fetch it stays below the limit of the hook, so that slowness is a recorded problem and no crash.
LOOKUP_LIMIT: Final = 20.0

Looked = tuple[StsRecord | Lookup, Failure | None]


class Discovery:
    """The policies of other domains, as this program knows them."""

    def __init__(self, core: Core, figures: Figures) -> None:
        self._core, self._figures = core, figures
        self._flights: SingleFlight[Domain, TlsPolicy | None] = SingleFlight()
        self._fetches: SingleFlight[tuple[Domain, str], Entry] = SingleFlight()
        self.memory = Memory()

    async def policy(self, domain: Domain) -> TlsPolicy | None:
        """The policy to apply to a next-hop domain, or what went wrong as its `problem`; None when it has none.

        Concurrent calls for one domain share one lookup and one fetch. Raises `StoreError`.
        """
        policy = await self._flights.run(domain, partial(self._discover, domain))
        self._figures.policy(policy)
        return policy

    async def _discover(self, domain: Domain) -> TlsPolicy | None:
        found, failure = await self.look_up(domain)
        now = self._core.clock.now()
        known = self.memory.get(domain, now)
        if known is not None:
            # Only what leaves nothing to decide; anything else is decided by what the store says now.
            if found is Lookup.ABSENT and not known.record_id:
                return None
            if isinstance(found, StsRecord) and found.id == known.record_id and now < known.expires:
                await self._in_use(domain, known.last_use, now)
                return known.policy
        return await self._decide(domain, found, failure, await self.load(domain))

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
            await self._in_use(domain, entry.last_use, now)
            return cache.apply(entry, (cache.fallback(failure),) if failure else ())
        if step is Step.FORGET and entry is not None:
            await self.forget(entry)
        if step is Step.PROBLEM and failure is not None:
            return cache.problem(domain, failure)
        return None

    async def look_up(self, domain: Domain) -> Looked:
        """The record, or what there is instead, and then why. The resolver follows aliases (RFC 8461 §3.1, §8.2)."""
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
            renewed = await self.fetch(domain, found.id, entry)
        except FetchError as exc:
            failure = exc.failure
            self._core.log.warning(
                "policy not fetched", domain=domain, id=found.id, reason=failure.reason, detail=failure.detail
            )
            now = self._core.clock.now()
            if entry is not None and entry.valid(now) and entry.mode is not Mode.NONE:
                await self._in_use(domain, entry.last_use, now)
                return cache.apply(entry, (cache.fallback(failure),))
            return cache.problem(domain, failure, exc.evidence)
        await self._in_use(domain, renewed.last_use, self._core.clock.now())
        return cache.apply(renewed)

    async def fetch(self, domain: Domain, record_id: str, entry: Entry | None) -> Entry:
        """Fetch and remember, success or failure; concurrent calls for the same id share it. Raises `FetchError`."""
        return await self._fetches.run((domain, record_id), partial(self._fetch, domain, record_id, entry))

    async def _fetch(self, domain: Domain, record_id: str, entry: Entry | None) -> Entry:
        results, log = self._core.store.results, self._core.log
        started = trio.current_time()
        try:
            fetched = await fetch(self._core.http, domain)
        except FetchError as exc:
            self._figures.fetched(trio.current_time() - started, exc.failure)
            failed = cache.failed(entry, domain, record_id, exc.failure.detail, self._core.clock.now(), chance=random.random())
            await results.write(lambda connection: tables.save_failure(connection, failed))
            self.memory.drop(domain)
            raise
        self._figures.fetched(trio.current_time() - started)
        now, chance = self._core.clock.now(), random.random()
        renewed = cache.fetched(entry, domain, record_id, fetched.text, now, media_type=fetched.media_type, chance=chance)
        log.info("policy fetched", domain=domain, id=record_id, mode=renewed.mode, max_age=fetched.policy.max_age)
        if fetched.media_type != "text/plain":
            log.info("policy has a surprising media type", domain=domain, media_type=fetched.media_type)
        await results.write(lambda connection: tables.save(connection, renewed))
        self._remember(domain, renewed)
        return renewed

    async def load(self, domain: Domain) -> Entry | None:
        """What the store remembers of a domain; a policy that cannot be read any more counts as none."""
        entry = await self._core.store.results.read(lambda connection: tables.load(connection, domain))
        entry = None if entry is None else cache.sound(entry)
        self._remember(domain, entry)
        return entry

    def _remember(self, domain: Domain, entry: Entry | None) -> None:
        self.memory.put(domain, remembered(entry, self._core.clock.now()))

    async def forget(self, *entries: Entry) -> None:
        """Drop what is remembered, unless it has changed since it was read."""
        await self._core.store.results.write(lambda connection: tables.forget(connection, *entries))
        for entry in entries:
            self.memory.drop(entry.domain)

    async def _in_use(self, domain: Domain, last_use: int, now: int) -> None:
        """Remember that the policy is needed; a day's precision is enough and spares a write per delivery."""
        if now - last_use >= cache.DAY:
            await self._core.store.results.write(lambda connection: tables.touch(connection, domain, now))
            self.memory.drop(domain)


def _fetch_error(reason: str, detail: str) -> Failure:
    return Failure(result_type=ResultType.STS_POLICY_FETCH_ERROR, reason=reason, detail=detail)
