"""Received reports: one row each, whatever the number of its policies, a row per policy about us, and the failures of those.

A report is known by who vouches for it and its id, and by its content, so the same one by mail, HTTPS and from a file counts
once. Instants are microseconds UTC.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from postward.model import day_of
from postward.reports.receipt import storable
from postward_tlsrpt.own import Kept
from postward_tlsrpt.read import Reading
from postward_tlsrpt.report import FailureDetail

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy import Connection

Outcome: TypeAlias = Literal["stored", "duplicate", "conflict"]

MAX_DETAILS: Final = 1000
"""Of a policy's details; what is beyond is kept by result type alone."""


class Base(SQLModel, registry=registry()):
    """Metadata of these tables."""


class Received(Base, table=True):
    """A report that was received. `day` is the UTC day that it begins in, `defects` are slugs with spaces between them."""

    __tablename__ = "tlsrpt_received"
    __table_args__ = (
        sa.UniqueConstraint("via", "submitter", "report_id", name="uq_tlsrpt_received_report_id"),
        sa.UniqueConstraint("digest", name="uq_tlsrpt_received_digest"),
    )

    id: int | None = Field(default=None, primary_key=True)
    via: str = Field(sa_type=sa.Text)
    submitter: str = Field(sa_type=sa.Text)
    report_id: str = Field(sa_type=sa.Text)
    digest: str = Field(sa_type=sa.Text)
    organization: str = Field(sa_type=sa.Text)
    contact: str = Field(sa_type=sa.Text)
    day: str = Field(sa_type=sa.Text)
    defects: str = Field(sa_type=sa.Text)
    begin_at: int = Field(sa_type=sa.BigInteger)
    end_at: int = Field(sa_type=sa.BigInteger, index=True)
    received_at: int = Field(sa_type=sa.BigInteger)


class ReceivedPolicy(Base, table=True):
    """A policy about one of our domains or hosts. `policy` is the JSON of the report, `is_host` 0 or 1."""

    __tablename__ = "tlsrpt_received_policies"

    report: int = Field(primary_key=True)
    number: int = Field(primary_key=True)
    domain: str = Field(sa_type=sa.Text, index=True)
    policy_type: str = Field(sa_type=sa.Text)
    policy: str = Field(sa_type=sa.Text)
    is_host: int
    successes: int = Field(sa_type=sa.BigInteger)
    failures: int = Field(sa_type=sa.BigInteger)


class ReceivedFailure(Base, table=True):
    """A detail of a policy. `detail` is the JSON of the report."""

    __tablename__ = "tlsrpt_received_failures"

    report: int = Field(primary_key=True)
    number: int = Field(primary_key=True)
    detail_number: int = Field(primary_key=True)
    result_type: str = Field(sa_type=sa.Text)
    reason: str = Field(sa_type=sa.Text)
    mx_host: str = Field(sa_type=sa.Text)
    detail: str = Field(sa_type=sa.Text)
    n: int = Field(sa_type=sa.BigInteger)


def create(op: Operations) -> None:
    """Make the tables."""
    op.create_table(
        "tlsrpt_received",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("via", "submitter", "report_id", "digest")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("organization", "contact", "day", "defects")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("begin_at", "end_at", "received_at")),
        sa.UniqueConstraint("via", "submitter", "report_id", name="uq_tlsrpt_received_report_id"),
        sa.UniqueConstraint("digest", name="uq_tlsrpt_received_digest"),
    )
    op.create_index("ix_tlsrpt_received_end_at", "tlsrpt_received", ["end_at"])
    op.create_table(
        "tlsrpt_received_policies",
        sa.Column("report", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("domain", "policy_type", "policy")),
        sa.Column("is_host", sa.Integer, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("successes", "failures")),
    )
    op.create_index("ix_tlsrpt_received_policies_domain", "tlsrpt_received_policies", ["domain"])
    op.create_table(
        "tlsrpt_received_failures",
        *(sa.Column(name, sa.Integer, primary_key=True, autoincrement=False) for name in ("report", "number", "detail_number")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("result_type", "reason", "mx_host", "detail")),
        sa.Column("n", sa.BigInteger, nullable=False),
    )


