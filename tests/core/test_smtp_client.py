"""The client against servers that follow a transcript, good and bad (RFC 5321, 2920, 1870, 6152, 6531, 8689, 2033)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from postward.names import Address, Domain
from postward.smtp.client import Envelope, Limits, Reply, SmtpConnection, SmtpError, Timeouts
from postward.smtp.client_protocol import ClientProtocol, Transaction
from smtp_script import talk

A, B, C = (Address(name, Domain("rcpt.example")) for name in "abc")
ME = Address("me", Domain("sender.example"))
BODY = b"Subject: x\r\n\r\n.hi\r\n"

HELLO = """
S: 220 mx.example hello
C: EHLO me.example
S: 250-mx2.example
"""
PIPELINED = HELLO + "S: 250 PIPELINING"


def to(*recipients: Address, **more: object) -> Envelope:
    return Envelope(sender=ME, recipients=recipients, **more)  # type: ignore[arg-type]


async def session(transcript, *envelopes, content=BODY, quit=True, **options):
    """Greet, EHLO, send each envelope, QUIT: the replies as text."""

    async def client(stream):
        connection = SmtpConnection(stream, **options)
        assert (await connection.greet()).positive
        assert (await connection.ehlo("me.example")).positive
        said = [[str(reply) for reply in await connection.send(envelope, content)] for envelope in envelopes]
        if quit:
            await connection.quit()
        return said

    return await talk(transcript, client)


async def failure(transcript, *envelopes, **options):
    with pytest.raises(SmtpError) as caught:
        await session(transcript, *envelopes, quit=False, **options)
    return caught.value


# --- hello ---


async def test_hello():
    """RFC 5321 §4.1.1.1: keywords in any case; the name of EHLO is better than that of the greeting."""

    async def client(stream):
        connection = SmtpConnection(stream)
        await connection.greet()
        assert connection.remote_name == "mx.example"
        await connection.ehlo("me.example")
        return connection

    connection = await talk(HELLO + "S: 250-size 100\nS: 250-Auth PLAIN LOGIN\nS: 250 8BitMime", client)
    assert connection.extensions == {"SIZE": "100", "AUTH": "PLAIN LOGIN", "8BITMIME": ""}
    assert connection.remote_name == "mx2.example"
    assert connection.bytes_sent == len(b"EHLO me.example\r\n")
    assert connection.bytes_received == len(
        b"220 mx.example hello\r\n250-mx2.example\r\n250-size 100\r\n250-Auth PLAIN LOGIN\r\n250 8BitMime\r\n"
    )


async def test_greeting_that_refuses():
    async def client(stream):
        return await SmtpConnection(stream).greet()

    assert await talk("S: 554 5.7.1 not you\nclose", client) == Reply(554, ("not you",), "5.7.1")


async def test_falls_back_to_helo():
    """RFC 5321 §3.2, only in clear (RFC 3207 §4.2 demands EHLO behind TLS)."""

    async def client(stream):
        connection = SmtpConnection(stream)
        await connection.greet()
        return str(await connection.ehlo("me.example")), dict(connection.extensions)

    assert await talk("S: 220\nC: EHLO me.example\nS: 502 what\nC: HELO me.example\nS: 250 old.example", client) == (
        "250 old.example",
        {},
    )


@pytest.mark.parametrize("case", ["tls", "lmtp", "transient"])
async def test_no_fallback(case):
    async def client(stream):
        connection = SmtpConnection(stream, lmtp=case == "lmtp")
        await connection.greet()
        if case == "tls":
            connection.upgraded(stream)
        return (await connection.ehlo("me.example")).code

    verb, code = "LHLO" if case == "lmtp" else "EHLO", 451 if case == "transient" else 502
    assert await talk(f"S: 220\nC: {verb} me.example\nS: {code} no", client) == code


# --- one message ---


async def test_pipelining_groups_commands():
    """RFC 2920 §3.1: MAIL, every RCPT and DATA in one group; each recipient has its own deciding reply."""
    transcript = f"""{PIPELINED}
        C: MAIL FROM:<me@sender.example>
        C: RCPT TO:<a@rcpt.example>
        C: RCPT TO:<b@rcpt.example>
        C: RCPT TO:<c@rcpt.example>
        C: DATA
        S: 250 2.1.0 ok
        S: 250 2.1.5 ok
        S: 550 5.1.1 no such user
        S: 450 4.2.1 later
        S: 354 go
        C: Subject: x
        C:
        C: ..hi
        C: .
        S: 250 2.0.0 queued
        C: QUIT
        S: 221 bye
        """.replace("C:\n", "C: \n")
    assert await session(transcript, to(A, B, C)) == [["250 2.0.0 queued", "550 5.1.1 no such user", "450 4.2.1 later"]]


async def test_without_pipelining_one_by_one():
    transcript = f"""{HELLO}S: 250 HELP
        C: MAIL FROM:<>
        S: 250 ok
        C: RCPT TO:<a@rcpt.example>
        S: 550 no
        C: RCPT TO:<b@rcpt.example>
        S: 250 ok
        C: DATA
        S: 354 go
        C: x
        C: .
        S: 451 4.3.0 try again"""
    envelope = Envelope(sender=None, recipients=(A, B))
    assert await session(transcript, envelope, content=b"x", quit=False) == [["550 no", "451 4.3.0 try again"]]


async def test_refused_sender_decides_for_all():
    transcript = f"""{HELLO}S: 250 HELP
        C: MAIL FROM:<me@sender.example>
        S: 550 5.7.1 not you
        C: MAIL FROM:<me@sender.example>
        S: 451 not now"""
    assert await session(transcript, to(A, B), to(C), quit=False) == [["550 5.7.1 not you"] * 2, ["451 not now"]]


ALL_REFUSED = f"""{PIPELINED}
    C: MAIL FROM:<me@sender.example>
    C: RCPT TO:<a@rcpt.example>
    C: DATA
    S: 250 ok
    S: 550 no
    """
AGAIN = """
    C: RSET
    C: MAIL FROM:<me@sender.example>
    C: RCPT TO:<b@rcpt.example>
    C: DATA
    S: 250 ok
    S: 250 ok
    S: 250 ok
    S: 354 go
    C: x
    C: .
    S: 250 done"""


async def test_all_refused_but_data_accepted():
    """RFC 2920 §3.1: the client then sends an end alone, and ignores what comes of it."""
    transcript = (
        ALL_REFUSED
        + "S: 354 go\nC: .\nS: 250 an empty message\n"
        + AGAIN.replace("C: RSET\n", "", 1).replace("S: 250 ok\n", "", 1)
    )
    assert await session(transcript, to(A), to(B), content=b"x", quit=False) == [["550 no"], ["250 done"]]


async def test_all_refused_then_another_message():
    """A transaction that was left open is reset before the next one."""
    assert await session(ALL_REFUSED + "S: 503 no\n" + AGAIN, to(A), to(B), content=b"x", quit=False) == [
        ["550 no"],
        ["250 done"],
    ]


async def test_refused_data_decides_for_the_accepted():
    transcript = f"""{PIPELINED}
        C: MAIL FROM:<me@sender.example>
        C: RCPT TO:<a@rcpt.example>
        C: RCPT TO:<b@rcpt.example>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 550 no
        S: 451 4.5.3 later"""
    assert await session(transcript, to(A, B), quit=False) == [["451 4.5.3 later", "550 no"]]


async def test_too_many_recipients_is_temporary():
    """RFC 5321 §4.5.3.1.10: 552 in place of 452; but a full mailbox (5.2.2) stays what it is."""
    transcript = f"""{PIPELINED}
        C: MAIL FROM:<me@sender.example>
        C: RCPT TO:<a@rcpt.example>
        C: RCPT TO:<b@rcpt.example>
        C: RCPT TO:<c@rcpt.example>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 552 too many
        S: 552 5.2.2 full
        S: 354 go
        C: x
        C: .
        S: 250 done"""
    assert await session(transcript, to(A, B, C), content=b"x", quit=False) == [
        ["250 done", "452 4.5.3 too many", "552 5.2.2 full"]
    ]


async def test_many_recipients_go_in_several_groups():
    """RFC 2920 §3.1: what is in flight must fit between the two sides, or both wait for ever."""
    many = [Address(f"r{number}", Domain("rcpt.example")) for number in range(250)]
    rcpt = [f"C: RCPT TO:<{each}>" for each in many]
    rows = [
        PIPELINED,
        "C: MAIL FROM:<me@sender.example>",
        *rcpt[:99],
        *["S: 250 ok"] * 100,
        *rcpt[99:199],
        *["S: 250 ok"] * 100,
    ]
    rows += [*rcpt[199:], "C: DATA", *["S: 250 ok"] * 51, "S: 354 go", "C: x", "C: .", "S: 250 done"]
    (replies,) = await session("\n".join(rows), to(*many), content=b"x", quit=False)
    assert replies == ["250 done"] * 250


def test_a_group_is_bounded():
    protocol = ClientProtocol()
    protocol.extensions = {"PIPELINING": ""}
    transaction = Transaction(protocol, to(*[A] * 5000))
    assert transaction.next_flight().count(b"\r\n") == 100


async def test_lmtp_has_a_reply_for_each():
    """RFC 2033 §4.2: behind the end, one reply for each accepted recipient, in order."""
    transcript = f"""{PIPELINED.replace("EHLO", "LHLO")}
        C: MAIL FROM:<me@sender.example>
        C: RCPT TO:<a@rcpt.example>
        C: RCPT TO:<b@rcpt.example>
        C: RCPT TO:<c@rcpt.example>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 550 no
        S: 250 ok
        S: 354 go
        C: x
        C: .
        S: 250 2.0.0 a
        S: 452 4.2.2 c is full"""
    said = await session(transcript, to(A, B, C), content=b"x", lmtp=True, quit=False)
    assert said == [["250 2.0.0 a", "550 no", "452 4.2.2 c is full"]]


# --- what the server offers decides what it is told ---


async def test_parameters():
    """RFC 1870 §4, RFC 6152 §3, RFC 6531 §3.4."""
    content = "Subject: ü\r\n\r\n".encode() + b"x"
    transcript = f"""{HELLO}S: 250-SIZE 1000\nS: 250-8BITMIME\nS: 250-SMTPUTF8\nS: 250 PIPELINING
        C: MAIL FROM:<me@sender.example> SIZE={len(content) + 2} BODY=8BITMIME SMTPUTF8
        C: RCPT TO:<ü@xn--bcher-kva.example>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 354 go
        C: Subject: ü
        C: 
        C: x
        C: .
        S: 250 done"""  # noqa: W291
    recipient = Address("ü", Domain("bücher.example"))
    assert await session(transcript, to(recipient), content=content, quit=False) == [["250 done"]]


async def test_8bit_content_without_8bitmime():
    """RFC 6152 §3: it must not be sent as it is; nothing is said to the server."""
    assert await session(PIPELINED, to(A, B), content=b"\xff", quit=False) == [
        ["554 5.6.3 the content has 8-bit octets and the server does not offer 8BITMIME"] * 2
    ]


async def test_recipient_in_utf8_without_smtputf8():
    """RFC 6531 §3.2: who needs it is refused, the others get their mail."""
    transcript = f"""{PIPELINED}
        C: MAIL FROM:<me@sender.example>
        C: RCPT TO:<a@rcpt.example>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 354 go
        C: x
        C: .
        S: 250 done"""
    (replies,) = await session(transcript, to(Address("ü", A.domain), A), content=b"x", quit=False)
    assert [reply[:9] for reply in replies] == ["550 5.6.7", "250 done"]


@pytest.mark.parametrize(
    ("envelope", "content", "code"),
    [
        (Envelope(sender=Address("ü", ME.domain), recipients=(A, B)), b"x", "550 5.6.7"),
        (to(A, B, smtputf8=True), b"x", "550 5.6.9"),
        (to(A, B), b"x" * 99, "552 5.3.4"),
        (to(A, B, require_tls=True), b"x", "451 4.7.30"),
        (to(A, B), b"bare\nLF", "554 5.6.0"),
        (to(A, B), b"bare\rCR", "554 5.6.0"),
        (Envelope(sender=Address("a\r\nRSET", ME.domain), recipients=(A, B)), b"x", "553 5.1.7"),
    ],
)
async def test_refused_before_anything_is_said(envelope, content, code):
    """RFC 6531 §3.2, RFC 1870 §6, RFC 8689 §4.2.1 (another host may offer it), RFC 5321 §2.3.8."""
    (replies,) = await session(HELLO + "S: 250-REQUIRETLS\nS: 250 SIZE 100", envelope, content=content, quit=False)
    assert [reply[: len(code)] for reply in replies] == [code, code]


async def test_size_at_the_limit():
    """RFC 1870 §3: 0 is no limit; the CRLF that is added counts."""
    (replies,) = await session(HELLO + "S: 250 SIZE 3", to(A), content=b"xx", quit=False)
    assert replies[0].startswith("552 5.3.4 the message has 4 octets and the server takes 3")
    for announced in (0, 4):
        transcript = HELLO + f"S: 250 SIZE {announced}\nC: MAIL FROM:<me@sender.example> SIZE=4\nS: 550 no"
        assert await session(transcript, to(A), content=b"xx", quit=False) == [["550 no"]]


async def test_requiretls():
    """RFC 8689 §2: the parameter only over TLS, and only where it is offered there."""

    async def client(stream):
        connection = SmtpConnection(stream)
        await connection.greet()
        connection.upgraded(stream)
        await connection.ehlo("me.example")
        return [str(reply) for reply in await connection.send(to(A, require_tls=True), b"x")]

    transcript = f"{HELLO}S: 250 REQUIRETLS\nC: MAIL FROM:<me@sender.example> REQUIRETLS\nS: 550 no"
    assert await talk(transcript, client) == ["550 no"]


async def test_control_in_a_recipient_is_no_command():
    recipient = Address("a>\r\nDATA\r\n<", A.domain)
    transcript = f"{HELLO}S: 250 HELP\nC: MAIL FROM:<me@sender.example>\nS: 250 ok\nC: RCPT TO:<a@rcpt.example>\nS: 550 no"
    assert await session(transcript, to(recipient, A), quit=False) == [["553 5.1.3 the address has a control in it", "550 no"]]


# --- STARTTLS ---


async def starttls(transcript):
    async def client(stream):
        connection = SmtpConnection(stream)
        await connection.greet()
        await connection.ehlo("me.example")
        reply = await connection.starttls()
        assert "STARTTLS" in connection.extensions
        connection.upgraded(stream)
        return reply, dict(connection.extensions)

    return await talk(f"{HELLO}S: 250 STARTTLS\nC: STARTTLS\n{transcript}", client)


async def test_starttls_forgets_what_was_offered_in_clear():
    """RFC 3207 §4.2."""
    assert await starttls("S: 220 2.0.0 go") == (Reply(220, ("go",), "2.0.0"), {})


@pytest.mark.parametrize("behind", [r"S- 250 injected\r\n", "S- 2", r"S- \x16\x03\x01"])
async def test_starttls_with_bytes_behind(behind):
    """RFC 3207 §4.2: what stands behind the 220 in clear must not be taken for the server's words over TLS."""
    with pytest.raises(SmtpError) as caught:
        await starttls(f"S: 220 go\n{behind}")
    assert caught.value.kind == "protocol"


async def test_starttls_refused_lets_the_session_go_on():
    assert (await starttls("S: 454 4.7.0 not now"))[0].transient


# --- servers that break off ---


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


LAST = f"""{PIPELINED}
    C: MAIL FROM:<me@sender.example>
    C: RCPT TO:<a@rcpt.example>
    C: DATA
    S: 250 ok
    S: 250 ok
    S: 354 go
    C: x
    C: .
    """


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


async def test_content_that_cannot_be_read():
    """The caller's own error comes back as it is, and the connection is given up."""

    async def pieces():
        yield b"a\r\n"
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        await session(LAST.split("C: x")[0] + "C: a", to(A), content=pieces(), quit=False)


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
