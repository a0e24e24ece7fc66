"""Mail, name and web servers that lie, flood, stop in the middle or fall over, on real sockets, one domain for each.

A mail host is good up to one reply and gives something else in its place. What is sent without end is sent until the other
side has had enough, and never buffered here.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from postward.lab.ca import Authority, Issued
from postward.lab.dnsserver import serve_tcp, serve_udp
from postward.lab.ground import DNS, WEB, Ground, claim
from postward.lab.zones import Zones
from postward.tls import TlsError, TlsStream, server_handshake

Stream = trio.abc.Stream
Act = Callable[[Stream], Awaitable[None]]
AUTHORITY = Authority("Hostile WebPKI")
_LIMIT = 30
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, TlsError)


class Over(Exception):
    """The conversation ends here."""


# --- what a peer may do in place of a reply ---


def say(data: bytes) -> Act:
    """Something else, and then go on."""

    async def act(stream: Stream) -> None:
        await stream.send_all(data)

    return act


def flood(first: bytes, endlessly: bytes) -> Act:
    """Something without end."""

    async def act(stream: Stream) -> None:
        await stream.send_all(first)
        while True:
            await stream.send_all(endlessly)

    return act


def after_hello(act: Act) -> Act:
    """Let the client begin its handshake first, or what comes would still be SMTP."""

    async def wait(stream: Stream) -> None:
        await stream.receive_some(65536)
        await act(stream)
        raise Over

    return wait


async def close(stream: Stream) -> None:
    """Close the connection, without a word of TLS."""
    await trio.aclose_forcefully(stream)
    raise Over


async def reset(stream: Stream) -> None:
    """Reset the connection."""
    transport = stream.transport if isinstance(stream, TlsStream) else stream
    transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await close(stream)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A mail host: good up to the reply `at`, where it does `act`; `issued` is its certificate."""

    at: str = ""
    act: Act = close
    issued: Issued | None = None
    extensions: bytes = b""
    limit: float = 30

    async def __call__(self, transport: Stream, context: ssl.SSLContext) -> None:
        """Hold one conversation."""
        with trio.move_on_after(self.limit):
            try:
                await self._converse(transport, context)
            except (Over, *_GONE):
                pass
        await trio.aclose_forcefully(transport)

    async def _converse(self, stream: Stream, context: ssl.SSLContext) -> None:
        await self._reply(stream, "greeting", b"220 mx.test ESMTP\r\n")
        buffer, secure, content = bytearray(), False, False
        while data := await stream.receive_some(65536):
            buffer += data
            while (end := buffer.find(b"\r\n.\r\n" if content else b"\r\n")) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + (5 if content else 2)]
                verb = "CONTENT" if content else line.split(b" ")[0].decode("ascii", "replace").upper()
                content = False
                if verb == "EHLO":
                    offers = (
                        b"250-mx.test\r\n" + self.extensions + (b"" if secure else b"250-STARTTLS\r\n") + b"250 8BITMIME\r\n"
                    )
                    await self._reply(stream, "ehlo-tls" if secure else "ehlo", offers)
                elif verb == "STARTTLS":
                    await self._reply(stream, "starttls", b"220 go\r\n")
                    await self._reply(stream, "handshake", b"")
                    stream, secure = await server_handshake(stream, context), True
                elif verb == "DATA":
                    await self._reply(stream, "data", b"354 go\r\n")
                    content = True
                else:
                    await self._reply(stream, verb.lower(), b"221 bye\r\n" if verb == "QUIT" else b"250 2.0.0 ok\r\n")

    async def _reply(self, stream: Stream, step: str, reply: bytes) -> None:
        if step != self.at:
            await stream.send_all(reply)
            return
        await self.act(stream)


# --- certificates ---


def long_chain(length: int) -> Issued:
    """A good certificate below `length` authorities, each vouching for the next."""
    key = generate_private_key(SECP256R1())
    authority = AUTHORITY
    for number in range(length):
        authority = authority.subordinate(f"Subordinate {number}", key=key)
    return authority.issue(["mx.test"])


