"""Reports in files, also in those that are too large to be held: a report of a million records is read as it is unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final

from postward.reports.sources import Source
from postward_dmarc.reading.message import Streamed, looks_packed, looks_xml, stream_in, stream_pieces, with_defects
from postward_dmarc.reading.read import ReportError
from postward_dmarc.reading.unpack import GZIP, UnpackError, gunzip, unzip

MAX_FILE: Final = 8 << 30
"""Octets of a report that was unpacked, or was not packed; bounds the time, as memory does not depend on it."""
_PIECE: Final = 256 * 1024


def stream_of(source: Source) -> Iterator[Streamed]:
    """The reports of a source, at least one, each behind its records. Never raises for what it holds."""
    if source.error:
        yield ReportError(source.error)
    elif not source.large:
        yield from stream_in(source.content)
    elif not (looks_packed(source.content) or looks_xml(source.content)):
        yield ReportError("a mail that is too large")
    else:
        yield from _large(source)


def _large(source: Source) -> Iterator[Streamed]:
    try:
        with open(source.file, "rb") as stream:
            if source.content.startswith(GZIP):
                defects: set[str] = set()
                for each in stream_pieces(gunzip(_pieces(stream), MAX_FILE, defects)):
                    yield with_defects(each, defects)
            elif looks_packed(source.content):
                for _name, pieces in unzip(stream, MAX_FILE):
                    yield from stream_pieces(pieces)
            else:
                yield from stream_pieces(_pieces(stream))
    except UnpackError as exc:
        yield ReportError(str(exc))
    except OSError as exc:
        yield ReportError(exc.strerror or "cannot be read")


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(_PIECE):
        yield piece
