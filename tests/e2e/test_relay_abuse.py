"""Never an open relay, and no way to smuggle: what strangers try, octet by octet (RFC 5321 §2.3.8, §7.1, RFC 4954)."""

from __future__ import annotations

import base64
import smtplib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from postward.listen.users import set_password
from relay_kit import (
    AUTHORITY,
    NAME,
    Internet,
    Relay,
    Talk,
    client,
    free_port,
    internet,
    message,
    relay,
    relay_config,
    send,
)

pytestmark = pytest.mark.loopback
STRANGER = "127.0.0.9"
GOOD = ("odd", "route", "user")
"""What messages are called that may arrive."""


@pytest.fixture(scope="module")
def world() -> Iterator[Internet]:
    with internet("a.test", "b.test") as made:
        yield made


class Ports:
    """The listeners of the one relay that all tests here talk to."""

    def __init__(self, directory: Path, world: Internet) -> None:
        issued = AUTHORITY.issue([NAME])
        (directory / "cert.pem").write_bytes(issued.chain_pem)
        (directory / "key.pem").write_bytes(issued.key_pem)
        set_password(directory / "users", "alice", "secret")
        tls = {"cert_file": str(directory / "cert.pem"), "key_file": str(directory / "key.pem")}
        self.smtp, self.submission, self.six, self.small = (free_port() for _ in range(4))
        narrow = {"networks": ["127.0.0.1/32"]}
        self.config = relay_config(
            directory,
            world,
            {"kind": "smtp", "bind": f"0.0.0.0:{self.smtp}", **narrow, **tls},
            {
                "kind": "submission",
                "bind": f"0.0.0.0:{self.submission}",
                "networks": [],
                "users_file": str(directory / "users"),
                **tls,
            },
            {"kind": "smtp", "bind": f"[::]:{self.six}", **narrow},
            {"kind": "smtp", "bind": f"127.0.0.1:{self.small}", "max_message_bytes": 65_536, "max_recipients": 100},
        )


@pytest.fixture(scope="module")
def running(world: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ports, Relay]]:
    ports = Ports(tmp_path_factory.mktemp("abuse"), world)
    with relay(ports.config) as started:
        yield ports, started
        assert started.stop() == 0
        assert not [line for line in started.lines if "crashed" in line["event"] or "exception" in line]


@pytest.fixture
def ports(running: tuple[Ports, Relay]) -> Ports:
    return running[0]


@pytest.fixture(autouse=True)
def _nothing_gets_through(ports: Ports, world: Internet) -> Iterator[None]:
    """Nothing of the test's attempts arrives: what is sent behind them does, and it was queued later."""
    before = len(world.arrived)
    yield
    marker = f"m{before}"
    for domain in ("a.test", "b.test"):
        send(ports.config, f"{marker}@{domain}", marker)
        world.wait_for(f"{marker}@{domain}")
    assert {mail.token for mail in world.arrived[before:]} <= {marker, *GOOD}


# --- who may send ---

RECIPIENTS = (
    "you@a.test",
    "you%a.test@relay.sender.test",
    "you%a.test@[127.0.0.1]",
    "you%a.test",
    "@relay.sender.test:you@a.test",
    "@relay.sender.test,@b.test:you@a.test",
    "a.test!you",
    "a.test!you@relay.sender.test",
    '"you@a.test"',
    '"you@a.test"@relay.sender.test',
    '"you%a.test"@relay.sender.test',
    "you@[127.0.1.1]",
    "you@[IPv6:::1]",
    "you@[IPv6:::ffff:127.0.1.1]",
    "postmaster@a.test",
    "postmaster",
    "",
)


@pytest.mark.parametrize("sender", ["me@sender.test", "", "you@a.test", f"root@{NAME}", "me@[127.0.0.1]"])
def test_a_stranger_may_not_send(ports: Ports, sender: str) -> None:
    """Whatever sender and recipient look like."""
    with Talk(ports.smtp, source=STRANGER) as talk:
        talk.say("EHLO client.test")
        assert talk.say(f"MAIL FROM:<{sender}>").startswith("550 5.7.1")
        assert talk.say("RCPT TO:<you@a.test>").startswith("503")
        assert talk.say("DATA").startswith("503")


