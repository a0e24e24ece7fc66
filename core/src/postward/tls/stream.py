"""TLS over any stream, with OpenSSL working in memory (RFC 8446, RFC 5246).

Unlike `trio.SSLStream` it keeps the alert that OpenSSL has ready when a handshake fails (`flush` sends it), lets what the
transport held be read on after an error, and takes no turn through the scheduler where nothing is to be waited for.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio

T = TypeVar("T")

_RECORD: Final = 16 * 1024
_READ: Final = 64 * 1024


class TlsStream(trio.abc.Stream):
    """A stream over `transport`; first `shake` hands. With `abrupt_end` an end without close_notify is an end like any other.

    Raises what `trio.abc.Stream` says; trouble of TLS is a `BrokenResourceError` whose cause is the `ssl.SSLError`.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        abrupt_end: bool = True,
    ) -> None:
        self.transport = transport
        self._abrupt_end = abrupt_end
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.connection = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._sender = trio.Lock()
        self._broken = False

    async def shake(self) -> None:
        """Shake hands. Behind an error, `flush` sends the alert that says why."""
        await self._until_done(self.connection.do_handshake)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it."""
        if not data:
            # OpenSSL would take it for something to say.
            await trio.lowlevel.checkpoint()
            return
        if self._broken:
            raise trio.BrokenResourceError("an earlier record was not sent to its end")
        try:
            self.connection.write(data)
            written = True
        except ssl.SSLWantReadError:
            written = False
        except ssl.SSLError as exc:
            raise trio.BrokenResourceError(f"TLS failed: {exc}") from exc
        await (self.flush() if written else self._until_done(self.connection.write, data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What is there, at most `max_bytes`; waits until there is something. Empty at the end."""
        connection, incoming = self.connection, self._incoming
        if not (incoming.pending or incoming.eof or connection.pending()):
            await self._feed()
        while True:
            try:
                return connection.read(max_bytes or _RECORD)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as exc:
                if self._abrupt_end and _is_end(exc):
                    return b""
                raise trio.BrokenResourceError(f"TLS failed: {exc}") from exc
            # What was read may have been a key update that wants its answer (RFC 8446 §4.6.3).
            await self.flush()
            await self._feed()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport takes something."""
        await self.transport.wait_send_all_might_not_block()

    async def unwrap(self) -> None:
        """Exchange close_notify with the peer (RFC 8446 §6.1)."""
        await self._until_done(self.connection.unwrap)

    async def aclose(self) -> None:
        """Close the transport; close_notify is said before where its lack would count."""
        try:
            if not self._abrupt_end and not self._broken:
                # It says it, and then wants to hear the peer's, for which nobody waits.
                with suppress(ssl.SSLError, ValueError):
                    self.connection.unwrap()
                await self.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await self.transport.aclose()

    async def flush(self) -> None:
        """Send what OpenSSL has ready for the peer."""
        if not self._outgoing.pending:
            return
        try:
            self._sender.acquire_nowait()
        except trio.WouldBlock:
            await self._sender.acquire()
        try:
            # Taken under the lock: records must go in the order in which they were made.
            while data := self._outgoing.read():
                await self.transport.send_all(data)
        except BaseException:
            # Part of a record is gone, and nothing can follow.
            self._broken = True
            raise
        finally:
            self._sender.release()

    def feed(self, data: bytes | bytearray) -> None:
        """Let OpenSSL have what was read from the transport elsewhere."""
        self._incoming.write(data)

    async def _feed(self) -> None:
        data = await self.transport.receive_some(_READ)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _until_done(self, act: Callable[..., T], *args: Any) -> T:
        while True:
            try:
                value = act(*args)
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError as exc:
                raise trio.BrokenResourceError(f"TLS failed: {exc}") from exc
            else:
                done = True
            # Not in a handler: that OpenSSL wants more is no cause of what may happen here.
            await self.flush()
            if done:
                return value
            await self._feed()


def _is_end(error: ssl.SSLError) -> bool:
    # OpenSSL 3 has a code of its own, which Python does not always turn into the exception of its own.
    return isinstance(error, ssl.SSLEOFError) or "UNEXPECTED_EOF_WHILE_READING" in str(error.reason or "")
