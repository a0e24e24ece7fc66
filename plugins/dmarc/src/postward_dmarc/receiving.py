"""Take in DMARC reports by mail or from files: vouched for by a DMARC pass, read, about us, kept once (RFC 9990 §3.5, §8).

Records go to the database as they are read, a few thousand at a time, so a report of a million takes no more memory than one of
a thousand.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import trio

from postward.errors import StoreError
from postward.model import MICROSECONDS
from postward.reports.receipt import refused, shown_id
from postward.reports.receipt import taken as accepted
from postward_dmarc import received_tables
from postward_dmarc.reading.message import AggregateReading, Batch, FailureReading, Found, Streamed, stream_in
from postward_dmarc.reading.read import MAX_COUNT, ReportError
from postward_dmarc.received_tables import Arrived, Sums

if TYPE_CHECKING:
    from postward.core import Core
    from postward.model import AuthResult, InboundMessage, ReportReceipt

KIND: Final = "dmarc"
ERROR_HEADER: Final = "X-Postward-DMARCReport-Error"
DAY: Final = 86_400 * MICROSECONDS
AHEAD: Final = 3600 * MICROSECONDS
"""How far the clocks of others may be ahead of ours."""
LONGEST: Final = 32 * DAY
STAGE: Final = 5000
"""Records in memory before some are written."""
_GIVE_UP: Final = DAY
_THREAD_FROM: Final = 50_000
"""Octets from which on a message is read in a thread: unpacked it may be a hundred times as large."""

State: TypeAlias = Literal["stored", "duplicate", "conflict", "foreign", "old", "future", "period", "counts"]
SAID: Final[dict[State, str]] = {
    "stored": "counted",
    "duplicate": "was counted before",
    "conflict": "report_id was used before for another report",
    "foreign": "published policy domain unrecognized",
    "old": "report is older than reports are kept",
    "future": "report has end date in the future",
    "period": "report has no period, or one of more than 32 days",
    "counts": "report counts more messages than there can be",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of what was found: without a state it could not be read."""

    found: Found
    state: State | None = None

    @property
    def good(self) -> bool:
        """Whether it is among those that count, since now or before."""
        return self.state in ("stored", "duplicate")


@dataclass(slots=True)
class _Coming:
    """The records of the report that is being read."""

    number: int = field(default_factory=lambda: secrets.randbits(62))
    rows: list[dict[str, object]] = field(default_factory=list)
    sums: Sums = field(default_factory=Counter)
    records: int = 0
    staged: bool = False
    foreign: bool = False

    def add(self, batch: Batch) -> None:
        for record in batch.records:
            self.rows.append(received_tables.row(self.number, self.records, record, batch.domain or "", self.sums))
            self.records += 1


