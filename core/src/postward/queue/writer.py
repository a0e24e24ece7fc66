"""One incoming message: in memory while it is small, then in a file, and in the queue once it is committed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from postward.errors import StoreError
from postward.queue.handover import jobs_of
from postward.queue.rows import Entry
from postward.queue.spool import spool_trouble
from postward.queue.types import INLINE_BYTES

if TYPE_CHECKING:
    from postward.queue.spool import Spool, SpoolFile
    from postward.queue.types import Job, NewMessage


HAND_OVER_WITHIN: Final = 2.0
"""Seconds for a commit, behind which its message is left to be found in the queue."""


class Writer:
    """A message on its way in. `size` and `eight_bit` are those of the octets so far.

    End it by `commit` or `abort`; `abort` behind `commit` does nothing, so it fits into a `finally`.
    """

    def __init__(self, spool: Spool, insert: Callable[[Entry], Awaitable[int]], *, proper: bool = False) -> None:
        self.size = 0
        self.eight_bit = False
        self._spool, self._insert, self._proper = spool, insert, proper
        self._parts: list[bytes] = []
        self._held = 0
        self._file: SpoolFile | None = None
        self._usable = True

    async def write(self, piece: bytes) -> None:
        """Take the next octets. Raises `StoreError` where they cannot be written; then only `abort` is left."""
        self.size += len(piece)
        self.eight_bit = self.eight_bit or not piece.isascii()
        self._parts.append(piece)
        self._held += len(piece)
        if self._held > INLINE_BYTES:
            await self._to_file(self._spill)

    async def commit(self, message: NewMessage) -> tuple[Job, ...]:
        """Queue the message: it is on disk when this returns. Of a small message, the jobs that a claim would find.

        Raises `StoreError` when it could not be stored, and `ValueError` for a message that never can be, such as one without
        recipients or with text that is no Unicode; then nothing of it is left.
        """
        try:
            entry = await self.entry(message)
            begun = trio.current_time()
            number = await self._insert(entry)
            self.keep()
            # Another worker may have found and delivered meanwhile what took so long, and forgotten that it did.
            late = trio.current_time() - begun > HAND_OVER_WITHIN
            return () if entry.body is None or late else jobs_of(message, number, entry.body, proper=self._proper)
        finally:
            await self.abort()

    async def entry(self, message: NewMessage) -> Entry:
        """What to insert, with its file on disk. Behind the commit `keep` must be called, otherwise `abort`."""
        if not self._usable:
            raise StoreError("this message was ended before, or could not be written")
        if self._file is None:
            return Entry(message, b"".join(self._parts), self.size, "")
        entry = Entry(message, None, self.size, self._file.name)
        await self._to_file(self._finish)
        return entry

    def keep(self) -> None:
        """The row of this message is committed."""
        self._usable = False
        if self._file is not None:
            self._file.close()
            self._file = None

    async def abort(self) -> None:
        """Forget the message, unless it is committed. Never raises for the disk: what stays there goes with the next start."""
        self._usable = False
        self._parts, file = [], self._file
        self._file = None
        if file is not None:
            with trio.CancelScope(shield=True):
                try:
                    await self._spool.run(file.remove)
                except OSError:
                    return

    async def _to_file(self, work: Callable[[bytes], None]) -> None:
        if not self._usable:
            raise StoreError("this message was ended before, or could not be written")
        data, self._parts, self._held = b"".join(self._parts), [], 0
        # A cancelled or failed write leaves a file that lacks something.
        self._usable = False
        try:
            await self._spool.run(work, data)
        except OSError as exc:
            raise spool_trouble(exc) from exc
        self._usable = True

    def _spill(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._spool.create(data)
        else:
            self._file.append(data)

    def _finish(self, data: bytes) -> None:
        assert self._file is not None
        self._file.append(data)
        self._file.sync()
