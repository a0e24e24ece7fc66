"""The lab's mail hosts: the product's own SMTP server, and around it every trouble that the field knows.

A faulty host is the normal server behind a stream that meddles: it answers STARTTLS itself, slips a reply in behind the 220,
or speaks no TLS where a handshake is due. So even the worst of them still takes mail in clear, as real ones do.
"""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import trio

from postward.names import Address, Domain
from postward.smtp.server import Envelope, Reply, ServerSettings, Session, serve
from postward.smtp.whole import Whole

MAX_MESSAGE: Final = 16 * 1024 * 1024
MAX_KEPT: Final = 2000
_CONNECTION_LIMIT: Final = 120.0
_PIECE: Final = 64
_PAUSE: Final = 0.01
_ALERT: Final = bytes((21,))
_PROTOCOL_VERSION_ALERT: Final = bytes((21, 3, 1, 0, 2, 2, 70))


class Behaviour(StrEnum):
    """What is the matter with a mail host."""

    NORMAL = "normal"
    NO_STARTTLS = "no-starttls"
    STARTTLS_REFUSED = "starttls-refused"
    OLD_TLS = "tls-1.0-only"
    CLIENT_CERTIFICATE = "client-certificate-required"
    GARBAGE = "garbage-after-starttls"
    INJECTION = "reply-injected-behind-220"
    HANGS_UP = "hangs-up-in-handshake"
    SILENT = "silent-in-handshake"
    SLOW = "slow"
    NO_CLOSE_NOTIFY = "no-close-notify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A message that a host took: where, how, and what."""

    host: Domain
    helo: str
    protocol: str
    sender: Address | None
    recipients: tuple[Address, ...]
    require_tls: bool
    content: bytes = field(repr=False)


@dataclass(slots=True)
class Mailbox:
    """All mail that all hosts took, oldest first; when it is full, hosts answer 452."""

    mails: list[Mail] = field(default_factory=list)

    def to(self, recipient: Address) -> list[Mail]:
        """The mail for one address."""
        return [mail for mail in self.mails if recipient in mail.recipients]

    def put(self, mail: Mail) -> bool:
        """Keep a message, unless the mailbox is full."""
        if len(self.mails) >= MAX_KEPT:
            return False
        self.mails.append(mail)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class MailHost:
    """One host: its name, the domains it takes mail for, its certificate (None: no TLS at all), and its behaviour.

    `replies` are those to RCPT for some recipients, and to MAIL under that word.
    """

    name: Domain
    domains: frozenset[Domain]
    context: ssl.SSLContext | None
    mailbox: Mailbox
    behaviour: Behaviour = Behaviour.NORMAL
    replies: Mapping[str, Reply] = field(default_factory=dict)

    async def serve(self, listener: trio.SocketListener) -> None:
        """Take connections until cancelled. Nothing a client does ends it."""
        answer = self.answering()

        async def connection(transport: trio.SocketStream) -> None:
            with suppress(OSError):
                await answer(transport, str(transport.socket.getpeername()[0]))

        await trio.serve_listeners(connection, [listener])

    def answering(self) -> Callable[[trio.abc.Stream, str], Awaitable[None]]:
        """What becomes of a connection from an address, whatever carries it."""
        honest = self._prepare()
        context = None if self.behaviour is Behaviour.NO_STARTTLS else self.context
        settings = ServerSettings(hostname=self.name, context=context, max_size=MAX_MESSAGE)

        async def answer(transport: trio.abc.Stream, peer: str) -> None:
            stream = transport if honest else _Meddling(transport, self.behaviour)
            with trio.move_on_after(_CONNECTION_LIMIT):
                await serve(stream, _Acceptor(self), settings, peer=peer)
            await trio.aclose_forcefully(transport)

        return answer

    def _prepare(self) -> bool:
        """Make the context behave as the host does. Whether that is enough, so that the stream need not meddle."""
        context = self.context
        if context is None or self.behaviour in (Behaviour.NORMAL, Behaviour.NO_STARTTLS):
            return True
        if self.behaviour is Behaviour.CLIENT_CERTIFICATE:
            # In TLS 1.3 the client learns of it only behind its own end of the handshake (RFC 8446 §4.4.2.4).
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            return True
        if self.behaviour is Behaviour.NO_CLOSE_NOTIFY:
            # Only there an alert can be told from data by who does not hold the keys (RFC 8446 §5.2).
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            return False
        return self.behaviour is Behaviour.OLD_TLS and _make_old(context)


