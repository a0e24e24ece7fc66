"""Clients that log in: the exchanges, their limits, and what is asked of the handler (RFC 4954, RFC 4616)."""

from __future__ import annotations

import base64
import ssl
from contextlib import suppress
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from postward.lab.ca import Authority
from postward.model import Endpoint
from postward.names import Domain
from postward.smtp.reply import Refusal, Reply
from postward.smtp.sasl import Exchange
from postward.smtp.server import ServerSettings, serve
from postward.smtp.server_events import Login
from postward.tls import client_handshake
from smtp_machine import Machine, codes
from smtp_script import play

HOST = Domain("mx.example")
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def b64(text: str | bytes) -> bytes:
    return base64.b64encode(text.encode() if isinstance(text, str) else text)


RIGHT = b"AUTH PLAIN " + b64("\0joe\0right")
BAD = b"AUTH PLAIN " + b64("\0joe\0wrong")


def machine(*before: bytes, **settings: object) -> Machine:
    made = Machine(**{"tls": True, "auth": True, "context": CONTEXT, **settings})  # type: ignore[arg-type]
    made(b"EHLO c\r\n" + b"".join(line + b"\r\n" for line in before))
    return made


def test_offered_over_tls_only():
    """RFC 4954 §4: a password in clear is no secret."""
    assert b"AUTH PLAIN LOGIN\r\n" in machine().said
    assert b"AUTH" not in machine(auth=False).said
    clear = machine(tls=False)
    assert b"AUTH" not in clear.said
    assert codes(clear(RIGHT + b"\r\n")) == ["530 5.7.0"]
    assert clear.events == []


@pytest.mark.parametrize(
    "lines",
    [
        [RIGHT],
        [b"auth plain " + b64("joe\0joe\0right")],
        [b"AUTH PLAIN", b64("\0joe\0right")],
        [b"AUTH LOGIN", b64("joe"), b64("right")],
        [b"AUTH LOGIN " + b64("joe"), b64("right")],
    ],
)
def test_logins(lines):
    session = machine()
    for line in lines[:-1]:
        assert session(line + b"\r\n")[0].startswith("334 ")
        assert session.session.user is None
    assert codes(session(lines[-1] + b"\r\n")) == ["235 2.7.0"]
    assert session.events == [Login("joe", "right")]
    assert session.session.user == "joe"
    assert session.session.protocol == "ESMTPSA"


def test_challenges():
    """RFC 4954 §4: also an empty one has a space behind its code."""
    session = machine()
    session(b"AUTH PLAIN\r\n*\r\nAUTH LOGIN\r\n" + b64("joe") + b"\r\n")
    assert b"334 \r\n" in session.said
    assert b"334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n" in session.said


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([b"AUTH"], "504 5.5.4"),
        ([b"AUTH CRAM-MD5"], "504 5.5.4"),
        ([b"AUTH PLAIN", b"*"], "501 5.7.0"),
        ([b"AUTH LOGIN", b64("joe"), b"*"], "501 5.7.0"),
        ([b"AUTH PLAIN ="], "501 5.5.2"),
        ([b"AUTH LOGIN ="], "501 5.5.2"),
        ([b"AUTH PLAIN !"], "501 5.5.2"),
        ([b"AUTH PLAIN", b"AHUAcA"], "501 5.5.2"),
        ([b"AUTH PLAIN", b"\xc3\xa4"], "501 5.5.2"),
        ([b"AUTH PLAIN", b"\xff"], "501 5.5.2"),
        ([b"AUTH PLAIN", b""], "501 5.5.2"),
        ([b"AUTH PLAIN", b"QUIT"], "501 5.5.2"),
        ([b"AUTH PLAIN " + b64("joe\0right")], "501 5.5.2"),
        ([b"AUTH PLAIN " + b64("\0joe\0rig\0ht")], "501 5.5.2"),
        ([b"AUTH PLAIN " + b64("\0joe\0rig\nht")], "501 5.5.2"),
        ([b"AUTH PLAIN " + b64("\0\0right")], "501 5.5.2"),
        ([b"AUTH PLAIN " + b64("\0joe\0")], "501 5.5.2"),
        ([b"AUTH PLAIN " + b64(b"\0joe\0\xff")], "501 5.5.2"),
        ([b"AUTH LOGIN", b64("jo\0e")], "501 5.5.2"),
        ([b"AUTH PLAIN " + b64("ann\0joe\0right")], "535 5.7.8"),
        ([b"AUTH PLAIN", b"A" * 12292], "500 5.5.6"),
        ([b"AUTH PLAIN " + b"A" * 2048], "500 5.5.2"),
        ([BAD], "535 5.7.8"),
    ],
)
def test_exchanges_that_fail(lines, code):
    """Each ends there, nobody was asked about what was no login, and a command is a command again."""
    session = machine()
    for line in lines[:-1]:
        assert session(line + b"\r\n")[0].startswith("334 ")
    assert codes(session(lines[-1] + b"\r\nNOOP\r\n")) == [code, "250 2.0.0"]
    assert len(session.events) == (lines == [BAD])
    assert session.session.user is None
    assert codes(session(RIGHT + b"\r\n")) == ["235 2.7.0"]


