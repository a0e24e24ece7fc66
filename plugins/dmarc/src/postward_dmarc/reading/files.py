"""Reports in files, also in those that are too large to be held: a report of a million records is read as it is unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final

from postward.reports.sources import Source
from postward_dmarc.reading.message import Found, looks_packed, looks_xml, read_pieces, reports_in
from postward_dmarc.reading.read import ReportError
from postward_dmarc.reading.unpack import GZIP, UnpackError, gunzip, unzip

MAX_FILE: Final = 8 << 30
"""Octets of a report that was unpacked, or was not packed; bounds the time, as memory does not depend on it."""
_PIECE: Final = 256 * 1024


def reports_of(source: Source) -> Iterator[Found]:
    """The reports of a source, at least one entry; of a large one without its records. Never raises for what it holds."""
    if source.error:
        yield ReportError(source.error)
    elif not source.large:
        yield from reports_in(source.content, keep=False)
    elif not (looks_packed(source.content) or looks_xml(source.content)):
        yield ReportError("a mail that is too large")
    else:
        yield from _large(source)


def _large(source: Source) -> Iterator[Found]:
    try:
        with open(source.file, "rb") as stream:
            if source.content.startswith(GZIP):
                defects: set[str] = set()
                found = read_pieces(gunzip(_pieces(stream), MAX_FILE, defects), keep=False, defects=defects)
                yield found
            elif looks_packed(source.content):
                for _name, pieces in unzip(stream, MAX_FILE):
                    yield read_pieces(pieces, keep=False)
            else:
                yield read_pieces(_pieces(stream), keep=False)
    except UnpackError as exc:
        yield ReportError(str(exc))
    except OSError as exc:
        yield ReportError(exc.strerror or "cannot be read")


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(_PIECE):
        yield piece
