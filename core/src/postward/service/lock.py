"""One service for one directory, because two would deliver everything twice.

What counts is the kernel's lock (flock) on a file in it, which dies with the last process that holds it: the service and its
workers. The number in the file only tells people, and a successor, whose lock it is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio

from postward.data_dir import make_data_dir
from postward.errors import PostwardError

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from postward.config import Config

NAME: Final = "run.lock"
WORKERS_MAY_FINISH: Final = 60.0
_LOOK_EVERY: Final = 0.1


class InUse(PostwardError):
    """Another service runs on this directory."""


@asynccontextmanager
async def locked(config: Config, log: FilteringBoundLogger) -> AsyncIterator[int]:
    """Hold the data directory for a block, made where it is missing; gives the descriptor, by which workers hold the lock, too.

    Where a service was killed and its workers are still finishing, it waits for them. Raises `InUse`, and `PostwardError` for
    a directory that cannot be used.
    """
    data_dir = config.core.data_dir
    make_data_dir(config)
    descriptor = _open(data_dir)
    try:
        await _acquire(descriptor, data_dir, log)
        with suppress(OSError):  # on a full disk the service must start all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _open(data_dir: Path) -> int:
    try:
        return os.open(data_dir / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise PostwardError(f"{data_dir / NAME}: {exc.strerror or exc}") from exc


async def _acquire(descriptor: int, data_dir: Path, log: FilteringBoundLogger) -> None:
    until, told = trio.current_time() + WORKERS_MAY_FINISH, False
    while not _try(descriptor, data_dir):
        holder = _holder(descriptor)
        if holder is None or _lives(holder) or trio.current_time() > until:
            whose = f"process {holder}" if holder else "another process"
            raise InUse(f"{data_dir}: another postward run ({whose}) runs on this directory, and two would send mail twice")
        if not told:
            log.warning("waiting-for-workers", left_by=holder, hint="they finish what they have begun")
            told = True
        await trio.sleep(_LOOK_EVERY)


def _try(descriptor: int, data_dir: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        raise PostwardError(f"{data_dir / NAME}: cannot be locked: {exc.strerror or exc}") from exc
    return True


def _holder(descriptor: int) -> int | None:
    """The process that wrote its number; None where there is none to be read."""
    text = os.pread(descriptor, 20, 0).strip()
    return int(text) if text.isdigit() else None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
