"""Replies, read and written (RFC 5321 §4.2, RFC 2034, RFC 3463)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.smtp.reply import Limits, Reply, ReplyParser, SmtpError


def parse(data: bytes, **limits: int) -> list[Reply]:
    parser = ReplyParser(Limits(**limits))
    parser.feed(data)
    return list(iter(parser.next, None))


@pytest.mark.parametrize(
    ("raw", "code", "lines", "enhanced"),
    [
        (b"250 ok\r\n", 250, ("ok",), None),
        (b"220\r\n", 220, ("",), None),
        (b"220 \r\n", 220, ("",), None),
        (b"250 2.1.5 fine\r\n", 250, ("fine",), "2.1.5"),
        (b"250 2.1.5\r\n", 250, ("",), "2.1.5"),
        (b"250-2.0.0 a\r\n250 2.0.0 b\r\n", 250, ("a", "b"), "2.0.0"),
        (b"550-5.7.1 a\r\n550 b\r\n", 550, ("a", "b"), "5.7.1"),
        (b"250-mx\r\n250-\r\n250 X\r\n", 250, ("mx", "", "X"), None),
        (b"550 2.1.1 of another class\r\n", 550, ("2.1.1 of another class",), None),
        (b"250 2.1.5x\r\n", 250, ("2.1.5x",), None),
        (b"421 bare LF\n", 421, ("bare LF",), None),
        ("550 größer\r\n".encode(), 550, ("größer",), None),
        (b"550 gr\xf6\xdfer\r\n", 550, (r"gr\xf6\xdfer",), None),
        (b"550 a\x1b[31m\x00b\rc\td\r\n", 550, (r"a\x1b[31m\x00b\rc d",), None),
        ("550 a\u202eb\u2028\r\n".encode(), 550, ("a\\u202eb\\u2028",), None),
    ],
)
def test_reads(raw, code, lines, enhanced):
    assert parse(raw) == [Reply(code, lines, enhanced)]


@pytest.mark.parametrize("raw", [b"hello\r\n", b"25 x\r\n", b"2500 x\r\n", b"150 x\r\n", b"650 x\r\n", b"\r\n", b"250_x\r\n"])
def test_what_is_no_reply(raw):
    with pytest.raises(SmtpError) as caught:
        parse(raw)
    assert caught.value.kind == "protocol"


def test_code_must_not_change_within_a_reply():
    """RFC 5321 §4.2.1: every line has the same code."""
    with pytest.raises(SmtpError, match="250 and 550") as caught:
        parse(b"250-a\r\n550 b\r\n")
    assert caught.value.kind == "protocol"


@pytest.mark.parametrize(
    "raw",
    [
        b"250 " + b"x" * 4096 + b"\r\n",
        b"x" * 4097,
        b"250-x\r\n" * 513,
        b"250-" + b"x" * 4000 + b"\r\n" + (b"250-" + b"x" * 4000 + b"\r\n") * 16,
    ],
)
def test_limits(raw):
    with pytest.raises(SmtpError) as caught:
        parse(raw)
    assert caught.value.kind == "too-long"


def test_limits_are_not_too_small():
    assert len(parse(b"250-x\r\n" * 511 + b"250 x\r\n")[0].lines) == 512
    assert len(parse(b"250 " + b"x" * 4091 + b"\r\n")) == 1


def test_several_replies_and_half_of_one():
    parser = ReplyParser()
    parser.feed(b"250 a\r\n250-b\r\n")
    assert parser.next() == Reply(250, ("a",))
    assert parser.next() is None
    assert parser.pending
    parser.feed(b"250 c\r\n")
    assert parser.next() == Reply(250, ("b", "c"))
    assert not parser.pending


def test_one_line():
    assert str(Reply(250, ("a", "", "b"), "2.0.0")) == "250 2.0.0 a b"
    assert str(Reply(250)) == "250"
    assert len(str(Reply(250, ("x" * 60000,)))) == 1000


def test_classes():
    for code, name in ((250, "positive"), (354, "intermediate"), (451, "transient"), (550, "permanent")):
        reply = Reply(code)
        assert [each for each in ("positive", "intermediate", "transient", "permanent") if getattr(reply, each)] == [name]


def test_writes():
    """RFC 2034 §4: the enhanced code stands on every line; nobody's text can begin a new one."""
    assert Reply(250, ("a", "b"), "2.0.0").encode() == b"250-2.0.0 a\r\n250 2.0.0 b\r\n"
    assert Reply(220).encode() == b"220\r\n"
    assert Reply(550, ("a\r\n250 b\x00é",), "5.1.1").encode() == b"550 5.1.1 a\\r\\n250 b\\x00\\xe9\r\n"


@given(st.sampled_from([220, 250, 354, 451, 550]), st.lists(st.text(), min_size=1, max_size=4), st.booleans())
def test_written_lines_are_short_and_read_back(code, lines, enhanced):
    """RFC 5321 §4.5.3.1.5: a reply line has at most 512 octets."""
    raw = Reply(code, tuple(lines), f"{code // 100}.0.0" if enhanced and code != 354 else None).encode()
    assert all(len(line) <= 510 for line in raw.split(b"\r\n"))
    assert raw.count(b"\r\n") == raw.count(b"\n") == raw.count(b"\r")
    (reply,) = parse(raw)
    assert reply.code == code


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_chunking_does_not_matter(data, cuts):
    def run(pieces: list[bytes]) -> tuple[list[Reply], str]:
        parser, replies = ReplyParser(Limits(line=40, reply_lines=4, reply_size=80)), []
        try:
            for piece in pieces:
                parser.feed(piece)
                replies.extend(iter(parser.next, None))
        except SmtpError as exc:
            return replies, exc.kind
        return replies, ""

    data = b"250-one\r\n250 two\r\n" + data
    marks = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    assert run([data]) == run([data[a:b] for a, b in pairwise(marks)])
