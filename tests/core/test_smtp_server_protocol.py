"""The server's machine: commands, line discipline, limits (RFC 5321, 2920, 3030, 3207, 8689, 2033)."""

from __future__ import annotations

import ssl
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.model import DsnRequest
from postward.names import Address
from postward.smtp.reply import Reply
from postward.smtp.server_events import Mail, Rcpt, StartTls
from smtp_machine import BEGIN, Machine, codes

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def test_a_session():
    """RFC 5321 appendix D.1."""
    machine = Machine()
    assert machine(BEGIN + b"DATA\r\n")[-1].startswith("354 ")
    assert machine(b"x\r\n..y\r\n.\r\nQUIT\r\n") == ["250 2.0.0 ok", "221 2.0.0 mx.example closing"]
    mail, rcpt, begin = machine.events
    assert mail == Mail(Address.parse("a@b.example"), {})
    assert rcpt == Rcpt(Address.parse("c@d.example"), {})
    assert machine.contents == [b"x\r\n.y\r\n"]
    assert begin.envelope.sender == Address.parse("a@b.example")
    assert begin.envelope.recipients == (Address.parse("c@d.example"),)
    assert machine.protocol.closed
    assert machine.session.helo == "c"
    assert machine.session.protocol == "ESMTP"


def test_ehlo_says_what_is_offered():
    """RFC 8689 §2: REQUIRETLS only behind TLS; RFC 3207 §4.2: STARTTLS only before it."""
    clear = Machine(context=CONTEXT, max_size=99)(b"EHLO c\r\n")
    assert clear == [
        "250-mx.example",
        *("250-PIPELINING", "250-SIZE 99", "250-STARTTLS", "250-ENHANCEDSTATUSCODES", "250-8BITMIME", "250-SMTPUTF8"),
        "250 CHUNKING",
    ]
    over_tls = Machine(context=CONTEXT, tls=True, dsn=True)(b"EHLO c\r\n")
    assert "250 REQUIRETLS" in over_tls
    assert "250-DSN" in over_tls
    assert not any("STARTTLS" in line for line in over_tls)
    bare = Machine(pipelining=False, eight_bit=False, chunking=False, tls=True, requiretls=False)(b"EHLO c\r\n")
    assert bare == ["250-mx.example", "250-SIZE 52428800", "250 ENHANCEDSTATUSCODES"]
    assert Machine()(b"HELO c\r\n") == ["250 mx.example"]


