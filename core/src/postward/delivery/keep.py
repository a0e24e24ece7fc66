"""A connection that is kept from one message to the next, so that a burst to one destination costs one handshake.

It serves one destination and one wish: whatever policies it was made under are those of every message that goes over it, so
it is never shared across recipients whose policies may differ (RFC 8461 §2, RFC 7672 §2.2). It is bounded in messages, in
age, and by whoever holds it in idleness, so that a policy that has changed is soon looked at again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from postward.delivery.attempt import Dialler, Session
    from postward.model import ConnectionReport, TlsWish
    from postward.names import Domain
    from postward.smtp.client import SmtpConnection

MESSAGES: Final = 100
LONGEST: Final = 300.0


@dataclass(slots=True, kw_only=True)
class Kept:
    """An open connection behind a clean session. `report` is that of its first message; `messages` have gone over it."""

    connection: SmtpConnection
    dialler: Dialler
    session: Session
    report: ConnectionReport
    opened: float
    messages: int = 1


class Keeper:
    """Keeps at most one connection, of one destination and one wish. One task at a time may use it.

    It takes `messages` at most and lives for `longest` seconds at most.
    """

    def __init__(self, *, messages: int = MESSAGES, longest: float = LONGEST) -> None:
        self._messages, self._longest = messages, longest
        self._kept: Kept | None = None
        self._ended: Callable[[Kept, str], None] | None = None

    @property
    def empty(self) -> bool:
        """Whether no connection is kept."""
        return self._kept is None

    def keep(self, kept: Kept, ended: Callable[[Kept, str], None]) -> None:
        """Keep a connection; `ended` is called when it is closed, with what went wrong, empty for nothing."""
        assert self._kept is None, "a connection is kept already"
        self._kept, self._ended = kept, ended

    async def take(self, domain: Domain, wish: TlsWish, *, is_report: bool = False) -> Kept | None:
        """The kept connection, if it serves this domain and wish and may take one more; one that does not is closed.

        RFC 8460 §3: a session that carries reports is not counted, so reports and other mail have connections of their own.
        """
        kept = self._kept
        if kept is None:
            return None
        offer = kept.dialler.offer
        same = kept.report.domain == domain and offer.wish is wish and offer.is_report is is_report
        young = kept.messages < self._messages and trio.current_time() - kept.opened < self._longest
        if same and young and kept.connection.usable:
            return kept
        await self.close()
        return None

    async def close(self, error: str = "") -> None:
        """End the connection, with QUIT where somebody still listens."""
        kept, ended, self._kept = self._kept, self._ended, None
        if kept is None:
            return
        try:
            await kept.connection.quit()
        finally:
            await kept.connection.aclose()
            if ended is not None:
                ended(kept, error)
