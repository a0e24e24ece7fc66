"""Read received reports for `received_view`: overviews from the sums of reports, who sends from their records.

Asked for is a time from `since` to `until` (instants); a report belongs to it when its period has any part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from postward_dmarc.reading.aggregate import Aggregate
from postward_dmarc.reading.failure import Failure
from postward_dmarc.received_view import (
    Counts,
    DayLine,
    DomainLine,
    DomainView,
    FailureLine,
    ReasonLine,
    ReporterLine,
    SenderLine,
    SourceLine,
)
from postward_dmarc.who import ACT, Who

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping

SOURCES: Final = 50
FAILURES: Final = 20
_SPAN: Final = "r.begin_at < :until AND r.end_at >= :since"
_OF: Final = f"r.domain = :domain AND {_SPAN}"
_COUNTS: Final = (
    "COALESCE(SUM(s.n), 0) AS messages, SUM(CASE WHEN s.dkim = 'pass' OR s.spf = 'pass' THEN s.n ELSE 0 END) AS passed,"
    " SUM(CASE WHEN s.dkim = 'pass' THEN s.n ELSE 0 END) AS dkim, SUM(CASE WHEN s.spf = 'pass' THEN s.n ELSE 0 END) AS spf,"
    " SUM(CASE WHEN s.disposition = 'quarantine' THEN s.n ELSE 0 END) AS quarantined,"
    " SUM(CASE WHEN s.disposition = 'reject' THEN s.n ELSE 0 END) AS rejected"
)
# A report without records has no sums, and is a report all the same.
_SUMS: Final = "dmarc_received r LEFT JOIN dmarc_received_sums s ON s.report = r.id"
_RECORDS: Final = "dmarc_received r JOIN dmarc_received_records s ON s.report = r.id"
_ACT: Final = ", ".join(f"'{who.value}'" for who in sorted(ACT))
_DOMAINS: Final = sa.text(
    f"SELECT r.domain, COUNT(DISTINCT r.id) AS reports, COUNT(DISTINCT r.org) AS reporters, {_COUNTS},"
    f" SUM(CASE WHEN s.who IN ({_ACT}) THEN s.n ELSE 0 END) AS act"
    f" FROM {_SUMS} WHERE {_SPAN} GROUP BY r.domain"
)
_FAILURE_COUNTS: Final = sa.text(
    "SELECT domain, COUNT(*) AS reports FROM dmarc_received_failures"
    " WHERE arrival_at >= :since AND arrival_at < :until GROUP BY domain"
)
_DAYS: Final = sa.text(
    f"SELECT r.day, COUNT(DISTINCT r.id) AS reports, {_COUNTS} FROM {_SUMS} WHERE {_OF} GROUP BY r.day ORDER BY r.day"
)
_REPORTERS: Final = sa.text(
    f"SELECT r.org, COUNT(DISTINCT r.id) AS reports, {_COUNTS}, MAX(r.day) AS last FROM {_SUMS} WHERE {_OF}"
    " GROUP BY r.org ORDER BY messages DESC, r.org"
)
_SENDERS: Final = sa.text(
    f"SELECT s.who, s.stands, COUNT(DISTINCT s.source_ip) AS sources, {_COUNTS}, MAX(r.day) AS last FROM {_RECORDS} WHERE {_OF}"
    " GROUP BY s.who, s.stands ORDER BY messages DESC, s.who, s.stands"
)
_SOURCES: Final = sa.text(
    f"SELECT s.source_ip, s.who, s.stands, MIN(s.header_from) AS header_from, {_COUNTS}, MAX(r.day) AS last"
    f" FROM {_RECORDS} WHERE {_OF} GROUP BY s.source_ip, s.who, s.stands"
    " ORDER BY messages DESC, s.source_ip, s.who, s.stands LIMIT :most"
)
_ALL_SOURCES: Final = sa.text(f"SELECT COUNT(DISTINCT s.source_ip) FROM {_RECORDS} WHERE {_OF}")
_REASONS: Final = sa.text(
    f"SELECT s.reasons, SUM(s.n) AS messages FROM {_RECORDS} WHERE {_OF} AND s.reasons <> ''"
    " GROUP BY s.reasons ORDER BY messages DESC, s.reasons"
)
_LAST: Final = sa.text(f"SELECT r.report FROM dmarc_received r WHERE {_OF} ORDER BY r.end_at DESC, r.id LIMIT 1")
_FAILURES: Final = sa.text(
    "SELECT arrival_at, voucher, report FROM dmarc_received_failures"
    " WHERE domain = :domain AND arrival_at >= :since AND arrival_at < :until ORDER BY arrival_at DESC, digest LIMIT :most"
)


def domains(connection: Connection, since: int, until: int) -> Sequence[DomainLine]:
    """Our domains with reports, by name."""
    span = {"since": since, "until": until}
    failures = {each["domain"]: int(each["reports"]) for each in connection.execute(_FAILURE_COUNTS, span).mappings()}
    found = {
        each["domain"]: DomainLine(
            domain=each["domain"],
            reports=each["reports"],
            reporters=each["reporters"],
            counts=_counts(each),
            act=int(each["act"] or 0),
            failure_reports=failures.pop(each["domain"], 0),
        )
        for each in connection.execute(_DOMAINS, span).mappings()
    }
    for domain, number in failures.items():
        found[domain] = DomainLine(domain=domain, reports=0, reporters=0, counts=total(()), act=0, failure_reports=number)
    return [found[name] for name in sorted(found)]


def domain_view(connection: Connection, domain: str, since: int, until: int, *, sources: int = SOURCES) -> DomainView:
    """All that is shown of one domain, with so many of its `sources`."""
    span = {"domain": domain, "since": since, "until": until}

    def rows(statement: sa.TextClause, **more: int) -> Sequence[Mapping[str, Any]]:
        return list(map(dict, connection.execute(statement, {**span, **more}).mappings()))

    days = [DayLine(day=each["day"], reports=each["reports"], counts=_counts(each)) for each in rows(_DAYS)]
    last = connection.execute(_LAST, span).scalar()
    policy = msgspec.json.decode(last, type=Aggregate).policy if last else None
    return DomainView(
        domain=domain,
        policy={name: value for name, value in msgspec.structs.asdict(policy).items() if value} if policy else {},
        counts=total([each.counts for each in days]),
        days=days,
        senders=[
            SenderLine(
                who=Who(each["who"]), stands=each["stands"], sources=each["sources"], counts=_counts(each), last=each["last"]
            )
            for each in rows(_SENDERS)
        ],
        sources=[
            SourceLine(
                source_ip=each["source_ip"],
                who=Who(each["who"]),
                stands=each["stands"],
                header_from=each["header_from"],
                counts=_counts(each),
                last=each["last"],
            )
            for each in rows(_SOURCES, most=sources)
        ],
        all_sources=connection.execute(_ALL_SOURCES, span).scalar() or 0,
        reporters=[
            ReporterLine(org=each["org"], reports=each["reports"], counts=_counts(each), last=each["last"])
            for each in rows(_REPORTERS)
        ],
        reasons=[ReasonLine(reasons=each["reasons"], messages=int(each["messages"])) for each in rows(_REASONS)],
        failures=[_failure(each) for each in rows(_FAILURES, most=FAILURES)],
    )


def total(counts: Sequence[Counts]) -> Counts:
    """All of them together."""
    return Counts(
        messages=sum(each.messages for each in counts),
        passed=sum(each.passed for each in counts),
        dkim=sum(each.dkim for each in counts),
        spf=sum(each.spf for each in counts),
        quarantined=sum(each.quarantined for each in counts),
        rejected=sum(each.rejected for each in counts),
    )


def _counts(found: Mapping[str, Any] | RowMapping) -> Counts:
    """The sums of a row as numbers: PostgreSQL gives decimals, and a report without records gives nothing."""
    names = ("messages", "passed", "dkim", "spf", "quarantined", "rejected")
    return Counts(**{name: int(found[name] or 0) for name in names})


def _failure(found: Mapping[str, Any]) -> FailureLine:
    report = msgspec.json.decode(found["report"], type=Failure)
    return FailureLine(
        at=found["arrival_at"],
        reporter=found["voucher"] or report.user_agent,
        source_ip=report.source_ip,
        auth_failure=report.auth_failure,
        delivery_result=report.delivery_result,
        mail_from=report.mail_from,
        header_from=report.header_from,
        subject=report.subject,
        incidents=report.incidents,
    )
