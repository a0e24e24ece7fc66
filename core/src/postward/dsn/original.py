"""The returned message or its header: the third part of a notice (RFC 6522 §3, RFC 6533 §5, §6).

It is a stranger's, and may be of any shape: it is cut, its lines are kept within the limits of mail, and it is labelled as what
it is, so that it changes nothing around it.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field
from typing import Final

from postward.model.content import header_of
from postward.smtp.content import to_crlf

LIMIT: Final = 100 * 1024
_MAX_LINE: Final = 998
_MESSAGE_ID: Final = re.compile(rb"(?im)^message-id[ \t]*:(?:[ \t]|\r?\n[ \t])*(<[!-;=?-~]{1,250}>)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """What is returned: lines that end with CRLF, and how they are labelled. `encoding` is empty for 7bit."""

    media_type: str
    encoding: str
    content: bytes = field(repr=False)


def returned(original: bytes, *, full: bool) -> Returned:
    """The part for a message: all of it, or its header; both cut at 100 KiB, at the end of a line."""
    content = _cut(original if full else header_of(original))
    header = header_of(content)
    header_text = _with_short_lines(header, b"\r\n ")
    rest = content[len(header) :]
    if not full:
        return _header_only(header_text)
    whole = _ended(header_text + _with_short_lines(rest, b"\r\n"))
    if not header.isascii() and _is_utf8(header):
        return Returned(media_type="message/global", encoding="8bit", content=whole)
    return Returned(media_type="message/rfc822", encoding="" if whole.isascii() else "8bit", content=whole)


def message_id_of(original: bytes) -> str:
    """The Message-ID of a message, with its brackets; empty when it has none that is fit to be repeated."""
    match = _MESSAGE_ID.search(header_of(original))
    return match[1].decode("ascii") if match else ""


def _header_only(header: bytes) -> Returned:
    lines = _ended(header)
    if lines.isascii():
        return Returned(media_type="text/rfc822-headers", encoding="", content=lines)
    if _is_utf8(lines):
        return Returned(media_type="message/global-headers", encoding="8bit", content=lines)
    return Returned(media_type="text/rfc822-headers", encoding="quoted-printable", content=quoted_printable(lines))


def quoted_printable(lines: bytes) -> bytes:
    """CRLF lines in quoted-printable (RFC 2045 §6.7)."""
    return binascii.b2a_qp(lines.replace(b"\r\n", b"\n"), istext=True).replace(b"\n", b"\r\n")


def _cut(content: bytes) -> bytes:
    lines = to_crlf(content[:LIMIT].replace(b"\0", b" "))
    if len(content) <= LIMIT and len(lines) <= LIMIT:
        return lines
    return lines[: lines.rfind(b"\n", 0, LIMIT) + 1] or lines[:LIMIT]


def _ended(content: bytes) -> bytes:
    return content if content.endswith(b"\r\n") or not content else content + b"\r\n"


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _with_short_lines(content: bytes, line_end: bytes) -> bytes:
    lines = content.split(b"\r\n")
    if max(map(len, lines)) <= _MAX_LINE:
        return content
    return b"\r\n".join(line_end.join(_pieces(line)) for line in lines)


def _pieces(line: bytes) -> list[bytes]:
    """A line in pieces that are short enough with a blank before them; no character of UTF-8 is cut."""
    pieces = []
    while len(line) > _MAX_LINE:
        end = _MAX_LINE - 1
        while end > _MAX_LINE - 5 and line[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]
