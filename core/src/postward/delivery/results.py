"""What a session came to, for those who want to know: a durable result, plugins that observe, and a line in the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postward.errors import StoreError
from postward.model import ConnectionReport, PolicyResult, TlsResult, day_of
from postward.names import Domain

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.delivery.attempt import Session
    from postward.delivery.run import Run
    from postward.store import Journal


def _nobody(_result: TlsResult) -> None:
    """Is told where nobody counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Where results go. `observe` is told of every connection that has ended, `counted` of every result."""

    clock: Clock
    journal: Journal
    log: FilteringBoundLogger
    observe: Callable[[ConnectionReport], None]
    counted: Callable[[TlsResult], None] = _nobody

    async def count(
        self,
        run: Run,
        results: tuple[PolicyResult, ...],
        *,
        host: Domain | None,
        address: str = "",
        session: Session | None = None,
    ) -> None:
        """Make one result durable; a probe counts nothing."""
        message = run.offer.message
        if message is None:
            return
        tls = session.tls if session else None
        result = TlsResult(
            day=day_of(self.clock.now()),
            domain=run.destination.domain,
            host=host,
            policies=results,
            sending_ip=session.local_address if session else "",
            receiving_ip=address,
            receiving_helo=session.helo if session else "",
            protocol=tls.protocol if tls else "",
            cipher=tls.cipher if tls else "",
            pkix=session.pkix if session else None,
            is_report=message.is_report,
        )
        self.counted(result)
        if run.results is not None:
            run.results.append(result)
            return
        try:
            await self.journal.append(result)
        except StoreError as exc:
            # The session is over; what it came to for the mail must not be lost on top of its result.
            self.log.error("result-not-journalled", domain=result.domain, host=result.host, error=str(exc))

    def report(
        self,
        run: Run,
        host: Domain,
        session: Session,
        results: tuple[PolicyResult, ...],
        *,
        address: str,
        started: int,
    ) -> ConnectionReport:
        report = ConnectionReport(
            domain=run.destination.domain,
            host=host,
            address=address,
            tls=session.tls,
            policies=results,
            delivered=any(reply.positive for reply in session.replies or ()),
            error=session.error,
            started=started,
            ended=self.clock.now(),
            bytes_sent=session.bytes_sent,
            bytes_received=session.bytes_received,
            messages=int(session.replies is not None),
        )
        run.attempts.append(report)
        if session.connection is None:
            self.tell(report, message=run.cid)
        return report

    def tell(self, report: ConnectionReport, **more: str) -> None:
        """Tell plugins and the log of a connection that has ended."""
        self.observe(report)
        self.log.info(
            "connection",
            domain=report.domain,
            host=report.host,
            address=report.address,
            tls=report.tls.protocol if report.tls else None,
            policies=[f"{each.kind}:{each.mode}:{'passed' if each.passed else 'failed'}" for each in report.policies],
            delivered=report.delivered,
            error=report.error,
            **more,
        )
