"""Received reports: a row each, a row per record, what those come to, and failure reports; each counts once.

A report is known by who vouches for it with its id and period, and by its content. One of many records comes in pieces, so
that it never has to be held: they lie under a number that is `unfinished` until the row of the report is written with the last
of them, and nothing shows them before. What is dropped goes the same way back. Instants are microseconds UTC.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from postward.model import day_of
from postward.reports.receipt import storable
from postward_dmarc.reading.aggregate import Record
from postward_dmarc.reading.message import AggregateReading, FailureReading
from postward_dmarc.who import seen

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy import Connection

Outcome: TypeAlias = Literal["stored", "duplicate", "conflict"]
Sums: TypeAlias = Counter[tuple[str, str, str, str]]
"""Messages by disposition, aligned DKIM and SPF, and kind of sender."""

SWEPT: Final = 20_000
"""Records that one transaction deletes: others wait for it."""
_DISPOSITIONS: Final = frozenset({"none", "pass", "quarantine", "reject"})


class Base(SQLModel, registry=registry()):
    """Metadata of these tables."""


class Received(Base, table=True):
    """An aggregate report. `day` is the UTC day that it begins in, `report` its JSON without records."""

    __tablename__ = "dmarc_received"
    __table_args__ = (
        sa.UniqueConstraint("known_as", name="uq_dmarc_received_known_as"),
        sa.UniqueConstraint("digest", name="uq_dmarc_received_digest"),
    )

    id: int = Field(sa_type=sa.BigInteger, primary_key=True)
    via: str = Field(sa_type=sa.Text)
    voucher: str = Field(sa_type=sa.Text)
    known_as: str = Field(sa_type=sa.Text)
    digest: str = Field(sa_type=sa.Text)
    org: str = Field(sa_type=sa.Text)
    report_id: str = Field(sa_type=sa.Text)
    domain: str = Field(sa_type=sa.Text, index=True)
    day: str = Field(sa_type=sa.Text)
    defects: str = Field(sa_type=sa.Text)
    report: str = Field(sa_type=sa.Text)
    begin_at: int = Field(sa_type=sa.BigInteger)
    end_at: int = Field(sa_type=sa.BigInteger, index=True)
    received_at: int = Field(sa_type=sa.BigInteger)
    records: int = Field(sa_type=sa.BigInteger)
    messages: int = Field(sa_type=sa.BigInteger)


class ReceivedRecord(Base, table=True):
    """A record. `dkim` and `spf` are those that DMARC counts; `detail` is JSON: reasons, DKIM and SPF results."""

    __tablename__ = "dmarc_received_records"

    report: int = Field(sa_type=sa.BigInteger, primary_key=True)
    number: int = Field(primary_key=True)
    source_ip: str = Field(sa_type=sa.Text)
    n: int = Field(sa_type=sa.BigInteger)
    disposition: str = Field(sa_type=sa.Text)
    dkim: str = Field(sa_type=sa.Text)
    spf: str = Field(sa_type=sa.Text)
    who: str = Field(sa_type=sa.Text)
    stands: str = Field(sa_type=sa.Text)
    header_from: str = Field(sa_type=sa.Text)
    envelope_from: str = Field(sa_type=sa.Text)
    envelope_to: str = Field(sa_type=sa.Text)
    reasons: str = Field(sa_type=sa.Text)
    detail: str = Field(sa_type=sa.Text)


class ReceivedSum(Base, table=True):
    """What the records of a report come to, so that nobody has to read them for an overview."""

    __tablename__ = "dmarc_received_sums"

    report: int = Field(sa_type=sa.BigInteger, primary_key=True)
    disposition: str = Field(sa_type=sa.Text, primary_key=True)
    dkim: str = Field(sa_type=sa.Text, primary_key=True)
    spf: str = Field(sa_type=sa.Text, primary_key=True)
    who: str = Field(sa_type=sa.Text, primary_key=True)
    n: int = Field(sa_type=sa.BigInteger)


class ReceivedFailure(Base, table=True):
    """A failure report. `report` is its JSON."""

    __tablename__ = "dmarc_received_failures"

    digest: str = Field(sa_type=sa.Text, primary_key=True)
    via: str = Field(sa_type=sa.Text)
    voucher: str = Field(sa_type=sa.Text)
    domain: str = Field(sa_type=sa.Text, index=True)
    day: str = Field(sa_type=sa.Text)
    report: str = Field(sa_type=sa.Text)
    arrival_at: int = Field(sa_type=sa.BigInteger, index=True)
    received_at: int = Field(sa_type=sa.BigInteger)
    n: int = Field(sa_type=sa.BigInteger)


class Unfinished(Base, table=True):
    """The number of records without a report: on their way in since `begun_at`, or out (0)."""

    __tablename__ = "dmarc_received_unfinished"

    report: int = Field(sa_type=sa.BigInteger, primary_key=True)
    begun_at: int = Field(sa_type=sa.BigInteger)


_RECORD: Final = ("source_ip", "disposition", "dkim", "spf", "who", "stands", "header_from", "envelope_from", "envelope_to",
                  "reasons", "detail")  # fmt: skip
_TEXTS: Final = ("via", "voucher", "known_as", "digest", "org", "report_id", "domain", "day", "defects", "report")
_NUMBERS: Final = ("begin_at", "end_at", "received_at", "records", "messages")


def create(op: Operations) -> None:
    """Make the tables."""
    op.create_table(
        "dmarc_received",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        *_columns(_TEXTS),
        *_columns(_NUMBERS, sa.BigInteger),
        sa.UniqueConstraint("known_as", name="uq_dmarc_received_known_as"),
        sa.UniqueConstraint("digest", name="uq_dmarc_received_digest"),
    )
    op.create_index("ix_dmarc_received_domain", "dmarc_received", ["domain"])
    op.create_index("ix_dmarc_received_end_at", "dmarc_received", ["end_at"])
    op.create_table(
        "dmarc_received_records",
        sa.Column("report", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        *_columns(("n",), sa.BigInteger),
        *_columns(_RECORD),
    )
    op.create_table(
        "dmarc_received_sums",
        sa.Column("report", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("disposition", "dkim", "spf", "who")),
        *_columns(("n",), sa.BigInteger),
    )
    op.create_table(
        "dmarc_received_failures",
        sa.Column("digest", sa.Text, primary_key=True),
        *_columns(("via", "voucher", "domain", "day", "report")),
        *_columns(("arrival_at", "received_at", "n"), sa.BigInteger),
    )
    op.create_index("ix_dmarc_received_failures_domain", "dmarc_received_failures", ["domain"])
    op.create_index("ix_dmarc_received_failures_arrival_at", "dmarc_received_failures", ["arrival_at"])
    op.create_table(
        "dmarc_received_unfinished",
        sa.Column("report", sa.BigInteger, primary_key=True, autoincrement=False),
        *_columns(("begun_at",), sa.BigInteger),
    )


def _columns(names: Iterable[str], kind: Any = sa.Text) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]


def _insert(table: str, names: Iterable[str], end: str = "") -> sa.TextClause:
    columns = tuple(names)
    values = ", ".join(f":{name}" for name in columns)
    return sa.text(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values}){end}")


_INSERT: Final = _insert("dmarc_received", ("id", *_TEXTS, *_NUMBERS), " ON CONFLICT DO NOTHING RETURNING id")
_INSERT_RECORD: Final = _insert("dmarc_received_records", ("report", "number", "n", *_RECORD))
_INSERT_SUM: Final = _insert("dmarc_received_sums", ("report", "disposition", "dkim", "spf", "who", "n"))
_INSERT_FAILURE: Final = _insert(
    "dmarc_received_failures",
    ("digest", "via", "voucher", "domain", "day", "report", "arrival_at", "received_at", "n"),
    " ON CONFLICT DO NOTHING RETURNING digest",
)
_SAME: Final = sa.text("SELECT 1 FROM dmarc_received WHERE digest = :digest")
_BEGIN: Final = sa.text(
    "INSERT INTO dmarc_received_unfinished (report, begun_at) VALUES (:report, :begun_at) ON CONFLICT DO NOTHING"
)
_END: Final = sa.text("DELETE FROM dmarc_received_unfinished WHERE report = :report")
_OLD: Final = "SELECT id FROM dmarc_received WHERE end_at < :before"
_FORGET: Final = (
    sa.text(f"INSERT INTO dmarc_received_unfinished (report, begun_at) SELECT id, 0 FROM ({_OLD}) AS old"),
    sa.text(f"DELETE FROM dmarc_received_sums WHERE report IN ({_OLD})"),
    sa.text("DELETE FROM dmarc_received WHERE end_at < :before"),
)
_FORGET_FAILURES: Final = sa.text("DELETE FROM dmarc_received_failures WHERE arrival_at < :before")
_LEFT: Final = sa.text("SELECT report FROM dmarc_received_unfinished WHERE begun_at < :before ORDER BY begun_at LIMIT 1")
_SWEEP: Final = sa.text(
    "DELETE FROM dmarc_received_records WHERE report = :report AND number IN"
    " (SELECT number FROM dmarc_received_records WHERE report = :report ORDER BY number LIMIT :most)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A report on its way in: `via` is `mail` or `file`, `voucher` the author domain of the mail, empty for files."""

    via: str
    voucher: str
    received: int


