"""The log in files of the data directory, so that `postward logs` finds a message's way whatever becomes of stderr.

Each process has files of its own and so turns them over alone: `0.jsonl` is being written, `0.jsonl.1` came before it. Lines
are gathered for a moment, because a write for each would cost a relay more than the lines themselves; what is a warning or
worse is written at once. A disk that is full costs lines and stops nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from postward import log

FOLDER: Final = "log"
PIECES: Final = 5
"""How many files share the room of a process."""
FLUSH_AFTER: Final = 1.0
"""Seconds that a line may wait."""
_TOGETHER: Final = 64 * 1024


class LogFile:
    """Takes lines, in at most `max_bytes` of files. May be used from several threads."""

    def __init__(self, path: Path, *, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._piece, self._clock = path, max(1, max_bytes // PIECES), clock
        self._lines: list[str] = []
        self._held = 0
        self._flushed = clock()
        self._file = -1
        self._size = 0
        self._lock = threading.Lock()

    def write(self, line: str, *, urgent: bool = False) -> None:
        """Take a line."""
        self._lines.append(line)
        self._held += len(line)
        if urgent or self._held > _TOGETHER or self._clock() - self._flushed > FLUSH_AFTER:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered."""
        with self._lock:
            self._flushed, self._held = self._clock(), 0
            lines, self._lines = self._lines, []
            if not lines:
                return
            data = ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
            try:
                if self._file < 0 or self._size + len(data) > self._piece:
                    self._turn(len(data))
                os.write(self._file, data)
                self._size += len(data)
            except OSError:
                self._close()

    def close(self) -> None:
        """Write what is gathered, and let go."""
        self.flush()
        with self._lock:
            self._close()

    def _turn(self, coming: int) -> None:
        """Open the file, or begin a new one where this one is full. Raises `OSError`."""
        if self._file < 0:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()
        if self._size and self._size + coming > self._piece:
            self._close()
            for number in range(PIECES - 1, 0, -1):
                older = self._path.with_name(f"{self._path.name}.{number}")
                newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
                with suppress(FileNotFoundError):
                    newer.replace(older)
            self._open()

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size

    def _close(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
        self._file = -1


@contextmanager
def kept(data_dir: Path, name: str, *, max_bytes: int) -> Iterator[LogFile | None]:
    """Keep what this process logs in a block, in files that are called `name`; nothing is kept where `max_bytes` is 0."""
    if not max_bytes:
        yield None
        return
    file = LogFile(data_dir / FOLDER / f"{name}.jsonl", max_bytes=max_bytes)
    log.keep_in(file.write)
    try:
        yield file
    finally:
        log.keep_in(None)
        file.close()
