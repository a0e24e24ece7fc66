"""The policy cache on disk. It outlives restarts, because it is what protects against a downgrade (RFC 8461 §3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from postward.model import Mode, Schema
from postward.names import Domain
from postward_mtasts.cache import Entry

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy import Connection


class Base(SQLModel, registry=registry()):
    """The plugin's own metadata."""


class Policy(Base, table=True):
    """One domain; see `postward_mtasts.cache.Entry` for the meaning and the units."""

    __tablename__ = "mtasts_policies"

    domain: str = Field(sa_type=sa.Text, primary_key=True)
    record_id: str = Field(sa_type=sa.Text)
    policy_text: str = Field(sa_type=sa.Text)
    mode: str = Field(sa_type=sa.Text)
    fetched: int = Field(sa_type=sa.BigInteger)
    expires: int = Field(sa_type=sa.BigInteger)
    last_use: int = Field(sa_type=sa.BigInteger)
    last_attempt: int = Field(sa_type=sa.BigInteger)
    failed_id: str = Field(sa_type=sa.Text)
    last_error: str = Field(sa_type=sa.Text)


def _create(op: Operations) -> None:
    op.create_table(
        "mtasts_policies",
        sa.Column("domain", sa.Text, primary_key=True),
        sa.Column("record_id", sa.Text, nullable=False),
        sa.Column("policy_text", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("fetched", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("last_use", sa.BigInteger, nullable=False),
        sa.Column("last_attempt", sa.BigInteger, nullable=False),
        sa.Column("failed_id", sa.Text, nullable=False),
        sa.Column("last_error", sa.Text, nullable=False),
    )


SCHEMA: Final = Schema(migrations=(_create,))

_TABLE: Final = Base.metadata.tables["mtasts_policies"]

_SAVE: Final = sa.text(
    "INSERT INTO mtasts_policies (domain, record_id, policy_text, mode, fetched, expires, last_use, last_attempt, failed_id,"
    " last_error) VALUES (:domain, :record_id, :policy_text, :mode, :fetched, :expires, :last_use, :last_attempt, :failed_id,"
    " :last_error) ON CONFLICT (domain) DO UPDATE SET record_id = excluded.record_id, policy_text = excluded.policy_text,"
    " mode = excluded.mode, fetched = excluded.fetched, expires = excluded.expires, last_use = excluded.last_use,"
    " last_attempt = excluded.last_attempt, failed_id = excluded.failed_id, last_error = excluded.last_error"
)
# Only what a failure changes: another node may have stored a policy meanwhile.
_SAVE_FAILURE: Final = sa.text(
    "INSERT INTO mtasts_policies (domain, record_id, policy_text, mode, fetched, expires, last_use, last_attempt, failed_id,"
    " last_error) VALUES (:domain, '', '', 'none', 0, 0, :at, :at, :failed_id, :last_error) ON CONFLICT (domain) DO UPDATE"
    " SET last_attempt = excluded.last_attempt, failed_id = excluded.failed_id, last_error = excluded.last_error"
)
_TOUCH: Final = sa.text("UPDATE mtasts_policies SET last_use = :at WHERE domain = :domain")
_FORGET: Final = sa.text("DELETE FROM mtasts_policies WHERE domain = :domain AND last_attempt = :last_attempt")


def load(connection: Connection, domain: Domain) -> Entry | None:
    """What is remembered of a domain."""
    row = connection.execute(sa.select(_TABLE).where(_TABLE.c.domain == str(domain))).mappings().first()
    return None if row is None else _entry(row)


def load_page(connection: Connection, after: str = "", limit: int = 500) -> Sequence[Entry]:
    """What is remembered, by domain: at most `limit` entries behind the name `after`."""
    rows = sa.select(_TABLE).where(_TABLE.c.domain > after).order_by(_TABLE.c.domain).limit(limit)
    return [_entry(row) for row in connection.execute(rows).mappings()]


def save(connection: Connection, entry: Entry) -> None:
    """Store an entry in the place of the domain's former one."""
    connection.execute(
        _SAVE,
        {
            "domain": str(entry.domain),
            "record_id": entry.record_id,
            "policy_text": entry.text,
            "mode": entry.mode.value,
            "fetched": entry.fetched,
            "expires": entry.expires,
            "last_use": entry.last_use,
            "last_attempt": entry.last_attempt,
            "failed_id": entry.failed_id,
            "last_error": entry.last_error,
        },
    )


def save_failure(connection: Connection, domain: Domain, failed_id: str, error: str, at: int) -> None:
    """Note a failed attempt at an instant, keeping whatever policy is there."""
    connection.execute(_SAVE_FAILURE, {"domain": str(domain), "failed_id": failed_id, "last_error": error, "at": at})


def touch(connection: Connection, domain: Domain, at: int) -> None:
    """Note that a policy is in use."""
    connection.execute(_TOUCH, {"domain": str(domain), "at": at})


def forget(connection: Connection, *entries: Entry) -> None:
    """Remove entries, except those that have changed since they were read."""
    for entry in entries:
        connection.execute(_FORGET, {"domain": str(entry.domain), "last_attempt": entry.last_attempt})


def _entry(row: Any) -> Entry:
    return Entry(
        domain=Domain(row["domain"]),
        record_id=row["record_id"],
        text=row["policy_text"],
        mode=Mode(row["mode"]),
        fetched=row["fetched"],
        expires=row["expires"],
        last_use=row["last_use"],
        last_attempt=row["last_attempt"],
        failed_id=row["failed_id"],
        last_error=row["last_error"],
    )
