"""Every behaviour of the lab's mail hosts, seen by a client that knows nothing of the product."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from postward.lab import mx
from postward.lab.ca import Authority
from postward.lab.ground import claim, host_address
from postward.lab.mx import Behaviour, Mail, Mailbox, MailHost
from postward.names import Address, Domain

pytestmark = pytest.mark.loopback

AUTHORITY = Authority()
NAME = Domain("mx.a.test")


class Client:
    """Lines out, replies in."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def reply(self) -> list[str]:
        lines: list[str] = []
        while not lines or lines[-1][3:4] == "-":
            while b"\r\n" not in self.buffer:
                data = await self.stream.receive_some()
                if not data:
                    raise EOFError
                self.buffer += data
            line, _, self.buffer = self.buffer.partition(b"\r\n")
            lines.append(line.decode())
        return lines

    async def say(self, line: str) -> list[str]:
        await self.stream.send_all(line.encode() + b"\r\n")
        return await self.reply()

    async def send(self, content: str = "Subject: x\r\n\r\nhello\r\n", to: str = "b@a.test") -> str:
        await self.say("MAIL FROM:<a@sender.test>")
        answer = await self.say(f"RCPT TO:<{to}>")
        if answer[-1][0] != "2":
            return answer[-1]
        await self.say("DATA")
        return (await self.say(content + "."))[-1]

    async def starttls(self, context: ssl.SSLContext | None = None) -> Client:
        assert (await self.say("STARTTLS"))[-1].startswith("220")
        return await self.handshake(context)

    async def handshake(self, context: ssl.SSLContext | None = None) -> Client:
        stream = trio.SSLStream(self.stream, context or plain_context(), server_hostname=NAME, https_compatible=True)
        await stream.do_handshake()
        return Client(stream)


def plain_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@asynccontextmanager
async def host(behaviour: Behaviour, mailbox: Mailbox | None = None) -> AsyncIterator[tuple[Client, Mailbox]]:
    """A running host, and a client that has said EHLO to it."""
    kept = Mailbox() if mailbox is None else mailbox
    address = host_address(0)
    ground = claim([address])
    server = MailHost(
        name=NAME,
        domains=frozenset({Domain("a.test")}),
        context=AUTHORITY.issue([NAME]).server_context(),
        mailbox=kept,
        behaviour=behaviour,
    )
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, ground.listeners[address])
            async with await trio.open_tcp_stream(address, ground.port) as stream:
                client = Client(stream)
                assert (await client.reply())[0].startswith("220 mx.a.test")
                yield client, kept
            nursery.cancel_scope.cancel()
    ground.close()


async def test_a_normal_host_keeps_what_it_takes() -> None:
    async with host(Behaviour.NORMAL) as (client, mailbox):
        assert "250-STARTTLS" in [line.replace(" ", "-") for line in await client.say("EHLO me.test")]
        secured = await client.starttls()
        assert any("REQUIRETLS" in line for line in await secured.say("EHLO me.test"))
        assert (await secured.send("Subject: x\r\n\r\n..dot\r\n")).startswith("250")
    [mail] = mailbox.to(Address.parse("b@a.test"))
    assert (mail.host, mail.helo, mail.protocol, mail.require_tls) == (NAME, "me.test", "TLSv1.3", False)
    assert (mail.sender, mail.content) == (Address.parse("a@sender.test"), b"Subject: x\r\n\r\n.dot\r\n")


async def test_no_mail_for_other_domains() -> None:
    async with host(Behaviour.NORMAL) as (client, mailbox):
        await client.say("EHLO me.test")
        assert (await client.send(to="b@elsewhere.test")).startswith("550")
    assert mailbox.mails == []


async def test_a_full_mailbox() -> None:
    mail = Mail(host=NAME, helo="", protocol="", sender=None, recipients=(), require_tls=False, content=b"")
    async with host(Behaviour.NORMAL, Mailbox([mail] * mx.MAX_KEPT)) as (client, mailbox):
        await client.say("EHLO me.test")
        assert (await client.send()).startswith("452")
    assert len(mailbox.mails) == mx.MAX_KEPT


async def test_no_starttls() -> None:
    async with host(Behaviour.NO_STARTTLS) as (client, mailbox):
        assert not any("STARTTLS" in line for line in await client.say("EHLO me.test"))
        assert (await client.say("STARTTLS"))[-1][0] == "5"
        assert (await client.send()).startswith("250")
    assert [mail.protocol for mail in mailbox.mails] == [""]