def _make_old(context: ssl.SSLContext) -> bool:
    """Let a context speak TLS 1.0 only; False where the local OpenSSL has forgotten how."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers("ALL:@SECLEVEL=0")
    except (ValueError, ssl.SSLError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Acceptor:
    """Takes mail for the host's own domains."""

    host: MailHost

    async def mail(self, session: Session, sender: Address | None, parameters: Mapping[str, str]) -> Reply | None:
        return self.host.replies.get("MAIL")

    async def rcpt(self, session: Session, recipient: Address, parameters: Mapping[str, str]) -> Reply | None:
        if str(recipient) in self.host.replies:
            return self.host.replies[str(recipient)]
        if recipient.domain in self.host.domains:
            return None
        return Reply(550, ("no such recipient here",), "5.1.1")

    async def content(self, session: Session, envelope: Envelope) -> Whole:
        return Whole(session, envelope, self._keep)

    async def authenticate(self, session: Session, user: str, password: str) -> bool:
        return False

    async def _keep(self, session: Session, envelope: Envelope, content: bytes) -> Reply:
        mail = Mail(
            host=self.host.name,
            helo=session.helo,
            protocol=session.tls.protocol if session.tls else "",
            sender=envelope.sender,
            recipients=envelope.recipients,
            require_tls=envelope.require_tls,
            content=content,
        )
        if not self.host.mailbox.put(mail):
            return Reply(452, ("the mailbox of the lab is full",), "4.2.2")
        return Reply(250, ("kept",), "2.0.0")


class _Meddling(trio.abc.Stream):
    """A transport that behaves well until STARTTLS, and then as `behaviour` says."""

    def __init__(self, inner: trio.abc.Stream, behaviour: Behaviour) -> None:
        self._inner, self._behaviour = inner, behaviour
        self._asked = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._inner.receive_some(max_bytes))
        if self._asked and self._behaviour not in (Behaviour.INJECTION, Behaviour.NO_CLOSE_NOTIFY):
            return await self._instead_of_handshake(data)
        if data.strip().upper() != b"STARTTLS" or self._behaviour is Behaviour.SLOW:
            return data
        if self._behaviour is Behaviour.STARTTLS_REFUSED:
            await self._inner.send_all(b"454 4.7.0 TLS is not available for a temporary reason\r\n")
            return await self.receive_some(max_bytes)
        self._asked = True
        return data

    async def _instead_of_handshake(self, hello: bytes) -> bytes:
        """Answer the client's first TLS record, and tell the server that the client is gone."""
        if self._behaviour is Behaviour.SILENT:
            while hello:
                hello = bytes(await self._inner.receive_some())
        elif self._behaviour is Behaviour.GARBAGE:
            await self._inner.send_all(b"500 5.5.1 what do you mean by that?\r\n")
        elif self._behaviour is Behaviour.OLD_TLS:
            await self._inner.send_all(_PROTOCOL_VERSION_ALERT)
        await self._inner.aclose()
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._behaviour is Behaviour.SLOW:
            for start in range(0, len(data), _PIECE):
                await self._inner.send_all(data[start : start + _PIECE])
                await trio.sleep(_PAUSE)
        elif self._asked and self._behaviour is Behaviour.INJECTION:
            self._asked = False
            await self._inner.send_all(bytes(data) + b"250 2.0.0 injected\r\n")
        elif not (self._asked and self._behaviour is Behaviour.NO_CLOSE_NOTIFY and bytes(data[:1]) == _ALERT):
            await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()
