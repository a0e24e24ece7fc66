"""What a report is packed in, as pieces: gzip with whatever stands behind it, zip, or nothing (RFC 9990 §3.5.2, §8.1).

Nothing is unpacked twice, and an archive inside an archive is refused. Limits are on what comes out.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Final

from postward.errors import PostwardError

GZIP: Final = b"\x1f\x8b"
ZIP: Final = b"PK\x03\x04"
MAX_MEMBERS: Final = 20
PIECE: Final = 64 * 1024
_JUNK: Final = "__MACOSX/"
_UNUSUAL: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    UnicodeError,
)


class UnpackError(PostwardError):
    """Something that cannot be unpacked, or is larger than allowed."""


def gunzip(pieces: Iterable[bytes], limit: int, defects: set[str]) -> Iterator[bytes]:
    """Decompress, at most `limit` bytes. Further members are part of the content (RFC 1952 §2.2), anything else is a defect.

    Raises `UnpackError`, for data that ends too early behind the last piece of what there was.
    """
    unpack = zlib.decompressobj(wbits=31)
    left, members = limit, 0
    for piece in pieces:
        data, more = piece, True
        while data or more:
            if unpack.eof:
                data = data.lstrip(b"\0")
                if not data:
                    break
                if not data.startswith(GZIP) or members >= MAX_MEMBERS:
                    defects.add("trailing-data")
                    return
                unpack = zlib.decompressobj(wbits=31)
            try:
                content = unpack.decompress(data, PIECE)
            except zlib.error:
                if members:
                    defects.add("trailing-data")
                    return
                raise UnpackError("damaged gzip data" if left < limit else "no gzip data") from None
            left -= len(content)
            if left < 0:
                raise UnpackError(f"more than {limit} bytes when decompressed")
            if content:
                yield content
            members += unpack.eof
            # A limit on what comes out may leave some of it inside, with nothing more to put in.
            data, more = unpack.unused_data if unpack.eof else unpack.unconsumed_tail, len(content) == PIECE
    if not unpack.eof:
        raise UnpackError("gzip data ends too early")


def unzip(archive: IO[bytes], limit: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The files of an archive with their content, at most `limit` bytes together. Names are for people, never paths.

    Raises `UnpackError`, also while a content is read; each has to be read before the next one is asked for.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            files = [entry for entry in opened.infolist() if not entry.is_dir() and not entry.filename.startswith(_JUNK)]
            if not 0 < len(files) <= MAX_MEMBERS:
                raise UnpackError(f"{len(files)} files in the zip archive")
            left = limit
            for entry in files:
                if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UnpackError("zip archive is encrypted or of an unusual kind")
                with opened.open(entry) as member:
                    counted = _Counted(member, left)
                    yield entry.filename, counted.pieces()
                    left = counted.left
    except UnpackError:
        raise
    except _UNUSUAL:
        raise UnpackError("no zip archive, or damaged") from None


class _Counted:
    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._limit, self.left = stream, limit, limit

    def pieces(self) -> Iterator[bytes]:
        try:
            while data := self._stream.read(PIECE):
                self.left -= len(data)
                if self.left < 0:
                    raise UnpackError(f"more than {self._limit} bytes when decompressed")
                yield data
        except _UNUSUAL:
            raise UnpackError("damaged zip archive") from None
