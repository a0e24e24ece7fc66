"""The counters: sessions per policy, recipient domain and UTC day, and the failures among them in detail.

Rows are only ever added to (`n = n + excluded.n`), and taken out by the transaction that writes the report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from postward.model import Schema
from postward_tlsrpt import received_tables
from postward_tlsrpt.report import FailureDetail, Policy, PolicyResult, Summary

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy import Connection

    from postward_tlsrpt.counting import Counts


class Base(SQLModel, registry=registry()):
    """The plugin's own metadata."""


class Sessions(Base, table=True):
    """Sessions under one policy. `policy` is the JSON of a report, `policy_id` its SHA-256, `policy_domain` as in it."""

    __tablename__ = "tlsrpt_sessions"

    recipient_domain: str = Field(sa_type=sa.Text, primary_key=True)
    day: str = Field(sa_type=sa.Text, primary_key=True, index=True)
    policy_id: str = Field(sa_type=sa.Text, primary_key=True)
    policy_domain: str = Field(sa_type=sa.Text)
    policy: str = Field(sa_type=sa.Text)
    successes: int = Field(sa_type=sa.BigInteger)
    failures: int = Field(sa_type=sa.BigInteger)


class Details(Base, table=True):
    """One kind of failure under a policy. `detail` is the JSON of a report with count 0, `detail_id` its SHA-256."""

    __tablename__ = "tlsrpt_details"

    recipient_domain: str = Field(sa_type=sa.Text, primary_key=True)
    day: str = Field(sa_type=sa.Text, primary_key=True, index=True)
    policy_id: str = Field(sa_type=sa.Text, primary_key=True)
    detail_id: str = Field(sa_type=sa.Text, primary_key=True)
    detail: str = Field(sa_type=sa.Text)
    n: int = Field(sa_type=sa.BigInteger)


def _create(op: Operations) -> None:
    op.create_table(
        "tlsrpt_sessions",
        sa.Column("recipient_domain", sa.Text, primary_key=True),
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("policy_id", sa.Text, primary_key=True),
        sa.Column("policy_domain", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("successes", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_tlsrpt_sessions_day", "tlsrpt_sessions", ["day"])
    op.create_table(
        "tlsrpt_details",
        sa.Column("recipient_domain", sa.Text, primary_key=True),
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("policy_id", sa.Text, primary_key=True),
        sa.Column("detail_id", sa.Text, primary_key=True),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_tlsrpt_details_day", "tlsrpt_details", ["day"])


SCHEMA: Final = Schema(migrations=(_create, received_tables.create))

# Driver SQL: three times as fast as compiled statements for the many small upserts of a busy hour.
_ADD_SESSIONS: Final = (
    "INSERT INTO tlsrpt_sessions (recipient_domain, day, policy_id, policy_domain, policy, successes, failures)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (recipient_domain, day, policy_id) DO UPDATE"
    " SET successes = tlsrpt_sessions.successes + excluded.successes, failures = tlsrpt_sessions.failures + excluded.failures"
)
_ADD_DETAILS: Final = (
    "INSERT INTO tlsrpt_details (recipient_domain, day, policy_id, detail_id, detail, n) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (recipient_domain, day, policy_id, detail_id) DO UPDATE SET n = tlsrpt_details.n + excluded.n"
)
_DAYS: Final = sa.text("SELECT DISTINCT day FROM tlsrpt_sessions WHERE day < :today ORDER BY day")
_DOMAINS: Final = sa.text("SELECT DISTINCT recipient_domain FROM tlsrpt_sessions WHERE day = :day ORDER BY recipient_domain")
# One statement reads and removes, so nothing can be counted between the two and be lost.
_TAKE_SESSIONS: Final = sa.text(
    "DELETE FROM tlsrpt_sessions WHERE recipient_domain = :domain AND day = :day"
    " RETURNING policy_id, policy, successes, failures"
)
_TAKE_DETAILS: Final = sa.text(
    "DELETE FROM tlsrpt_details WHERE recipient_domain = :domain AND day = :day RETURNING policy_id, detail, n"
)
_DROP_SESSIONS: Final = sa.text("DELETE FROM tlsrpt_sessions WHERE day = :day")
_DROP_DETAILS: Final = sa.text("DELETE FROM tlsrpt_details WHERE day = :day")


def add(connection: Connection, counts: Counts) -> None:
    """Add what a batch counted."""
    sessions = []
    # Sorted: two nodes that lock the same rows of PostgreSQL in one order do not lock each other out.
    for key in sorted(counts.successes.keys() | counts.failures.keys()):
        policy = counts.policies[key.policy_id]
        numbers = counts.successes[key], counts.failures[key]
        sessions.append((str(key.recipient_domain), key.day, key.policy_id, policy.domain, policy.text, *numbers))
    details = []
    for detail_key in sorted(counts.details):
        key, text = detail_key.session, detail_key.detail
        digest = hashlib.sha256(text.encode()).hexdigest()
        details.append((str(key.recipient_domain), key.day, key.policy_id, digest, text, counts.details[detail_key]))
    _upsert(connection, _ADD_SESSIONS, sessions)
    _upsert(connection, _ADD_DETAILS, details)


def days_before(connection: Connection, today: str) -> Sequence[str]:
    """The days before `today` that have counters, oldest first."""
    return [row.day for row in connection.execute(_DAYS, {"today": today})]


def domains(connection: Connection, day: str) -> Sequence[str]:
    """The recipient domains that have counters of a day."""
    return [row.recipient_domain for row in connection.execute(_DOMAINS, {"day": day})]


def take(connection: Connection, day: str, domain: str) -> Sequence[PolicyResult]:
    """Remove the counters of a recipient domain and day, and return them as a report shows them, in a fixed order."""
    _keep_out(connection)
    where = {"domain": domain, "day": day}
    details: dict[str, list[FailureDetail]] = {}
    for row in connection.execute(_TAKE_DETAILS, where):
        detail = msgspec.json.decode(row.detail, type=FailureDetail)
        counted = msgspec.structs.replace(detail, failed_session_count=row.n)
        details.setdefault(row.policy_id, []).append(counted)
    sessions = sorted(connection.execute(_TAKE_SESSIONS, where), key=lambda row: str(row.policy))
    return [_policy_result(row, details.get(row.policy_id, [])) for row in sessions]


def drop(connection: Connection, days: Sequence[str]) -> int:
    """Remove the counters of days; how many rows of sessions that were."""
    _keep_out(connection)
    return sum(_drop(connection, day) for day in days)


def _drop(connection: Connection, day: str) -> int:
    dropped = connection.execute(_DROP_SESSIONS, {"day": day})
    connection.execute(_DROP_DETAILS, {"day": day})
    return int(dropped.rowcount)


def _policy_result(row: Any, details: list[FailureDetail]) -> PolicyResult:
    return PolicyResult(
        policy=msgspec.json.decode(row.policy, type=Policy),
        summary=Summary(row.successes, row.failures),
        failure_details=tuple(sorted(details, key=lambda detail: (-detail.failed_session_count, msgspec.json.encode(detail)))),
    )


def _keep_out(connection: Connection) -> None:
    """Let no other node of a shared PostgreSQL add to the two tables meanwhile; it waits for the end of the transaction."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE tlsrpt_sessions IN SHARE ROW EXCLUSIVE MODE")


def _upsert(connection: Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        if connection.dialect.name == "postgresql":
            statement = statement.replace("?", "%s")
        connection.exec_driver_sql(statement, rows)
