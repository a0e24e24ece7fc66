"""SMTP with programs that others wrote: swaks and smtplib as clients, Postfix as a server (RFC 5321, RFC 3207, RFC 2033)."""

from __future__ import annotations

import os
import shutil
import smtplib
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path

import pytest
import trio

from interop import lack, need
from postfix_server import Postfix
from postward.lab.ca import Authority
from postward.model import Endpoint
from postward.names import Address, Domain
from postward.smtp.client import Envelope, Reply, SmtpConnection
from postward.smtp.content import to_crlf
from postward.smtp.envelope import DsnRequest
from postward.smtp.server import ServerSettings, ServerTimeouts, Session, serve
from postward.smtp.whole import Whole
from postward.tls import client_handshake

pytestmark = [pytest.mark.loopback, pytest.mark.interop]

HOST = Domain("mx.postfix.test")
AUTHORITY = Authority("Test")
CERTIFICATE = AUTHORITY.issue([HOST])
SETTINGS = ServerSettings(hostname=HOST, context=CERTIFICATE.server_context())
ME, A, B, BAD = (Address.parse(text) for text in ("me@sender.test", "a@postfix.test", "b@postfix.test", "bad@postfix.test"))

# Whole, because Postfix adds what a header lacks.
HEADER = f"From: <{ME}>\nTo: undisclosed-recipients:;\nDate: Tue, 24 Nov 2026 12:00:00 +0000\nMessage-ID: <1@sender.test>\n"


class Handler:
    """Keeps what it is given, and knows nobody called bad."""

    def __init__(self) -> None:
        self.seen: list[tuple[Session, Envelope, bytes]] = []

    async def mail(self, session, sender, parameters):
        return None

    async def rcpt(self, session, recipient, parameters):
        return Reply(550, ("no such user",), "5.1.1") if recipient.local == "bad" else None

    async def authenticate(self, session, user, password):
        return (user, password) == ("joe", "pass word")

    async def content(self, session, envelope):
        return Whole(session, envelope, self.message)

    async def message(self, session, envelope, content):
        self.seen.append((session, envelope, content))
        return Reply(250, ("taken",), "2.0.0")


@asynccontextmanager
async def listening(**settings: object) -> AsyncIterator[tuple[int, Handler]]:
    handler = Handler()

    async def one(stream: trio.SocketStream) -> None:
        await serve(stream, handler, replace(SETTINGS, **settings), peer="127.0.0.1")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, one, [listener])
        yield listener.socket.getsockname()[1], handler
        nursery.cancel_scope.cancel()


async def swaks(port: int, *options: str) -> tuple[int, str]:
    command = [need("swaks"), "--server", f"127.0.0.1:{port}", "--from", str(ME), "--helo", "client.test", *options]
    with trio.fail_after(60):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


async def test_swaks_in_clear():
    async with listening() as (port, handler):
        code, transcript = await swaks(port, "--to", f"{A},{B}", "--body", ".dot\n..dots\n.\nend")
    assert code == 0, transcript
    ((session, envelope, content),) = handler.seen
    assert (envelope.sender, envelope.recipients, session.helo, session.protocol) == (ME, (A, B), "client.test", "ESMTP")
    assert b"\r\n\r\n.dot\r\n..dots\r\n.\r\nend\r\n" in content


async def test_swaks_without_tls_where_it_must():
    async with listening(require_tls=True) as (port, handler):
        code, transcript = await swaks(port, "--to", str(A))
    assert code != 0
    assert "530 5.7.0" in transcript
    assert handler.seen == []


async def test_openssl():
    """Its client waits for what a session offers, and says STARTTLS as RFC 3207 has it."""
    async with listening(require_tls=True) as (port, handler):
        command = [need("openssl"), "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{port}", "-servername", HOST]
        said = f"EHLO c\r\nMAIL FROM:<> REQUIRETLS\r\nRCPT TO:<{A}>\r\nDATA\r\n.x\r\n..\r\n.\r\nQUIT\r\n"
        with trio.fail_after(60):
            done = await trio.run_process([*command, "-quiet", "-nocommands"], stdin=said.encode(), capture_stdout=True)
    assert "221 2.0.0" in done.stdout.decode()
    ((session, envelope, content),) = handler.seen
    assert (session.protocol, envelope.require_tls, content) == ("ESMTPS", True, b"x\r\n.\r\n")


async def test_swaks_over_lmtp():
    async with listening(lmtp=True) as (port, handler):
        code, transcript = await swaks(port, "--to", f"{A},{BAD},{B}", "--protocol", "LMTP")
    assert code == 0, transcript
    ((session, envelope, _),) = handler.seen
    assert envelope.recipients == (A, B)
    assert session.protocol == "LMTP"
    assert "550 5.1.1 no such user" in transcript


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("password", ["pass word", "wrong"])
async def test_swaks_logs_in(mechanism, password):
    """RFC 4954: over TLS, and with nobody's name no mail."""
    quick = ServerTimeouts(login=0)
    async with listening(auth=True, require_auth=True, timeouts=quick) as (port, handler):
        login = ["--auth", mechanism, "--auth-user", "joe", "--auth-password", password]
        code, transcript = await swaks(port, "--to", str(A), "--tls", *login)
    if "Net::SSLeay" in transcript:
        lack("swaks knows TLS only with libnet-ssleay-perl")
    assert ("235 2.7.0" if code == 0 else "535 5.7.8") in transcript
    assert [(session.user, session.protocol) for session, _, _ in handler.seen] == [("joe", "ESMTPSA")] * (code == 0)
    assert (code == 0) is (password == "pass word")


