"""Take in reports by mail, HTTPS or from files: vouched for, read, divided into ours and foreign, kept once (RFC 8460 §3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import trio

from postward import dkim
from postward.errors import StoreError
from postward.model import MICROSECONDS, BytesContent
from postward.names import Domain
from postward.reports.receipt import refused, shown_id
from postward.reports.receipt import taken as accepted
from postward_tlsrpt import received_tables, submitter
from postward_tlsrpt.figures import received_counter
from postward_tlsrpt.message import Found, reports_in
from postward_tlsrpt.own import Own, share
from postward_tlsrpt.read import Reading, ReportError

if TYPE_CHECKING:
    from postward.core import Core
    from postward.model import AuthResult, InboundMessage, ReportReceipt

KIND: Final = "tlsrpt"
ERROR_HEADER: Final = "X-Postward-TLSReport-Error"
DAY: Final = 86_400 * MICROSECONDS
VERIFY_WITHIN: Final = 60.0
# A hop into a thread costs less than it takes to read that much.
_THREAD_FROM: Final = 200_000

State: TypeAlias = Literal["stored", "duplicate", "conflict", "foreign", "old"]
SAID: Final[dict[State, str]] = {
    "stored": "counted",
    "duplicate": "was counted before",
    "conflict": "report-id was used before for another report",
    "foreign": "report for unknown domain",
    "old": "report is older than reports are kept",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of one report: `good` when it is counted, now or before. `foreign` are policy domains that are not ours."""

    state: State
    foreign: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the report is among those that count."""
        return self.state in ("stored", "duplicate")


class Receiver:
    """Takes in reports about `own`; they are kept for `keep_days` days behind their end."""

    def __init__(self, core: Core, own: Own, *, keep_days: int) -> None:
        self._core, self._own, self._keep = core, own, keep_days * DAY
        self._received = received_counter(core.metrics)

    # --- by mail ---

    async def by_mail(self, message: InboundMessage, results: Sequence[AuthResult]) -> ReportReceipt:
        """Take in the reports of a message, if somebody vouches for it."""
        voucher, reason, for_now = await self._voucher(message.content, results)
        if voucher is None:
            self.turned_away("mail", "nobody-vouches")
            return _refused(reason, temporary=for_now)
        try:
            return await self._mailed(message, voucher)
        except StoreError as exc:
            self.turned_away("mail", "not-stored")
            self._core.log.error("TLS report not stored", error=str(exc))
            return _refused("the report could not be stored", temporary=True)

    async def _mailed(self, message: InboundMessage, voucher: Domain) -> ReportReceipt:
        said, reason = [], ""
        for each in await self.find(message.content):
            if isinstance(each, ReportError):
                self.turned_away("mail", "unreadable")
                reason = reason or f"could not parse TLS report: {each}"
                continue
            taken = await self.take(each, via="mail", voucher=voucher)
            if taken.good:
                said.append(_summary(each, taken))
            else:
                reason = reason or SAID[taken.state]
        if not said:
            self._core.log.info("TLS report refused", reason=reason, domain=voucher)
            return _refused(reason)
        return accepted(KIND, said, error_header=ERROR_HEADER)

    async def _voucher(self, content: bytes, results: Sequence[AuthResult]) -> tuple[Domain | None, str, bool]:
        """The domain that vouches for a message (RFC 8460 §3); or why there is none, and whether that may pass."""
        author = dkim.author_domain(BytesContent(content).header)
        if author is None:
            return None, submitter.why_not((), None), False
        signatures = [each.data for each in results if each.method == "dkim" and isinstance(each.data, dkim.Signature)]
        if not submitter.usable(signatures, author):
            # A key for the service tlsrpt alone is of no use to ordinary mail, so who checked that has refused it.
            with trio.move_on_after(VERIFY_WITHIN):
                signatures = list(await dkim.verify(content, self._core.dns, service="tlsrpt"))
        good = submitter.usable(signatures, author)
        if author in good:
            return author, "", False
        top = await self._organization(author) if good else None
        if top is not None and (signed := [domain for domain in good if domain.is_below(top)]):
            return signed[0], "", False
        unknown = (bool(good) and top is None) or any(each.result == "temperror" for each in signatures)
        return None, submitter.why_not(signatures, author), unknown

    async def _organization(self, author: Domain) -> Domain | None:
        walk = submitter.organization(author)
        try:
            name = next(walk)
            while True:
                answer = await self._core.dns.query(f"_dmarc.{name}", "TXT")
                name = walk.send(None if answer.failure else answer.texts)
        except StopIteration as stop:
            found: Domain | None = stop.value
            return found

    # --- by any way ---

    def turned_away(self, via: str, why: str) -> None:
        """Count a report that was not even looked through."""
        self._received.inc(via, why)

    async def find(self, content: bytes) -> Sequence[Found]:
        """The reports in a message or file; large ones are read in a thread."""
        work = partial(reports_in, content, now=self._core.clock.now())
        return work() if len(content) < _THREAD_FROM else await trio.to_thread.run_sync(work, abandon_on_cancel=True)

    async def take(self, reading: Reading, *, via: str, voucher: str) -> Taken:
        """Keep what a report says of us. Raises `StoreError`."""
        taken = await self._take(reading, via=via, voucher=voucher)
        self._received.inc(via, taken.state)
        return taken

    async def _take(self, reading: Reading, *, via: str, voucher: str) -> Taken:
        now = self._core.clock.now()
        parts = share(reading, self._own)
        log = self._core.log.bind(
            organization=reading.report.organization_name[:100],
            report_id=reading.report.report_id[:200],
            via=via,
            voucher=voucher,
        )
        if parts.foreign:
            log.info("TLS report about unknown domains", skipped=parts.foreign)
        if not parts.kept:
            return Taken(state="foreign", foreign=parts.foreign)
        if reading.end < now - self._keep:
            return Taken(state="old")
        arrived = received_tables.Arrived(reading=reading, kept=parts.kept, via=via, submitter=voucher, received=now)
        state = await self._core.store.write(lambda connection: received_tables.store(connection, arrived))
        log.info("TLS report", state=state, domains=sorted({kept.domain for kept in parts.kept}), defects=reading.defects)
        return Taken(state=state, foreign=parts.foreign)

    async def forget_old(self) -> None:
        """Drop what is older than reports are kept."""
        before = self._core.clock.now() - self._keep
        dropped = await self._core.store.write(lambda connection: received_tables.drop_before(connection, before))
        if dropped:
            self._core.log.info("old TLS reports dropped", reports=dropped)


_refused = partial(refused, KIND, error_header=ERROR_HEADER)


def _summary(reading: Reading, taken: Taken) -> str:
    counts = f"successful={reading.successful} failed={reading.failed}"
    return f"id={shown_id(reading.report.report_id)} {taken.state} policies={len(reading.report.policies)} {counts}"
