"""The open doors: sockets that accept clients, each client on a task of its own, none able to take the others down.

Clients are bounded at each door, in all and for each address (or IPv6 /64); who comes beyond that hears 421 and goes.
Certificates are read again on demand, and a new one that cannot be used leaves the old one in force.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from postward.errors import ConfigError
from postward.listen.clients import client_of
from postward.log import new_cid
from postward.smtp.server import Closing, serve
from postward.stream import SocketStream
from postward.tls import server_context

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from postward.config import ListenConfig
    from postward.smtp.server import Handler, ServerSettings

_FULL: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Clients that were gone before they were accepted.
_GONE: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN})
_BREATHE: Final = 0.1
_BUSY: Final = b"421 4.7.0 too many connections, please come back\r\n"
_BUSY_WITHIN: Final = 2.0


class Certificate:
    """A certificate in use. `context` is what new connections get; it stays the same object when it is reloaded."""

    def __init__(self, cert_file: Path, key_file: Path, *, where: str) -> None:
        self._files, self._where = (cert_file, key_file), where
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        cert_file, key_file = self._files
        try:
            context: ssl.SSLContext = server_context(cert_file, key_file)
            return context
        except ssl.SSLError as exc:
            reason = exc.reason or "it is no PEM"
            raise ConfigError(f"the certificate cannot be used: {cert_file}: {reason}", key=self._where) from exc
        except OSError as exc:
            raise ConfigError(f"the certificate or its key cannot be read: {exc.strerror}", key=self._where) from exc

    def reload(self) -> None:
        """Read the files again. Raises `ConfigError`; then what was loaded before stays in use."""
        self._load()
        try:
            self.context.load_cert_chain(*self._files, password="")
        except OSError as exc:
            # They were replaced between the two looks, one after the other.
            raise ConfigError(f"the certificate or its key changed while it was read: {exc}", key=self._where) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One listening socket, and how clients are served there."""

    entry: ListenConfig
    socket: socket.socket
    handler: Handler
    settings: ServerSettings


class Listeners:
    """Serves all doors while `run` is running."""

    def __init__(self, doors: Sequence[Door], log: FilteringBoundLogger) -> None:
        self._doors, self._log = doors, log
        self._clients = 0
        self._at = Counter[int]()
        self._from = Counter[tuple[int, str]]()
        self._accepting = trio.CancelScope()
        self._closing = Closing()
        self._gone = trio.Event()

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return self._clients

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and serve until cancelled, or until `close` and the last client has gone."""
        async with trio.open_nursery() as clients:
            with self._accepting:
                async with trio.open_nursery() as doors:
                    for number, door in enumerate(self._doors):
                        doors.start_soon(self._accept, number, door, clients)
                    task_status.started()

    async def close(self, within: float) -> None:
        """Accept nobody more, and give those whose message is on its way `within` seconds to finish."""
        self._accepting.cancel()
        self._closing.begin()
        for door in self._doors:
            if door.socket.fileno() >= 0:
                trio.lowlevel.notify_closing(door.socket)
            door.socket.close()
        with trio.move_on_after(within):
            while self._clients:
                await self._gone.wait()

    async def _accept(self, number: int, door: Door, clients: trio.Nursery) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(door.socket)
                accepted, address = door.socket.accept()
            except BlockingIOError:
                # Another worker took it.
                continue
            except OSError as exc:
                if exc.errno in (errno.EBADF, errno.EINVAL):
                    raise
                if exc.errno not in _GONE:
                    event = "out-of-files" if exc.errno in _FULL else "accept-failed"
                    self._log.error(event, listener=door.entry.bind, error=exc.strerror)
                await trio.sleep(0 if exc.errno in _GONE else _BREATHE)
                continue
            peer = address[0] if isinstance(address, tuple) else ""
            stream = SocketStream(accepted)
            key = (number, client_of(peer))
            too_many = bool(peer) and self._from[key] >= door.entry.max_per_client
            if too_many or self._at[number] >= door.entry.max_clients:
                clients.start_soon(self._turn_away, stream, peer)
                continue
            self._clients += 1
            self._at[number] += 1
            self._from[key] += 1
            clients.start_soon(self._client, door, stream, peer, key)

    async def _client(self, door: Door, stream: SocketStream, peer: str, key: tuple[int, str]) -> None:
        new_cid()
        try:
            await serve(stream, door.handler, door.settings, peer=peer, closing=self._closing)
        except Exception:  # noqa: BLE001 - one client's trouble must not end the others
            self._log.exception("client-crashed", peer=peer)
            await trio.aclose_forcefully(stream)
        finally:
            self._clients -= 1
            self._at[key[0]] -= 1
            self._from[key] -= 1
            if not self._from[key]:
                del self._from[key]
            gone, self._gone = self._gone, trio.Event()
            gone.set()

    async def _turn_away(self, stream: SocketStream, peer: str) -> None:
        self._log.warning("too-many-connections", peer=peer or "unix")
        with trio.move_on_after(_BUSY_WITHIN), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(_BUSY)
        await trio.aclose_forcefully(stream)
