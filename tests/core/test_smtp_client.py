"""The client and good servers: what it says, and which reply decides (RFC 5321, 2920, 1870, 6152, 6531, 8689, 2033)."""

from __future__ import annotations

import pytest

from postward.model import DsnRequest
from postward.names import Address, Domain
from postward.smtp.client import Envelope, Reply, SmtpConnection, SmtpError
from postward.smtp.client_protocol import ClientProtocol, Transaction
from smtp_script import HELLO, ME, PIPELINED, A, B, C, session, talk, to

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


async def test_beyond_the_limit_no_more_is_asked():
    """Servers count every further recipient as an error, and hang up over twenty of them."""
    transcript = f"""{HELLO}
        S: 250 SIZE
        C: MAIL FROM:<me@sender.example> SIZE=3
        S: 250 ok
        C: RCPT TO:<a@rcpt.example>
        S: 250 ok
        C: RCPT TO:<b@rcpt.example>
        S: 452 4.5.3 too many
        C: DATA
        S: 354 go
        C: x
        C: .
        S: 250 done"""
    assert await session(transcript, to(A, B, C), content=b"x", quit=False) == [
        ["250 done", "452 4.5.3 too many", "452 4.5.3 too many"]
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


DSN = Envelope(
    sender=ME,
    recipients=(A, B, C),
    ret="HDRS",
    envid="id+2B1",
    dsn=(
        DsnRequest(notify=("SUCCESS", "FAILURE"), orcpt="rfc822;old@rcpt.example"),
        DsnRequest(),
        DsnRequest(notify=("NEVER",), orcpt="utf-8;ü@rcpt.example"),
    ),
)


@pytest.mark.parametrize("offered", [True, False])
async def test_requests_for_reports(offered):
    """RFC 3461 §4, §5.2: only where the server knows them, which the caller can see."""
    transcript = f"""{HELLO}S: 250-SMTPUTF8\nS: 250 {"DSN" if offered else "HELP"}
        C: MAIL FROM:<me@sender.example>{" RET=HDRS ENVID=id+2B1" if offered else ""}
        S: 250 ok
        C: RCPT TO:<a@rcpt.example>{" NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;old@rcpt.example" if offered else ""}
        S: 250 ok
        C: RCPT TO:<b@rcpt.example>
        S: 250 ok
        C: RCPT TO:<c@rcpt.example>{" NOTIFY=NEVER" if offered else ""}
        S: 250 ok
        C: DATA
        S: 550 no"""
    assert await session(transcript, DSN, content=b"x", quit=False) == [["550 no"] * 3]


async def test_original_recipient_in_utf8():
    """RFC 6533 §3: as it is where SMTPUTF8 is in use anyway."""
    envelope = to(A, smtputf8=True, dsn=(DsnRequest(orcpt="utf-8;ü@rcpt.example"),))
    transcript = f"""{HELLO}S: 250-SMTPUTF8\nS: 250 DSN
        C: MAIL FROM:<me@sender.example> SMTPUTF8
        S: 250 ok
        C: RCPT TO:<a@rcpt.example> ORCPT=utf-8;ü@rcpt.example
        S: 550 no
        """
    assert await session(transcript, envelope, content=b"x", quit=False) == [["550 no"]]


async def test_requests_that_would_be_commands():
    """They may come from a database or from a plugin, and never change what is said."""
    envelope = to(A, ret="ALL", envid="a SIZE=1", dsn=(DsnRequest(notify=("X",), orcpt="rfc822;a\r\nDATA"),))
    transcript = f"{HELLO}S: 250 DSN\nC: MAIL FROM:<me@sender.example>\nS: 250 ok\nC: RCPT TO:<a@rcpt.example>\nS: 550 no"
    assert await session(transcript, envelope, content=b"x", quit=False) == [["550 no"]]


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