def test_long_lines_of_an_exchange():
    """RFC 4954 §4: 12288 octets, although commands are shorter."""
    session = machine()
    password = "x" * 9000
    assert codes(session(b"AUTH PLAIN\r\n" + b64(f"\0joe\0{password}") + b"\r\n"))[-1] == "535 5.7.8"
    assert session.events == [Login("joe", password)]


@pytest.mark.parametrize(
    "before", [[RIGHT], [b"MAIL FROM:<>"], [b"MAIL FROM:<>", b"RCPT TO:<a@b.example>", b"BDAT 1", b"xNOOP"]]
)
def test_out_of_place(before):
    """RFC 4954 §4: once a session, and not in the middle of a message."""
    session = machine(*before)
    seen = len(session.events)
    assert codes(session(RIGHT + b"\r\n")) == ["503 5.5.1"]
    assert len(session.events) == seen


def test_before_hello():
    assert codes(Machine(tls=True, auth=True)(RIGHT + b"\r\n")) == ["503 5.5.1"]


def test_mail_only_from_who_has_logged_in():
    session = machine(require_auth=True)
    assert codes(session(b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n")) == ["530 5.7.0", "503 5.5.1", "503 5.5.1"]
    assert codes(session(RIGHT + b"\r\nMAIL FROM:<>\r\n")) == ["235 2.7.0", "250 2.0.0"]


@pytest.mark.parametrize(
    ("settings", "value", "code"),
    [
        ({}, b"<>", "250 2.0.0"),
        ({}, b"e+3Dmc2@example.com", "250 2.0.0"),
        ({}, b"a+b", "501 5.5.4"),
        ({"auth": False}, b"<>", "555 5.5.4"),
        ({"tls": False}, b"<>", "555 5.5.4"),
    ],
)
def test_parameter_of_mail(settings, value, code):
    """RFC 4954 §5: read where AUTH is offered, and not believed."""
    assert codes(machine(**settings)(b"MAIL FROM:<> AUTH=" + value + b"\r\n")) == [code]


def test_failures_have_a_limit():
    session = machine(b"NOOP", max_logins=3)
    assert codes(session((BAD + b"\r\n") * 3)) == ["535 5.7.8", "535 5.7.8", "421 4.7.0"]
    assert session.protocol.closed


def test_trouble_of_ours_is_no_failed_login():
    session = machine(refuse={"AUTH": Reply(454, ("later",), "4.7.0")})
    assert codes(session((BAD + b"\r\n") * 5)) == ["454 4.7.0"] * 5
    assert codes(session(RIGHT + b"\r\n")) == ["235 2.7.0"]


def test_tls_forgets_who_logged_in():
    """RFC 3207 §4.2. Nobody can log in before TLS, but a session may also be told."""
    session = machine(tls=False)
    session.session.user = "joe"
    session(b"STARTTLS\r\n")
    assert session.session.user is None


def test_a_password_is_in_no_log():
    assert "secret" not in repr(Login("joe", "secret"))


@given(st.sampled_from(["PLAIN", "LOGIN"]), st.lists(st.binary(max_size=12).map(b64) | st.binary(max_size=6), max_size=4))
def test_any_lines(mechanism, lines):
    """Nothing a client says is a traceback, and every login is one that could be typed."""
    exchange = Exchange(mechanism, "")
    said = exchange.begin()
    with suppress(Refusal):
        for line in lines:
            assert isinstance(said, bytes)
            said = exchange.answer(line.decode("ascii", "replace"))
            if isinstance(said, Login):
                assert all(text and min(text) >= " " for text in (said.user, said.password))
                return


# --- the shell ---


class Handler:
    def __init__(self, said: object) -> None:
        self.said = said
        self.asked: list[tuple[str, str]] = []

    async def authenticate(self, session, user, password):
        self.asked.append((user, password))
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


@pytest.mark.parametrize(
    ("said", "reply", "wait"),
    [
        (True, "235 2.7.0 welcome", 0),
        (Reply(235, ("hello joe",), "2.7.0"), "235 2.7.0 hello joe", 0),
        (False, "535 5.7.8 user or password is wrong", 1),
        (Reply(534, ("too weak",), "5.7.9"), "534 5.7.9 too weak", 1),
        (RuntimeError("database"), "454 4.7.0 nobody can log in just now, please come back", 1),
        (Refusal(454, "4.7.0", "later"), "454 4.7.0 later", 1),
    ],
)
async def test_handlers(said, reply, wait, autojump_clock):
    """A failure costs time, so that nobody tries many passwords, and what fails here is not the client's fault."""
    handler = Handler(said)
    context = Authority("Test").issue([HOST]).server_context()
    settings = replace(ServerSettings(hostname=HOST), context=context, implicit_tls=True, auth=True)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(theirs, handler, settings, peer="192.0.2.1"))
        stream, _ = await client_handshake(ours, Endpoint(host=HOST, address="192.0.2.2", port=465), HOST)
        hello = "S: 220 mx.example ESMTP Postward\nC: HELO c\nS: 250 mx.example\n"
        await play(stream, f"{hello}C: {RIGHT.decode()}\nS: {reply}\nC: QUIT\nS: 221 2.0.0 mx.example closing", side="C")
    assert handler.asked == [("joe", "right")]
    assert trio.current_time() == pytest.approx(wait, abs=0.5)