def row(report: int, number: int, record: Record, policy_domain: str, sums: Sums) -> dict[str, object]:
    """A record as a row, counted in `sums`."""
    judged = seen(record, policy_domain)
    word = record.disposition if record.disposition in _DISPOSITIONS else "other"
    sums[word, _passed(record.dkim), _passed(record.spf), judged.who] += record.count
    detail = (record.reasons, record.dkim_results, record.spf_results)
    return {
        "report": report,
        "number": number,
        "source_ip": record.source,
        "n": record.count,
        "disposition": record.disposition,
        "dkim": record.dkim,
        "spf": record.spf,
        "who": judged.who.value,
        "stands": judged.stands,
        "header_from": record.header_from,
        "envelope_from": record.envelope_from,
        "envelope_to": record.envelope_to,
        "reasons": " ".join(dict.fromkeys(reason.kind for reason in record.reasons)),
        "detail": _json(detail),
    }


def stage(connection: Connection, report: int, rows: Sequence[Mapping[str, object]], begun: int) -> None:
    """Write some records of a report that is still coming."""
    connection.execute(_BEGIN, {"report": report, "begun_at": begun})
    connection.execute(_INSERT_RECORD, rows)


def store(
    connection: Connection,
    number: int,
    reading: AggregateReading,
    arrived: Arrived,
    rows: Sequence[Mapping[str, object]],
    sums: Sums,
) -> Outcome:
    """Keep a report with the last of its records, unless it is here already; then its records are left unfinished.

    `conflict`: another report of the same voucher has its id and period (RFC 9990 §3.5.1).
    """
    report = reading.report
    known = (arrived.via, arrived.voucher, report.org.lower(), report.policy.domain, report.begin, report.end)
    values = {
        "id": number,
        "via": arrived.via,
        "voucher": arrived.voucher,
        "known_as": hashlib.sha256(json.dumps([*known, report.report_id or reading.digest]).encode()).hexdigest(),
        "digest": reading.digest,
        "org": storable(report.org),
        "report_id": storable(report.report_id),
        "domain": report.policy.domain,
        "day": day_of(report.begin),
        "defects": " ".join(reading.defects),
        "report": _json(report),
        "begin_at": report.begin,
        "end_at": report.end,
        "received_at": arrived.received,
        "records": report.records,
        "messages": report.messages,
    }
    if connection.execute(_INSERT, values).first() is None:
        return "duplicate" if connection.execute(_SAME, {"digest": reading.digest}).first() else "conflict"
    if rows:
        connection.execute(_INSERT_RECORD, rows)
    names = ("disposition", "dkim", "spf", "who")
    if sums:
        connection.execute(
            _INSERT_SUM, [{"report": number, "n": n, **dict(zip(names, key, strict=True))} for key, n in sums.items()]
        )
    connection.execute(_END, {"report": number})
    return "stored"