class Receiver:
    """Takes in reports about `own` domains and what is below them; they are kept for `keep_days` days behind their end."""

    def __init__(self, core: Core, own: frozenset[str], *, keep_days: int) -> None:
        self._core, self._own, self._keep = core, own, keep_days * DAY

    async def by_mail(self, message: InboundMessage, results: Sequence[AuthResult]) -> ReportReceipt:
        """Take in the reports of a message, if its author vouches for it by passing DMARC."""
        voucher, for_now = _voucher(results)
        if not voucher:
            return _refused("no DMARC pass", temporary=for_now)
        threads = len(message.content) >= _THREAD_FROM
        said, reason = [], ""
        try:
            for each in await self.take(stream_in(message.content), via="mail", voucher=voucher, threads=threads):
                if each.good:
                    said.append(_summary(each))
                elif isinstance(each.found, ReportError):
                    reason = reason or f"could not parse report: {each.found}"
                elif each.state is not None:
                    reason = reason or SAID[each.state]
        except StoreError as exc:
            self._core.log.error("DMARC report not stored", error=str(exc))
            return _refused("the report could not be stored", temporary=True)
        if not said:
            self._core.log.info("DMARC report refused", reason=reason, domain=voucher)
            return _refused(reason)
        return accepted(KIND, said, error_header=ERROR_HEADER)

    async def take(self, stream: Iterator[Streamed], *, via: str, voucher: str = "", threads: bool = False) -> Sequence[Taken]:
        """Keep what reports say of us, with what became of each. `threads`: read outside of the trio thread.

        Raises `StoreError`.
        """
        arrived = Arrived(via=via, voucher=voucher, received=self._core.clock.now())
        step: Callable[[], Streamed | None] = partial(next, stream, None)
        done: list[Taken] = []
        coming = _Coming()
        while (each := await (trio.to_thread.run_sync(step) if threads else _now(step))) is not None:
            if isinstance(each, Batch):
                await self._records(coming, each, arrived)
                continue
            if isinstance(each, AggregateReading):
                state: State | None = await self._aggregate(each, coming, arrived)
            else:
                state = await self._failure(each, arrived) if isinstance(each, FailureReading) else None
            if coming.staged and state != "stored":
                await self._abandon(coming.number)
            done.append(Taken(found=each, state=state))
            coming = _Coming()
        return done

    async def forget_old(self) -> None:
        """Drop what is older than reports are kept, and what a program that died has left."""
        now = self._core.clock.now()
        dropped = await self._core.store.write(lambda connection: received_tables.forget(connection, now - self._keep))
        if any(dropped):
            self._core.log.info("old DMARC reports dropped", reports=dropped[0], failure_reports=dropped[1])
        await self._sweep(now - _GIVE_UP)

    # --- one report ---

    async def _records(self, coming: _Coming, batch: Batch, arrived: Arrived) -> None:
        coming.foreign = coming.foreign or (batch.domain is not None and not self._is_ours(batch.domain))
        if coming.foreign:
            # It will be refused: what it says is read to its end, and not kept meanwhile.
            coming.rows.clear()
            return
        coming.add(batch)
        if len(coming.rows) >= STAGE:
            rows, coming.rows, coming.staged = coming.rows, [], True
            await self._core.store.write(
                lambda connection: received_tables.stage(connection, coming.number, rows, arrived.received)
            )

    async def _aggregate(self, reading: AggregateReading, coming: _Coming, arrived: Arrived) -> State:
        report = reading.report
        log = self._core.log.bind(organization=report.org[:100], report_id=report.report_id[:200], via=arrived.via)
        state: State
        if (unfit := self._unfit(reading, arrived.received)) is not None:
            state = unfit
        else:
            state = await self._core.store.write(
                lambda connection: received_tables.store(connection, coming.number, reading, arrived, coming.rows, coming.sums)
            )
        log.info(
            "DMARC report",
            state=state,
            domain=report.policy.domain,
            voucher=arrived.voucher or None,
            records=report.records,
            messages=report.messages,
            defects=reading.defects,
        )
        return state

    def _unfit(self, reading: AggregateReading, now: int) -> State | None:
        report = reading.report
        if not self._is_ours(report.policy.domain):
            return "foreign"
        if not report.begin or report.end - report.begin > LONGEST:
            return "period"
        if report.end > now + AHEAD:
            return "future"
        if report.end < now - self._keep:
            return "old"
        return "counts" if report.messages > MAX_COUNT else None

    async def _failure(self, reading: FailureReading, arrived: Arrived) -> State:
        report, now = reading.report, arrived.received
        domain = report.reported_domain or report.header_from.rpartition("@")[2].strip("> \t").lower()
        state: State
        if not self._is_ours(domain):
            state = "foreign"
        elif report.arrival > now + AHEAD:
            state = "future"
        elif report.arrival and report.arrival < now - self._keep:
            state = "old"
        else:
            state = await self._core.store.write(
                lambda connection: received_tables.store_failure(connection, reading, domain, arrived)
            )
        self._core.log.info("DMARC failure report", state=state, domain=domain[:255], voucher=arrived.voucher or None)
        return state

    def _is_ours(self, domain: str) -> bool:
        return domain in self._own or any(domain.endswith(f".{own}") for own in self._own)

    async def _abandon(self, number: int) -> None:
        await self._core.store.write(lambda connection: received_tables.abandon(connection, number))
        await self._sweep(1)

    async def _sweep(self, before: int) -> None:
        while await self._core.store.write(lambda connection: received_tables.sweep(connection, before)):
            pass


async def _now(step: Callable[[], Streamed | None]) -> Streamed | None:
    await trio.lowlevel.checkpoint()
    return step()


_refused = partial(refused, KIND, error_header=ERROR_HEADER)


def _voucher(results: Sequence[AuthResult]) -> tuple[str, bool]:
    """The author domain of a message that passes DMARC; or none, and whether that may change (RFC 9989 §5.3.6)."""
    found = [each for each in results if each.method == "dmarc"]
    for each in found:
        if each.result == "pass" and (domain := dict(each.properties).get("header.from", "")):
            return domain, False
    return "", any(each.result == "temperror" for each in found)


def _summary(taken: Taken) -> str:
    found = taken.found
    if isinstance(found, AggregateReading):
        report = found.report
        return f"id={shown_id(report.report_id)} {taken.state} records={report.records} messages={report.messages}"
    if isinstance(found, FailureReading):
        return f"failure {taken.state} domain={found.report.reported_domain[:100]} incidents={found.report.incidents}"
    raise AssertionError("unreachable")
