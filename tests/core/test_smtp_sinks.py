"""Sinks of the server: what they get, when the client must wait for them, and that each ends exactly once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from postward.names import Domain
from postward.smtp.reply import Refusal, Reply
from postward.smtp.server import ServerSettings, ServerTimeouts, serve

SETTINGS = ServerSettings(hostname=Domain("mx.example"))
TAKEN = Reply(250, ("taken",), "2.0.0")
NO_ROOM = Refusal(452, "4.3.1", "no room")
BEGIN = b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n"
LINE = b"All work and no play makes mail a dull thing.\r\n"
LONG = LINE * 3000
FOREVER = "forever"


class Sink:
    """Keeps what it is given; `fails` says what happens in which call, the first time."""

    def __init__(self, **fails: object) -> None:
        self.fails = fails
        self.calls: list[str] = []
        self.content = b""

    async def write(self, piece):
        self.calls.append("write")
        self.content += piece
        await self._fail("write")

    async def finish(self):
        self.calls.append("finish")
        await self._fail("finish")
        return self.fails.get("said", TAKEN)

    async def abort(self):
        await trio.sleep(0.1)  # as a real one, which would be cancelled here
        self.calls.append("abort")
        await self._fail("abort")

    async def _fail(self, call):
        trouble = self.fails.get(call)
        if trouble == FOREVER:
            await trio.sleep_forever()
        elif isinstance(trouble, Exception):
            raise trouble

    @property
    def ends(self) -> list[str]:
        return [call for call in self.calls if call != "write"]


class Handler:
    def __init__(self, *sinks: Sink | Reply | Exception) -> None:
        self.sinks = list(sinks)

    async def mail(self, session, sender, parameters):
        return None

    async def rcpt(self, session, recipient, parameters):
        return None

    async def content(self, session, envelope):
        said = self.sinks.pop(0) if self.sinks else Sink()
        if isinstance(said, Exception):
            raise said
        return said


async def talk(handler: Handler, *said: bytes, settings: ServerSettings = SETTINGS, end: bool = True) -> list[str]:
    """Say all of it and hang up: the codes of the replies, those to `BEGIN` left out."""
    ours, theirs = trio.testing.memory_stream_pair()
    heard = b""

    async def listen() -> None:
        nonlocal heard
        while data := await ours.receive_some():
            heard += data

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, handler, settings, peer=""))
        nursery.start_soon(listen)
        for each in (BEGIN, *said):
            await ours.send_all(each)
            await trio.testing.wait_all_tasks_blocked(0.01)
        if end:
            await ours.send_eof()
    lines = [line for line in heard.decode().splitlines() if line[3] == " "]
    return [" ".join(line.split()[:2]) for line in lines][4:]


async def test_a_message():
    sink = Sink()
    assert await talk(Handler(sink), b"DATA\r\n", LONG + b".\r\n") == ["354 go", "250 2.0.0"]
    assert sink.content == LONG
    assert sink.ends == ["finish"]


async def test_one_write_for_what_comes_at_once():
    sink, empty = Sink(), Sink()
    await talk(Handler(sink, empty), b"DATA\r\n", LINE * 200 + b".\r\n", BEGIN + b"DATA\r\n", b".\r\n")
    assert (sink.calls, empty.calls) == (["write", "finish"], ["finish"])


async def test_refusal_by_the_sink_is_an_end():
    """A negative reply of `finish` is its decision, and there is nothing more to forget."""
    sink = Sink(said=Reply(554, ("spam",), "5.7.1"))
    assert await talk(Handler(sink), b"DATA\r\n", b"x\r\n.\r\nNOOP\r\n") == ["354 go", "554 5.7.1", "250 2.0.0"]
    assert sink.ends == ["finish"]


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Reply(452, ("no room",), "4.3.1"), "452 4.3.1"),
        (NO_ROOM, "452 4.3.1"),
        (RuntimeError("x"), "451 4.3.0"),
        (Reply(250), "451 4.3.0"),
        (Reply(354), "451 4.3.0"),
    ],
)
@pytest.mark.parametrize("chunks", [False, True])
async def test_content_refused_by_the_handler(said, code, chunks):
    handler = Handler(said)
    command = b"BDAT 6 LAST\r\nQUIT\r\n" if chunks else b"DATA\r\n"
    again = b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 1 LAST\r\nx"
    assert await talk(handler, command + again) == [code, "250 2.1.0", "250 2.1.5", "250 2.0.0"]


TROUBLES = [
    ({"write": RuntimeError("x")}, "451 4.3.0", ["abort"]),
    ({"write": OSError("x")}, "451 4.3.0", ["abort"]),
    ({"write": NO_ROOM}, "452 4.3.1", ["abort"]),
    ({"write": FOREVER}, "451 4.3.0", ["abort"]),
    ({"finish": RuntimeError("x")}, "451 4.3.0", ["finish", "abort"]),
    ({"finish": NO_ROOM}, "452 4.3.1", ["finish", "abort"]),
    ({"finish": FOREVER}, "451 4.3.0", ["finish", "abort"]),
    ({"finish": RuntimeError("x"), "abort": RuntimeError("y")}, "451 4.3.0", ["finish", "abort"]),
    ({"write": RuntimeError("x"), "abort": FOREVER}, "451 4.3.0", ["abort"]),
    ({"said": ()}, "451 4.3.0", ["finish"]),
]


@pytest.mark.parametrize(("fails", "code", "ends"), TROUBLES)
@pytest.mark.parametrize(("content", "chunks"), [(b"x\r\n", False), (LONG, False), (LONG, True)])
async def test_sinks_that_fail(fails, code, ends, content, chunks, autojump_clock):
    """The rest of the message is read, the client is asked to come back behind its end, and the session goes on."""
    sink, other = Sink(**fails), Sink()
    said = [b"BDAT %d LAST\r\n" % len(content) + content] if chunks else [b"DATA\r\n", content + b".\r\n"]
    codes = await talk(Handler(sink, other), *said, BEGIN.split(b"\r\n", 1)[1] + b"BDAT 1 LAST\r\nx", settings=PATIENT)
    assert [each for each in codes if each != "354 go"] == [code, "250 2.1.0", "250 2.1.5", "250 2.0.0"]
    assert (sink.ends, other.ends) == (ends, ["finish"])


PATIENT = replace(SETTINGS, timeouts=ServerTimeouts(handler=100))


@pytest.mark.parametrize(
    "said",
    [
        [b"DATA\r\n"],
        [b"DATA\r\n", LONG],
        [b"DATA\r\n", LONG + b"."],
        [b"BDAT 5\r\nabc"],
        [b"BDAT 5\r\nab\r\n."],
        [b"BDAT 5\r\nab\r\n.QUIT\r\n"],
        [b"BDAT 5\r\nab\r\n.BDAT x\r\n"],
        [b"BDAT 5\r\nab\r\n.GET / HTTP/1.1\r\n"],
        [b"BDAT 5\r\nab\r\n.RSET\r\n"],
        [b"BDAT 5\r\nab\r\n.RSET\r\nRSET\r\n"],
        [b"BDAT 5\r\nab\r\n.EHLO c\r\n"],
        [b"BDAT 5\r\nab\r\n.NOOP\n"],
        [b"DATA\r\n", b"a\nb\r\n.\r\n"],
        [b"DATA\r\n", b"a\nb\r\n"],
        [b"DATA\r\n", b"x" * 2_000_000],
    ],
)
async def test_clients_that_give_up(said, autojump_clock):
    """Without its end a message is nothing (RFC 5321 §4.1.1.4), and somebody has a file to remove."""
    sink = Sink()
    await talk(Handler(sink), *said)
    assert sink.ends == ["abort"]


@pytest.mark.parametrize("said", [[b"DATA\r\n", b"a\nb\r\n.\r\n"], [b"BDAT 5\r\nabcdeRSET\r\n"], [b"BDAT 2\r\nabEHLO c\r\n"]])
async def test_forgotten_before_the_next_message(said):
    sink, other = Sink(), Sink()
    next_one = BEGIN.split(b"\r\n", 1)[1] + b"BDAT 1 LAST\r\nx"
    assert (await talk(Handler(sink, other), *said, next_one))[-1] == "250 2.0.0"
    assert (sink.ends, other.ends) == (["abort"], ["finish"])


@pytest.mark.parametrize(
    "said", [[b"DATA\r\n"], [b"DATA\r\n", LONG], [b"BDAT 5\r\nab"], [b"BDAT 2\r\nab"], [b"BDAT 2\r\nabNOO"]]
)
async def test_clients_that_fall_silent(said, autojump_clock):
    sink = Sink()
    assert (await talk(Handler(sink), *said, end=False))[-1] == "421 4.4.2"
    assert sink.ends == ["abort"]
    assert trio.current_time() < 200


@pytest.mark.parametrize("stage", ["read", "write", "finish"])
async def test_cancelled(stage, autojump_clock):
    """A shutdown in the middle: the sink is told, and may take its time."""
    sink = Sink(**{stage: FOREVER})
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, Handler(sink), SETTINGS, peer=""))
        await ours.send_all(BEGIN + b"DATA\r\n" + (b"" if stage == "read" else LONG + b".\r\n"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert sink.ends == (["finish", "abort"] if stage == "finish" else ["abort"])


async def test_session_that_ends_in_the_middle(autojump_clock):
    sink = Sink()
    server = replace(SETTINGS, timeouts=ServerTimeouts(session=50))
    assert (await talk(Handler(sink), b"DATA\r\n", LONG, settings=server, end=False))[-1] == "421 4.4.2"
    assert sink.ends == ["abort"]


async def test_a_slow_sink_slows_the_client_down(autojump_clock):
    """What is not taken is not read: at most one read, and what is gathered, are in memory."""

    class Slow(Sink):
        async def write(self, piece):
            await trio.sleep(60)
            await super().write(piece)

    sink = Slow()
    ours, theirs = trio.testing.lockstep_stream_pair()
    sent = 0

    async def send() -> None:
        nonlocal sent
        for at in range(0, 100 * 16384, 16384):
            piece = (b"\r\n" + LINE * 40_000)[at : at + 16384]
            await ours.send_all(piece)
            sent += len(piece)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, Handler(sink), SETTINGS, peer=""))
        await ours.receive_some()
        for said in (BEGIN, b"DATA\r\n"):
            await ours.send_all(said)
            await ours.receive_some()
        nursery.start_soon(send)
        for _ in range(50):
            await trio.sleep(45)
            assert sent - len(sink.content) <= 4 * 65536
        assert len(sink.content) > 16384
        # All that time was ours, so the client is still welcome.
        assert sink.ends == []
        nursery.cancel_scope.cancel()


async def test_content_that_drips(autojump_clock):
    """RFC 5321 §4.5.3.2.7 gives each block its time, but a connection is not for a byte a minute."""
    ours, theirs = trio.testing.memory_stream_pair()
    sink = Sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, Handler(sink), SETTINGS, peer=""))
        await ours.send_all(BEGIN + b"DATA\r\n")
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await ours.send_all(b"x")
                await trio.sleep(20)
    assert 150 < trio.current_time() < 250
    assert sink.ends == ["abort"]


async def test_chunks_that_drip(autojump_clock):
    """Also where each byte is a whole command."""
    ours, theirs = trio.testing.memory_stream_pair()
    sink = Sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, Handler(sink), SETTINGS, peer=""))
        await ours.send_all(BEGIN)
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await ours.send_all(b"BDAT 1\r\nx")
                await trio.sleep(20)
    assert trio.current_time() < 250
    assert sink.ends == ["abort"]


async def test_a_slow_but_steady_client_is_served(autojump_clock):
    """A kilobyte a second for a quarter of an hour."""
    sink = Sink()
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, Handler(sink), SETTINGS, peer=""))
        await ours.send_all(BEGIN + b"DATA\r\n")
        for _ in range(30):
            await ours.send_all(LINE * 640)
            await trio.sleep(30)
        await ours.send_all(b".\r\nQUIT\r\n")
        await ours.send_eof()
    assert sink.ends == ["finish"]


PEERS = [
    ("::ffff:192.0.2.1", "192.0.2.1"),
    ("::FFFF:c000:201", "192.0.2.1"),
    ("2001:db8::1", "2001:db8::1"),
    ("192.0.2.1", "192.0.2.1"),
    ("", ""),
]


@pytest.mark.parametrize(("peer", "shown"), PEERS)
async def test_peers(peer, shown):
    """Who compares a peer with networks sees IPv4 as IPv4, also over a socket that takes both."""
    peers = []

    class Curious(Handler):
        async def mail(self, session, sender, parameters):
            peers.append(session.peer)

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, Curious(), SETTINGS, peer=peer))
        await ours.send_all(BEGIN)
        await ours.send_eof()
    assert peers == [shown]