@pytest.mark.parametrize("recipient", RECIPIENTS)
def test_no_recipient_opens_the_door(ports: Ports, recipient: str) -> None:
    """All in one go, as a client does that does not wait for answers."""
    with Talk(ports.smtp, source=STRANGER) as talk:
        talk.send(f"EHLO c\r\nMAIL FROM:<me@sender.test>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode())
        replies = [talk.reply() for _ in range(4)]
        assert [reply[:1] for reply in replies[1:]] == ["5", "5", "5"]
        assert talk.say("QUIT").startswith("221")


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
def test_an_ipv6_socket_lets_no_mapped_address_in(ports: Ports, host: str) -> None:
    """`[::]` is IPv6 alone: an IPv4 client needs a listener of its own, and `::1` a network of IPv6."""
    if host == "127.0.0.1":
        with pytest.raises(ConnectionRefusedError):
            Talk(ports.six, host=host)
        return
    with Talk(ports.six, host=host) as talk:
        talk.say("EHLO client.test")
        assert talk.say("MAIL FROM:<me@sender.test>").startswith("550 5.7.1")


@pytest.mark.parametrize("recipient", ["you@[127.0.0.1]", "you@[IPv6:::1]", "you@[IPv6:::ffff:127.0.0.1]", "you@[0.0.0.0]"])
def test_nobody_is_sent_back_into_this_machine(ports: Ports, recipient: str) -> None:
    with Talk(ports.smtp) as talk:
        assert talk.envelope(recipient).startswith("550 5.1.2")


def test_odd_addresses_of_a_friend_stay_what_they_are(ports: Ports, world: Internet) -> None:
    """The domain alone says where to; a local part with a percent or an at sign in it is the other side's business."""
    for local in ("you%b.test", "b.test!you", '"you@b.test"'):
        send(ports.config, f"{local}@a.test", "odd")
        assert [mail.domain for mail in world.wait_for(f"{local}@a.test")] == ["a.test"]
    with Talk(ports.smtp) as talk:
        assert talk.envelope("@b.test,@c.test:routed@a.test").startswith("250")
        talk.say("DATA")
        assert talk.say(message("route") + b".\r\n").startswith("250")
    assert [mail.domain for mail in world.wait_for("routed@a.test")] == ["a.test"]


# --- passwords ---


def plain(user: str, password: str) -> str:
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


def test_no_password_in_clear(ports: Ports) -> None:
    with Talk(ports.submission) as talk:
        assert "AUTH" not in talk.say("EHLO client.test")
        assert talk.say(f"AUTH PLAIN {plain('alice', 'secret')}").startswith(("530", "538"))
        assert talk.say("MAIL FROM:<me@sender.test>").startswith("530 5.7.0")


def test_wrong_passwords(running: tuple[Ports, Relay]) -> None:
    """Three, and the session ends; each costs time. What was tried is in the log, and the passwords are not."""
    ports, service = running
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with client(ports.config, 1) as smtp:
        smtp.starttls(context=context)
        smtp.ehlo()
        codes = []
        for user, password in (("alice", "wrong"), ("bob", "secret"), ("alice", "Secret")):
            codes.append(smtp.docmd("AUTH", f"PLAIN {plain(user, password)}")[0])
        assert codes == [535, 535, 421]
        with pytest.raises(smtplib.SMTPServerDisconnected):
            smtp.docmd("NOOP")
        smtp.close()
        smtp.sock = None
        assert len(service.events("login-failed")) == 3
        assert "Secret" not in str(service.lines)
        smtp.connect("127.0.0.1", ports.submission)  # so that there is somebody to say QUIT to


def test_a_user_may_send(ports: Ports, world: Internet) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with client(ports.config, 1) as smtp:
        smtp.starttls(context=context)
        smtp.login("alice", "secret")
        smtp.sendmail("me@sender.test", ["user@a.test"], message("user"))
    [mail] = world.wait_for("user@a.test")
    assert b"with ESMTPSA" in mail.content


# --- smuggling ---

SECOND = b"MAIL FROM:<evil@sender.test>\r\nRCPT TO:<victim@b.test>\r\nDATA\r\nX-Token: smuggled\r\n\r\nx\r\n.\r\n"


@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r", b"\n.\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n"]
)
@pytest.mark.parametrize("at_once", [True, False])
def test_no_message_hides_in_another(ports: Ports, end: bytes, at_once: bool) -> None:
    """What is no end of a message ends none: the first is refused, and the second is part of it."""
    with Talk(ports.smtp) as talk:
        talk.envelope("first@a.test")
        assert talk.say("DATA").startswith("354")
        parts = [b"Subject: x\r\nX-Token: first\r\n\r\nhello" + end + SECOND]
        if not at_once:
            cut = parts[0].index(end) + 1
            parts = [parts[0][:cut], parts[0][cut:]]
        for part in parts:
            talk.send(part)
        assert talk.reply().startswith("554 5.6.0")
        assert talk.say("NOOP").startswith("250 2.0.0 ok")