@pytest.mark.parametrize(
    ("before", "command", "code"),
    [
        (b"", b"MAIL FROM:<>", "503 5.5.1"),
        (b"EHLO c\r\n", b"RCPT TO:<a@b.example>", "503 5.5.1"),
        (b"EHLO c\r\n", b"DATA", "503 5.5.1"),
        (b"EHLO c\r\nMAIL FROM:<>\r\n", b"DATA", "503 5.5.1"),
        (b"EHLO c\r\nMAIL FROM:<>\r\n", b"MAIL FROM:<>", "503 5.5.1"),
        (BEGIN, b"DATA now", "501 5.5.4"),
        (BEGIN, b"RSET now", "501 5.5.4"),
        (b"", b"EHLO", "501 5.5.4"),
        (b"", b"EHLO " + b"x" * 256, "501 5.5.4"),
        (b"", b"LHLO c", "500 5.5.1"),
        (b"", b"WHAT", "500 5.5.1"),
        (b"", b"", "500 5.5.1"),
        (b"", b"NOOP \x00", "500 5.5.2"),
        (b"", b"NOOP\rRSET", "500 5.5.2"),
        (b"", b"NOOP \xff", "500 5.5.2"),
        (b"", b"AUTH PLAIN x", "502 5.5.1"),
        (b"", b"STARTTLS", "502 5.5.1"),
        (b"", b"VRFY a", "252 2.5.2"),
        (b"", b"NOOP whatever", "250 2.0.0"),
        (b"", b"GET / HTTP/1.1", "421 4.7.0"),
        (b"EHLO c\r\n", b"MAIL <a@b.example>", "501 5.5.4"),
        (b"EHLO c\r\n", b"MAIL FROM:a@b.example", "501 5.5.4"),
        (b"EHLO c\r\n", b"MAIL FROM:<a@b..example>", "553 5.1.7"),
        (b"EHLO c\r\n", "MAIL FROM:<ü@b.example>".encode(), "553 5.6.7"),
        (b"EHLO c\r\n", "MAIL FROM:<ü@b.example> SMTPUTF8".encode(), "250 2.0.0"),
        (b"EHLO c\r\n", b"MAIL FROM:<> SIZE=100", "250 2.0.0"),
        (b"EHLO c\r\n", b"MAIL FROM:<> SIZE=101", "552 5.3.4"),
        (b"EHLO c\r\n", b"MAIL FROM:<> SIZE=x", "501 5.5.4"),
        (b"EHLO c\r\n", b"MAIL FROM:<> SIZE=" + b"9" * 21, "501 5.5.4"),
        (b"EHLO c\r\n", b"MAIL FROM:<> BODY=8BITMIME SMTPUTF8", "250 2.0.0"),
        (b"EHLO c\r\n", b"MAIL FROM:<> BODY=BINARYMIME", "501 5.5.4"),
        (b"EHLO c\r\n", b"MAIL FROM:<> SMTPUTF8=1", "501 5.5.4"),
        (b"EHLO c\r\n", b"MAIL FROM:<> REQUIRETLS", "523 5.7.10"),
        (b"EHLO c\r\n", b"MAIL FROM:<> RET=FULL", "555 5.5.4"),
        (b"EHLO c\r\n", b"MAIL FROM:<> X=Y", "555 5.5.4"),
        (BEGIN, b"RCPT TO:<a@b.example> NOTIFY=NEVER", "555 5.5.4"),
        (BEGIN, b"RCPT TO:<a>", "553 5.1.3"),
        (BEGIN, b"RCPT TO:<>", "553 5.1.3"),
        (BEGIN, "RCPT TO:<ü@b.example>".encode(), "553 5.6.7"),
    ],
)
def test_replies(before, command, code):
    machine = Machine(max_size=100)
    machine(before)
    assert codes(machine(command + b"\r\n")) == [code]


def test_postmaster_needs_no_domain():
    """RFC 5321 §4.5.1."""
    machine = Machine()
    machine(BEGIN + b"RCPT TO:<Postmaster>\r\n")
    assert machine.events[-1] == Rcpt(Address.parse("Postmaster@mx.example"), {})


def test_parameters_reach_the_handler():
    """RFC 8689 §2, RFC 3461 §4."""
    machine = Machine(tls=True, dsn=True)
    machine(b"EHLO c\r\nMAIL FROM:<> REQUIRETLS SMTPUTF8 RET=hdrs ENVID=a+2Bb SIZE=4 BODY=8bitmime\r\n")
    machine("RCPT TO:<ü@b.example> NOTIFY=success,Delay ORCPT=rfc822;x\r\nRCPT TO:<c@d.example>\r\nDATA\r\nä\r\n.\r\n".encode())
    mail, rcpt, _, begin = machine.events
    assert mail.parameters == {
        "REQUIRETLS": "",
        "SMTPUTF8": "",
        "RET": "hdrs",
        "ENVID": "a+2Bb",
        "SIZE": "4",
        "BODY": "8bitmime",
    }
    assert rcpt.parameters == {"NOTIFY": "success,Delay", "ORCPT": "rfc822;x"}
    envelope = begin.envelope
    assert (envelope.require_tls, envelope.smtputf8, envelope.eight_bit, envelope.size) == (True, True, True, 4)
    assert (envelope.ret, envelope.envid) == ("HDRS", "a+2Bb")
    assert envelope.dsn == (DsnRequest(notify=("SUCCESS", "DELAY"), orcpt="rfc822;x"), DsnRequest())
    assert machine.session.protocol == "ESMTPS"


