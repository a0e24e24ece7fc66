"""The server on trio, and the client against it, over memory: TLS, time limits, handlers that fail (RFC 5321, RFC 3207)."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postward.lab.ca import Authority
from postward.model import Endpoint
from postward.names import Address, Domain
from postward.smtp.client import Envelope, Reply, SmtpConnection, SmtpError
from postward.smtp.content import to_crlf
from postward.smtp.server import Closing, ServerSettings, ServerTimeouts, serve
from postward.smtp.whole import Whole
from postward.tls import TlsError, client_handshake
from smtp_script import play

HOST = Domain("mx.example")
A, B, C = (Address(name, Domain("rcpt.example")) for name in "abc")
SETTINGS = ServerSettings(hostname=HOST)


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    return Authority("Test").issue([HOST]).server_context()


class Handler:
    """Keeps what it is given; `replies` are those for MAIL, for recipients by local part, and for messages."""

    def __init__(self, **replies: object) -> None:
        self.replies = replies
        self.seen: list[tuple[str, Envelope, bytes]] = []
        self.sessions: list[object] = []

    async def mail(self, session, sender, parameters):
        self.sessions.append(session)
        return self.replies.get("mail")

    async def rcpt(self, session, recipient, parameters):
        return self.replies.get(recipient.local)

    async def content(self, session, envelope):
        return Whole(session, envelope, self.message)

    async def message(self, session, envelope, content):
        said = self.replies.get("message", Reply(250, ("taken",), "2.0.0"))
        if isinstance(said, Exception):
            raise said
        if isinstance(said, float):
            await trio.sleep(said)
        self.seen.append((session.protocol, envelope, content))
        return said


@asynccontextmanager
async def connected(handler: Handler, server: ServerSettings = SETTINGS, **options: object) -> AsyncIterator[SmtpConnection]:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, handler, server, peer="192.0.2.1"))
        connection = SmtpConnection(ours, **options)  # type: ignore[arg-type]
        await connection.greet()
        await connection.ehlo("me.example")
        yield connection
        await connection.quit()
        await connection.aclose()


async def to_tls(connection: SmtpConnection) -> None:
    assert (await connection.starttls()).positive
    stream, _ = await client_handshake(connection.stream, Endpoint(host=HOST, address="192.0.2.2", port=25), HOST)
    connection.upgraded(stream)
    await connection.ehlo("me.example")


def to(*recipients: Address, **more: object) -> Envelope:
    return Envelope(sender=None, recipients=recipients, **more)  # type: ignore[arg-type]


MESSAGES = st.lists(
    st.sampled_from([b"\r\n", b".", b"..", b"x" * 70, b"\xff", b"\r\n.\r\n", b"long " * 2000]), max_size=12
).map(b"".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=3), st.booleans())
def test_any_message_arrives_byte_for_byte(messages, pipelining):
    handler = Handler()

    async def run():
        async with connected(handler, replace(SETTINGS, pipelining=pipelining)) as connection:
            for content in messages:
                assert [reply.code for reply in await connection.send(to(A, B), content)] == [250, 250]

    trio.run(run)
    sent = [content if content.endswith(b"\r\n") or not content else content + b"\r\n" for content in messages]
    assert [content for _, _, content in handler.seen] == sent


@given(st.binary(max_size=200))
def test_any_bytes_arrive_once_they_have_lines(raw):
    handler = Handler()

    async def run():
        async with connected(handler) as connection:
            await connection.send(to(A), to_crlf(raw))

    trio.run(run)
    content = to_crlf(raw)
    assert handler.seen[0][2] == content + (b"" if content.endswith(b"\r\n") or not content else b"\r\n")


async def test_large_message_over_tls(context):
    """Longer than every buffer, so that both sides must read while they write."""
    content = b"Subject: x\r\n\r\n" + (b".line of text that is not short\r\n" * 100_000)[:3_000_000] + b"\r\n"
    handler = Handler()
    async with connected(handler, replace(SETTINGS, context=context)) as connection:
        await to_tls(connection)
        assert "REQUIRETLS" in connection.extensions
        assert "STARTTLS" not in connection.extensions
        (reply,) = await connection.send(to(A, require_tls=True), content)
    assert reply == Reply(250, ("taken",), "2.0.0")
    ((protocol, envelope, received),) = handler.seen
    assert received == content
    assert protocol == "ESMTPS"
    assert envelope.require_tls
    session = handler.sessions[0]
    assert (session.peer, session.helo, session.tls.protocol) == ("192.0.2.1", "me.example", "TLSv1.3")


async def test_implicit_tls(context):
    """RFC 8314 §3.3."""
    ours, theirs = trio.testing.memory_stream_pair()
    handler = Handler()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, handler, replace(SETTINGS, context=context, implicit_tls=True), peer=""))
        stream, _ = await client_handshake(ours, Endpoint(host=HOST, address="192.0.2.2", port=465), HOST)
        connection = SmtpConnection(stream)
        await connection.greet()
        connection.upgraded(stream)
        await connection.ehlo("me.example")
        assert [reply.code for reply in await connection.send(to(A), b"x")] == [250]
        await connection.quit()
        await connection.aclose()


async def test_replies_of_handlers():
    handler = Handler(b=Reply(550, ("no",), "5.1.1"), message=Reply(451, ("not now",), "4.3.0"))
    async with connected(handler) as connection:
        assert [str(reply) for reply in await connection.send(to(A, B), b"x")] == ["451 4.3.0 not now", "550 5.1.1 no"]
    handler = Handler(mail=Reply(421, ("go away",), "4.7.0"))
    async with connected(handler) as connection:
        assert [str(reply) for reply in await connection.send(to(A), b"x")] == ["421 4.7.0 go away"]


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        ((Reply(250), Reply(452)), [250, 550, 452]),
        (Reply(250), [250, 550, 250]),
        ((Reply(250),), [250, 550, 250]),
        ((Reply(250),) * 3, [451, 550, 451]),
        ((), [451, 550, 451]),
    ],
)
async def test_lmtp_replies_of_handlers(said, codes):
    """RFC 2033 §4.2: one reply for each accepted recipient, whatever the handler gives."""
    handler = Handler(b=Reply(550), message=said)
    async with connected(handler, replace(SETTINGS, lmtp=True), lmtp=True) as connection:
        assert [reply.code for reply in await connection.send(to(A, B, C), b"x")] == codes
        assert len(await connection.send(to(A), b"x")) == 1


@pytest.mark.parametrize("trouble", [RuntimeError("x"), ExceptionGroup("x", [OSError()]), 1e9])
async def test_handlers_that_fail(trouble, autojump_clock):
    """The client is asked to come back, and the session goes on."""
    handler = Handler(message=trouble)
    async with connected(handler) as connection:
        for _ in range(2):
            assert [reply.code for reply in await connection.send(to(A), b"x")] == [451]


@pytest.mark.parametrize(
    "transcript",
    [
        "S: 220 mx.example ESMTP Postward\nS: 421 4.4.2 you took too long",
        "S: 220 mx.example ESMTP Postward\nC- NOO\nS: 421 4.4.2 you took too long",
        "S: 220 mx.example ESMTP Postward\nC: HELO c\nS: 250 mx.example\nC: MAIL FROM:<>\nS: 250 2.1.0 sender ok\n"
        "C: RCPT TO:<a@b.example>\nS: 250 2.1.5 recipient ok\nC: DATA\nS: 354 go on, and end with a dot alone\nC: x\n"
        "S: 421 4.4.2 you took too long",
    ],
)
async def test_silent_clients(transcript, autojump_clock):
    """RFC 5321 §4.5.3.2.7."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, Handler(), SETTINGS, peer=""))
        nursery.start_soon(lambda: play(ours, transcript, side="C"))
    assert 150 < trio.current_time() < 310


