"""Find the reports in what was received: a mail with all its attachments, or a report by itself (RFC 9990 §3.5.2).

A report that is bad does not hide the others: each comes as a reading or as a `ReportError`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

import msgspec

from postward.model import BytesContent
from postward.reports.container import ContainerError, Part, mime_parts
from postward_dmarc.reading.aggregate import Aggregate, Record
from postward_dmarc.reading.failure import Failure, FailureError, header_part, read_failure
from postward_dmarc.reading.read import AggregateReader, ReportError
from postward_dmarc.reading.unpack import GZIP, ZIP, UnpackError, gunzip, unzip

MAX_MAIL: Final = 30 << 20
MAX_XML: Final = 200 << 20
MAX_REPORTS: Final = 50
_SPACE: Final = b"\xef\xbb\xbf \t\r\n"
_XML: Final = (b"<?xml", b"<feedback", b"<!--")
_PREFIXED: Final = re.compile(rb"<[A-Za-z_][\w.-]{0,40}:feedback[\s>]")
_TYPES: Final = frozenset(
    {"application/gzip", "text/xml", "application/xml", "application/zip", "application/x-zip-compressed"}
)
_FEEDBACK: Final = "message/feedback-report"

OnRecord: TypeAlias = Callable[[Record], None]


class AggregateReading(msgspec.Struct, frozen=True):
    """An aggregate report with its records; those are left out where nobody asked for them."""

    report: Aggregate
    records: tuple[Record, ...]
    defects: tuple[str, ...]


class FailureReading(msgspec.Struct, frozen=True):
    """A failure report."""

    report: Failure


Found: TypeAlias = AggregateReading | FailureReading | ReportError


def reports_in(content: bytes, *, keep: bool = True) -> list[Found]:
    """The reports in the content of a file, at least one entry. Never raises for what it holds. `keep` the records."""
    if not content.strip():
        return [ReportError("empty")]
    if looks_packed(content) or looks_xml(content):
        return list(_opened(content, keep=keep))
    return list(_in_mail(content, keep=keep))


def looks_packed(start: bytes) -> bool:
    """Whether this is the start of something compressed."""
    return start.startswith((GZIP, ZIP))


def looks_xml(start: bytes) -> bool:
    """Whether this is the start of XML."""
    begin = start[:200].lstrip(_SPACE)
    return begin.startswith(_XML) or _PREFIXED.match(begin) is not None or start[:4] in (b"\xff\xfe<\0", b"\xfe\xff\0<")


def read_pieces(pieces: Iterable[bytes], *, keep: bool, defects: Iterable[str] = ()) -> AggregateReading | ReportError:
    """Read one report that comes in pieces. What ends too early is read as far as it goes."""
    records: list[Record] = []
    passed = set(defects)
    reader = AggregateReader(records.append if keep else _forget)
    source = iter(pieces)
    try:
        while True:
            try:
                piece = next(source)
            except StopIteration:
                break
            except UnpackError as exc:
                if not reader.records:
                    return ReportError(str(exc))
                passed.add("ends-too-early")
                break
            reader.feed(piece)
        report = reader.close()
    except ReportError as exc:
        return exc
    return AggregateReading(report, tuple(records), tuple(sorted(passed | set(report.defects))))


def _forget(_record: Record) -> None:
    return


def _opened(content: bytes, *, keep: bool, defects: Iterable[str] = ()) -> Iterator[Found]:
    """What is in an attachment or a file that is no mail."""
    if content.startswith(GZIP):
        passed = set(defects)
        found = read_pieces(_no_archive(gunzip([content], MAX_XML, passed)), keep=keep)
        yield _with(found, passed)
    elif content.startswith(ZIP):
        try:
            for _name, pieces in unzip(io.BytesIO(content), MAX_XML):
                yield read_pieces(_no_archive(pieces), keep=keep, defects=defects)
        except UnpackError as exc:
            yield ReportError(str(exc))
    else:
        yield read_pieces([content], keep=keep, defects=defects)


def _with(found: AggregateReading | ReportError, defects: set[str]) -> AggregateReading | ReportError:
    if isinstance(found, ReportError) or not defects:
        return found
    return AggregateReading(found.report, found.records, tuple(sorted(defects | set(found.defects))))


def _no_archive(pieces: Iterable[bytes]) -> Iterator[bytes]:
    first = True
    for piece in pieces:
        if first and looks_packed(piece):
            raise UnpackError("an archive inside an archive")
        first = False
        yield piece


def _in_mail(content: bytes, *, keep: bool) -> Iterator[Found]:
    try:
        parts = mime_parts(content, MAX_MAIL)
    except ContainerError as exc:
        yield ReportError(str(exc))
        return
    number = 0
    for at, part in enumerate(parts):
        for found in _in_part(part, parts[at + 1 :], keep=keep):
            yield found
            number += 1
            if number >= MAX_REPORTS:
                yield ReportError(f"more than {MAX_REPORTS} reports in a message")
                return
    if not number:
        yield ReportError("no report in it" if BytesContent(content).header else "neither a report nor a mail")


def _in_part(part: Part, rest: tuple[Part, ...], *, keep: bool) -> Iterator[Found]:
    if part.media_type == _FEEDBACK:
        try:
            yield FailureReading(read_failure(part.data, header_part([(each.media_type, each.data) for each in rest])))
        except FailureError as exc:
            yield ReportError(str(exc))
    elif looks_packed(part.data) or (part.media_type != "text/html" and looks_xml(part.data)):
        yield from _opened(part.data, keep=keep, defects=() if part.media_type in _TYPES else ("media-type",))
    elif part.media_type in _TYPES and part.data.strip():
        yield ReportError(f"a part {part.media_type} that is none")
