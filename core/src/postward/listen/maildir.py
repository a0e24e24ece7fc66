"""Where received mail goes that nobody forwards: a Maildir, one file per message, bounded in all.

A message is on disk, in `new`, when `deliver` returns (https://cr.yp.to/proto/maildir.html).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from postward.errors import StoreError

_PARTS: Final = ("tmp", "new", "cur")
_LOOK_AGAIN: Final = 60.0


class Full(StoreError):
    """There is as much in it as there may be."""


class Maildir:
    """A Maildir at `path` of at most `max_bytes`; `inline` keeps the work out of threads."""

    def __init__(
        self, path: Path, *, max_bytes: int, inline: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._most, self._inline, self._clock = path, max_bytes, inline, clock
        self._size: int | None = None
        self._looked = 0.0

    async def deliver(self, name: str, content: bytes) -> None:
        """Put a message into it; `name` is unique. Raises `Full`, and `StoreError` where it cannot be written."""
        try:
            if self._inline:
                self._write(name, content)
            else:
                await trio.to_thread.run_sync(self._write, name, content)
        except OSError as exc:
            raise StoreError(f"{self._path}: {exc.strerror or exc}") from exc

    def _write(self, name: str, content: bytes) -> None:
        for part in _PARTS:
            (self._path / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_sure_of_room(len(content))
        temporary, final = self._path / "tmp" / name, self._path / "new" / name
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._size = (self._size or 0) + len(content)

    def _make_sure_of_room(self, size: int) -> None:
        """What is in it is counted at first, and again from time to time once it is full: somebody may have read it."""
        now = self._clock()
        full = self._size is not None and self._size + size > self._most
        if self._size is None or (full and now - self._looked >= _LOOK_AGAIN):
            self._size, self._looked = self._measure(), now
        if self._size + size > self._most:
            raise Full(f"{self._path}: {self._most} bytes are reached")

    def _measure(self) -> int:
        total = 0
        for part in _PARTS:
            with os.scandir(self._path / part) as entries:
                for entry in entries:
                    try:
                        total += entry.stat().st_size
                    except FileNotFoundError:
                        continue
        return total