async def test_starttls_refused() -> None:
    async with host(Behaviour.STARTTLS_REFUSED) as (client, mailbox):
        assert any("STARTTLS" in line for line in await client.say("EHLO me.test"))
        assert (await client.say("STARTTLS"))[-1].startswith("454")
        assert (await client.send()).startswith("250")
    assert [mail.protocol for mail in mailbox.mails] == [""]


@pytest.mark.parametrize("forgotten", [False, True])
async def test_old_tls(monkeypatch: pytest.MonkeyPatch, forgotten: bool) -> None:
    """By OpenSSL, or on the wire alone where the local OpenSSL has forgotten TLS 1.0."""
    if forgotten:
        monkeypatch.setattr(mx, "_make_old", lambda context: False)
    async with host(Behaviour.OLD_TLS) as (client, _):
        await client.say("EHLO me.test")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.starttls()
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        assert caught.value.__cause__.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


async def test_old_tls_works_for_old_clients() -> None:
    context = plain_context()
    if not mx._make_old(context):
        pytest.skip("the local OpenSSL has no TLS 1.0")
    async with host(Behaviour.OLD_TLS) as (client, mailbox):
        await client.say("EHLO me.test")
        secured = await client.starttls(context)
        await secured.say("EHLO me.test")
        assert (await secured.send()).startswith("250")
    assert [mail.protocol for mail in mailbox.mails] == ["TLSv1"]


async def test_client_certificate_required() -> None:
    """RFC 8446 §4.4.2.4: our handshake is done before the server can refuse it."""
    async with host(Behaviour.CLIENT_CERTIFICATE) as (client, _):
        await client.say("EHLO me.test")
        secured = await client.starttls()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await secured.reply()
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        assert caught.value.__cause__.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"


async def test_garbage_after_starttls() -> None:
    async with host(Behaviour.GARBAGE) as (client, _):
        await client.say("EHLO me.test")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.starttls()
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        assert caught.value.__cause__.reason == "WRONG_VERSION_NUMBER"


async def test_hanging_up() -> None:
    async with host(Behaviour.HANGS_UP) as (client, _):
        await client.say("EHLO me.test")
        with pytest.raises(trio.BrokenResourceError):
            await client.starttls()


async def test_silence() -> None:
    async with host(Behaviour.SILENT) as (client, _):
        await client.say("EHLO me.test")
        with trio.move_on_after(0.3) as waiting:
            await client.starttls()
        assert waiting.cancelled_caught


async def test_a_reply_injected_behind_the_220() -> None:
    """RFC 3207 §4.2: what stands behind the 220 came in clear."""
    async with host(Behaviour.INJECTION) as (client, _):
        await client.say("EHLO me.test")
        assert (await client.say("STARTTLS"))[-1].startswith("220")
        assert client.buffer.endswith(b"injected\r\n")
        secured = await client.handshake()
        assert (await secured.say("EHLO me.test"))[0].startswith("250-mx.a.test")


async def test_slow() -> None:
    async with host(Behaviour.SLOW) as (client, mailbox):
        await client.say("EHLO me.test")
        secured = await client.starttls()
        await secured.say("EHLO me.test")
        assert (await secured.send()).startswith("250")
    assert [mail.protocol for mail in mailbox.mails] == ["TLSv1.3"]


@pytest.mark.parametrize("behaviour", sorted(set(Behaviour)))
async def test_every_host_takes_mail_in_clear(behaviour: Behaviour) -> None:
    async with host(behaviour) as (client, mailbox):
        await client.say("EHLO me.test")
        assert (await client.send()).startswith("250")
        assert (await client.say("QUIT"))[-1].startswith("221")
    assert [mail.protocol for mail in mailbox.mails] == [""]


async def test_clients_that_go_away_end_nothing() -> None:
    async with host(Behaviour.NORMAL) as (client, mailbox):
        await client.say("EHLO me.test")
        host_name, port = client.stream.socket.getpeername()  # type: ignore[attr-defined]
        for junk in (b"", b"\0\xff\r\n" * 5, b"EHLO me.test\r\nSTARTTLS\r\n", b"EHLO me.test\r\nDATA"):
            stream = await trio.open_tcp_stream(host_name, port)
            await stream.send_all(junk)
            await stream.aclose()
        assert (await client.send()).startswith("250")
    assert len(mailbox.mails) == 1


def test_old_contexts_warn_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mx._make_old(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