def huge_key() -> Issued:
    """A chain whose authority claims an RSA key of 16384 bits with a huge exponent, so that checking it would take long."""
    modulus = secrets.randbits(16384) | 1 << 16383 | 1
    public = rsa.RSAPublicNumbers(e=(1 << 33) + 1, n=modulus).public_key()
    subject = AUTHORITY.subordinate("Huge", key=generate_private_key(SECP256R1()))
    issued = subject.issue(["mx.test"])
    pattern = x509.load_der_x509_certificate(subject.certificate)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(extensions=list(pattern.extensions))
        .subject_name(pattern.subject)
        .issuer_name(pattern.issuer)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
    )
    certificate = builder.sign(AUTHORITY.key, hashes.SHA256())  # type: ignore[arg-type]
    der = certificate.public_bytes(serialization.Encoding.DER)
    return Issued(certificate=issued.certificate, key=issued.key, chain=(issued.certificate, der))


# --- web hosts ---

Page = Callable[[Stream, bytes], Awaitable[None]]


def page(head: bytes, body: bytes = b"", *, endlessly: bytes = b"") -> Page:
    """Answer every request with the same bytes, at last without end."""

    async def serve(stream: Stream, host: bytes) -> None:
        await stream.send_all(head.replace(b"HOST", host) + body)
        while endlessly:
            await stream.send_all(endlessly)

    return serve


@dataclass(slots=True)
class Web:
    """All policy hosts at one address; the Host field chooses the page."""

    pages: Mapping[str, Page]
    context: ssl.SSLContext
    requests: list[str] = field(default_factory=list)

    async def __call__(self, transport: trio.SocketStream) -> None:
        """Answer one request."""
        with trio.move_on_after(_LIMIT):
            try:
                stream = await server_handshake(transport, self.context)
                request = bytes(await stream.receive_some(65536))
                host = next(line[6:] for line in request.split(b"\r\n") if line.lower().startswith(b"host: "))
                self.requests.append(host.decode())
                await self.pages[host.decode().removeprefix("mta-sts.")](stream, host)
                await stream.aclose()
            except _GONE:
                pass
        await trio.aclose_forcefully(transport)


# --- the world ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One domain: its mail host, its web page, and its records; in them, `{address}` is that of its mail host.

    `delivered` and `permanent` are what must come of mail to it, `said` stands in its reply or its attempts' errors,
    `result` is the result type of a policy in some attempt, `sessions` how many results are counted.
    """

    host: Host = Host()
    page: Page | None = None
    records: str = "@ MX 10 mx\nmx A {address}\n"
    delivered: bool = False
    permanent: bool = False
    said: str = ""
    result: str = ""
    sessions: int | None = None


def domain_of(name: str) -> str:
    return f"{name}.test"


@dataclass(slots=True)
class World:
    """Servers for every case."""

    cases: Mapping[str, Case]
    ground: Ground
    web: Web

    @property
    def port(self) -> int:
        """The port of all of them."""
        return self.ground.port

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        zones = Zones()
        plain = AUTHORITY.issue(["mx.test"])
        try:
            async with trio.open_nursery() as nursery:
                for number, (name, case) in enumerate(self.cases.items()):
                    address = f"127.0.11.{number + 1}"
                    records = case.records.format(address=address)
                    if case.page is not None:
                        records += f'_mta-sts TXT "v=STSv1; id=1"\nmta-sts A {WEB}\n'
                    zones.add(domain_of(name), records)
                    context = (case.host.issued or plain).server_context()
                    nursery.start_soon(_serve, case.host, context, self.ground.listeners[address])
                nursery.start_soon(trio.serve_listeners, self.web, [self.ground.listeners[WEB]])
                nursery.start_soon(serve_udp, zones, self.ground.datagrams)
                nursery.start_soon(serve_tcp, zones, self.ground.listeners[DNS])
                task_status.started()
        finally:
            self.ground.close()


async def _serve(host: Host, context: ssl.SSLContext, listener: trio.SocketListener) -> None:
    async def connection(stream: trio.SocketStream) -> None:
        await host(stream, context)

    await trio.serve_listeners(connection, [listener])


def build(cases: Mapping[str, Case]) -> World:
    """Sockets and certificates for the cases."""
    pages = {domain_of(name): case.page for name, case in cases.items() if case.page is not None}
    context = AUTHORITY.issue([f"mta-sts.{domain}" for domain in pages]).server_context()
    ground = claim([WEB, *(f"127.0.11.{number + 1}" for number in range(len(cases)))])
    return World(cases, ground, Web(pages, context))