_INSERT: Final = sa.text(
    "INSERT INTO tlsrpt_received (via, submitter, report_id, digest, organization, contact, day, defects, begin_at, end_at,"
    " received_at) VALUES (:via, :submitter, :report_id, :digest, :organization, :contact, :day, :defects, :begin_at, :end_at,"
    " :received_at) ON CONFLICT DO NOTHING RETURNING id"
)
_SAME: Final = sa.text("SELECT 1 FROM tlsrpt_received WHERE digest = :digest")
_INSERT_POLICY: Final = sa.text(
    "INSERT INTO tlsrpt_received_policies (report, number, domain, policy_type, policy, is_host, successes, failures)"
    " VALUES (:report, :number, :domain, :policy_type, :policy, :is_host, :successes, :failures)"
)
_INSERT_FAILURE: Final = sa.text(
    "INSERT INTO tlsrpt_received_failures (report, number, detail_number, result_type, reason, mx_host, detail, n)"
    " VALUES (:report, :number, :detail_number, :result_type, :reason, :mx_host, :detail, :n)"
)
_OLD: Final = "SELECT id FROM tlsrpt_received WHERE end_at < :before"
_DROP: Final = (
    *(
        sa.text(f"DELETE FROM {table} WHERE report IN ({_OLD})")
        for table in ("tlsrpt_received_failures", "tlsrpt_received_policies")
    ),
    sa.text("DELETE FROM tlsrpt_received WHERE end_at < :before"),
)
_SPAN: Final = "r.begin_at < :until AND r.end_at >= :since"
_DOMAINS: Final = sa.text(
    "SELECT p.domain, MAX(p.is_host) AS is_host, COUNT(DISTINCT r.id) AS reports, SUM(p.successes) AS successes,"
    " SUM(p.failures) AS failures FROM tlsrpt_received_policies p JOIN tlsrpt_received r ON r.id = p.report"
    f" WHERE {_SPAN} GROUP BY p.domain ORDER BY p.domain"
)
_TIMELINE: Final = sa.text(
    "SELECT r.day, r.organization, r.submitter, p.policy_type, COUNT(DISTINCT r.id) AS reports, SUM(p.successes) AS successes,"
    " SUM(p.failures) AS failures FROM tlsrpt_received_policies p JOIN tlsrpt_received r ON r.id = p.report"
    f" WHERE p.domain = :domain AND {_SPAN} GROUP BY r.day, r.organization, r.submitter, p.policy_type"
    " ORDER BY r.day, r.organization, r.submitter, p.policy_type"
)
_FAILURES: Final = sa.text(
    "SELECT r.day, r.organization, r.submitter, p.policy_type, f.result_type, f.reason, f.mx_host, SUM(f.n) AS n"
    " FROM tlsrpt_received_failures f JOIN tlsrpt_received_policies p ON p.report = f.report AND p.number = f.number"
    f" JOIN tlsrpt_received r ON r.id = f.report WHERE p.domain = :domain AND {_SPAN}"
    " GROUP BY r.day, r.organization, r.submitter, p.policy_type, f.result_type, f.reason, f.mx_host"
    " ORDER BY r.day, n DESC, r.organization, r.submitter, p.policy_type, f.result_type, f.reason, f.mx_host"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A report on its way in: `via` is `mail`, `https` or `file`, `submitter` the domain that vouches for it."""

    reading: Reading
    kept: tuple[Kept, ...]
    via: str
    submitter: str
    received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainLine:
    """One of our domains or hosts: how many reports were about it, and their sessions."""

    domain: str
    is_host: bool
    reports: int
    successes: int
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLine:
    """What an organization said of a domain for a day (that of the report's beginning) under one type of policy."""

    day: str
    organization: str
    submitter: str
    policy_type: str
    reports: int
    successes: int
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLine:
    """Failed sessions of one kind at one MX host (empty where none is named), as an organization counted them for a day.

    Kinds may overlap (RFC 8460 §4).
    """

    day: str
    organization: str
    submitter: str
    policy_type: str
    result_type: str
    reason: str
    mx_host: str
    n: int


def store(connection: Connection, arrived: Arrived) -> Outcome:
    """Keep a report, unless it is here already. `conflict`: its id is that of another report by the same submitter."""
    reading = arrived.reading
    values = {
        "via": arrived.via,
        "submitter": arrived.submitter,
        "report_id": storable(reading.report.report_id),
        "digest": reading.digest,
        "organization": storable(reading.report.organization_name),
        "contact": storable(reading.report.contact_info),
        "day": day_of(reading.begin),
        "defects": " ".join(reading.defects),
        "begin_at": reading.begin,
        "end_at": reading.end,
        "received_at": arrived.received,
    }
    number = connection.execute(_INSERT, values).scalar()
    if number is None:
        return "duplicate" if connection.execute(_SAME, {"digest": reading.digest}).first() else "conflict"
    policies, failures = [], []
    for at, kept in enumerate(arrived.kept):
        policies.append(_policy_row(number, at, kept))
        failures += list(_failure_rows(number, at, kept))
    if policies:
        connection.execute(_INSERT_POLICY, policies)
    if failures:
        connection.execute(_INSERT_FAILURE, failures)
    return "stored"


def drop_before(connection: Connection, before: int) -> int:
    """Forget the reports about what ended before an instant; how many they were."""
    dropped = 0
    for statement in _DROP:
        dropped = connection.execute(statement, {"before": before}).rowcount
    return dropped


def domains(connection: Connection, since: int, until: int) -> Sequence[DomainLine]:
    """Our domains and hosts with reports about any of the time from `since` to `until`, by name."""
    rows = connection.execute(_DOMAINS, {"since": since, "until": until}).mappings()
    return [DomainLine(**_counted(row, is_host=bool(row["is_host"]))) for row in rows]


def timeline(connection: Connection, domain: str, since: int, until: int) -> Sequence[TimeLine]:
    """The sessions of a domain or host by day, organization and type of policy."""
    rows = connection.execute(_TIMELINE, {"domain": domain, "since": since, "until": until}).mappings()
    return [TimeLine(**_counted(row)) for row in rows]


def failures(connection: Connection, domain: str, since: int, until: int) -> Sequence[FailureLine]:
    """The failures of a domain or host by day, organization, type and reason, the most frequent of a day first."""
    rows = connection.execute(_FAILURES, {"domain": domain, "since": since, "until": until}).mappings()
    return [FailureLine(**{**row, "n": int(row["n"])}) for row in rows]


def _counted(row: Any, **changes: Any) -> dict[str, Any]:
    """A row with its sums as numbers: PostgreSQL gives decimals."""
    return {**row, "successes": int(row["successes"]), "failures": int(row["failures"]), **changes}


def _policy_row(report: int, number: int, kept: Kept) -> dict[str, object]:
    summary = kept.result.summary
    return {
        "report": report,
        "number": number,
        "domain": kept.domain,
        "policy_type": storable(kept.result.policy.policy_type),
        "policy": _json(kept.result.policy),
        "is_host": int(kept.is_host),
        "successes": summary.total_successful_session_count,
        "failures": summary.total_failure_session_count,
    }


def _failure_rows(report: int, number: int, kept: Kept) -> Iterator[dict[str, object]]:
    details = kept.result.failure_details
    beyond: Counter[str] = Counter()
    for detail in details[MAX_DETAILS:]:
        beyond[detail.result_type] += detail.failed_session_count
    rest = [FailureDetail(result_type=name, failed_session_count=count) for name, count in beyond.items()]
    for at, detail in enumerate([*details[:MAX_DETAILS], *rest]):
        yield {
            "report": report,
            "number": number,
            "detail_number": at,
            "result_type": storable(detail.result_type),
            "reason": storable(detail.failure_reason_code),
            "mx_host": storable(detail.receiving_mx_hostname.lower().rstrip(".")),
            "detail": _json(detail),
            "n": detail.failed_session_count,
        }


def _json(value: msgspec.Struct) -> str:
    # NUL is escaped in JSON, so there is none in the text.
    return msgspec.json.encode(value).decode()
