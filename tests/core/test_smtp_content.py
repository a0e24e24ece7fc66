"""Line ends and dots of content (RFC 5321 §2.3.8, §4.5.2)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.smtp.content import DotReader, DotStuffer, has_proper_lines, to_crlf

PROPER = st.lists(st.sampled_from([b"\r\n", b".", b"..", b"x", b"\xff", b"\r\n.\r\n"]), max_size=12).map(b"".join)
ANYTHING = st.lists(st.sampled_from([b"\r", b"\n", b".", b"x", b"\xff"]), max_size=12).map(b"".join)


def stuff(*pieces: bytes) -> bytes:
    stuffer = DotStuffer()
    return b"".join([*(stuffer.feed(piece) for piece in pieces), stuffer.finish()])


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b".\r\n"),
        (b"x", b"x\r\n.\r\n"),
        (b"x\r\n", b"x\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".x\r\n.\r\n..", b"..x\r\n..\r\n...\r\n.\r\n"),
        (b"a.b\r\n", b"a.b\r\n.\r\n"),
    ],
)
def test_stuffing(content, wire):
    """RFC 5321 §4.5.2, the first line included; a CRLF is added only where the content has none."""
    assert stuff(content) == wire


@given(PROPER, st.integers(0, 40), st.integers(0, 40))
def test_stuffing_reads_back_however_it_is_cut(content, first, second):
    a, b = sorted((first, second))
    wire = stuff(content[:a], content[a:b], content[b:])
    assert wire == stuff(content)
    assert wire.endswith(b".\r\n")
    assert b"\r\n.\r\n" not in b"\r\n" + wire[:-3]
    assert read(wire) == (content + (b"" if content.endswith(b"\r\n") or not content else b"\r\n"), b"")


def read(*pieces: bytes) -> tuple[bytes, bytes | None]:
    """The content, and what stands behind it."""
    reader, content, rest = DotReader(), b"", None
    for piece in pieces:
        if rest is not None:
            rest += piece
            continue
        part, rest = reader.feed(piece)
        assert not part.endswith(b"\r") or not has_proper_lines(part)
        content += part
    return content, rest


@pytest.mark.parametrize(
    ("wire", "content"),
    [
        (b".\r\n", b""),
        (b"x\r\n.\r\n", b"x\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".x\r\n..y\r\n.\r\n", b"x\r\n.y\r\n"),
        (b"\r\n.\r\n", b"\r\n"),
        (b"\r\n.\n\n.\r\r\n.\r\n", b"\r\n\n\n.\r\r\n"),
    ],
)
def test_reading(wire, content):
    """RFC 5321 §4.5.2: one dot goes from each line that begins with one, and only CRLF . CRLF is the end."""
    for at in range(len(wire)):
        assert read(wire[:at], wire[at:] + b"QUIT\r\n") == (content, b"QUIT\r\n")
        assert read(wire[:at])[1] is None


@given(ANYTHING, st.lists(st.integers(0, 20), max_size=4))
def test_reading_however_it_is_cut(body, cuts):
    wire = body + b"\r\n.\r\nNOOP\r\n.\r\n"
    edges = sorted({0, len(wire), *(min(cut, len(wire)) for cut in cuts)})
    content, rest = read(*(wire[a:b] for a, b in pairwise(edges)))
    assert (content, rest) == read(wire)
    true_end = (b"\r\n" + wire).index(b"\r\n.\r\n")
    assert rest == wire[true_end + 3 :]
    assert content == (b"\r\n" + wire[:true_end]).replace(b"\r\n.", b"\r\n")[2:]


@pytest.mark.parametrize("pieces", [(b"a\nb",), (b"a\r", b"b"), (b"a\rb",), (b"a\r",), (b"\n",), (b"a", b"\nb"), (b"\r\r\n",)])
def test_stuffing_refuses_other_line_ends(pieces):
    """RFC 5321 §2.3.8: a client must not send CR or LF alone."""
    with pytest.raises(ValueError, match="without"):
        stuff(*pieces)


@given(ANYTHING, st.integers(0, 12))
def test_stuffer_and_check_agree(content, cut):
    try:
        stuff(content[:cut], content[cut:])
    except ValueError:
        assert not has_proper_lines(content)
    else:
        assert has_proper_lines(content)


@pytest.mark.parametrize(
    ("content", "proper"),
    [
        (b"a\nb\n", b"a\r\nb\r\n"),
        (b"a\r\nb\n", b"a\r\nb\r\n"),
        (b"a\r\r\nb", b"a\r\nb"),
        (b"Subject: a\rBcc: b\r\n", b"Subject: a Bcc: b\r\n"),
        (b"\n.\r\n", b"\r\n.\r\n"),
        (b"\r.\r", b" . "),
        (b"", b""),
    ],
)
def test_to_crlf(content, proper):
    assert to_crlf(content) == proper


def test_to_crlf_leaves_what_is_good():
    content = b"a\r\n\r\n.b\r\nlast"
    assert to_crlf(content) is content


@given(ANYTHING)
def test_to_crlf_makes_proper_lines(content):
    proper = to_crlf(content)
    assert has_proper_lines(proper)
    assert to_crlf(proper) == proper
    assert proper.count(b"\n") == content.count(b"\n")
