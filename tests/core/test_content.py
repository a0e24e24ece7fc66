"""The octets of a message, in memory."""

from __future__ import annotations

import pytest

from postward.model import BytesContent, Content
from postward.model.content import as_content, header_of


async def test_content_comes_in_pieces_anew_each_time() -> None:
    data = b"A: b\r\n\r\n" + bytes(range(256)) * 1000
    content = BytesContent(data)
    for _ in range(2):
        pieces = [piece async for piece in content.pieces()]
        assert b"".join(pieces) == data
        assert max(map(len, pieces)) <= 64 * 1024
    assert isinstance(content, Content)
    assert (content.size, content.whole, content.header, content.eight_bit) == (len(data), data, b"A: b", True)
    assert not BytesContent(b"A: b\r\n").eight_bit
    assert as_content(content) is content
    assert as_content(data).whole == data


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (b"", b""),
        (b"\r\nbody", b""),
        (b"A: b\r\nC: d\r\n\r\nbody\r\n\r\n", b"A: b\r\nC: d"),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"A: " + b"x" * 2**21, (b"A: " + b"x" * 2**20)[: 2**20]),
    ],
    ids=["empty", "no header", "usual", "no body", "huge"],
)
def test_the_header_ends_at_the_empty_line_or_after_a_mebibyte(data: bytes, header: bytes) -> None:
    assert header_of(data) == header
