"""The sockets that listeners accept on: bound from the configuration, or handed down by the process that supervises workers."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from postward.errors import ConfigError

if TYPE_CHECKING:
    from postward.config import Config

INHERITED: Final = "POSTWARD_LISTEN_FDS"
BACKLOG: Final = 1024
UNIX_MODE: Final = 0o660


def bind_all(config: Config) -> list[socket.socket]:
    """One listening socket for each `[[listen]]` table, in their order. Raises `ConfigError` naming the table."""
    bound: list[socket.socket] = []
    try:
        for number, entry in enumerate(config.listen):
            try:
                bound.append(bind(entry.bind))
            except OSError as exc:
                reason = os.strerror(exc.errno) if exc.errno else str(exc)
                message = f"cannot listen on {entry.bind}: {reason}"
                raise ConfigError(message, file=str(config.file or ""), key=f"listen[{number}].bind") from exc
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def bind(place: str) -> socket.socket:
    """Listen on `address:port`, `[IPv6]:port` or `unix:/path`. Raises `OSError`."""
    if place.startswith("unix:"):
        return _bind_unix(place.removeprefix("unix:"))
    host, _, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # One table, one socket: IPv4 has to be named on its own, so that nobody is let in by a mapped address.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _remove_stale(path)
        before = os.umask(0o777 & ~UNIX_MODE)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Take away what a program that died left behind; one that somebody still answers on is in use."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is something else in its place")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()
            else:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def unix_path(sock: socket.socket) -> Path | None:
    """The file of a Unix socket, to be removed at the end; None for any other socket. A closed one no longer knows it."""
    path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
    return Path(os.fsdecode(path)) if path else None


def remove_unix_socket(path: Path | None) -> None:
    """Take the file of a Unix socket away, if there is one."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink()


def inherited(config: Config) -> list[socket.socket] | None:
    """The sockets that the supervising process handed down; None when there is none."""
    text = os.environ.get(INHERITED)
    if text is None:
        return None
    sockets = [socket.socket(fileno=int(number)) for number in text.split(",") if number]
    if len(sockets) != len(config.listen):
        raise ConfigError("the configuration has changed its listeners while it ran; restart the service")
    for sock in sockets:
        sock.setblocking(False)
    return sockets
