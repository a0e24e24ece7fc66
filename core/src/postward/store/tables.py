"""Core's own tables: where each node stands (results database), and the journal (the node's database)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from postward.model import Schema

if TYPE_CHECKING:
    from alembic.operations import Operations


def _nodes(op: Operations) -> None:
    # `sequence`: the last journal entry that `consumer` has taken from `node`'s journal. `day_done`: the last UTC day of
    # which nothing is left to hand over. `seen`: the node's last sign of life, microseconds.
    op.create_table(
        "core_nodes",
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("day_done", sa.Text, nullable=False),
        sa.Column("seen", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("node", "consumer"),
    )


def _journal(op: Operations) -> None:
    # One row holds the entries of one commit and day, so a burst is cheap to write and to read: `sequence` is that of
    # its last entry, `entries` how many there are, `results` what their counts add up to.
    # AUTOINCREMENT: a sequence must never be given twice, also when the journal has been emptied in between.
    op.create_table(
        "node_journal",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("entries", sa.Integer, nullable=False),
        sa.Column("results", sa.BigInteger, nullable=False),
        sa.Column("day", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )


RESULTS: Final = Schema(migrations=(_nodes,))
NODE: Final = Schema(migrations=(_journal,))
