"""Hand received mail to another program while its client waits: what that says is what the client hears (RFC 2033, RFC 5321).

So no mail is kept here, and none is promised that was not taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from postward.errors import StoreError
from postward.smtp.client import Envelope, Reply, SmtpConnection, SmtpError, Timeouts

if TYPE_CHECKING:
    from postward.names import Address

WITHIN: Final = 300.0
_WHERE: Final = re.compile(r"(lmtp|smtp):(?:unix:(/.+)|(\[[0-9a-fA-F:.]+\]|[^:/\s\[\]]+):(\d{1,5}))")


class Declined(StoreError):
    """The next hop refused it, for good where `permanent`; `reply` is what it said."""

    def __init__(self, reply: str, *, permanent: bool) -> None:
        self.permanent = permanent
        super().__init__(reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHop:
    """A server on a Unix socket (`path`), or at `host` and `port`; with `lmtp` it speaks LMTP."""

    hostname: str
    lmtp: bool
    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str, hostname: str) -> NextHop:
        """Read `lmtp:unix:/path`, `lmtp:host:port` or `smtp:host:port`. Raises `ValueError`."""
        match = _WHERE.fullmatch(text)
        if match is None or int(match[4] or 1) not in range(1, 65536):
            raise ValueError("should be 'maildir:/path', 'lmtp:unix:/path', 'lmtp:host:port' or 'smtp:host:port'")
        return cls(
            hostname=hostname,
            lmtp=match[1] == "lmtp",
            path=match[2] or "",
            host=(match[3] or "").strip("[]"),
            port=int(match[4] or 0),
        )

    async def deliver(self, sender: Address | None, recipients: tuple[Address, ...], content: bytes) -> None:
        """Hand a message over for all recipients. Raises `Declined` when any was refused, `StoreError` when nobody answers."""
        try:
            with trio.fail_after(WITHIN):
                async with await self._connect() as stream:
                    replies = await self._dialogue(stream, sender, recipients, content)
        except (OSError, SmtpError, trio.TooSlowError, trio.BrokenResourceError) as exc:
            raise StoreError(f"the next hop does not answer: {exc}") from exc
        if refused := [reply for reply in replies if not reply.positive]:
            raise Declined(str(refused[0]), permanent=all(reply.permanent for reply in replies))

    async def _connect(self) -> trio.abc.Stream:
        if self.path:
            return await trio.open_unix_socket(self.path)
        return await trio.open_tcp_stream(self.host, self.port)

    async def _dialogue(
        self, stream: trio.abc.Stream, sender: Address | None, recipients: tuple[Address, ...], content: bytes
    ) -> tuple[Reply, ...]:
        connection = SmtpConnection(stream, lmtp=self.lmtp, timeouts=Timeouts(banner=60, command=60))
        for reply in (await connection.greet(), await connection.ehlo(self.hostname)):
            if not reply.positive:
                raise Declined(str(reply), permanent=False)
        replies = await connection.send(
            Envelope(sender=sender, recipients=recipients, eight_bit=not content.isascii(), size=len(content)), content
        )
        await connection.quit()
        return replies
