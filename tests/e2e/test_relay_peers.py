"""Programs of others send through a relay: swaks, smtplib, Postfix with `relayhost`, and Postfix's load generator."""

from __future__ import annotations

import os
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import dkim
import pytest

from interop import need
from postfix_server import Postfix
from postward.dkim import SigningKey, dns_record, generate, private_pem
from postward.listen.users import set_password
from postward.names import Domain
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
    port_of,
    queued,
    relay,
    relay_config,
    until,
)

pytestmark = [pytest.mark.loopback, pytest.mark.interop]
OWN = SigningKey(domain=Domain("sender.test"), selector="own", key=generate("ed25519"))
CLIENTS = SigningKey(domain=Domain("client.test"), selector="c", key=generate("rsa"))
NUMBER = {"smtp": 0, "submission": 1, "implicit": 2, "lmtp": 3}


@pytest.fixture(scope="module")
def world() -> Iterator[Internet]:
    with internet("a.test", "xn--bcher-kva.test") as made:
        yield made


@pytest.fixture(scope="module")
def running(world: Internet) -> Iterator[Relay]:
    directory = Path(tempfile.mkdtemp(prefix="relay"))  # a short path, for the Unix socket
    try:
        issued = AUTHORITY.issue([NAME])
        (directory / "cert.pem").write_bytes(issued.chain_pem)
        (directory / "key.pem").write_bytes(issued.key_pem)
        (directory / "dkim.pem").write_bytes(private_pem(OWN.key))
        set_password(directory / "users", "alice", "secret")
        tls = {"cert_file": str(directory / "cert.pem"), "key_file": str(directory / "key.pem")}
        login = {"networks": [], "users_file": str(directory / "users")}
        config = relay_config(
            directory,
            world,
            {"kind": "smtp", "bind": f"127.0.0.1:{free_port()}", **tls},
            {"kind": "submission", "bind": f"127.0.0.1:{free_port()}", "tls": "required", **login, **tls},
            {"kind": "submission", "bind": f"127.0.0.1:{free_port()}", "tls": "implicit", **login, **tls},
            {"kind": "lmtp", "bind": f"127.0.0.1:{free_port()}"},
            {"kind": "lmtp", "bind": f"unix:{directory}/lmtp.sock"},
            dkim=[{"domain": "sender.test", "selector": "own", "key_file": str(directory / "dkim.pem")}],
        )
        with relay(config) as started:
            yield started
            assert started.stop() == 0
            # A machine that is busy with something else looks like a plugin that blocks.
            assert {line["event"] for line in started.lines if line["level"] == "error"} <= {"loop-blocked"}
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# --- swaks ---

WAYS = {
    "plain": ("smtp",),
    "pipelined": ("smtp", "--pipeline"),
    "starttls": ("smtp", "--tls"),
    "login": ("submission", "--tls", "--auth", "PLAIN", "--auth-user", "alice", "--auth-password", "secret"),
    "login-2": ("submission", "--tls", "--auth", "LOGIN", "--auth-user", "alice", "--auth-password", "secret"),
    "implicit": ("implicit", "--tlsc", "--auth", "PLAIN", "--auth-user", "alice", "--auth-password", "secret"),
    "lmtp": ("lmtp", "--protocol", "LMTP"),
    "unix": ("unix", "--protocol", "LMTP"),
}


