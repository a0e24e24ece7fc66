"""The counters: sessions per policy, recipient domain and UTC day, and the failures among them in detail.

Rows are only ever added to (`n = n + excluded.n`), and taken out by the transaction that writes the report. What was found
under the TLSA records of an MX host then goes on to that host (`tlsrpt_host_…`), with the addresses that have been told of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from postward.model import Schema
from postward_tlsrpt import received_tables

if TYPE_CHECKING:
    from alembic.operations import Operations


class Base(SQLModel, registry=registry()):
    """The plugin's own metadata."""


class Sessions(Base, table=True):
    """Sessions under one policy. `policy` is the JSON of a report, `policy_id` its SHA-256, `policy_domain` as in it."""

    __tablename__ = "tlsrpt_sessions"
    __table_args__ = (
        sa.Index(
            "ix_tlsrpt_sessions_failed",
            *("recipient_domain", "day", "policy_id"),
            sqlite_where=sa.text("failures > 0"),
            postgresql_where=sa.text("failures > 0"),
        ),
    )

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
    day: str = Field(sa_type=sa.Text, primary_key=True)
    policy_id: str = Field(sa_type=sa.Text, primary_key=True)
    detail_id: str = Field(sa_type=sa.Text, primary_key=True)
    detail: str = Field(sa_type=sa.Text)
    n: int = Field(sa_type=sa.BigInteger)


class HostSessions(Base, table=True):
    """Sessions under the TLSA records of `host`, of all recipient domains. `told` are the addresses that know of them."""

    __tablename__ = "tlsrpt_host_sessions"

    host: str = Field(sa_type=sa.Text, primary_key=True)
    day: str = Field(sa_type=sa.Text, primary_key=True, index=True)
    told: str = Field(sa_type=sa.Text, primary_key=True)
    policy_id: str = Field(sa_type=sa.Text, primary_key=True)
    policy: str = Field(sa_type=sa.Text)
    successes: int = Field(sa_type=sa.BigInteger)
    failures: int = Field(sa_type=sa.BigInteger)


class HostDetails(Base, table=True):
    """The failures among them in detail."""

    __tablename__ = "tlsrpt_host_details"

    host: str = Field(sa_type=sa.Text, primary_key=True)
    day: str = Field(sa_type=sa.Text, primary_key=True)
    told: str = Field(sa_type=sa.Text, primary_key=True)
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


def _add_hosts(op: Operations) -> None:
    keys = [sa.Column(name, sa.Text, primary_key=True) for name in ("host", "day", "told", "policy_id")]
    op.create_table(
        "tlsrpt_host_sessions",
        *keys,
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("successes", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_tlsrpt_host_sessions_day", "tlsrpt_host_sessions", ["day"])
    op.create_table(
        "tlsrpt_host_details",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("host", "day", "told", "policy_id", "detail_id")),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
    )
    # Nobody looks for the details of a day but to drop them all.
    op.drop_index("ix_tlsrpt_details_day", "tlsrpt_details")


def _find_failures(op: Operations) -> None:
    """Who looks for failures looks for few among very many."""
    failed = sa.text("failures > 0")
    columns = ["recipient_domain", "day", "policy_id"]
    op.create_index("ix_tlsrpt_sessions_failed", "tlsrpt_sessions", columns, sqlite_where=failed, postgresql_where=failed)


SCHEMA: Final = Schema(migrations=(_create, received_tables.create, _add_hosts, _find_failures))
