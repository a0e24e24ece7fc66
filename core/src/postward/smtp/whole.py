"""A sink that keeps a message in memory until it is whole, for servers whose messages are small."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postward.smtp.envelope import Envelope
    from postward.smtp.reply import Reply
    from postward.smtp.settings import Session

Take = Callable[["Session", "Envelope", bytes], Awaitable["Reply | Sequence[Reply]"]]


class Whole:
    """Collects the content and gives it to `take`, with an envelope that says its true size and whether it is 8-bit."""

    def __init__(self, session: Session, envelope: Envelope, take: Take) -> None:
        self._session, self._envelope, self._take = session, envelope, take
        self._pieces: list[bytes] = []

    async def write(self, piece: bytes) -> None:
        """Keep the next piece."""
        self._pieces.append(piece)

    async def finish(self) -> Reply | Sequence[Reply]:
        """Hand on what was kept."""
        content = b"".join(self._pieces)
        envelope = replace(self._envelope, size=len(content), eight_bit=not content.isascii())
        return await self._take(self._session, envelope, content)

    async def abort(self) -> None:
        """Forget it."""
        self._pieces.clear()
