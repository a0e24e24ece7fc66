"""The tables of the outbox: finished reports, their targets, suppressed addresses, and the lock that builds take.

Written in the common subset of SQLite and PostgreSQL. Instants are microseconds UTC, days and names are text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from postward.model import Schema

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy import Connection


class Base(SQLModel, registry=registry()):
    """Tables of the reports machinery, apart from everybody else's."""


class OutboxRow(Base, table=True):
    """A finished report. The three parts of its identity are unique: a report cannot be built twice."""

    __tablename__ = "core_outbox"
    __table_args__ = (sa.UniqueConstraint("submitter", "kind", "report_id"), sa.Index("core_outbox_created", "created"))

    id: str = Field(primary_key=True)
    kind: str
    report_id: str
    submitter: str
    policy_domain: str
    window_start: int = Field(sa_type=sa.BigInteger)
    window_end: int = Field(sa_type=sa.BigInteger)
    subject: str
    filename: str
    media_type: str
    content: bytes
    explanation: str
    mail_type: str
    headers: str
    cid: str
    created: int = Field(sa_type=sa.BigInteger)


class TargetRow(Base, table=True):
    """One address of a report, and how far sending to it has come. `way` is `mail` or `web`."""

    __tablename__ = "core_outbox_targets"
    __table_args__ = (sa.Index("core_outbox_targets_due", "way", "state", "next_try"),)

    report: str = Field(primary_key=True, foreign_key="core_outbox.id", ondelete="CASCADE")
    position: int = Field(primary_key=True)
    uri: str
    state: str
    attempts: int
    first_try: int = Field(sa_type=sa.BigInteger)
    next_try: int = Field(sa_type=sa.BigInteger)
    lease_by: str
    last_detail: str
    way: str = Field(sa_column_kwargs={"server_default": "mail"})


class SuppressionRow(Base, table=True):
    """An address, domain or host that gets no reports until `until`."""

    __tablename__ = "core_suppressions"

    subject: str = Field(primary_key=True)
    until: int = Field(sa_type=sa.BigInteger)
    reason: str


class LockRow(Base, table=True):
    """A row per kind of report; whoever builds holds it, so that two nodes never build from the same counters."""

    __tablename__ = "core_report_locks"

    job: str = Field(primary_key=True)
    builds: int = Field(sa_type=sa.BigInteger)


_ADD_LOCK: Final = sa.text("INSERT INTO core_report_locks (job, builds) VALUES (:job, 0) ON CONFLICT (job) DO NOTHING")
_TAKE_LOCK: Final = sa.text("UPDATE core_report_locks SET builds = builds + 1 WHERE job = :job")


def lock_job(connection: Connection, job: str) -> None:
    """Hold back every other build of `job` until this transaction ends, on all nodes."""
    if connection.dialect.name == "sqlite":
        return  # whoever writes to SQLite is alone
    connection.execute(_ADD_LOCK, {"job": job})
    connection.execute(_TAKE_LOCK, {"job": job})


def _first(op: Operations) -> None:
    text, big = sa.Text(), sa.BigInteger()
    op.create_table(
        "core_outbox",
        sa.Column("id", text, primary_key=True),
        *(sa.Column(name, text, nullable=False) for name in ("kind", "report_id", "submitter", "policy_domain")),
        *(sa.Column(name, big, nullable=False) for name in ("window_start", "window_end")),
        *(sa.Column(name, text, nullable=False) for name in ("subject", "filename", "media_type")),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        *(sa.Column(name, text, nullable=False) for name in ("explanation", "mail_type", "headers", "cid")),
        sa.Column("created", big, nullable=False),
        sa.UniqueConstraint("submitter", "kind", "report_id"),
    )
    op.create_table(
        "core_outbox_targets",
        sa.Column("report", text, sa.ForeignKey("core_outbox.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        *(sa.Column(name, text, nullable=False) for name in ("uri", "state")),
        sa.Column("attempts", sa.Integer(), nullable=False),
        *(sa.Column(name, big, nullable=False) for name in ("first_try", "next_try")),
        *(sa.Column(name, text, nullable=False) for name in ("lease_by", "last_detail")),
    )
    op.create_index("core_outbox_targets_due", "core_outbox_targets", ["state", "next_try"])
    op.create_table(
        "core_suppressions",
        sa.Column("subject", text, primary_key=True),
        sa.Column("until", big, nullable=False),
        sa.Column("reason", text, nullable=False),
    )
    op.create_table("core_report_locks", sa.Column("job", text, primary_key=True), sa.Column("builds", big, nullable=False))


def _ways(op: Operations) -> None:
    """Mail and the others have workers of their own, so each looks only for its own."""
    op.add_column("core_outbox_targets", sa.Column("way", sa.Text(), nullable=False, server_default="mail"))
    op.execute("UPDATE core_outbox_targets SET way = 'web' WHERE LOWER(SUBSTR(uri, 1, 7)) <> 'mailto:'")
    op.drop_index("core_outbox_targets_due", "core_outbox_targets")
    op.create_index("core_outbox_targets_due", "core_outbox_targets", ["way", "state", "next_try"])
    op.create_index("core_outbox_created", "core_outbox", ["created"])


MIGRATIONS: Final = (_first, _ways)
SCHEMA: Final = Schema(migrations=MIGRATIONS)
