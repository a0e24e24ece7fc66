"""Files to read reports from: single files, mbox, Maildir, directories of any size, standard input; one message at a time.

Whatever cannot be read comes as a source with an error, so one bad file never stops the others. Nothing is held but the
message at hand, and directories are walked as they are listed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Final

_MBOX: Final = b"From "
_LINE: Final = 64 * 1024
_MAILDIR: Final = ("cur", "new")
_MAX_DEPTH: Final = 50
STDIN: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something to look for reports in. `message` is its number in an mbox, from 1; `error` says why it cannot be read.

    `large`: there is more of it than was asked for, and `content` is only its start.
    """

    file: str
    content: bytes = field(default=b"", repr=False)
    message: int | None = None
    error: str = ""
    large: bool = False


def sources(paths: Iterable[str], stdin: IO[bytes], *, limit: int, large: bool = False) -> Iterator[Source]:
    """Everything in `paths`, in their order; `-` is `stdin`. Never raises for what files are.

    Nothing beyond `limit` octets is read of a file or message; with `large`, files that have more come as `Source.large`.
    """
    walk = _Walk(limit, large=large)
    for path in paths:
        if path == STDIN:
            yield from walk.opened(path, stdin)
        elif os.path.isdir(path):
            yield from walk.directory(path, 0)
        else:
            yield from walk.file(path)


@dataclass(frozen=True, slots=True)
class _Walk:
    limit: int
    large: bool = field(kw_only=True)

    def directory(self, path: str, depth: int) -> Iterator[Source]:
        """The files below a directory; of a Maildir only its messages, and those of its folders."""
        if depth > _MAX_DEPTH:
            yield Source(file=path, error="directories too deep inside each other")
            return
        maildir = all(os.path.isdir(os.path.join(path, name)) for name in _MAILDIR)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if not maildir or entry.name in _MAILDIR or entry.name.startswith("."):
                            yield from self.directory(entry.path, depth + 1)
                    elif not maildir and not entry.name.startswith(".") and entry.is_file():
                        yield from self.file(entry.path)
        except OSError as exc:
            yield Source(file=path, error=exc.strerror or "cannot be read")

    def file(self, path: str) -> Iterator[Source]:
        try:
            with open(path, "rb") as stream:
                if stat.S_ISDIR(os.fstat(stream.fileno()).st_mode):
                    raise IsADirectoryError(0, "is a directory")
                yield from self.opened(path, stream)
        except (OSError, ValueError) as exc:
            yield Source(file=path, error=getattr(exc, "strerror", None) or "cannot be read")

    def opened(self, path: str, stream: IO[bytes]) -> Iterator[Source]:
        first = stream.readline(_LINE)
        if first.startswith(_MBOX):
            yield from self._mbox(path, stream, first)
            return
        content = first + stream.read(self.limit + 1 - len(first))
        if len(content) > self.limit and self.large and path != STDIN:
            yield Source(file=path, content=content[:_LINE], large=True)
        elif len(content) > self.limit:
            yield Source(file=path, error=f"larger than {self.limit >> 20} MiB")
        else:
            yield Source(file=path, content=content)

    def _mbox(self, path: str, stream: IO[bytes], line: bytes) -> Iterator[Source]:
        """The messages of an mbox: each begins behind a line `From `, which stands at the top or behind an empty line."""
        number, size = 0, 0
        lines: list[bytes] = []
        empty = True
        while line:
            if empty and line.startswith(_MBOX):
                if number:
                    yield self._of_mbox(path, number, lines, size)
                number, size, lines = number + 1, 0, []
            else:
                size += len(line)
                if size <= self.limit:
                    lines.append(line)
                else:
                    lines.clear()
            empty = line in (b"\n", b"\r\n")
            line = stream.readline(_LINE)
        yield self._of_mbox(path, number, lines, size)

    def _of_mbox(self, path: str, number: int, lines: list[bytes], size: int) -> Source:
        if size > self.limit:
            return Source(file=path, message=number, error=f"message larger than {self.limit >> 20} MiB")
        return Source(file=path, message=number, content=b"".join(lines))
