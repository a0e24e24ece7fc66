"""Files of large messages. A file is whole and on disk before its row is committed, and goes after its row.

So a crash leaves at most a file without a row. Who writes a file holds a lock on it (flock) until the row is committed or the
file is gone; the lock dies with its process. A file that has neither a lock nor a row is therefore an orphan, at once and also
beside other running processes.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

import trio

from postward.errors import StoreError
from postward.model.content import header_of
from postward.queue.types import INLINE_BYTES

T = TypeVar("T")
Args = TypeVarTuple("Args")

PIECE: Final = 256 * 1024
_THREADS: Final = 8
_NAME: Final = re.compile(r"[0-9a-f]{32}")
_MAX_HEADER: Final = 1024 * 1024


class SpoolFile:
    """A new file, locked. Its methods block; they raise `OSError`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        while True:
            self.name = secrets.token_hex(16)
            self._path = folder / self.name
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if os.fstat(self._fd).st_nlink:
                return
            # It was taken for an orphan between its birth and its lock.
            os.close(self._fd)

    def append(self, data: bytes) -> None:
        """Write at the end."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        """Bring the file and its name to disk."""
        os.fsync(self._fd)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Keep it, and give up the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Give it up."""
        try:
            self._path.unlink(missing_ok=True)
        finally:
            self.close()


class Spool:
    """The folder of these files. With `inline` everything happens in the trio thread."""

    def __init__(self, folder: Path, *, inline: bool = False) -> None:
        self.folder, self._inline = folder, inline
        self._limit = trio.CapacityLimiter(_THREADS)

    async def run(self, fn: Callable[[*Args], T], *args: *Args) -> T:
        """Call a function that works on files. Raises what it raises."""
        if self._inline:
            await trio.lowlevel.checkpoint()
            return fn(*args)
        return await trio.to_thread.run_sync(fn, *args, limiter=self._limit)

    def create(self, data: bytes) -> SpoolFile:
        """Begin a file. Blocks. Raises `OSError`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = SpoolFile(self.folder)
        try:
            file.append(data)
        except BaseException:
            file.remove()
            raise
        return file

    def remove(self, names: Sequence[str]) -> list[tuple[str, OSError]]:
        """Remove files whose rows are gone; returns those that could not be. Blocks."""
        failed = []
        for name in names:
            try:
                (self.folder / name).unlink(missing_ok=True)
            except OSError as exc:
                failed.append((name, exc))
        return failed

    def content(self, name: str, head: bytes, size: int, *, eight_bit: bool) -> SpooledContent:
        """The content of a file of `size` octets behind `head`. Blocks. Raises `OSError`, `ValueError` for another size."""
        path = self.folder / name
        with path.open("rb", buffering=0) as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise ValueError(f"its file {name} has {found} octets and not {size}")
            start = head + (file.read(INLINE_BYTES) or b"")
            if b"\r\n\r\n" not in start:
                start += file.read(_MAX_HEADER) or b""
        return SpooledContent(self, path, head, size, header_of(start), eight_bit=eight_bit)

    def names(self) -> Iterator[str]:
        """The files that are there. Blocks."""
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    yield entry.name

    def lock(self, name: str) -> int | None:
        """Lock a file that nobody writes: a descriptor to be closed, or None. Blocks."""
        try:
            fd = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd


class SpooledContent:
    """The content of a message in a file (`postward.model.Content`): only its header is in memory."""

    __slots__ = ("_head", "_length", "_path", "_spool", "eight_bit", "header", "size")

    whole: bytes | None = None

    def __init__(self, spool: Spool, path: Path, head: bytes, length: int, header: bytes, *, eight_bit: bool) -> None:
        self._spool, self._path, self._head, self._length = spool, path, head, length
        self.size = len(head) + length
        self.header = header
        self.eight_bit = eight_bit

    def pieces(self) -> AsyncIterator[bytes]:
        """All of it, 256 KiB at a time. Raises `OSError` where it is not there any more."""
        return _Pieces(self._spool, self._path, self._head, self._length)


class _Pieces:
    """Each piece opens the file anew, and this is no generator: nothing is left to close when the reader stops half-way."""

    __slots__ = ("_at", "_head", "_length", "_path", "_spool")

    def __init__(self, spool: Spool, path: Path, head: bytes, length: int) -> None:
        self._spool, self._path, self._head, self._length = spool, path, head, length
        self._at = 0

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        start = self._at
        if start >= self._length:
            raise StopAsyncIteration
        self._at = min(start + PIECE, self._length)
        return await self._spool.run(_read, self._path, start, self._at - start)


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        data = file.read(length)
    if len(data) != length:
        raise OSError(f"{path}: it is shorter than it was")
    return data


def spool_trouble(error: OSError) -> StoreError:
    """Trouble with the spool, for an operator."""
    return StoreError(f"spool: {error.strerror or error}")