@pytest.mark.parametrize(
    ("orcpt", "mail", "code"),
    [
        ("rfc822;a+2Bb@c.example", "", "250 2.0.0"),
        ("utf-8;\\x{FC}@c.example", "", "250 2.0.0"),
        ("utf-8;ü@c.example", " SMTPUTF8", "250 2.0.0"),
        ("utf-8;ü@c.example", "", "553 5.6.7"),
        ("rfc822;ü@c.example", " SMTPUTF8", "501 5.5.4"),
        ("rfc822", "", "501 5.5.4"),
    ],
)
def test_original_recipients(orcpt, mail, code):
    """RFC 3461 §4.2, RFC 6533 §3."""
    machine = Machine(dsn=True)
    assert codes(machine(f"EHLO c\r\nMAIL FROM:<>{mail}\r\nRCPT TO:<c@d.example> ORCPT={orcpt}\r\n".encode()))[-1] == code


def test_no_dsn_requests_without_any():
    machine = Machine(dsn=True)
    machine(BEGIN + b"DATA\r\n")
    envelope = machine.events[-1].envelope
    assert (envelope.ret, envelope.envid, envelope.dsn) == ("", "", ())


def test_requiretls_can_be_switched_off():
    assert codes(Machine(tls=True, requiretls=False)(b"EHLO c\r\nMAIL FROM:<> REQUIRETLS\r\n"))[-1] == "555 5.5.4"


def test_transactions_end():
    """RFC 5321 §4.1.4: RSET, EHLO and the end of a message each leave nothing behind."""
    for ending in (b"RSET\r\n", b"EHLO again\r\n", b"DATA\r\n.\r\n"):
        machine = Machine()
        machine(BEGIN + ending)
        assert codes(machine(b"DATA\r\n")) == ["503 5.5.1"]
        assert codes(machine(b"MAIL FROM:<>\r\n")) == ["250 2.0.0"]


def test_refused_recipient_is_none():
    machine = Machine(refuse={"c": Reply(550, ("no",), "5.1.1")})
    assert machine(BEGIN)[-1] == "550 5.1.1 no"
    assert codes(machine(b"DATA\r\n")) == ["503 5.5.1"]


# --- content ---


@pytest.mark.parametrize(
    "wire",
    [
        b"a\n.\nMAIL FROM:<x@y.example>\r\n.\r\n",
        b"a\n.\r\nMAIL FROM:<x@y.example>\r\n.\r\n",
        b"a\r\n.\nMAIL FROM:<x@y.example>\r\n.\r\n",
        b"a\r.\r\nMAIL FROM:<x@y.example>\r\n.\r\n",
        b"a\r\n.\rMAIL FROM:<x@y.example>\r\n.\r\n",
        b"a\r\n\x00.\r\n\r\r\n.\r\n",
    ],
)
def test_smuggling(wire):
    """RFC 5321 §2.3.8, §4.1.1.4: only CRLF . CRLF is the end, and what has other line ends is refused as a whole."""
    machine = Machine()
    machine(BEGIN + b"DATA\r\n")
    assert codes(machine(wire)) == ["554 5.6.0"]
    assert machine.contents == []
    assert codes(machine(b"NOOP\r\n")) == ["250 2.0.0"]


def test_bare_lf_ends_no_command():
    machine = Machine()
    assert codes(machine(b"EHLO c\nNOOP\r\n")) == ["521 5.5.2"]
    assert machine.protocol.closed


@given(st.lists(st.sampled_from([b"\r\n", b".", b"..", b"x", b"\xff", b"\r\n.\r", b"\r", b"\n"]), max_size=10), st.data())
def test_content_however_it_is_cut(parts, data):
    """The same events and the same words, wherever the bytes are cut."""
    body = b"".join(parts)
    wire = BEGIN + b"DATA\r\n" + body + b"\r\n.\r\nRSET\r\nMAIL FROM:<>\r\nBAD\r\nQUIT\r\n"
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=6))
    whole, cut = Machine(), Machine()
    whole(wire)
    for a, b in pairwise(sorted({0, len(wire), *cuts})):
        cut(wire[a:b])
    assert (cut.events, cut.contents, cut.ends) == (whole.events, whole.contents, whole.ends)
    assert cut.said == whole.said


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=4))
def test_any_bytes(data, cuts):
    """Nothing a client says is a traceback, and nothing is left to read once the session is closed."""
    wire = BEGIN + data
    whole, cut = Machine(max_size=100, max_line=60), Machine(max_size=100, max_line=60)
    whole(wire)
    for a, b in pairwise(sorted({0, len(wire), *(min(each, len(wire)) for each in cuts)})):
        cut(wire[a:b])
    assert (cut.events, cut.contents, cut.ends) == (whole.events, whole.contents, whole.ends)


