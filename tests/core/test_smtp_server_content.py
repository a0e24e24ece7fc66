"""Content on its way through the server's machine: in pieces, of bounded memory, refused behind its true end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.smtp.reply import Reply
from postward.smtp.server_events import Begin, Piece
from smtp_machine import BEGIN, Machine, codes

NO_ROOM = Reply(452, ("no room",), "4.3.1")
MAIL = BEGIN.split(b"\r\n", 1)[1]
LINE = b"All work and no play makes mail a dull thing.\r\n"


def test_a_message_in_one_read_is_one_piece():
    """What is usual costs one call of the sink, and the envelope is known before it."""
    machine = Machine()
    machine(BEGIN + b"DATA\r\n")
    machine.protocol.receive(LINE * 200 + b".\r\n")
    assert machine.protocol.next_event() == Piece(LINE * 200, last=True)


def test_small_reads_are_gathered():
    machine = Machine()
    machine(BEGIN + b"DATA\r\n")
    pieces = 0
    for _ in range(2000):
        machine.protocol.receive(LINE)
        while (event := machine.protocol.next_event()) is not None:
            assert isinstance(event, Piece)
            pieces += 1
    assert 1 <= pieces <= 5


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("read", [1000, 1448, 16384, 65536])
def test_memory_does_not_grow_with_a_message(chunks, read):
    """At most 64 KiB and one read are in memory, of content and of what was not looked at."""
    machine = Machine()
    content = LINE * 20_000
    machine(BEGIN + (b"BDAT %d LAST\r\n" % len(content) if chunks else b"DATA\r\n"))
    for at in range(0, len(content), read):
        machine(content[at : at + read])
        assert machine.held <= 65536
    machine(b"" if chunks else b".\r\n")
    assert machine.contents == [content]
    assert machine.largest <= 65536 + read
    assert machine.held == 0


@pytest.mark.parametrize(
    "beginning", [b"Subject: x\r\n" * 200_000, b"x" * 2_000_000, b"x" * (1024 * 1024 + 1) + b"\r\n\r\nbody"]
)
@pytest.mark.parametrize("chunks", [False, True])
def test_header_has_a_limit(beginning, chunks):
    """A header is looked at as a whole by whoever signs or traces, so it must have an end."""
    machine = Machine()
    content = beginning + b"\r\n\r\n" + b"x" * 100 + b"\r\n"
    machine(BEGIN + (b"BDAT %d LAST\r\n" % len(content) if chunks else b"DATA\r\n"))
    said = []
    for at in range(0, len(content), 10_000):
        said += machine(content[at : at + 10_000])
    said += machine(b"" if chunks else b".\r\n")
    assert said == ["552 5.3.4 a header has at most 1048576 octets"]
    assert (machine.contents, machine.ends) == ([], ["dropped"])
    assert codes(machine(b"NOOP\r\n")) == ["250 2.0.0"]


@pytest.mark.parametrize("size", [20, 21])
@pytest.mark.parametrize("cut", range(28))
def test_header_at_the_limit(size, cut):
    """The body does not count, wherever the empty line is cut; nor is there a header before a first empty line."""
    machine = Machine(max_header=20)
    content = b"x" * size + b"\r\n\r\n" + b"y" * 100 + b"\r\n"
    machine(BEGIN + b"DATA\r\n" + content[:cut])
    machine(content[cut:])
    assert codes(machine(b".\r\n")) == ["250 2.0.0" if size == 20 else "552 5.3.4"]
    assert codes(machine(MAIL + b"DATA\r\n\r\n" + b"y" * 100 + b"\r\n.\r\n"))[-1] == "250 2.0.0"


WRONG = [
    (b"a\nb\r\n", "554 5.6.0"),
    (b"a\rb\r\n", "554 5.6.0"),
    (b"a\r\r\n", "554 5.6.0"),
    (b"a\r\n.\nb\r\n", "554 5.6.0"),
    (b"a\n.\r\nMAIL FROM:<x@y.example>\r\n", "554 5.6.0"),
    (b"a\r\n\x00.\r\n\r\r\n", "554 5.6.0"),
    (b"x" * 40 + b"\r\n", "552 5.3.4"),
]


@pytest.mark.parametrize(("content", "code"), WRONG)
@pytest.mark.parametrize("chunks", [False, True])
def test_bad_content_is_dropped_at_once_and_refused_at_its_end(content, code, chunks):
    """Wherever it is cut: nobody commits it, and nothing in it is a command (RFC 5321 §2.3.8)."""
    wire = BEGIN + (b"BDAT %d LAST\r\n" % len(content) if chunks else b"DATA\r\n")
    behind = b"" if chunks else b"\r\n.\r\n"
    for cut in range(len(content)):
        machine = Machine(max_size=40)
        said = machine(wire + content[:cut]) + machine(content[cut:] + behind + b"NOOP\r\n")
        assert codes(said)[-2:] == [code, "250 2.0.0"]
        assert (machine.contents, machine.ends) == ([], ["dropped"])


def test_dropped_before_its_end():
    """Whoever writes to a disk need not write more of it."""
    machine = Machine()
    machine(BEGIN + b"DATA\r\n" + LINE * 600)
    assert machine.held > 20_000
    machine(b"a\nb\r\n")
    assert machine.ends == ["dropped"]
    for _ in range(100):
        assert machine(LINE * 1000) == []
        assert machine.held <= 4
    assert codes(machine(b".\r\n")) == ["554 5.6.0"]


@pytest.mark.parametrize("last", [b"a\r", b"\r"])
def test_last_chunk_that_ends_in_the_middle_of_a_line_end(last):
    machine = Machine()
    assert codes(machine(BEGIN + b"BDAT %d LAST\r\n" % len(last) + last))[-1] == "554 5.6.0"


def test_line_ends_may_stand_across_chunks():
    machine = Machine()
    assert codes(machine(BEGIN + b"BDAT 2\r\na\rBDAT 2\r\n\n\rBDAT 1 LAST\r\n\n"))[-3:] == ["250 2.0.0"] * 3
    assert machine.contents == [b"a\r\n\r\n"]


@pytest.mark.parametrize("ending", [b"RSET\r\n", b"EHLO again\r\n", b"HELO again\r\n"])
def test_reset_between_chunks(ending):
    """RFC 3030 §4.2: what came is forgotten, once, and another message may begin."""
    machine = Machine()
    machine(BEGIN + b"BDAT 2\r\nab" + ending)
    assert machine.ends == ["dropped"]
    machine(MAIL + b"BDAT 1 LAST\r\nxRSET\r\n")
    assert (machine.contents, machine.ends) == ([b"x"], ["dropped", "taken"])


@pytest.mark.parametrize("chunked", [b"MAIL FROM:<>", b"RCPT TO:<a@b.example>", b"DATA", b"NOOP", b"WHAT"])
def test_other_commands_between_chunks(chunked):
    machine = Machine()
    machine(BEGIN + b"BDAT 2\r\nab" + chunked + b"\r\nBDAT 1 LAST\r\nc")
    assert (machine.contents, machine.ends) == ([b"abc"], ["taken"])


@pytest.mark.parametrize("lmtp", [False, True])
def test_content_that_is_refused_before_it_comes(lmtp):
    """DATA is answered in place of 354, BDAT behind each chunk, because chunks come unasked (RFC 3030 §2)."""
    begin = BEGIN.replace(b"EHLO", b"LHLO") if lmtp else BEGIN
    machine = Machine(lmtp=lmtp, refuse={"DATA": NO_ROOM})
    assert codes(machine(begin + b"DATA\r\nDATA\r\n"))[-2:] == ["452 4.3.1", "503 5.5.1"]
    assert codes(machine(MAIL + b"BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n"))[-3:] == [
        "452 4.3.1",
        "452 4.3.1",
        "250 2.0.0",
    ]
    assert (machine.contents, machine.ends) == ([], [])


def test_closing_reply_in_place_of_354():
    machine = Machine(refuse={"DATA": Reply(421, ("going down",), "4.3.2")})
    assert codes(machine(BEGIN + b"DATA\r\n"))[-1] == "421 4.3.2"
    assert machine.protocol.closed


@pytest.mark.parametrize("chunks", [False, True])
def test_content_that_is_no_longer_wanted(chunks):
    """A disk that is full in the middle: the rest is read, and the refusal stands behind its end."""
    machine = Machine(refuse={"PIECE": NO_ROOM})
    content = LINE * 3000
    machine(BEGIN + (b"BDAT %d\r\n" % len(content) if chunks else b"DATA\r\n"))
    machine(content[:70_000])
    assert machine.ends == ["discarded"]
    said = machine(content[70_000:] + (b"BDAT 0 LAST\r\n" if chunks else b".\r\n") + b"NOOP\r\n")
    assert codes(said) == ["452 4.3.1"] * (2 if chunks else 1) + ["250 2.0.0"]
    assert (machine.contents, machine.ends) == ([], ["discarded"])


def test_many_messages_in_one_read():
    """RFC 2920: a client that knows all answers need not wait for any but 354, and with chunks not for that."""
    machine = Machine()
    machine(b"EHLO c\r\n")
    assert codes(machine((MAIL + b"BDAT 3 LAST\r\nx\r\n") * 500)) == ["250 2.0.0"] * 1500
    assert codes(machine((MAIL + b"DATA\r\nx\r\n.\r\n") * 500))[3] == "250 2.0.0"
    assert machine.contents == [b"x\r\n"] * 1000
    assert machine.held == 0


def test_declared_size_and_body_stand_in_the_envelope():
    machine = Machine()
    machine(b"EHLO c\r\nMAIL FROM:<> SIZE=77 BODY=8BITMIME\r\nRCPT TO:<a@b.example>\r\nDATA\r\n")
    begin = machine.events[-1]
    assert isinstance(begin, Begin)
    assert (begin.envelope.size, begin.envelope.eight_bit) == (77, True)


def test_commands_have_a_limit():
    """A client connects again for more, but not in the middle of a message."""
    machine = Machine(max_commands=20, max_idle=1000)
    machine(b"EHLO c\r\n" + b"NOOP\r\n" * 18)
    assert codes(machine(MAIL + b"RCPT TO:<e@f.example>\r\nDATA\r\nx\r\n.\r\nMAIL FROM:<>\r\n")) == [
        "250 2.0.0",
        "250 2.0.0",
        "250 2.0.0",
        "354 go",
        "250 2.0.0",
        "421 4.7.0",
    ]
    machine = Machine(max_commands=20, max_recipients=1)
    assert codes(machine(BEGIN + b"RCPT TO:<e@f.example>\r\n" * 100))[-2:] == ["452 4.5.3", "421 4.7.0"]
    assert len(machine.said.splitlines()) < 60


WORDS = st.sampled_from(
    [
        b"EHLO c\r\n",
        b"MAIL FROM:<>\r\n",
        b"RCPT TO:<a@b.example>\r\n",
        b"DATA\r\n",
        b"BDAT 3\r\n",
        b"BDAT 5 LAST\r\n",
        b"BDAT 0 LAST\r\n",
        b"RSET\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH LOGIN dQ==\r\n",
        b"AHUAcmlnaHQ=\r\n",
        b"*\r\n",
        b"STARTTLS\r\n",
        b"QUIT\r\n",
        b".\r\n",
        b"\r\n.\r\n",
        b"..x\r\n",
        b"x",
        b"\r",
        b"\n",
        b"\xff\x00",
        b"y" * 70,
    ]
)


@given(
    st.lists(WORDS, max_size=25).map(b"".join),
    st.lists(st.integers(0, 800), max_size=6),
    st.booleans(),
    st.sampled_from([0, 1]),
)
def test_any_session_however_it_is_cut(wire, cuts, tls, refuse):
    """The same events, ends and words wherever it is cut; every message that was begun has one end at most."""
    refused = {"PIECE": NO_ROOM, "DATA": NO_ROOM} if refuse else None
    whole, cut = (Machine(tls=tls, refuse=refused, auth=True, max_size=150, max_header=60, max_line=60) for _ in range(2))
    wire = BEGIN + wire
    whole(wire)
    for a, b in pairwise(sorted({0, len(wire), *(min(each, len(wire)) for each in cuts)})):
        cut(wire[a:b])
        # Besides what it waits with, it may hold on to the read that it has last looked at.
        assert cut.held <= 200 + b - a
    assert (cut.events, cut.contents, cut.ends) == (whole.events, whole.contents, whole.ends)
    assert cut.said == whole.said
    assert sum(isinstance(event, Begin) for event in whole.events) >= len(whole.ends)