@pytest.mark.parametrize("each", [b"N", b"NOOP\r\n"])
async def test_slow_clients(each, autojump_clock):
    """A byte now and then is no command; commands without mail have an end, too."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, Handler(), replace(SETTINGS, max_idle=20), peer=""))
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await ours.send_all(each)
                await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert trio.current_time() < 3000


async def test_client_that_drips_content(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, Handler(), SETTINGS, peer=""))
        await ours.send_all(b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n")
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await ours.send_all(b"x")
                await trio.sleep(100)
    assert trio.current_time() < 2000


async def test_client_that_reads_nothing(autojump_clock):
    ours, theirs = trio.testing.lockstep_stream_pair()
    await serve(theirs, Handler(), SETTINGS, peer="")
    assert trio.current_time() == pytest.approx(120, abs=5)
    await ours.aclose()


async def test_session_has_an_end(autojump_clock):
    server = replace(SETTINGS, timeouts=ServerTimeouts(session=500), max_idle=1000)
    async with connected(Handler(), server) as connection:
        for _ in range(4):
            await trio.sleep(99)
            await connection.send(to(A), b"x")
        await trio.sleep(200)
        with pytest.raises(SmtpError, match=r"421 4\.4\.2 this session was long enough") as caught:
            await connection.send(to(A), b"x")
        assert (caught.value.kind, connection.content_begun) == ("lost", False)
        with pytest.raises(SmtpError, match="long enough"):
            await connection.send(to(A), b"x")


@pytest.mark.parametrize(
    "end", [b"", b"NOO", b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nx\r\n.", b"QUIT\r\nNOOP\r\n"]
)
async def test_clients_that_go(end):
    """A message without its end is no message (RFC 5321 §4.1.1.4)."""
    ours, theirs = trio.testing.memory_stream_pair()
    handler = Handler()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, handler, SETTINGS, peer=""))
        await ours.send_all(end)
        await ours.aclose()
    assert handler.seen == []


async def test_no_tls_after_all(context):
    """A handshake that fails ends the connection, and nobody's traceback."""
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(lambda: serve(theirs, Handler(), replace(SETTINGS, context=context), peer=""))
        await play(ours, "S: 220 mx.example ESMTP Postward\nC: STARTTLS\nS: 220 2.0.0 begin\nC: EHLO me\nclose", side="C")


