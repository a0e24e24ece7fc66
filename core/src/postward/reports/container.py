"""Open what reports come in: gzip, zip and MIME, with a limit on everything (RFC 8460 §6.3, RFC 9990 §8.1).

Pure functions; anything that is wrong is a `ContainerError` of one line. Deflate grows by at most 1032 to 1, so the limit on
the output bounds time and memory as well.
"""

from __future__ import annotations

import email
import email.policy
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message as MimeMessage
from typing import Final

from postward.errors import PostwardError

_MAX_MULTIPARTS: Final = 40
_MULTIPART: Final = re.compile(rb"(?im)^content-type:[ \t\r\n]*multipart/")
_JUNK: Final = "__MACOSX/"


class ContainerError(PostwardError):
    """Something that cannot be opened, or is larger than allowed."""


def gunzip(data: bytes, limit: int) -> bytes:
    """Decompress one gzip member of at most `limit` bytes; zeros behind it are padding, anything else is refused."""
    unpack = zlib.decompressobj(wbits=31)
    try:
        content = unpack.decompress(data, limit + 1)
    except zlib.error:
        raise ContainerError("not gzip, or damaged") from None
    if len(content) > limit:
        raise ContainerError(f"more than {limit} bytes when decompressed")
    if not unpack.eof:
        raise ContainerError("gzip data ends too early")
    if unpack.unused_data.strip(b"\0"):
        raise ContainerError("more behind the gzip data")
    return content


def unzip(data: bytes, limit: int, members: int = 1) -> tuple[bytes, ...]:
    """The files in a zip archive, at most `members`, together at most `limit` bytes. Names and paths are never used."""
    if data.count(b"PK\x01\x02") > 2 * members + 8:
        raise ContainerError("too many files in the zip archive")
    contents: list[bytes] = []
    left = limit
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [entry for entry in archive.infolist() if not entry.is_dir() and not entry.filename.startswith(_JUNK)]
            if not 0 < len(files) <= members:
                raise ContainerError(f"{len(files)} files in the zip archive, not {members}")
            for entry in files:
                if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ContainerError("zip archive is encrypted or of an unusual kind")
                with archive.open(entry) as member:
                    contents.append(content := member.read(left + 1))
                left -= len(content)
                if left < 0:
                    raise ContainerError(f"more than {limit} bytes when decompressed")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, MemoryError):
        raise ContainerError("not a zip archive, or damaged") from None
    return tuple(contents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A leaf of a MIME message, decoded. `parents` are the multipart types around it, outermost first, in lower case."""

    media_type: str
    filename: str
    parents: tuple[str, ...]
    report_type: str
    data: bytes = field(repr=False)


def mime_parts(content: bytes, limit: int, *, parts: int = 100, depth: int = 8) -> tuple[Part, ...]:
    """The leaves of a message of at most `limit` bytes, in order. Attached messages are leaves and are not opened.

    `report_type` is the parameter of the nearest multipart/report around the part. Raises `ContainerError` for a message
    that is too large, too deep or has too many parts; damage that email software lives with is passed over.
    """
    if len(content) > limit:
        raise ContainerError(f"message of more than {limit} bytes")
    # Python's parser tests each line against every open boundary: with thousands of them it would take minutes.
    if sum(1 for _ in _MULTIPART.finditer(content)) > _MAX_MULTIPARTS:
        raise ContainerError("too many multiparts")
    try:
        message = email.message_from_bytes(content, policy=email.policy.compat32)
        found: list[Part] = []
        for part in _leaves(message, (), "", depth):
            if len(found) >= parts:
                raise ContainerError(f"more than {parts} parts")
            found.append(part)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise ContainerError(f"message cannot be read: {type(exc).__name__}") from None
    return tuple(found)


def _leaves(message: MimeMessage, parents: tuple[str, ...], report_type: str, depth: int) -> Iterator[Part]:
    media_type = message.get_content_type().lower()
    payload = message.get_payload()
    if message.get_content_maintype() == "multipart" and isinstance(payload, list):
        if len(parents) >= depth:
            raise ContainerError(f"more than {depth} multiparts inside each other")
        if media_type == "multipart/report":
            report_type = str(message.get_param("report-type", "")).lower()
        for child in payload:
            if isinstance(child, MimeMessage):
                yield from _leaves(child, (*parents, media_type), report_type, depth)
        return
    if isinstance(payload, list):
        data = b"".join(child.as_bytes() for child in payload if isinstance(child, MimeMessage))
    else:
        encoding = str(message.get("content-transfer-encoding", ""))
        if encoding != encoding.strip():
            # A folded field, which Python takes for an encoding that it does not know.
            message.replace_header("content-transfer-encoding", encoding.strip())
        decoded = message.get_payload(decode=True)
        data = decoded if isinstance(decoded, bytes) else b""
    filename = message.get_filename() or ""
    yield Part(media_type=media_type, filename=filename, parents=parents, report_type=report_type, data=data)
