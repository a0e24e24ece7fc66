"""The octets of a message, which need not be in memory: a large one stays where it is stored and is sent piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property
from typing import Final, Protocol, runtime_checkable

MAX_HEADER: Final = 1024 * 1024
_PIECE: Final = 64 * 1024


@runtime_checkable
class Content(Protocol):
    """A message with CRLF lines.

    `size` is in octets; `eight_bit` says whether any is above 127; `header` is the header section without the empty line
    behind it, at most 1 MiB of it; `whole` is all of it where it is in memory, else None.
    """

    @property
    def size(self) -> int: ...

    @property
    def eight_bit(self) -> bool: ...

    @property
    def header(self) -> bytes: ...

    @property
    def whole(self) -> bytes | None: ...

    def pieces(self) -> AsyncIterator[bytes]:
        """All of it, piece by piece, from the beginning at each call. Raises `OSError` where it is not there any more."""


class BytesContent:
    """A message in memory. `proper` where somebody has made sure that all its lines end in CRLF."""

    def __init__(self, data: bytes, *, proper: bool = False) -> None:
        self.whole = data
        self.size = len(data)
        self.proper = proper

    @cached_property
    def eight_bit(self) -> bool:
        """Whether any octet is above 127."""
        return not self.whole.isascii()

    @cached_property
    def header(self) -> bytes:
        """The header section."""
        return header_of(self.whole)

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it, 64 KiB at a time."""
        for at in range(0, self.size, _PIECE):
            yield self.whole[at : at + _PIECE]


def header_of(content: bytes) -> bytes:
    """The header section of a message, without the empty line behind it; at most 1 MiB of it."""
    head = content[:MAX_HEADER]
    if head.startswith((b"\r\n", b"\n")):
        return b""
    end = head.find(b"\r\n\r\n")
    if end >= 0:
        head = head[:end]
    # Content from elsewhere may have other line ends.
    end = head.find(b"\n\n")
    return head[:end] if end >= 0 else head


def as_content(data: bytes | Content) -> Content:
    """Content as it is, or that of bytes."""
    return BytesContent(data) if isinstance(data, bytes) else data
