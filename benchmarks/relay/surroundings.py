"""The world around the relays, in processes of its own: the sink that all mail goes to, and a name server.

The sink speaks just enough SMTP behind STARTTLS, on one address for each destination, and counts. It waits on all its sockets
at once and lets OpenSSL read and write them itself, which makes it several times as fast as the relays.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import selectors
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from postward.lab.ca import Authority, tlsa
from postward.names import Domain

_OFFERS: Final = (
    b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE 200000000\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SMTPUTF8\r\n"
)
_OFFERS_TLS: Final = _OFFERS.replace(b"250-SIZE", b"250-STARTTLS\r\n250-SIZE")
_END: Final = b"\r\n.\r\n"
_READ: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class World:
    """Where everything is. `progress` are the number of messages taken and the instant of the last one (monotonic)."""

    directory: Path
    sink_port: int
    dns_port: int
    domains: tuple[str, ...]
    progress: Any

    @property
    def taken(self) -> int:
        """How many messages have arrived."""
        return int(self.progress[0])

    @property
    def last(self) -> float:
        """When the last one did."""
        return float(self.progress[1])

    def address_of(self, domain: str) -> str:
        """The address of a destination's host."""
        return f"127.0.0.{self.domains.index(domain) + 1}"


class _Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.socket: Any = sock
        self.buffer = bytearray()
        self.in_content = False
        self.searched = 0
        self.shaking = False


class _Sink:
    def __init__(self, servers: list[socket.socket], pem: Path, progress: Any) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._selector = selectors.DefaultSelector()
        self._progress = progress
        for server in servers:
            self._selector.register(server, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._accept(key.fileobj)
                    continue
                try:
                    self._serve(key.data)
                except (OSError, EOFError):
                    self._selector.unregister(key.data.socket)
                    key.data.socket.close()

    def _accept(self, server: Any) -> None:
        sock, _ = server.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"220 sink.test ESMTP\r\n")
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, _Connection(sock))

    def _serve(self, connection: _Connection) -> None:
        if connection.shaking:
            return self._shake(connection)
        while True:
            try:
                data = connection.socket.recv(_READ)
            except (BlockingIOError, ssl.SSLWantReadError):
                return None
            if not data:
                raise EOFError
            connection.buffer += data
            if out := self._talk(connection):
                connection.socket.send(out)
            if connection.shaking:
                return self._start_tls(connection)
            if not isinstance(connection.socket, ssl.SSLSocket) or not connection.socket.pending():
                return None

    def _start_tls(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket = self._context.wrap_socket(connection.socket, server_side=True, do_handshake_on_connect=False)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def _shake(self, connection: _Connection) -> None:
        try:
            connection.socket.do_handshake()
        except ssl.SSLWantReadError:
            return
        connection.shaking = False

    def _talk(self, connection: _Connection) -> bytes:
        out, buffer = b"", connection.buffer
        while buffer:
            if connection.in_content:
                end = buffer.find(_END, connection.searched)
                if end < 0:
                    connection.searched = max(len(buffer) - len(_END), 0)
                    if len(buffer) > 1_000_000:
                        del buffer[: -len(_END)]
                        connection.searched = 0
                    break
                # A client that does not keep the connection sends QUIT behind it at once.
                del buffer[: end + len(_END)]
                connection.searched = 0
                connection.in_content = False
                self._progress[1] = time.monotonic()
                self._progress[0] += 1
                out += b"250 2.0.0 taken\r\n"
                continue
            end = buffer.find(b"\n") + 1
            if not end:
                break
            verb = bytes(buffer[:4]).upper()
            del buffer[:end]
            if verb == b"EHLO":
                out += _OFFERS if isinstance(connection.socket, ssl.SSLSocket) else _OFFERS_TLS
            elif verb == b"DATA":
                connection.in_content = True
                out += b"354 go on\r\n"
            elif verb == b"STAR":
                connection.shaking = True
                out += b"220 2.0.0 begin\r\n"
            elif verb == b"QUIT":
                out += b"221 2.0.0 bye\r\n"
            else:
                out += b"250 2.0.0 ok\r\n"
        return out


def _sink(pem: Path, addresses: list[str], ready: Any, progress: Any) -> None:
    first = socket.create_server((addresses[0], 0), backlog=1024)
    port = first.getsockname()[1]
    others = [socket.create_server((address, port), backlog=1024) for address in addresses[1:]]
    ready.put(port)
    with contextlib.suppress(KeyboardInterrupt):
        _Sink([first, *others], pem, progress).run()


def _names(zone: str, ready: Any) -> None:
    import trio

    from postward.lab.dnsserver import serve_udp
    from postward.lab.zones import Zones

    async def work() -> None:
        zones = Zones()
        zones.add("test.", zone)
        server = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        await server.bind(("127.0.0.1", 0))
        ready.put(server.getsockname()[1])
        await serve_udp(zones, server)

    with contextlib.suppress(KeyboardInterrupt):
        trio.run(work)


@contextlib.contextmanager
def world(directory: Path, destinations: int) -> Iterator[World]:
    """Start sink and name server for that many destinations, and end them."""
    domains = tuple(f"d{number}.test" for number in range(1, destinations + 1))
    addresses = [f"127.0.0.{number}" for number in range(1, destinations + 1)]
    authority = Authority("Benchmark")
    issued = authority.issue([Domain(f"mx.{domain}") for domain in domains])
    pem = directory / "sink.pem"
    pem.write_bytes(issued.chain_pem + issued.key_pem)
    (directory / "ca.pem").write_text(ssl.DER_cert_to_PEM_cert(authority.root))
    zone = "".join(
        f"{domain}. MX 10 mx.{domain}.\nmx.{domain}. A {address}\n_25._tcp.mx.{domain}. TLSA {tlsa(issued.certificate)}\n"
        for domain, address in zip(domains, addresses, strict=True)
    )
    context = multiprocessing.get_context("spawn")
    progress = context.Array("d", 2, lock=False)
    ports, helpers = [], []
    for work, arguments in ((_sink, (pem, addresses)), (_names, (zone,))):
        ready = context.Queue()
        more = (progress,) if work is _sink else ()
        helper = context.Process(target=work, args=(*arguments, ready, *more), daemon=True)
        helper.start()
        helpers.append(helper)
        ports.append(ready.get(timeout=30))
    try:
        yield World(directory, ports[0], ports[1], domains, progress)
    finally:
        for helper in helpers:
            helper.terminate()
            helper.join()