def test_size_limit():
    """RFC 1870 §6.3: refused at the end of the content, with the session in step."""
    machine = Machine(max_size=10)
    assert codes(machine(BEGIN + b"DATA\r\n" + b"x" * 9 + b"\r\n.\r\n"))[-1] == "552 5.3.4"
    machine(BEGIN + b"DATA\r\n")
    for _ in range(100):
        machine(b"y" * 50 + b"\r\n")
        assert machine.held < 200
    assert codes(machine(b".\r\nNOOP\r\n")) == ["552 5.3.4", "250 2.0.0"]
    assert machine.contents == []
    machine(BEGIN + b"DATA\r\n")
    assert codes(machine(b"..\r\n" * 3 + b"x\r\n.\r\n")) == ["552 5.3.4"]
    machine(BEGIN + b"DATA\r\n")
    assert codes(machine(b"..\r\n" * 3 + b".\r\n")) == ["250 2.0.0"]


def test_content_without_end():
    machine = Machine(max_size=10)
    machine(BEGIN + b"DATA\r\n")
    for _ in range(300):
        machine(b"x" * 65536)
    assert machine.protocol.closed
    assert machine.said.endswith(b"552 5.3.4 a message has at most 10 octets\r\n")


# --- BDAT ---


def test_chunks():
    """RFC 3030 §2: the sum of the chunks, without dots."""
    machine = Machine()
    machine(BEGIN)
    assert codes(machine(b"BDAT 5\r\n.a\r\n.BDAT 2\r\n\r\nBDAT 0 LAST\r\nNOOP\r\n")) == ["250 2.0.0"] * 4
    assert machine.contents == [b".a\r\n.\r\n"]


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        (b"BDAT 3 LAST\r\na\nbNOOP\r\n", ["554 5.6.0", "250 2.0.0"]),
        (b"BDAT 12\r\nxxxxxxxxxxxxBDAT 1\r\nyBDAT 0 LAST\r\nNOOP\r\n", ["552 5.3.4", "552 5.3.4", "552 5.3.4", "250 2.0.0"]),
        (b"BDAT 2\r\nxxDATA\r\nRCPT TO:<a@b.example>\r\n", ["250 2.0.0", "503 5.5.1", "503 5.5.1"]),
        (b"RSET\r\nBDAT 6\r\nQUIT\r\nNOOP\r\n", ["250 2.0.0", "503 5.5.1", "250 2.0.0"]),
        (b"BDAT x\r\nNOOP\r\n", ["501 5.5.4"]),
        (b"BDAT 1 FIRST\r\nNOOP\r\n", ["501 5.5.4"]),
        (b"BDAT 99999999999\r\nNOOP\r\n", ["552 5.3.4"]),
    ],
)
def test_bad_chunks(wire, said):
    """RFC 3030 §2: the octets of a refused chunk are read all the same; where their number is unknown the session ends."""
    machine = Machine(max_size=10)
    machine(BEGIN)
    assert codes(machine(wire)) == said
    assert machine.contents == []


# --- STARTTLS ---


def test_starttls_begins_again():
    """RFC 3207 §4.2."""
    machine = Machine(context=CONTEXT)
    assert machine(BEGIN + b"STARTTLS\r\n")[-1] == "220 2.0.0 begin"
    assert machine.events[-1] == StartTls()
    assert machine.session.helo == ""
    assert codes(machine(b"RCPT TO:<a@b.example>\r\nMAIL FROM:<>\r\nSTARTTLS\r\n")) == ["503 5.5.1"] * 3


