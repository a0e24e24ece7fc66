"""Handshakes that do not verify, so that every policy can be judged on the chain that the server sent (RFC 3207, RFC 8446).

When a handshake fails the peer is told why, by the alert that OpenSSL has ready.
"""

from __future__ import annotations

import _ssl
import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import trio

from postward.model import Failure, TlsPeer
from postward.tls.causes import classify, tls_trouble
from postward.tls.failures import TlsError, closed, of_ssl
from postward.tls.stream import TlsStream

if TYPE_CHECKING:
    from pathlib import Path

    from postward.model import Endpoint
    from postward.names import Domain

CIPHERS: Final = "DEFAULT:!PSK:!SRP:@SECLEVEL=2"
FLUSH_LIMIT: Final = 2.0
LATE_LIMIT: Final = 0.25
_MAX_LATE_BYTES: Final = 64 * 1024
_TRANSPORT: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@lru_cache(maxsize=16)
def client_context(alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """The context of all client handshakes: TLS 1.2 or better, nothing verified. Shared, so never change it.

    RFC 8996 leaves nothing below 1.2, which RFC 8461 §7.2 and RFC 7671 §3 want at least. Certificates are X.509 alone: raw
    public keys are asked for by an extension that is not sent (RFC 7671 §5.1).
    """
    # By hand: the defaults of `create_default_context` verify, and how strictly differs between versions of Python.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python leaves out what RFC 9325 §4.2 only advises against, among it the one suite that all of TLS 1.2 has (RFC 5246 §9).
    # For an old server that would mean no mail, or mail in clear; who has something better still gets that.
    context.set_ciphers(CIPHERS)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def server_context(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """The context of a server with this certificate: TLS 1.2 or better (RFC 8996). Raises `OSError`, also as `ssl.SSLError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An encrypted key would ask for its password on a terminal that a service does not have.
    context.load_cert_chain(cert_file, key_file, password="")
    return context


async def client_handshake(
    transport: trio.abc.Stream,
    endpoint: Endpoint,
    server_name: Domain,
    *,
    alpn: Sequence[str] = (),
    abrupt_end: bool = True,
) -> tuple[TlsStream, TlsPeer]:
    """Shake hands as a client, without verifying; SNI is `server_name` unless that is an address literal.

    With `abrupt_end` a peer that closes without close_notify is at its end, otherwise the connection is broken. The caller
    bounds the time, and closes the transport when this fails. Raises `TlsError`.
    """
    # Mail servers close without close_notify, and SMTP delimits itself; without this, every QUIT would end in an error.
    stream = TlsStream(
        transport,
        client_context(tuple(alpn)),
        server_hostname=None if server_name.is_literal else str(server_name),
        abrupt_end=abrupt_end,
    )
    await _shake(stream)
    connection = stream.connection
    cipher = connection.cipher()
    peer = TlsPeer(
        endpoint=endpoint,
        server_name=server_name,
        protocol=connection.version() or "",
        cipher=cipher[0] if cipher else "",
        chain=_chain(connection),
    )
    return stream, peer


async def server_handshake(transport: trio.abc.Stream, context: ssl.SSLContext) -> TlsStream:
    """Shake hands as a server. The caller bounds the time, and closes the transport when this fails. Raises `TlsError`."""
    stream = TlsStream(transport, context, server_side=True)
    await _shake(stream)
    return stream


async def late_alert(stream: TlsStream, error: BaseException) -> Failure | None:
    """What TLS had to say when the first exchange behind a handshake failed with `error`; None when nothing.

    A TLS 1.3 server that rejects the client's certificate says so only then (RFC 8446 §4.4.2.4), and mostly resets the
    connection too, so that writing fails before the alert was read. It still stands in the transport; it is looked for there,
    for a moment. The stream cannot be used afterwards.
    """
    if trouble := tls_trouble(error):
        return trouble
    taken = 0
    with trio.move_on_after(LATE_LIMIT), suppress(*_TRANSPORT, trio.BusyResourceError):
        while taken < _MAX_LATE_BYTES and (data := await stream.transport.receive_some(16_384)):
            taken += len(data)
            stream.feed(data)
            if trouble := _next_alert(stream):
                return trouble
    return _next_alert(stream)


def _next_alert(stream: TlsStream) -> Failure | None:
    """Let OpenSSL read what has arrived, and hear whether there was an alert."""
    try:
        while stream.connection.read(16_384):
            pass
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError):
        return None
    except ssl.SSLError as exc:
        return of_ssl(exc)
    return None


async def _shake(stream: TlsStream) -> None:
    try:
        await stream.shake()
    except _TRANSPORT as exc:
        failure = classify(exc) or closed(str(exc))
        await _flush(stream)
        raise TlsError(failure) from exc


async def _flush(stream: TlsStream) -> None:
    """Send what OpenSSL has ready for the peer: the alert that says why."""
    with trio.move_on_after(FLUSH_LIMIT), suppress(*_TRANSPORT):
        await stream.flush()


def _chain(connection: Any) -> tuple[bytes, ...]:
    """The certificates that the peer sent, DER, whether they verify or not."""
    if hasattr(connection, "get_unverified_chain"):  # since Python 3.13
        return tuple(connection.get_unverified_chain() or ())
    chain = connection._sslobj.get_unverified_chain() or ()
    return tuple(certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain)