async def test_smtplib_logs_in():
    """With a challenge and with an initial response, and with requests for reports (RFC 3461)."""

    def talk(port: int) -> None:
        for initial in (True, False):
            with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=30) as client:
                context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(AUTHORITY.root))
                client._host = str(HOST)  # what the certificate is checked for
                client.starttls(context=context)
                client.login("joe", "pass word", initial_response_ok=initial)
                wishes = {"mail_options": ["RET=HDRS", "ENVID=1"], "rcpt_options": ["NOTIFY=SUCCESS", "ORCPT=rfc822;o@p.test"]}
                client.sendmail(str(ME), [str(A)], b"Subject: x\r\n\r\n" + b".line\r\n" * 100_000, **wishes)

    async with listening(auth=True, require_auth=True, dsn=True) as (port, handler):
        with trio.fail_after(60):
            await trio.to_thread.run_sync(talk, port)
    for session, envelope, content in handler.seen:
        assert (session.user, envelope.ret, envelope.envid) == ("joe", "HDRS", "1")
        assert envelope.dsn == (DsnRequest(notify=("SUCCESS",), orcpt="rfc822;o@p.test"),)
        assert len(content) == 14 + 7 * 100_000
    assert len(handler.seen) == 2


async def test_smtplib_over_a_unix_socket(tmp_path):
    """LMTP as a local mail server speaks it (RFC 2033)."""
    handler, path = Handler(), str(tmp_path / "lmtp")
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(path)
    listener.listen()

    def talk() -> dict[str, tuple[int, bytes]]:
        with smtplib.LMTP(path, local_hostname="client.test") as client:
            return client.sendmail(str(ME), [str(A), str(BAD)], b"Subject: x\r\n\r\nhello\r\n")

    async def one(stream: trio.SocketStream) -> None:
        await serve(stream, handler, replace(SETTINGS, lmtp=True, context=None), peer="")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, one, [trio.SocketListener(listener)])
        with trio.fail_after(60):
            refused = await trio.to_thread.run_sync(talk)
        nursery.cancel_scope.cancel()
    assert refused == {str(BAD): (550, b"5.1.1 no such user")}
    ((session, envelope, _),) = handler.seen
    assert (session.peer, session.protocol, envelope.recipients) == ("", "LMTP", (A,))


async def test_smtplib():
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = str(ME), str(A), "größer"
    message.set_content("ü\n.dot\n" + "x" * 900 + "\n", cte="8bit")

    def talk(port: int) -> dict[str, tuple[int, bytes]]:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=30) as client:
            context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(AUTHORITY.root))
            client._host = str(HOST)  # what the certificate is checked for
            client.starttls(context=context)
            refused = client.send_message(message, str(ME), [str(A), str(BAD)], mail_options=["SMTPUTF8", "BODY=8BITMIME"])
            client.sendmail("", [str(B)], b"a second one\r\n")
            return refused

    async with listening() as (port, handler):
        with trio.fail_after(60):
            refused = await trio.to_thread.run_sync(talk, port)
    assert refused == {str(BAD): (550, b"5.1.1 no such user")}
    (session, envelope, content), (_, second, _) = handler.seen
    assert (envelope.smtputf8, envelope.eight_bit, second.sender) == (True, True, None)
    assert session.tls is not None
    assert content.endswith("\r\n\r\nü\r\n.dot\r\n".encode() + b"x" * 900 + b"\r\n")


@pytest.fixture(scope="module")
def postfix() -> Iterator[tuple[Postfix, int]]:
    need("postfix")
    if os.geteuid() != 0:
        pytest.skip("Postfix is only started by root")
    directory = Path(tempfile.mkdtemp(prefix="postfix"))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    try:
        pem = CERTIFICATE.key_pem + CERTIFICATE.chain_pem
        server = Postfix(directory, hostname=HOST, listen=[("127.0.0.1", port)], pem=pem, mailboxes=[str(A), str(B)])
        try:
            server.start()
            yield server, port
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def test_postfix(postfix):
    """What we send over STARTTLS is what it stores: 8-bit, dots, lines longer than the standard has them."""
    server, port = postfix
    content = to_crlf(
        f"{HEADER}Subject: größer\n\nü\n.\n..dots\n".encode() + b".x" * 450 + b"\n" + b"long " * 2000 + b"\nno line end"
    )
    large = to_crlf(HEADER.encode()) + b"\r\n" + b".a line of some length\r\n" * 40_000
    with trio.fail_after(60):
        connection = SmtpConnection(await trio.open_tcp_stream("127.0.0.1", port))
        assert (await connection.greet()).positive
        assert (await connection.ehlo("client.test")).positive
        assert connection.remote_name == HOST
        assert (await connection.starttls()).positive
        stream, peer = await client_handshake(connection.stream, Endpoint(host=HOST, address="127.0.0.1", port=25), HOST)
        assert peer.chain == CERTIFICATE.chain
        connection.upgraded(stream)
        await connection.ehlo("client.test")
        assert {"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8"} <= connection.extensions.keys()
        envelope = Envelope(sender=ME, recipients=(A, BAD), smtputf8=True)
        taken, refused = await connection.send(envelope, content)
        assert (taken.code, taken.enhanced) == (250, "2.0.0")
        assert refused.permanent
        only_refused = await connection.send(Envelope(sender=None, recipients=(BAD,)), b"x")
        assert only_refused[0].permanent
        assert [reply.code for reply in await connection.send(Envelope(sender=None, recipients=(B,)), large)] == [250]
        await connection.quit()
        await connection.aclose()
        first, second = [await trio.to_thread.run_sync(server.take, str(address)) for address in (A, B)]
    # A maildir has the line ends of its system.
    assert first.replace(b"\n", b"\r\n") == content + b"\r\n"
    assert second.replace(b"\n", b"\r\n") == large
