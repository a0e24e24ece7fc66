"""Message content on the wire: line ends, and the dots that keep its end apart from its lines (RFC 5321 §2.3.8, §4.5.2).

Only CRLF ends a line. Content with any other CR or LF means different things to different servers, which is how one message
becomes two (SMTP smuggling); it is neither sent nor accepted.
"""

from __future__ import annotations

import re
from typing import Final

CRLF: Final = b"\r\n"
_DATA_END: Final = b"\r\n.\r\n"
_END: Final = re.compile(rb"\r*\n|\r+")


def to_crlf(content: bytes) -> bytes:
    """The content with CRLF at the end of every line; content that is already so comes back as it is.

    A bare LF, and LF behind several CR, becomes CRLF. Any other CR is no line end, and becomes a space: as a line end it could
    make text of a header field into a field of its own. Nothing else changes, so signatures over proper content hold.
    """
    if has_proper_lines(content):
        return content
    if b"\r" not in content:  # what most files are; by pieces it would take three times the memory
        return content.replace(b"\n", CRLF)
    return _END.sub(lambda match: CRLF if match[0].endswith(b"\n") else b" ", content)


def has_proper_lines(content: bytes) -> bool:
    """Whether every CR and every LF is part of a CRLF."""
    pairs = content.count(CRLF)
    return content.count(b"\n") == pairs and content.count(b"\r") == pairs


def stuffed(content: bytes) -> bytes:
    """A whole message with proper lines as DATA wants it, with its end."""
    dots = content.replace(b"\r\n.", b"\r\n..")
    if dots.startswith(b"."):
        dots = b"." + dots
    return dots + (b".\r\n" if not dots or dots.endswith(CRLF) else b"\r\n.\r\n")


class DotStuffer:
    """Makes content fit for DATA, piece by piece: a dot before each line that starts with one, and CRLF at the very end."""

    def __init__(self) -> None:
        self._tail = CRLF

    def feed(self, piece: bytes) -> bytes:
        """The next piece of content, as it is sent. Raises `ValueError` for a line end other than CRLF."""
        if not piece:
            return b""
        tail = self._tail
        split = tail.endswith(b"\r")
        self._check(piece, split=split)
        self._tail = (tail + piece[-2:])[-2:]
        if split and piece.startswith(b"\n."):
            return b"\n.." + piece[2:].replace(b"\r\n.", b"\r\n..")
        stuffed = piece.replace(b"\r\n.", b"\r\n..")
        return b"." + stuffed if tail == CRLF and piece.startswith(b".") else stuffed

    def finish(self) -> bytes:
        """What ends the content. Raises `ValueError` for a CR as its last octet."""
        if self._tail.endswith(b"\r"):
            raise ValueError("a CR without LF")
        return b".\r\n" if self._tail == CRLF else b"\r\n.\r\n"

    @staticmethod
    def _check(piece: bytes, *, split: bool) -> None:
        if split and not piece.startswith(b"\n"):
            raise ValueError("a CR without LF")
        pairs = piece.count(CRLF)
        if piece.count(b"\n") != pairs + split:
            raise ValueError("an LF without CR")
        if piece.count(b"\r") != pairs + piece.endswith(b"\r"):
            raise ValueError("a CR without LF")


class DotReader:
    """Takes content off the wire, piece by piece: finds its true end, and takes away the dots that the client put in."""

    def __init__(self) -> None:
        # As if a line had ended before the first one, so that a dot there is found as any other.
        self._held = CRLF
        self._extra = len(CRLF)

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """The next piece of content, and what stands behind its end; None there while the end has not come.

        A piece never ends within a CRLF, and at most 4 octets are held back.
        """
        data = self._held + data
        end = data.find(_DATA_END)
        if end >= 0:
            raw, rest = data[: end + len(CRLF)], data[end + len(_DATA_END) :]
        else:
            held = next(size for size in range(len(_DATA_END) - 1, -1, -1) if data.endswith(_DATA_END[:size]))
            raw, rest = data[: len(data) - held], None
            self._held = data[len(raw) :]
        piece = raw.replace(b"\r\n.", CRLF)
        if self._extra and piece:
            piece, self._extra = piece[self._extra :], 0
        return piece, rest
