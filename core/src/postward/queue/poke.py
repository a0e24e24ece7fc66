"""A tap on the shoulder of the running service: a datagram to a Unix socket beside the database, so that it looks at once.

Nothing depends on it. What was changed stands in the database, where the service finds it within half a minute by itself; a
poke that nobody hears is no error. A `ping` is answered, which is how others learn whether a service runs. The socket is
open to the owner of the data and to root alone.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog
import trio

NAME: Final = "poke.sock"
ANSWER_WITHIN: Final = 1.0
_WAKE: Final = b"wake"
_PING: Final = b"ping"
_PONG: Final = b"pong"
_LONGEST: Final = 64
# What fits into an address; longer paths are spoken of by their open directory.
_ADDRESS: Final = 100

_log = structlog.get_logger("postward.queue")


class Life(StrEnum):
    """What is known of the service. `SILENT`: something holds the socket and does not answer; `UNKNOWN`: may not be asked."""

    RUNNING = "running"
    SILENT = "silent"
    ABSENT = "not running"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of asking: `process` and `since` (microseconds UTC) are those of a service that answered, else 0."""

    life: Life
    process: int = 0
    since: int = 0


async def listen(
    path: Path, wake: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Call `wake` for each poke, and answer pings, until cancelled.

    The path is taken over from whoever had it: the newest service is the one to be spoken to. Where the socket cannot be
    made, that is logged, and this returns at once: pokes only spare waiting.
    """
    try:
        sock = await trio.to_thread.run_sync(_bind, path)
    except OSError as exc:
        _log.warning("poke-unavailable", socket=str(path), error=exc.strerror or str(exc), hint="changes are noticed later")
        task_status.started()
        return
    since = time.time_ns() // 1000
    ours = _identity(path)
    with trio.socket.from_stdlib_socket(sock) as inbox:
        try:
            task_status.started()
            while True:
                data, sender = await inbox.recvfrom(_LONGEST)
                if data == _WAKE:
                    wake()
                elif data == _PING and sender:
                    # To somebody who has gone, or whose inbox is full, nothing is owed.
                    with suppress(OSError):
                        sock.sendto(b"%s %d %d" % (_PONG, os.getpid(), since), socket.MSG_DONTWAIT, sender)
        finally:
            if ours is not None and _identity(path) == ours:
                _remove(path)


def poke(path: Path) -> bool:
    """Tell the service to look into the queue; whether there was one to be told. Never waits, never fails."""
    with suppress(OSError), _socket() as sock, _address(path) as address:
        sock.setblocking(False)
        with suppress(BlockingIOError):  # so many pokes lie there that it will look in any case
            sock.sendto(_WAKE, address)
        return True
    return False


def ask(path: Path, within: float = ANSWER_WITHIN) -> Answer:
    """Whether a service runs: it has `within` seconds to answer. Leaves nothing behind in the file system."""
    try:
        with _socket() as sock, _address(path) as address:
            sock.bind("")  # an abstract address of its own, to be answered at
            sock.settimeout(within)
            sock.connect(address)
            sock.send(_PING)
            return _answer(sock.recv(_LONGEST))
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return Answer(life=Life.ABSENT)
    except PermissionError:
        return Answer(life=Life.UNKNOWN)
    except OSError:  # a time-out is one
        return Answer(life=Life.SILENT)


def _answer(data: bytes) -> Answer:
    word, *numbers = data.split()
    if word != _PONG or len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        return Answer(life=Life.SILENT)
    return Answer(life=Life.RUNNING, process=int(numbers[0]), since=int(numbers[1]))


def _bind(path: Path) -> socket.socket:
    """A bound socket that takes its place in one step: nobody sees it with another mode, or finds none in between."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    sock = _socket()
    try:
        with suppress(FileNotFoundError):
            new.unlink()
        with _address(new) as address:
            sock.bind(address)
        try:
            new.chmod(0o600)
            if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
                raise FileExistsError(17, "there is something else of this name")
            new.replace(path)
        except BaseException:
            new.unlink()
            raise
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """What to call a socket by: its path, or, where that is too long for an address, a short one of the same file."""
    if len(os.fsencode(path)) <= _ADDRESS:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
