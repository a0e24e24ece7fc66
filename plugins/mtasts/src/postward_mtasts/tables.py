"""The policy cache on disk, and what is served for own domains.

The cache outlives restarts, because it is what protects against a downgrade (RFC 8461 §3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from postward.model import Mode, Schema
from postward.names import Domain
from postward_mtasts.cache import Entry
from postward_mtasts.hosting import Served

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
    media_type: str = Field(sa_type=sa.Text)
    due: int = Field(sa_type=sa.BigInteger, index=True)


class Hosted(Base, table=True):
    """One domain whose policy is served here: what was served last, since when; `withdrawn` is 0 while it is configured."""

    __tablename__ = "mtasts_hosted"

    domain: str = Field(sa_type=sa.Text, primary_key=True)
    policy_text: str = Field(sa_type=sa.Text)
    since: int = Field(sa_type=sa.BigInteger)
    withdrawn: int = Field(sa_type=sa.BigInteger)


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


def _add_due(op: Operations) -> None:
    op.add_column("mtasts_policies", sa.Column("media_type", sa.Text, nullable=False, server_default=""))
    op.add_column("mtasts_policies", sa.Column("due", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_mtasts_policies_due", "mtasts_policies", ["due"])


def _create_hosted(op: Operations) -> None:
    op.create_table(
        "mtasts_hosted",
        sa.Column("domain", sa.Text, primary_key=True),
        sa.Column("policy_text", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("withdrawn", sa.BigInteger, nullable=False),
    )


SCHEMA: Final = Schema(migrations=(_create, _add_due, _create_hosted))

_TABLE: Final = Base.metadata.tables["mtasts_policies"]
_COLUMNS: Final = tuple(_TABLE.c.keys())

# Of two processes, one may have noted a later use.
_SAVE: Final = sa.text(
    f"INSERT INTO mtasts_policies ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
    " ON CONFLICT (domain) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name not in ("domain", "last_use"))
    + ", last_use = CASE WHEN excluded.last_use > mtasts_policies.last_use"
    " THEN excluded.last_use ELSE mtasts_policies.last_use END"
)
# Only what a failure changes: another node may have stored a policy meanwhile.
_SAVE_FAILURE: Final = sa.text(
    f"INSERT INTO mtasts_policies ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
    " ON CONFLICT (domain) DO UPDATE SET last_attempt = excluded.last_attempt, failed_id = excluded.failed_id,"
    " last_error = excluded.last_error, due = excluded.due"
)
# Taken for a while, so that neither another node nor a second sweep renews them as well; whoever dies leaves them due again.
_TAKE_DUE: Final = sa.text(
    "UPDATE mtasts_policies SET due = :until WHERE due <= :now AND domain IN"
    " (SELECT domain FROM mtasts_policies WHERE due <= :now ORDER BY due LIMIT :most) RETURNING " + ", ".join(_COLUMNS)
)
_COUNT_DUE: Final = sa.text("SELECT COUNT(*) FROM mtasts_policies WHERE due <= :now")
_LOOK_AT: Final = sa.text("UPDATE mtasts_policies SET due = :due WHERE domain = :domain")
_DROP: Final = sa.text("DELETE FROM mtasts_policies WHERE domain = :domain")
_SAVE_HOSTED: Final = sa.text(
    "INSERT INTO mtasts_hosted (domain, policy_text, since, withdrawn) VALUES (:domain, :policy_text, :since, :withdrawn)"
    " ON CONFLICT (domain) DO UPDATE SET policy_text = excluded.policy_text, since = excluded.since,"
    " withdrawn = excluded.withdrawn"
)
_TOUCH: Final = sa.text("UPDATE mtasts_policies SET last_use = :at WHERE domain = :domain")
_FORGET: Final = sa.text("DELETE FROM mtasts_policies WHERE domain = :domain AND last_attempt = :last_attempt")


_LOAD: Final = sa.text(f"SELECT {', '.join(_COLUMNS)} FROM mtasts_policies WHERE domain = :domain")


def load(connection: Connection, domain: Domain) -> Entry | None:
    """What is remembered of a domain."""
    row = connection.execute(_LOAD, {"domain": str(domain)}).first()
    return None if row is None else _entry(row)


def load_page(connection: Connection, after: str = "", limit: int = 500) -> Sequence[Entry]:
    """What is remembered, by domain: at most `limit` entries behind the name `after`."""
    rows = sa.select(_TABLE).where(_TABLE.c.domain > after).order_by(_TABLE.c.domain).limit(limit)
    return [_entry(row) for row in connection.execute(rows)]


def save(connection: Connection, entry: Entry) -> None:
    """Store an entry in the place of the domain's former one."""
    connection.execute(_SAVE, _values(entry))


def save_failure(connection: Connection, entry: Entry) -> None:
    """Store a failed attempt, keeping whatever policy is there."""
    fresh = replace(entry, record_id="", text="", mode=Mode.NONE, fetched=0, expires=0)
    connection.execute(_SAVE_FAILURE, _values(fresh))


def touch(connection: Connection, domain: Domain, at: int) -> None:
    """Note that a policy is in use."""
    connection.execute(_TOUCH, {"domain": str(domain), "at": at})


def forget(connection: Connection, *entries: Entry) -> None:
    """Remove entries, except those that have changed since they were read."""
    for entry in entries:
        connection.execute(_FORGET, {"domain": str(entry.domain), "last_attempt": entry.last_attempt})


def drop(connection: Connection, domain: Domain) -> bool:
    """Remove whatever is remembered of a domain; whether there was anything."""
    return connection.execute(_DROP, {"domain": str(domain)}).rowcount > 0


def count_due(connection: Connection, now: int) -> int:
    """How many entries have to be looked at."""
    return int(connection.execute(_COUNT_DUE, {"now": now}).scalar() or 0)


def take_due(connection: Connection, now: int, until: int, most: int) -> Sequence[Entry]:
    """Take at most `most` entries that have to be looked at; they are not due again before `until`."""
    return [_entry(row) for row in connection.execute(_TAKE_DUE, {"now": now, "until": until, "most": most})]


def look_at(connection: Connection, domain: Domain, due: int) -> None:
    """Note when an entry has to be looked at again."""
    connection.execute(_LOOK_AT, {"domain": str(domain), "due": due})


def load_hosted(connection: Connection) -> Sequence[Served]:
    """What was served here, by domain."""
    rows = connection.execute(sa.select(Base.metadata.tables["mtasts_hosted"]).order_by(sa.text("domain")))
    return [Served(domain=Domain(row[0]), text=row[1], since=row[2], withdrawn=row[3]) for row in rows]


def save_hosted(connection: Connection, *served: Served) -> None:
    """Store what is served here."""
    for each in served:
        values = {"domain": str(each.domain), "policy_text": each.text, "since": each.since, "withdrawn": each.withdrawn}
        connection.execute(_SAVE_HOSTED, values)


def _values(entry: Entry) -> dict[str, object]:
    return {
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
        "media_type": entry.media_type,
        "due": entry.due,
    }


def _entry(row: Any) -> Entry:
    return Entry(
        domain=Domain(row[0]),
        record_id=row[1],
        text=row[2],
        mode=Mode(row[3]),
        fetched=row[4],
        expires=row[5],
        last_use=row[6],
        last_attempt=row[7],
        failed_id=row[8],
        last_error=row[9],
        media_type=row[10],
        due=row[11],
    )
