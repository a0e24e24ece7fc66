"""The web side of a running service: one socket, few clients at a time, and nobody able to take the others down."""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from postward.errors import ConfigError
from postward.listen.listener import Certificate
from postward.stream import SocketStream
from postward.tls import TlsError, server_handshake
from postward.web.exchange import Exchange
from postward.web.routes import Pages

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.config import WebConfig

# Each may have a report of 15 MiB in memory.
MOST: Final = 32
MOST_PER_CLIENT: Final = 4
HANDSHAKE_WITHIN: Final = 20.0
_BREATHE: Final = 0.1


class WebServer:
    """Answers on `sock` while `run` is running."""

    def __init__(self, config: WebConfig, pages: Pages, sock: socket.socket, log: FilteringBoundLogger) -> None:
        self._pages, self._socket, self._log = pages, sock, log
        self._clients = Counter[str]()
        self._certificate: Certificate | None = None
        if config.cert_file is not None and config.key_file is not None:
            self._certificate = Certificate(config.cert_file, config.key_file, where="web.cert_file")

    def reload(self) -> None:
        """Read the certificate again; one that cannot be used is named in the log, and the old one stays."""
        if self._certificate is not None:
            try:
                self._certificate.reload()
            except ConfigError as exc:
                self._log.error("certificate-not-reloaded", error=str(exc))

    async def run(self) -> None:
        """Accept and answer until cancelled."""
        async with trio.open_nursery() as clients:
            while True:
                try:
                    await trio.lowlevel.wait_readable(self._socket)
                    accepted, address = self._socket.accept()
                except BlockingIOError:
                    continue
                except OSError as exc:
                    self._log.error("accept-failed", listener="web", error=exc.strerror)
                    await trio.sleep(_BREATHE)
                    continue
                peer = address[0] if isinstance(address, tuple) else ""
                # Behind a web server of this machine, all clients have its address.
                most = MOST if not peer or ipaddress.ip_address(peer.partition("%")[0]).is_loopback else MOST_PER_CLIENT
                if self._clients.total() >= MOST or self._clients[peer] >= most:
                    accepted.close()
                    continue
                self._clients[peer] += 1
                clients.start_soon(self._client, SocketStream(accepted), peer)

    async def _client(self, transport: SocketStream, peer: str) -> None:
        try:
            stream: trio.abc.Stream | None = transport
            if self._certificate is not None:
                stream = None
                with trio.move_on_after(HANDSHAKE_WITHIN), suppress(TlsError, OSError, trio.BrokenResourceError):
                    stream = await server_handshake(transport, self._certificate.context)
            if stream is not None:
                await Exchange(stream, self._pages, self._log, peer=peer).run()
        except Exception:  # noqa: BLE001 - one client's trouble must not end the others
            self._log.exception("client-crashed", peer=peer)
        finally:
            self._clients[peer] -= 1
            if not self._clients[peer]:
                del self._clients[peer]
            await trio.aclose_forcefully(transport)
