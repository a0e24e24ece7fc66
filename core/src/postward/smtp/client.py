"""One SMTP or LMTP connection on trio: the client's machine, a stream, and a limit to every wait (RFC 5321 §4.5.3.2)."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import trio

from postward.smtp.client_protocol import ClientProtocol, Step, Transaction
from postward.smtp.content import DotStuffer, has_proper_lines, stuffed
from postward.smtp.envelope import Envelope
from postward.smtp.reply import Limits, Reply, SmtpError

__all__ = ["Envelope", "Limits", "Reply", "SmtpConnection", "SmtpError", "Timeouts"]

_BLOCK: Final = 64 * 1024
_READ: Final = 16 * 1024
_CLOSE_WITHIN: Final = 2.0
_LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait, in seconds; the defaults are those of RFC 5321 §4.5.3.2.

    `connect` is for who opens the stream. `command` is for the whole reply to one command, `data_block` for handing 64 KiB
    to the network, `data_end` for the reply to a message, `total` for one message altogether. `quit` is short, because
    nothing depends on its reply.
    """

    connect: float = 30
    banner: float = 300
    command: float = 300
    data_init: float = 120
    data_block: float = 180
    data_end: float = 600
    quit: float = 5
    total: float = 3600


class SmtpConnection:
    """A connection over any stream that is connected. One task at a time may use it.

    Every method but `quit` and `aclose` raises `SmtpError` when the dialogue cannot go on; the connection is of no use then. A
    refusal is no error but a `Reply`, and so is 421 in answer to a command: it decides what was still open, and the next
    command raises. But a used connection that the server closes with 421 in place of answering MAIL is `lost`: that says
    nothing about the message, which may go over a new connection at once.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        lmtp: bool = False,
    ) -> None:
        self.stream = stream
        self.bytes_sent = 0
        self.bytes_received = 0
        self.content_begun = False
        self._timeouts = timeouts or Timeouts()
        self._protocol = ClientProtocol(limits, lmtp=lmtp)
        self._broken = ""
        self._left = False
        self._scope = trio.CancelScope()
        self._last = math.inf
        limit = self._timeouts
        self._waits = {
            Step.GREETING: limit.banner,
            Step.DATA: limit.data_init,
            Step.CONTENT: limit.data_end,
            Step.QUIT: limit.quit,
        }

    @property
    def reused(self) -> bool:
        """Whether the server has answered a MAIL here, so that a `lost` connection may be but an old one."""
        return self._protocol.reused

    @property
    def extensions(self) -> Mapping[str, str]:
        """What the server offers: upper-case keyword and its parameters, empty where it has none."""
        return self._protocol.extensions

    @property
    def remote_name(self) -> str:
        """What the server calls itself: in its reply to EHLO, else in its greeting. As it came, so not to be trusted."""
        return self._protocol.remote_name

    @property
    def usable(self) -> bool:
        """Whether a further message may be offered: the dialogue is whole, and nobody has taken leave."""
        return not (self._left or self._broken or self._protocol.closed or self._protocol.expecting)

    async def greet(self) -> Reply:
        """Await the greeting (RFC 5321 §3.1)."""
        with self._guard():
            self._protocol.expect(Step.GREETING)
            return await self._reply()

    async def ehlo(self, hostname: str) -> Reply:
        """Say EHLO (LHLO over LMTP); HELO where that is refused for good, but never over TLS (RFC 3207 §4.2)."""
        with self._guard():
            reply = await self._ask(self._protocol.hello(hostname))
            if reply.permanent and not self._protocol.secure and not self._protocol.lmtp:
                reply = await self._ask(self._protocol.hello(hostname, extended=False))
            return reply

    async def starttls(self) -> Reply:
        """Ask for TLS. When the reply is positive the caller does the handshake and calls `upgraded`, then `ehlo`.

        Bytes behind a positive reply are an attack or a broken server (RFC 3207 §4.2): `SmtpError`, kind `protocol`.
        """
        with self._guard():
            return await self._ask(self._protocol.starttls())

    def upgraded(self, stream: trio.abc.Stream) -> None:
        """Go on over `stream`, which is TLS over the old one."""
        self.stream = stream
        self._protocol.upgraded()

    async def send(
        self, envelope: Envelope, content: bytes | AsyncIterable[bytes], *, proper: bool = False
    ) -> tuple[Reply, ...]:
        """Send one message; the deciding reply of each recipient, in order.

        The content goes out as it is but for its dots, with a CRLF at its end; it must have CRLF lines (`to_crlf`), which is
        not looked at again where the caller knows it (`proper`). What the server cannot take by its own word (RFC 1870,
        6152, 6531) is refused here without being sent. After an `SmtpError` no recipient counts as delivered, and the message
        is to be tried again; `content_begun` says whether any of it went out, without which it cannot come twice. The requests
        of RFC 3461 go to a server with `DSN` among its `extensions`; from another one nobody will hear, so who asked for
        success is to be told here (RFC 3461 §5.2.2).

        Streamed content is as long and as 8-bit as the envelope says. When it cannot be read to its end the kind is `content`.
        """
        self.content_begun = False
        with self._guard(self._timeouts.total):
            if not isinstance(content, bytes):
                transaction = Transaction(self._protocol, envelope, size=envelope.size, eight_bit=envelope.eight_bit)
                return await self._transact(transaction, content)
            if not proper and not has_proper_lines(content):
                return (Reply(554, ("the content has a line end other than CRLF",), "5.6.0"),) * len(envelope.recipients)
            transaction = Transaction(
                self._protocol,
                envelope,
                size=len(content) + (0 if content.endswith(b"\r\n") else 2),
                eight_bit=envelope.eight_bit or not content.isascii(),
            )
            return await self._transact(transaction, content)

    async def quit(self) -> None:
        """Take leave. What goes wrong now no longer matters, so it never raises `SmtpError`."""
        if not self.usable:
            return
        try:
            with self._guard():
                await self._ask(self._protocol.quit())
        except SmtpError:
            return
        self._left = True

    async def aclose(self) -> None:
        """Close the stream, at once where the dialogue has broken."""
        if not self._broken:
            with trio.move_on_after(_CLOSE_WITHIN):
                await self.stream.aclose()
                return
        await trio.aclose_forcefully(self.stream)

    # --- one message ---

    async def _transact(self, transaction: Transaction, content: bytes | AsyncIterable[bytes]) -> tuple[Reply, ...]:
        while flight := transaction.next_flight():
            await self._say(flight)
            await self._take_replies(transaction)
        if transaction.wants_content:
            self.content_begun = transaction.begin_content()
            if not self.content_begun:
                await self._write(b".\r\n")
            elif isinstance(content, bytes) and len(content) <= _BLOCK:
                await self._write(stuffed(content))
            else:
                await self._write_watching(transaction, content)
            await self._take_replies(transaction)
        return transaction.outcome

    async def _take_replies(self, transaction: Transaction) -> None:
        while self._protocol.expecting:
            transaction.take(*await self._event())

    async def _write_watching(self, transaction: Transaction, content: bytes | AsyncIterable[bytes]) -> None:
        """Send long content and watch for a server that gives up in the middle, which may read no further then."""
        failures: list[Exception] = []
        early: list[tuple[Step, Reply]] = []

        async def watch() -> None:
            try:
                while (event := self._protocol.next_reply()) is None:
                    await self._read()
                early.append(event)
            except (SmtpError, *_LOST) as exc:
                failures.append(exc)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                finished = False
                await self._write_content(content)
                finished = True
            except Exception as exc:  # noqa: BLE001 - raised again below, but not as a group
                failures.insert(0, exc)
                # The reply may be on its way although the server takes nothing more.
                await trio.sleep(_CLOSE_WITHIN if isinstance(exc, _LOST) else 0)
            nursery.cancel_scope.cancel()
        if early:
            step, reply = early[0]
            if not finished:
                if reply.positive:
                    raise SmtpError("protocol", f"a reply before the end of the message: {reply}")
                self._protocol.closed = str(reply)
            transaction.take(step, reply)
        elif failures:
            raise failures[0]

    async def _write_content(self, content: bytes | AsyncIterable[bytes]) -> None:
        stuffer = DotStuffer()
        try:
            if isinstance(content, bytes):
                await self._write_blocks(stuffer, content)
            else:
                await self._write_pieces(stuffer, content)
            await self._write(stuffer.finish())
        except ValueError as exc:
            raise SmtpError("protocol", f"the content has {exc}") from exc

    async def _write_pieces(self, stuffer: DotStuffer, content: AsyncIterable[bytes]) -> None:
        pieces = aiter(content)
        try:
            # Not `async for`, which would take the reader's errors for those of the connection.
            while (piece := await _next_piece(pieces)) is not None:
                await self._write_blocks(stuffer, piece)
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()

    async def _write_blocks(self, stuffer: DotStuffer, piece: bytes) -> None:
        for at in range(0, len(piece), _BLOCK):
            await self._write(stuffer.feed(piece[at : at + _BLOCK]))

    # --- bytes ---

    async def _ask(self, command: bytes) -> Reply:
        await self._say(command)
        return await self._reply()

    async def _say(self, commands: bytes) -> None:
        """Send commands. A server that is gone may have said why, which tells more than that it is gone."""
        try:
            await self._write(commands)
        except _LOST:
            most = self.bytes_received + _BLOCK
            with trio.move_on_after(_CLOSE_WITHIN), suppress(SmtpError, *_LOST):
                while self.bytes_received < most:
                    await self._read()
            if not self._protocol.pending:
                raise

    async def _reply(self) -> Reply:
        return (await self._event())[1]

    async def _event(self) -> tuple[Step, Reply]:
        event = self._protocol.next_reply()
        if event is None:
            step = self._protocol.next_step
            self._limit(self._waits.get(step, self._timeouts.command))
            while event is None:
                await self._read()
                event = self._protocol.next_reply()
        return event

    async def _read(self) -> None:
        data = await self.stream.receive_some(_READ)
        self.bytes_received += len(data)
        self._protocol.receive(bytes(data))

    async def _write(self, data: bytes) -> None:
        self._limit(self._timeouts.data_block)
        await self.stream.send_all(data)
        self.bytes_sent += len(data)

    # --- the end of patience ---

    @contextmanager
    def _guard(self, total: float = math.inf) -> Iterator[None]:
        """Turn what ends a dialogue into `SmtpError`, and let nobody go on after it. `_limit` applies within."""
        if self._broken:
            raise SmtpError("lost", f"the connection is of no more use: {self._broken}")
        try:
            with trio.CancelScope() as self._scope:
                self._last = trio.current_time() + total
                yield
        except SmtpError as exc:
            self._broken = str(exc)
            raise
        except _LOST as exc:
            self._broken = f"the connection was lost{self._while()}"
            raise SmtpError("lost", self._broken) from exc
        except BaseException as exc:
            # A cancelled or failed task leaves the dialogue somewhere in the middle.
            self._broken = type(exc).__name__
            raise
        if self._scope.cancelled_caught:
            self._broken = f"the server took too long{self._while()}"
            raise SmtpError("timeout", self._broken) from trio.TooSlowError()

    def _limit(self, seconds: float) -> None:
        """Begin a wait. One scope serves all of a message's, because each costs as much as the parsing of a reply."""
        self._scope.deadline = min(self._last, trio.current_time() + seconds)

    def _while(self) -> str:
        return f", awaited the reply to {self._protocol.next_step.value}" if self._protocol.expecting else ""


async def _next_piece(pieces: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(pieces, None)
    except Exception as exc:
        raise SmtpError("content", f"the content cannot be read: {exc}") from exc
