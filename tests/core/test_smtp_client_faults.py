"""The client and servers that break off, leave the protocol, or fall silent (RFC 5321 §3.8, §4.2.5, §4.5.3.2)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from postward.smtp.client import Limits, SmtpConnection, SmtpError, Timeouts
from smtp_script import BODY, HELLO, LAST, PIPELINED, A, B, C, failure, session, talk, to


async def test_421_decides_what_is_open():
    """RFC 5321 §3.8: it may answer anything, and the connection ends; recipients that were refused stay refused."""
    transcript = f"""{PIPELINED}
        C: MAIL FROM:<me@sender.example>
        C: RCPT TO:<a@rcpt.example>
        C: RCPT TO:<b@rcpt.example>
        C: RCPT TO:<c@rcpt.example>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 550 no
        S: 421 4.3.2 going down
        close"""

    async def client(stream):
        connection = SmtpConnection(stream)
        await connection.greet()
        await connection.ehlo("me.example")
        said = [str(reply) for reply in await connection.send(to(A, B, C), BODY)]
        with pytest.raises(SmtpError, match=r"421 4\.3\.2 going down") as caught:
            await connection.send(to(A), BODY)
        assert caught.value.kind == "lost"
        await connection.quit()
        await connection.aclose()
        return said

    assert await talk(transcript, client) == ["421 4.3.2 going down", "550 no", "421 4.3.2 going down"]


@pytest.mark.parametrize("stray", ["S: 421 4.4.2 idle", "S: 250 what"])
async def test_reply_that_nothing_asked_for(stray):
    """It would be read as the answer to the next command."""
    error = await failure(f"{HELLO}S: 250 HELP\n{stray}\n", to(A))
    assert error.kind == ("lost" if "421" in stray else "protocol")


@pytest.mark.parametrize("end", ["close", "S- 250 o\nclose", "S- 250-queued\\r\\n\nclose"])
async def test_lost_behind_the_end_of_the_message(end):
    """RFC 5321 §4.2.5, §6.1: without the whole reply nothing was promised, so it is to be tried again."""
    error = await failure(LAST + end, to(A), content=b"x")
    assert (error.kind, str(error)) == ("lost", "the server closed the connection before the reply to content")


@pytest.mark.parametrize(
    ("transcript", "kind"),
    [
        ("close", "lost"),
        ("S- 220 half\nclose", "lost"),
        ("S: hello", "protocol"),
        ("S: 354 go", "protocol"),
        ("S: 220 a\nS: 220 b", "protocol"),
        (HELLO + "S: 251 x", "protocol"),
        (PIPELINED + "\nC: MAIL FROM:<me@sender.example>\nC: RCPT TO:<a@rcpt.example>\nC: DATA\nS: 354 go", "protocol"),
        (
            PIPELINED + "\nC: MAIL FROM:<me@sender.example>\nC: RCPT TO:<a@rcpt.example>\nC: DATA\n" + "S: 250 ok\n" * 3,
            "protocol",
        ),
        (LAST + "S: 354 more", "protocol"),
    ],
)
async def test_bad_servers(transcript, kind):
    assert (await failure(transcript, to(A), content=b"x")).kind == kind


# --- long content ---

LONG = (b"." * 70 + b"\r\n") * 4000


@pytest.mark.parametrize("streamed", [False, True])
async def test_long_content_in_pieces(streamed):
    """The bytes are the same whether they come at once or in pieces of any size."""
    seen = bytearray()

    async def pieces():
        for at in range(0, len(LONG), 99_991):
            yield LONG[at : at + 99_991]

    async def client(stream):
        connection = SmtpConnection(stream)
        await connection.greet()
        await connection.ehlo("me.example")
        return [str(reply) for reply in await connection.send(to(A), pieces() if streamed else LONG)]

    async def server(stream):
        await stream.send_all(b"220\r\n")
        await stream.receive_some()
        await stream.send_all(b"250-mx\r\n250 PIPELINING\r\n")
        await stream.receive_some()
        await stream.send_all(b"250\r\n250\r\n354\r\n")
        while not seen.endswith(b"\r\n.\r\n"):
            seen.extend(await stream.receive_some())
        await stream.send_all(b"250 done\r\n")

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server, theirs)
        assert await client(ours) == ["250 done"]
    assert seen == (b"." * 71 + b"\r\n") * 4000 + b".\r\n"


async def interrupted(reply: bytes, *, then_close: bool = False, content: object = LONG):
    """A server that takes a little of the content, says something, and reads no more."""
    ours, theirs = trio.testing.lockstep_stream_pair()

    async def server():
        await theirs.send_all(b"220\r\n")
        await theirs.receive_some()
        await theirs.send_all(b"250-mx\r\n250 PIPELINING\r\n")
        await theirs.receive_some()
        await theirs.send_all(b"250\r\n250\r\n550 no\r\n250\r\n354\r\n")
        await theirs.receive_some(100)
        if reply:
            await theirs.send_all(reply)
        if then_close:
            await theirs.aclose()

    connection = SmtpConnection(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        try:
            await connection.greet()
            await connection.ehlo("me.example")
            return [str(reply) for reply in await connection.send(to(A, B, C), content)], connection
        except SmtpError as exc:
            return exc, connection
        finally:
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("then_close", [False, True])
async def test_server_that_refuses_in_the_middle_of_the_content(then_close, autojump_clock):
    """It may read no further, so going on would wait for ever; its reply decides."""
    said, connection = await interrupted(b"552 5.3.4 too much\r\n", then_close=then_close)
    assert said == ["552 5.3.4 too much", "550 no", "552 5.3.4 too much"]
    assert trio.current_time() < 10
    with pytest.raises(SmtpError, match="too much"):
        await connection.send(to(A), b"x")


async def test_server_that_accepts_in_the_middle_of_the_content(autojump_clock):
    """A message that was not sent cannot be accepted."""
    said, _ = await interrupted(b"250 thanks\r\n")
    assert said.kind == "protocol"


async def test_server_that_goes_in_the_middle_of_the_content(autojump_clock):
    assert (await interrupted(b"", then_close=True))[0].kind == "lost"


async def test_server_that_stops_reading_in_the_middle_of_the_content(autojump_clock):
    """RFC 5321 §4.5.3.2.5: three minutes for a block."""
    said, _ = await interrupted(b"")
    assert said.kind == "timeout"
    assert 180 <= trio.current_time() < 190


async def test_streamed_content_with_a_bare_line_end():
    """RFC 5321 §2.3.8: it is found when half of it is out, so the connection goes and nothing is accepted."""

    async def pieces():
        yield b"a\r\n"
        yield b"b\n.\r\n"

    transcript = LAST.split("C: x")[0] + "C: a"
    error = await failure(transcript, to(A), content=pieces())
    assert (error.kind, str(error)) == ("protocol", "the content has an LF without CR")


@pytest.mark.parametrize("trouble", [RuntimeError("disk"), OSError("disk"), ValueError("disk")])
async def test_content_that_cannot_be_read(trouble):
    """A disk that fails is no server that hangs up: the connection goes, without an end of the message, and says why."""
    closed = []

    async def pieces():
        try:
            yield b"a\r\n"
            raise trouble
        finally:
            closed.append(True)

    error = await failure(LAST.split("C: x")[0] + "C: a", to(A), content=pieces())
    assert (error.kind, str(error)) == ("content", "the content cannot be read: disk")
    assert error.__cause__ is trouble
    assert closed


async def test_lost_content_is_closed():
    """A reader of a file is not left to the garbage collector."""
    closed = []

    async def pieces():
        try:
            while True:
                yield b"a\r\n" * 1000
        finally:
            closed.append(True)

    error = await failure(LAST.split("C: x")[0] + "close", to(A), content=pieces())
    assert (error.kind, closed) == ("lost", [True])


# --- many messages ---

ONE = """
    C: MAIL FROM:<me@sender.example>
    C: RCPT TO:<a@rcpt.example>
    C: DATA
    S: 250 ok
    S: 250 ok
    S: 354 go
    C: x
    C: .
    S: 250 done"""


async def test_many_messages_need_nothing_in_between():
    """Neither RSET nor NOOP: one group and one content each."""
    said = await session(PIPELINED + ONE * 5, *[to(A)] * 5, content=b"x", quit=False)
    assert said == [["250 done"]] * 5


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("end", ["S: 421 4.4.2 idle\nclose", "close"])
async def test_server_that_closed_in_between(reset, end):
    """It tells nothing about the message, which was not begun; as the first word of a session it does."""
    first = ONE.split("C: DATA")[0] + "C: DATA\nS: 250 ok\nS: 550 no\nS: 503 no" if reset else ONE

    async def client(stream):
        connection = SmtpConnection(stream)
        await connection.greet()
        await connection.ehlo("me.example")
        assert not connection.reused
        await connection.send(to(A), b"x")
        assert connection.content_begun is not reset
        with pytest.raises(SmtpError) as caught:
            await connection.send(to(A), b"x")
        assert connection.reused
        assert not connection.content_begun
        return caught.value

    error = await talk(PIPELINED + first + (("\nC: RSET" if reset else "") + ONE.split("S: 250")[0]) + end, client)
    assert error.kind == "lost"
    assert ("421 4.4.2 idle" in str(error)) is ("421" in end)


async def test_limits_reach_the_parser():
    assert (await failure(f"S: 220 {'x' * 40}", limits=Limits(line=30))).kind == "too-long"


@pytest.mark.parametrize("stage", ["greeting", "hello", "drip", "data", "content"])
async def test_silence_has_a_limit(stage, autojump_clock):
    """RFC 5321 §4.5.3.2. A server that sends a byte now and then is no better than a silent one."""
    begin = f"{PIPELINED}\nC: MAIL FROM:<me@sender.example>\nC: RCPT TO:<a@rcpt.example>\nC: DATA\nS: 250 ok\nS: 250 ok\n"
    transcripts = {"greeting": "", "hello": "S: 220", "drip": "", "data": begin, "content": LAST}
    limits = {"greeting": 300, "hello": 300, "drip": 300, "data": 120, "content": 600}
    started = trio.current_time()
    if stage == "drip":
        ours, theirs = trio.testing.memory_stream_pair()

        async def drip():
            while True:
                await theirs.send_all(b"2")
                await trio.sleep(100)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            with pytest.raises(SmtpError) as caught:
                await SmtpConnection(ours).greet()
            nursery.cancel_scope.cancel()
        error = caught.value
    else:
        error = await failure(f"{transcripts[stage]}\nstall", to(A), content=b"x")
    assert error.kind == "timeout"
    assert isinstance(error.__cause__, trio.TooSlowError)
    assert limits[stage] <= trio.current_time() - started < limits[stage] + 2


async def test_server_that_reads_nothing(autojump_clock):
    ours, theirs = trio.testing.lockstep_stream_pair()
    connection = SmtpConnection(ours, timeouts=Timeouts(data_block=7))
    with pytest.raises(SmtpError) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, b"220 hello\r\n")
            await trio.testing.wait_all_tasks_blocked()
            await connection.greet()
            with pytest.raises(SmtpError) as inner:
                await connection.ehlo("me.example")
        raise inner.value
    assert caught.value.kind == "timeout"


async def test_total_limit(autojump_clock):
    """Each wait within its limit, and still too long altogether."""

    async def slow():
        while True:
            await trio.sleep(50)
            yield b"x"

    error = await failure(LAST.split("C: x")[0] + "stall", to(A), content=slow(), timeouts=Timeouts(total=1000))
    assert error.kind == "timeout"
    assert trio.current_time() >= 1000


async def test_after_an_error_the_connection_is_of_no_use():
    async def client(stream):
        connection = SmtpConnection(stream)
        with pytest.raises(SmtpError):
            await connection.greet()
        with pytest.raises(SmtpError, match="of no more use") as caught:
            await connection.ehlo("me.example")
        assert caught.value.kind == "lost"
        await connection.quit()
        await connection.aclose()

    await talk("S: nonsense", client)


async def test_after_a_cancelled_message_the_connection_is_of_no_use():
    async def client(stream):
        connection = SmtpConnection(stream)
        await connection.greet()
        await connection.ehlo("me.example")
        with trio.move_on_after(1):
            await connection.send(to(A), b"x")
        with pytest.raises(SmtpError, match="of no more use"):
            await connection.send(to(A), b"x")

    await talk(f"{HELLO}S: 250 HELP\nC: MAIL FROM:<me@sender.example>", client)


async def test_cause_is_kept():
    ours, theirs = trio.testing.memory_stream_pair()
    await trio.aclose_forcefully(theirs)
    await trio.aclose_forcefully(ours)
    with pytest.raises(SmtpError) as caught:
        await SmtpConnection(ours).greet()
    assert isinstance(caught.value.__cause__, trio.ClosedResourceError)


@pytest.mark.parametrize("end", ["close", "S: 500 no", "stall"])
async def test_quit_never_fails(end, autojump_clock):
    """The mail is delivered by then."""
    assert await session(f"{PIPELINED}\nC: QUIT\n{end}") == []
