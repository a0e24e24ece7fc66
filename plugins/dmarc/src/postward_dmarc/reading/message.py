"""Find the reports in what was received: a mail with all its attachments, or a report by itself (RFC 9990 §3.5.2).

A report that is bad does not hide the others: each comes as a reading or as a `ReportError`.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import msgspec

from postward.model import BytesContent
from postward.reports.container import ContainerError, Part, mime_parts
from postward_dmarc.reading.aggregate import Aggregate, Record
from postward_dmarc.reading.failure import Failure, FailureError, header_part, read_failure
from postward_dmarc.reading.read import AggregateReader, ReportError
from postward_dmarc.reading.unpack import GZIP, PIECE, ZIP, UnpackError, gunzip, unzip

MAX_MAIL: Final = 30 << 20
MAX_XML: Final = 200 << 20
MAX_REPORTS: Final = 50
BATCH: Final = 1000
"""Records that come together, or a few more: what one piece holds."""
_SPACE: Final = b"\xef\xbb\xbf \t\r\n"
_XML: Final = (b"<?xml", b"<feedback", b"<!--")
_PREFIXED: Final = re.compile(rb"<[A-Za-z_][\w.-]{0,40}:feedback[\s>]")
_TYPES: Final = frozenset(
    {"application/gzip", "text/xml", "application/xml", "application/zip", "application/x-zip-compressed"}
)
_FEEDBACK: Final = "message/feedback-report"


class Batch(msgspec.Struct, frozen=True):
    """Some records of a report that is being read; `domain` is that of its policy, None as long as that has not come."""

    records: list[Record]
    domain: str | None


class AggregateReading(msgspec.Struct, frozen=True):
    """An aggregate report with its records; those are left out where nobody asked for them. `digest` is of its XML."""

    report: Aggregate
    records: tuple[Record, ...]
    defects: tuple[str, ...]
    digest: str


class FailureReading(msgspec.Struct, frozen=True):
    """A failure report. `digest` is of what it says and of the message that it is about."""

    report: Failure
    digest: str


Found: TypeAlias = AggregateReading | FailureReading | ReportError
Streamed: TypeAlias = Batch | Found
"""The batches of a report come before it, also before a `ReportError` that makes them void."""


def reports_in(content: bytes, *, keep: bool = True) -> list[Found]:
    """The reports in the content of a file, at least one entry. Never raises for what it holds. `keep` the records."""
    return list(collected(stream_in(content), keep=keep))


def collected(stream: Iterable[Streamed], *, keep: bool) -> Iterator[Found]:
    """Reports by themselves, with their records if they are to be kept."""
    records: list[Record] = []
    for each in stream:
        if isinstance(each, Batch):
            if keep:
                records += each.records
            continue
        if records and isinstance(each, AggregateReading):
            each = msgspec.structs.replace(each, records=tuple(records))
        records = []
        yield each


def stream_in(content: bytes) -> Iterator[Streamed]:
    """The reports in the content of a file, each behind its records, so that those need never be held together."""
    if not content.strip():
        yield ReportError("empty")
    elif looks_packed(content) or looks_xml(content):
        yield from _opened(content)
    else:
        yield from _in_mail(content)


def looks_packed(start: bytes) -> bool:
    """Whether this is the start of something compressed."""
    return start.startswith((GZIP, ZIP))


def looks_xml(start: bytes) -> bool:
    """Whether this is the start of XML."""
    begin = start[:200].lstrip(_SPACE)
    return begin.startswith(_XML) or _PREFIXED.match(begin) is not None or start[:4] in (b"\xff\xfe<\0", b"\xfe\xff\0<")


def stream_pieces(pieces: Iterable[bytes], *, defects: Iterable[str] = ()) -> Iterator[Streamed]:
    """Read one report that comes in pieces. What ends too early is read as far as it goes."""
    records: list[Record] = []
    passed = set(defects)
    digest = hashlib.sha256()
    reader = AggregateReader(records.append)
    try:
        try:
            for piece in pieces:
                digest.update(piece)
                reader.feed(piece)
                if len(records) >= BATCH:
                    yield Batch(records[:], reader.domain)
                    records.clear()
        except UnpackError as exc:
            if not reader.records:
                yield ReportError(str(exc))
                return
            passed.add("ends-too-early")
        report = reader.close()
    except ReportError as exc:
        yield exc
        return
    if records:
        yield Batch(records, reader.domain)
    yield AggregateReading(report, (), tuple(sorted(passed | set(report.defects))), digest.hexdigest())


def _opened(content: bytes, *, defects: Iterable[str] = ()) -> Iterator[Streamed]:
    """What is in an attachment or a file that is no mail."""
    if content.startswith(GZIP):
        passed = set(defects)
        for each in stream_pieces(_no_archive(gunzip([content], MAX_XML, passed))):
            yield with_defects(each, passed)
    elif content.startswith(ZIP):
        try:
            for _name, pieces in unzip(io.BytesIO(content), MAX_XML):
                yield from stream_pieces(_no_archive(pieces), defects=defects)
        except UnpackError as exc:
            yield ReportError(str(exc))
    else:
        yield from stream_pieces((content[at : at + PIECE] for at in range(0, len(content), PIECE)), defects=defects)


def with_defects(found: Streamed, defects: set[str]) -> Streamed:
    """A report with defects that were noticed in unpacking it, which are known at its end."""
    if isinstance(found, AggregateReading) and defects:
        return msgspec.structs.replace(found, defects=tuple(sorted(defects | set(found.defects))))
    return found


def _no_archive(pieces: Iterable[bytes]) -> Iterator[bytes]:
    first = True
    for piece in pieces:
        if first and looks_packed(piece):
            raise UnpackError("an archive inside an archive")
        first = False
        yield piece


def _in_mail(content: bytes) -> Iterator[Streamed]:
    try:
        parts = mime_parts(content, MAX_MAIL)
    except ContainerError as exc:
        yield ReportError(str(exc))
        return
    number = 0
    for at, part in enumerate(parts):
        for found in _in_part(part, parts[at + 1 :]):
            yield found
            number += not isinstance(found, Batch)
            if number >= MAX_REPORTS:
                yield ReportError(f"more than {MAX_REPORTS} reports in a message")
                return
    if not number:
        yield ReportError("no report in it" if BytesContent(content).header else "neither a report nor a mail")


def _in_part(part: Part, rest: tuple[Part, ...]) -> Iterator[Streamed]:
    if part.media_type == _FEEDBACK:
        about = header_part([(each.media_type, each.data) for each in rest])
        try:
            failure = read_failure(part.data, about)
        except FailureError as exc:
            yield ReportError(str(exc))
            return
        yield FailureReading(failure, hashlib.sha256(part.data + b"\0" + about).hexdigest())
    elif looks_packed(part.data) or (part.media_type != "text/html" and looks_xml(part.data)):
        yield from _opened(part.data, defects=() if part.media_type in _TYPES else ("media-type",))
    elif part.media_type in _TYPES and part.data.strip():
        yield ReportError(f"a part {part.media_type} that is none")
