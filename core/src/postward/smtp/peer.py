"""Which certificates a mail server shows: SMTP up to the handshake and not a step further, verified by nobody (RFC 3207).

For whoever checks or advises. Mail takes another way, `postward.delivery`, which judges and counts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import trio

from postward.model import TlsPeer
from postward.names import Domain
from postward.smtp.client import SmtpConnection
from postward.smtp.reply import SmtpError
from postward.tls import TlsError, client_handshake

if TYPE_CHECKING:
    from postward.model import Endpoint
    from postward.net import Network

TIME_LIMIT: Final = 30.0


class NoPeer(Exception):
    """The server could not be reached, or offers no TLS. Its text is one line for people."""


async def fetch_peer(
    net: Network, endpoint: Endpoint, server_name: Domain, hostname: Domain, *, within: float = TIME_LIMIT
) -> TlsPeer:
    """Connect, EHLO as `hostname`, STARTTLS with `server_name` as SNI, and leave. Raises `NoPeer`, also after `within` s."""
    try:
        with trio.fail_after(within):
            stream = await net.open_stream(endpoint)
            connection = SmtpConnection(stream)
            try:
                return await _shake(connection, endpoint, server_name, hostname)
            finally:
                await connection.aclose()
    except trio.TooSlowError:
        raise NoPeer(f"{endpoint.address} did not answer within {within:g} s") from None
    except OSError as exc:
        raise NoPeer(os.strerror(exc.errno) if exc.errno else " ".join(str(exc).split())[:300]) from exc
    except (SmtpError, TlsError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise NoPeer(" ".join(str(exc).split())[:300] or type(exc).__name__) from exc


async def _shake(connection: SmtpConnection, endpoint: Endpoint, server_name: Domain, hostname: Domain) -> TlsPeer:
    for reply in (await connection.greet(), await connection.ehlo(str(hostname))):
        if not reply.positive:
            raise NoPeer(f"the server refused: {reply}"[:300])
    if "STARTTLS" not in connection.extensions:
        raise NoPeer("the server does not offer STARTTLS")
    reply = await connection.starttls()
    if not reply.positive:
        raise NoPeer(f"STARTTLS was refused: {reply}"[:300])
    stream, peer = await client_handshake(connection.stream, endpoint, server_name)
    connection.upgraded(stream)
    if (await connection.ehlo(str(hostname))).positive:
        await connection.quit()
    return peer