@pytest.mark.parametrize("behind", [b"EHLO evil\r\n", b"x"])
def test_starttls_with_bytes_behind(behind):
    """RFC 3207 §6: what was sent in clear must not be heard behind TLS."""
    machine = Machine(context=CONTEXT)
    machine(b"EHLO c\r\n")
    assert codes(machine(b"STARTTLS\r\n" + behind)) == ["554 5.5.0"]
    assert machine.protocol.closed
    assert machine.events == []


def test_mail_only_over_tls():
    """RFC 3207 §4."""
    machine = Machine(context=CONTEXT, require_tls=True)
    assert codes(machine(b"EHLO c\r\n"))[-1].startswith("250")
    assert codes(machine(b"MAIL FROM:<>\r\nVRFY x\r\nNOOP\r\nSTARTTLS x\r\n")) == [
        "530 5.7.0",
        "530 5.7.0",
        "250 2.0.0",
        "501 5.5.4",
    ]
    machine(b"STARTTLS\r\n")
    assert codes(machine(b"EHLO c\r\nMAIL FROM:<>\r\n"))[-1] == "250 2.0.0"


# --- LMTP ---


def test_lmtp():
    """RFC 2033 §4: LHLO alone, and a reply for each accepted recipient."""
    machine = Machine(lmtp=True, refuse={"no": Reply(550, ("no",), "5.1.1")})
    assert codes(machine(b"EHLO c\r\nHELO c\r\n")) == ["500 5.5.1"] * 2
    machine(b"LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<no@b.example>\r\nRCPT TO:<c@b.example>\r\nDATA\r\n")
    assert machine(b"x\r\n.\r\n") == ["250 2.0.0 ok"] * 2
    assert machine.session.protocol == "LMTP"
    machine(b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<c@b.example>\r\nDATA\r\n")
    assert codes(machine(b"bare\nlf\r\n.\r\n")) == ["554 5.6.0"] * 2


# --- limits ---


def test_long_lines():
    machine = Machine(max_line=100)
    assert codes(machine(b"NOOP " + b"x" * 93 + b"\r\n")) == ["250 2.0.0"]
    assert codes(machine(b"NOOP " + b"x" * 94 + b"\r\nNOOP\r\n")) == ["500 5.5.2", "250 2.0.0"]
    assert machine(b"x" * 101) == []
    assert codes(machine(b"x" * 101 + b"\r\nNOOP\r\n")) == ["500 5.5.2", "250 2.0.0"]
    for _ in range(700):
        machine(b"x" * 101)
    assert machine.protocol.closed
    assert machine.said.endswith(b"421 4.7.0 that line does not end\r\n")


def test_too_many_errors():
    machine = Machine(max_errors=3)
    assert codes(machine(b"A\r\nB\r\nNOOP\r\nC\r\nD\r\n")) == ["500 5.5.1", "500 5.5.1", "250 2.0.0", "421 4.7.0"]
    assert machine.protocol.closed


def test_too_many_idle_commands():
    machine = Machine(max_idle=4)
    for _ in range(5):
        machine(BEGIN + b"DATA\r\n.\r\nNOOP\r\n")
        assert not machine.protocol.closed
    assert codes(machine(b"NOOP\r\nRSET\r\nVRFY x\r\nNOOP\r\n"))[-1] == "421 4.7.0"


def test_too_many_recipients():
    """RFC 5321 §4.5.3.1.10: 452, and those before it stay."""
    machine = Machine(max_recipients=1)
    assert codes(machine(BEGIN + b"RCPT TO:<e@f.example>\r\n"))[-1] == "452 4.5.3"
    machine(b"DATA\r\n.\r\n")
    assert len(machine.events[-1].envelope.recipients) == 1


def test_nothing_is_kept_behind_the_end():
    machine = Machine()
    machine(b"QUIT\r\nEHLO c\r\n")
    machine(b"x" * 1000)
    assert machine.said == b"221 2.0.0 mx.example closing\r\n"