@pytest.mark.parametrize("way", WAYS)
def test_swaks(world: Internet, running: Relay, way: str) -> None:
    kind, *options = WAYS[way]
    to = f"swaks-{way}@a.test"
    place = (
        ["--socket", str(running.config.parent / "lmtp.sock")]
        if kind == "unix"
        else ["--server", f"127.0.0.1:{port_of(running.config, NUMBER[kind])}"]
    )
    command = [need("swaks"), *place, "--from", "me@sender.test", "--to", to, "--helo", "client.test", *options]
    body = ".dot\n..dots\n.\nend"
    done = subprocess.run([*command, "--body", body], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [mail] = world.wait_for(to)
    assert mail.content.endswith(b"\r\n\r\n.dot\r\n..dots\r\n.\r\nend\r\n\r\n\r\n")
    protocol = {"smtp": b"ESMTP", "lmtp": b"LMTP", "unix": b"LMTP"}.get(kind, b"ESMTPSA")
    assert b"with " + (b"ESMTPS" if way == "starttls" else protocol) in mail.content.partition(b"\r\n\r\n")[0]


# --- smtplib ---


def behind_our_fields(content: bytes) -> bytes:
    """A message as it was before we put our fields in front."""
    _, _, rest = content.partition(b"\r\n\r\n")
    head = content.removesuffix(rest)
    return head[head.index(b"From: ") :] + rest


def test_every_octet(world: Internet, running: Relay) -> None:
    """8-bit of no known charset, long lines, dots, blanks at line ends, no end of line at the end of a header of one field."""
    body = bytes(range(128, 256)) + b"\r\n.\r\n..x\r\n \t \r\n" + b"y" * 900 + b"\r\n\r\n\r\n"
    whole = b"From: <me@other.test>\r\nX-Odd:  folded\r\n\tline \r\n\r\n" + body
    for number, large in enumerate((b"", b"z" * 70 + b"\r\n")):
        content = whole + large * 5000
        with client(running.config) as smtp:
            smtp.sendmail("me@other.test", [f"octets{number}@a.test"], content, mail_options=["BODY=8BITMIME"])
        [mail] = world.wait_for(f"octets{number}@a.test")
        assert mail.content.startswith(b"Received: from client.test ([127.0.0.1])")
        assert behind_our_fields(mail.content) == content


def test_smtputf8(world: Internet, running: Relay) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "jürgen@sender.test", "größe@bücher.test", "ß"
    mail.set_content("ü\n", cte="8bit")
    with client(running.config) as smtp:
        smtp.send_message(mail, "jürgen@sender.test", ["größe@bücher.test"])
    [arrived] = until(lambda: [each for each in world.arrived if each.domain == "xn--bcher-kva.test"])
    assert arrived.envelope.smtputf8
    assert str(arrived.envelope.sender) == "jürgen@sender.test"
    assert arrived.envelope.recipients[0].local == "größe"
    assert "Subject: ß".encode() in arrived.content


def test_dkim(world: Internet, running: Relay) -> None:
    """A client's own signature still verifies behind ours, which is there for our domain only."""
    keys = dict(dns_record(key, ("email",)) for key in (OWN, CLIENTS))

    def lookup(name: bytes, timeout: float = 5) -> bytes:
        return keys[name.decode().rstrip(".")].replace('" "', "").strip('"').encode()

    mine = message("ours", "a line \r\nand another")
    theirs = message("theirs").replace(b"me@sender.test", b"me@client.test")
    theirs = dkim.sign(theirs, b"c", b"client.test", private_pem(CLIENTS.key), include_headers=[b"From", b"Subject"]) + theirs
    for content, to, domain in ((mine, "ours@a.test", b"sender.test"), (theirs, "theirs@a.test", b"client.test")):
        with client(running.config) as smtp:
            smtp.sendmail("me@sender.test", [to], content)
        [mail] = world.wait_for(to)
        assert mail.content.lower().count(b"dkim-signature:") == 1
        checked = dkim.DKIM(mail.content)
        assert checked.verify(dnsfunc=lookup)
        assert checked.domain == domain


def test_a_large_message(world: Internet, running: Relay) -> None:
    body = ("x" * 76 + "\r\n") * 120_000
    with client(running.config) as smtp:
        smtp.sendmail("me@sender.test", ["large@a.test"], message("large", body))
    [mail] = world.wait_for("large@a.test")
    assert mail.content.endswith(body.encode() + b"\r\n")


def test_lmtp_answers_for_each(world: Internet, running: Relay) -> None:
    """Python's client does not know of that, so this is by hand (RFC 2033 §4.2)."""
    with Talk(port_of(running.config, NUMBER["lmtp"])) as talk:
        talk.say("LHLO client.test")
        talk.say("MAIL FROM:<me@sender.test>")
        replies = [talk.say(f"RCPT TO:<{to}>")[:3] for to in ("l1@a.test", "you@[127.0.0.1]", "l2@a.test")]
        assert replies == ["250", "550", "250"]
        talk.say("DATA")
        assert [talk.say(message("l") + b".\r\n")[:3], talk.reply()[:3]] == ["250", "250"]
        assert talk.say("QUIT").startswith("221")
    world.wait_for("l1@a.test")
    world.wait_for("l2@a.test")


# --- Postfix ---


@pytest.fixture(scope="module")
def null_client(running: Relay) -> Iterator[tuple[Postfix, int]]:
    """A Postfix that sends everything to the relay, over TLS."""
    need("postfix")
    if os.geteuid() != 0:
        pytest.skip("Postfix is only started by root")
    directory = Path(tempfile.mkdtemp(prefix="postfix"))
    port = free_port()
    pem = AUTHORITY.issue(["client.test"])
    try:
        server = Postfix(
            directory,
            hostname="client.test",
            listen=[("127.0.0.1", port)],
            pem=pem.key_pem + pem.chain_pem,
            mailboxes=["x@y.test"],
        )
        with (directory / "conf" / "main.cf").open("a") as conf:
            conf.write(f"""
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{port_of(running.config)}
default_transport = smtp
relay_transport = smtp
smtp_tls_security_level = encrypt
smtp_tls_loglevel = 1
smtp_host_lookup = native
""")
        try:
            server.start()
            yield server, port
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def test_postfix_as_null_client(world: Internet, running: Relay, null_client: tuple[Postfix, int]) -> None:
    """What it sends arrives behind both traces, and what its clients ask of notices comes along."""
    server, port = null_client
    content = message("postfix", "u\r\n.\r\nend")
    with smtplib.SMTP("127.0.0.1", port, local_hostname="app.test", timeout=30) as smtp:
        for number in range(10):
            smtp.sendmail("me@sender.test", [f"pf{number}@a.test"], content, rcpt_options=["NOTIFY=SUCCESS"])
    for number in range(10):
        [mail] = world.wait_for(f"pf{number}@a.test")
        assert mail.content.endswith(b"\r\n.\r\nend\r\n")
        assert mail.content.count(b"Received: ") == 2
        assert mail.envelope.dsn[0].notify == ("SUCCESS",)
    assert "status=deferred" not in server.log
    assert "status=bounced" not in server.log
    assert "queued as" in server.log


@pytest.mark.parametrize("size", [1000, 100_000])
def test_smtp_source(world: Internet, running: Relay, size: int) -> None:
    """Two hundred messages over twenty connections at once, without a complaint, and all of them arrive."""
    to = f"load{size}@a.test"
    place = f"inet:127.0.0.1:{port_of(running.config)}"
    command = [need("smtp-source"), "-s", "20", "-m", "200", "-l", str(size), "-f", "me@sender.test", "-t", to, place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(world.wait_for(to, 200)) == 200
    until(lambda: queued(running.config) == 0)
    assert len(world.to(to)) == 200