@pytest.mark.parametrize("line", [b"MAIL FROM:<me@sender.test>\n", b"NOOP\rNOOP\n", b"NOOP\n"])
def test_a_command_ends_with_both(ports: Ports, line: bytes) -> None:
    with Talk(ports.smtp) as talk:
        talk.say("EHLO client.test")
        assert talk.say(line).startswith("521 5.5.2")
        assert talk.reply() == ""


def test_a_chunk_with_bare_line_ends(ports: Ports) -> None:
    """BDAT counts, so nothing can hide; but the next hop may speak DATA, and what it would be told is refused here."""
    content = message("chunk", "x\n.\n" + SECOND.decode())
    with Talk(ports.smtp) as talk:
        talk.envelope("chunk@a.test")
        assert talk.say(b"BDAT %d LAST\r\n" % len(content) + content).startswith("554 5.6.0")


# --- limits ---


def test_limits(ports: Ports) -> None:
    with Talk(ports.small) as talk:
        assert "SIZE 65536" in talk.say("EHLO client.test")
        assert talk.say("MAIL FROM:<me@sender.test> SIZE=65537").startswith("552 5.3.4")
        assert talk.say("MAIL FROM:<" + "m" * 3000 + "@sender.test>").startswith("500 5.5.2")
        assert talk.say("MAIL FROM:<me@sender.test>").startswith("250")
        replies = [talk.say(f"RCPT TO:<many{number}@a.test>")[:9] for number in range(101)]
        assert replies == ["250 2.1.5"] * 100 + ["452 4.5.3"]
        assert talk.say("DATA").startswith("354")
        assert talk.say(message("large", "x" * 70 + "\r\n" * 40_000) + b".\r\n").startswith("552 5.3.4")
        assert talk.say("MAIL FROM:<me@sender.test>").startswith("250")


def test_a_header_without_end(ports: Ports) -> None:
    with Talk(ports.smtp) as talk:
        talk.envelope("header@a.test")
        talk.say("DATA")
        assert talk.say(b"X-Long: y\r\n" * 110_000 + b"\r\nx\r\n.\r\n").startswith("552 5.3.4")


def test_a_hundred_errors(ports: Ports) -> None:
    with Talk(ports.smtp) as talk:
        replies = [talk.say("NONSENSE") for _ in range(25)]
        assert replies[19].startswith("421 4.7.0")
        assert replies[20:] == [""] * 5


def test_an_endless_line(ports: Ports) -> None:
    with Talk(ports.smtp) as talk:
        talk.send(b"x" * 4_000_000)
        assert talk.reply().startswith(("421", "500"))


def test_a_loop_ends(ports: Ports) -> None:
    with Talk(ports.smtp) as talk:
        talk.envelope("loop@a.test")
        talk.say("DATA")
        hops = b"Received: from x by y; Tue, 24 Nov 2026 12:00:00 +0000\r\n" * 100
        assert talk.say(hops + message("loop") + b".\r\n").startswith("554 5.4.6")


def test_ends_of_connections(ports: Ports) -> None:
    """A client that goes in the middle has sent nothing."""
    for data in (
        b"",
        b"EHLO",
        b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<gone@a.test>\r\nDATA\r\nX-Token: gone\r\n\r\nx\r\n.",
    ):
        with socket.create_connection(("127.0.0.1", ports.smtp), 10) as sock:
            sock.sendall(data)