def store_failure(connection: Connection, reading: FailureReading, domain: str, arrived: Arrived) -> Outcome:
    """Keep a failure report about `domain`, unless it is here already."""
    at = reading.report.arrival or arrived.received
    values = {
        "digest": reading.digest,
        "via": arrived.via,
        "voucher": arrived.voucher,
        "domain": domain,
        "day": day_of(at),
        "report": _json(reading.report),
        "arrival_at": at,
        "received_at": arrived.received,
        "n": reading.report.incidents,
    }
    return "stored" if connection.execute(_INSERT_FAILURE, values).first() else "duplicate"


def abandon(connection: Connection, report: int) -> None:
    """Leave what was staged of a report to `sweep`."""
    connection.execute(_END, {"report": report})
    connection.execute(_BEGIN, {"report": report, "begun_at": 0})


def forget(connection: Connection, before: int) -> tuple[int, int]:
    """Forget reports about what ended before an instant, and say how many aggregate and failure reports. Records follow."""
    dropped = 0
    for statement in _FORGET:
        dropped = connection.execute(statement, {"before": before}).rowcount
    return dropped, connection.execute(_FORGET_FAILURES, {"before": before}).rowcount


def sweep(connection: Connection, before: int) -> bool:
    """Delete some records whose report is gone, or has been on its way since before an instant; whether there may be more."""
    report = connection.execute(_LEFT, {"before": before}).scalar()
    if report is None:
        return False
    if not connection.execute(_SWEEP, {"report": report, "most": SWEPT}).rowcount:
        connection.execute(_END, {"report": report})
    return True


def _passed(word: str) -> str:
    return "pass" if word == "pass" else "fail"


def _json(value: Any) -> str:
    # NUL is escaped in JSON, so there is none in the text.
    return msgspec.json.encode(value).decode()