async def test_our_client_may_break_off_the_handshake(context):
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(lambda: serve(theirs, Handler(), replace(SETTINGS, context=context, implicit_tls=True), peer=""))
        await ours.aclose()
        with pytest.raises(TlsError):
            await client_handshake(ours, Endpoint(host=HOST, address="192.0.2.2", port=25), HOST)


async def test_cancelled_from_outside():
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, Handler(), SETTINGS, peer=""))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await ours.receive_some() == b"220 mx.example ESMTP Postward\r\n"
    assert await ours.receive_some() == b""


async def test_a_server_that_ends(autojump_clock):
    """Who waits between messages hears 421 at once; a message on its way is taken, and its session then ends."""
    closing, handler = Closing(), Handler()
    ours, theirs = trio.testing.memory_stream_pair()
    idle, idle_theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        for stream in (theirs, idle_theirs):
            nursery.start_soon(lambda stream=stream: serve(stream, handler, SETTINGS, peer="", closing=closing))
        await idle.send_all(b"EHLO c\r\nMAIL FROM:<>\r\n")
        await ours.send_all(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@rcpt.example>\r\nDATA\r\nx\r\n")
        await trio.sleep(1)
        begin = trio.current_time()
        closing.begin()
        assert b"421 4.3.2" in await everything(idle)
        await ours.send_all(b".\r\n")
        said = await everything(ours)
        assert trio.current_time() == begin
    assert b"250 2.0.0 taken\r\n421 4.3.2" in said
    assert len(handler.seen) == 1


async def everything(stream: trio.abc.Stream) -> bytes:
    return b"".join([part async for part in stream])
