"""The queue of one node, as the process that takes and delivers mail sees it.

A destination belongs to one worker (`Shards`), so what is in flight is known in memory alone: there are no leases, and after
a crash everything in flight is simply due again. Every change is one transaction, durable when its function returns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from postward.errors import StoreError
from postward.names import Domain
from postward.queue import claim as claiming
from postward.queue import report_ends
from postward.queue import settle as settling
from postward.queue.admin import Admin
from postward.queue.handover import jobs_of
from postward.queue.report_ends import ReportEnd
from postward.queue.retry import HOUR, MINUTE, RULES, RetryRules
from postward.queue.rows import Entry, raw
from postward.queue.types import ALL, BounceMail, End, Job, Shards
from postward.queue.writer import Writer

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.clock import Clock
    from postward.model import TlsResult
    from postward.store import Database, Journal

LONGEST_WAIT: Final = 2 * HOUR
"""No instant of a next try lies further ahead, microseconds: also after a clock was set back, mail moves again this soon."""
TROUBLE_WAIT: Final = 5 * MINUTE
_ORPHANS_AT_ONCE: Final = 100

_log = structlog.get_logger("postward.queue")


class Queue(Admin):
    """The durable queue in `node_db`, with the files of large messages in `spool_dir`.

    `shards` are the destinations that this process serves; mail is taken for all. All methods raise `StoreError` for trouble
    with the disk or the database; then nothing has changed.
    """

    def __init__(
        self,
        node_db: Database,
        journal: Journal,
        spool_dir: Path,
        clock: Clock,
        *,
        shards: Shards = ALL,
        longest_wait: int = LONGEST_WAIT,
    ) -> None:
        super().__init__(node_db, spool_dir, clock)
        self._journal, self._shards, self._longest_wait = journal, shards, longest_wait

    def writer(self, *, proper: bool = False) -> Writer:
        """Begin a message. Its `commit` or `abort` must be called. `proper` where its lines are known to end in CRLF."""
        return Writer(self._spool, self._insert, proper=proper)

    async def put(self, mail: BounceMail) -> None:
        """Queue a message of our own."""
        writer = self.writer()
        try:
            await writer.write(mail.content)
            await writer.commit(mail.message)
        finally:
            await writer.abort()

    async def put_once(self, mails: Sequence[BounceMail]) -> list[tuple[Job, ...] | None]:
        """Queue reports in one transaction, each with its jobs as of `Writer.commit`.

        None for one whose id is here, or was and its end is still remembered.
        """
        writers: list[Writer] = []
        try:
            entries = [await self._draft(mail, writers) for mail in mails]
            numbers = await self._write(partial(report_ends.insert_once, entries=entries))
            for writer, number in zip(writers, numbers, strict=True):
                if number is not None:
                    writer.keep()
        finally:
            for writer in writers:
                await writer.abort()
        self._announce()
        return [
            None if number is None else () if entry.body is None else jobs_of(mail.message, number, entry.body, proper=True)
            for mail, entry, number in zip(mails, entries, numbers, strict=True)
        ]

    async def report_ends(self, limit: int) -> list[ReportEnd]:
        """What has become of reports, the oldest ids first, until it is forgotten."""
        return await self._read(partial(report_ends.load, limit=limit))

    async def forget_report_ends(self, cids: Sequence[str]) -> None:
        """Forget what has become of reports: it stands elsewhere now."""
        await self._write(partial(report_ends.forget, cids=cids))

    async def due(self, now: int, limit: int, busy: Collection[Domain] = ()) -> list[Domain]:
        """Destinations with mail that is due, the longest due first, at most `limit`, without those in `busy`."""
        horizon = self._horizon(now)
        work = partial(claiming.due, now=now, limit=limit, busy=busy, shards=self._shards, horizon=horizon)
        found = await self._read(work)
        if found.stranded:
            _log.warning("queue-clock-was-set", destinations=len(found.stranded), clamped_to=horizon)
            await self._write(partial(settling.clamp, domains=found.stranded, horizon=horizon))
        if found.damaged:
            _log.error(
                "queue-destination-damaged", names=[ascii(name) for name in found.damaged], hint="its recipients are held"
            )
            await self._write(partial(settling.strike_damaged, names=found.damaged))
        return found.domains

    async def next_due(self, busy: Collection[Domain] = ()) -> int | None:
        """The instant at which the first destination not in `busy` is due; None when there is none."""
        found = await self._read(partial(claiming.next_due, busy=busy, shards=self._shards))
        # Never beyond the horizon: behind a clock that was set back, `due` has to look.
        return None if found is None else min(found, self._horizon(self._clock.now()))

    async def claim(self, domain: Domain, now: int, limit: int, taken: Collection[int] = ()) -> list[Job]:
        """Due messages for one destination, the oldest due first, at most `limit`, without the numbers in `taken`.

        A message comes with at most 100 of its recipients; the rest comes when it is claimed again behind its `settle`. A
        message that cannot be read is held, or put off, loudly.
        """
        return await self.claim_many((domain,), now, limit, taken)

    async def claim_many(self, domains: Sequence[Domain], now: int, limit: int, taken: Collection[int] = ()) -> list[Job]:
        """Do what `claim` does for several destinations in one read, `limit` for each of them; each message comes once."""
        claims = await self._read(
            partial(claiming.claim, domains=domains, now=now, limit=limit, taken=taken, spool=self._spool)
        )
        return await self._readable(claims, now)

    async def claim_old(
        self, domain: Domain, now: int, limit: int, taken: Collection[int] = (), rules: RetryRules = RULES
    ) -> list[Job]:
        """Due messages for one destination, be it told to wait or not, whose age asks for a decision: a notice, or the end."""
        work = partial(claiming.claim_old, domain=domain, now=now, limit=limit, taken=taken, spool=self._spool, rules=rules)
        return await self._readable(await self._read(work), now)

    async def _readable(self, claims: claiming.Claims, now: int) -> list[Job]:
        for message, why in claims.damaged:
            _log.error("queue-message-damaged", message=message, reason=why, hint="it is held: see postward queue list")
        for message, why in claims.troubled:
            _log.error("queue-message-unreadable", message=message, reason=why, again_in=TROUBLE_WAIT // 1_000_000)
        if claims.damaged or claims.troubled or claims.stale:
            try:
                await self._write(partial(_set_aside, claims=claims, until=now + TROUBLE_WAIT))
            except StoreError as exc:
                if not claims.jobs:
                    raise
                _log.error("queue-hold-failed", error=str(exc))
        return claims.jobs

    async def settle(
        self,
        job: Job,
        ends: Sequence[End],
        *,
        results: Sequence[TlsResult] = (),
        bounces: Sequence[BounceMail] = (),
    ) -> None:
        """Store how a job ended, with its TLS results and the bounces it causes, in one transaction.

        Delivered and failed recipients go, deferred ones wait; a message without recipients goes with its content. Recipients
        that an operator dropped meanwhile are passed over, and when none is left nothing is bounced.
        """
        drafts: list[Writer] = []
        try:
            entries = [await self._draft(bounce, drafts) for bounce in bounces]
            now = self._clock.now()
            settlement = settling.Settlement(
                job=job, ends=ends, results=results, bounces=entries, now=now, horizon=self._horizon(now)
            )
            gone, bounced = await self._write(partial(settlement.write, journal=self._journal))
            for draft in drafts if bounced else ():
                draft.keep()
        finally:
            for draft in drafts:
                await draft.abort()
        if entries:
            self._announce()
        if gone and job.message.spool:
            await self._unlink([job.message.spool])

    async def postpone(self, domain: Domain, until: int) -> None:
        """Let a whole destination wait, also for mail that comes meanwhile; an instant in the past ends the wait."""
        await self._write(partial(settling.postpone, domain=domain, until=min(until, self._horizon(self._clock.now()))))

    async def clean(self) -> int:
        """Remove files that belong to no message and that nobody is writing; returns how many. For the start of a process.

        It also looks whether the run queue knows every destination.
        """
        if wrong := await self._write(settling.repair):
            _log.error("queue-destinations-repaired", destinations=wrong)
        removed = 0
        names = await self._spool.run(lambda: list(self._spool.names()))
        for start in range(0, len(names), _ORPHANS_AT_ONCE):
            removed += await self._clean(names[start : start + _ORPHANS_AT_ONCE])
        if removed:
            _log.info("spool-cleaned", files=removed)
        return removed

    async def _clean(self, names: list[str]) -> int:
        suspects = await self._read(partial(_unknown, names=names))
        if not suspects:
            return 0
        locked = await self._spool.run(lambda: {name: fd for name in suspects if (fd := self._spool.lock(name)) is not None})
        try:
            # Once more, behind the lock: whoever held it may have committed.
            orphans = await self._read(partial(_unknown, names=list(locked)))
            await self._unlink(orphans)
            return len(orphans)
        finally:
            for fd in locked.values():
                os.close(fd)

    async def _draft(self, bounce: BounceMail, drafts: list[Writer]) -> Entry:
        writer = self.writer()
        drafts.append(writer)
        await writer.write(bounce.content)
        return await writer.entry(bounce.message)

    def _horizon(self, now: int) -> int:
        return now + self._longest_wait


def _set_aside(connection: Connection, claims: claiming.Claims, until: int) -> None:
    settling.hold_damaged(connection, claims.damaged)
    settling.put_off(connection, claims.troubled, until)
    settling.refresh_destinations(connection, claims.stale)


def _unknown(connection: Connection, names: Sequence[str]) -> list[str]:
    """Those of these files that no message has."""
    query = "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM queue_messages WHERE spool = value AND spool <> '')"
    return [str(name) for (name,) in raw(connection).execute(query, (json.dumps(list(names)),))]
