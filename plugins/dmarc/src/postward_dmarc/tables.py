"""Evaluations counted by policy domain, UTC day, published policy and row (RFC 9990 §3.1.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from postward.model import Schema
from postward_dmarc import received_tables
from postward_dmarc.rows import canonical

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy import Connection


class Base(SQLModel, registry=registry()):
    """The plugin's own metadata."""


class EvaluationRow(Base, table=True):
    """Equal evaluations of a day. `identity` is a digest of `published` and `row`, both canonical JSON."""

    __tablename__ = "dmarc_evaluations"

    day: str = Field(sa_type=sa.Text, primary_key=True)
    policy_domain: str = Field(sa_type=sa.Text, primary_key=True)
    identity: str = Field(sa_type=sa.Text, primary_key=True)
    published: str = Field(sa_type=sa.Text)
    row: str = Field(sa_type=sa.Text)
    n: int = Field(sa_type=sa.BigInteger)


def _create(op: Operations) -> None:
    op.create_table(
        "dmarc_evaluations",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("day", "policy_domain", "identity")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("published", "row")),
        sa.Column("n", sa.BigInteger, nullable=False),
    )


SCHEMA: Final = Schema(migrations=(_create, received_tables.create))

_COUNT: Final = sa.text(
    "INSERT INTO dmarc_evaluations (day, policy_domain, identity, published, row, n)"
    " VALUES (:day, :policy_domain, :identity, :published, :row, :n)"
    " ON CONFLICT (day, policy_domain, identity) DO UPDATE SET n = dmarc_evaluations.n + excluded.n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A row that was read back: `published` and `row` are canonical JSON."""

    day: str
    policy_domain: str
    published: str
    row: str
    n: int


def count(connection: Connection, increments: Mapping[tuple[str, str], int]) -> None:
    """Add to the counters: `increments` maps (day, canonical JSON of a message) to how often."""
    rows = []
    # Sorted: two writers that lock rows in the same order cannot block each other for good.
    for (day, data), n in sorted(increments.items()):
        row = json.loads(data)
        domain, published = row.pop("domain"), canonical(row.pop("published"))
        text = canonical(row)
        identity = hashlib.sha256(f"{published}\n{text}".encode()).hexdigest()
        rows.append({"day": day, "policy_domain": domain, "identity": identity, "published": published, "row": text, "n": n})
    if rows:
        rows.sort(key=lambda values: (values["day"], values["policy_domain"], values["identity"]))
        connection.execute(_COUNT, rows)


def counted(connection: Connection, day: str) -> list[Counted]:
    """The counters of a day, in a stable order."""
    found = connection.execute(
        sa.text(
            "SELECT day, policy_domain, published, row, n FROM dmarc_evaluations WHERE day = :day"
            " ORDER BY policy_domain, published, row"
        ),
        {"day": day},
    )
    return [Counted(day=row[0], policy_domain=row[1], published=row[2], row=row[3], n=row[4]) for row in found]
