"""One connection of a server on trio: the server's machine, a stream, a handler that decides, and a limit to every wait."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol, TypeVar

import structlog
import trio

from postward.model import TlsInfo
from postward.names import Address
from postward.smtp.envelope import Envelope
from postward.smtp.reply import Reply
from postward.smtp.server_protocol import Content, Event, Mail, Rcpt, ServerProtocol
from postward.smtp.settings import ServerSettings, ServerTimeouts, Session
from postward.tls import TlsError, server_handshake

__all__ = ["Envelope", "Handler", "Reply", "ServerSettings", "ServerTimeouts", "Session", "serve"]

_READ: Final = 64 * 1024
_CLOSE_WITHIN: Final = 2.0
_LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
_TROUBLE: Final = Reply(451, ("something failed here, please come back",), "4.3.0")
T = TypeVar("T")
_log = structlog.get_logger("postward.smtp")


class Handler(Protocol):
    """Decides about mail. One object may serve many connections at once; `session` tells them apart.

    An error, or taking longer than the time limit, is answered 451 and logged; a reply 421 ends the session.
    """

    async def mail(self, session: Session, sender: Address | None, parameters: Mapping[str, str]) -> Reply | None:
        """Decide about a sender. None accepts."""

    async def rcpt(self, session: Session, recipient: Address, parameters: Mapping[str, str]) -> Reply | None:
        """Decide about a recipient. None accepts."""

    async def message(self, session: Session, envelope: Envelope, content: bytes) -> Reply | Sequence[Reply]:
        """Take responsibility for a message, or refuse it; over LMTP one reply for all recipients, or one for each.

        `content` has CRLF lines. A positive reply is a promise, so commit first.
        """


async def serve(stream: trio.abc.Stream, handler: Handler, settings: ServerSettings, *, peer: str) -> None:
    """Serve one connection from its greeting to its end, STARTTLS included, and close it.

    `peer` is the client's IP address. Never raises for what the client or the network did.
    """
    connection = _Connection(stream, handler, settings, peer)
    try:
        with trio.move_on_after(settings.timeouts.session) as scope:
            await connection.run()
        if scope.cancelled_caught:
            await connection.leave(Reply(421, ("this session was long enough",), "4.4.2"))
    except TlsError as exc:
        _log.info("smtp.tls-failed", peer=peer, reason=exc.failure.reason or exc.failure.result_type.value, detail=str(exc))
    except _LOST as exc:
        _log.debug("smtp.lost", peer=peer, error=str(exc))
    except trio.TooSlowError:
        _log.info("smtp.timeout", peer=peer)
    finally:
        await connection.aclose()


class _Connection:
    def __init__(self, stream: trio.abc.Stream, handler: Handler, settings: ServerSettings, peer: str) -> None:
        self._transport, self._stream = stream, stream
        self._handler, self._settings = handler, settings
        self._session = Session(peer=peer, lmtp=settings.lmtp)
        self._protocol = ServerProtocol(settings, self._session)
        self._clean = self._half_said = False

    async def run(self) -> None:
        if self._settings.implicit_tls:
            await self._start_tls()
        self._protocol.greet()
        try:
            while not self._protocol.closed:
                event = await self._next_event()
                if event is not None:
                    await self._act(event)
                elif not self._protocol.closed:
                    break
            await self._flush()
            self._clean = True
        except trio.TooSlowError:
            await self.leave(Reply(421, ("you took too long",), "4.4.2"))
            raise

    async def leave(self, reply: Reply) -> None:
        """Say a last word to whoever still listens."""
        if not self._protocol.closed and not self._half_said:
            self._protocol.give_up(reply)
            with trio.move_on_after(_CLOSE_WITHIN):
                await self._flush()

    async def aclose(self) -> None:
        if self._clean:
            with trio.move_on_after(_CLOSE_WITHIN), suppress(*_LOST):
                if isinstance(self._stream, trio.SSLStream):
                    # close_notify (RFC 8446 §6.1): some clients take an end without it for a failure.
                    await self._stream.unwrap()
                await self._transport.aclose()
        await trio.aclose_forcefully(self._transport)

    async def _next_event(self) -> Event | None:
        """The next thing to decide; None at the end, by the client or by the machine."""
        protocol, limits = self._protocol, self._settings.timeouts
        event = protocol.next_event()
        while event is None and not protocol.closed:
            await self._flush()
            progress, in_content = protocol.progress, protocol.reading_content
            with trio.fail_after(limits.message if in_content else limits.command):
                while event is None and not protocol.closed and protocol.progress == progress:
                    with trio.fail_after(limits.data_block if in_content else limits.command):
                        data = await self._stream.receive_some(_READ)
                    if not data:
                        return None
                    protocol.receive(bytes(data))
                    event = protocol.next_event()
        return event

    async def _flush(self) -> None:
        if data := self._protocol.data_to_send():
            # Whatever stops this leaves half a reply behind, and nothing may follow that.
            self._half_said = True
            with trio.fail_after(self._settings.timeouts.reply):
                await self._stream.send_all(data)
            self._half_said = False

    async def _act(self, event: Event) -> None:
        session, handler = self._session, self._handler
        if isinstance(event, Mail):
            reply = await self._decide(handler.mail(session, event.sender, event.parameters))
            self._protocol.answer(reply or Reply(250, ("sender ok",), "2.1.0"))
        elif isinstance(event, Rcpt):
            reply = await self._decide(handler.rcpt(session, event.recipient, event.parameters))
            self._protocol.answer(reply or Reply(250, ("recipient ok",), "2.1.5"))
        elif isinstance(event, Content):
            await self._take(event)
        else:
            await self._flush()
            await self._start_tls()

    async def _take(self, event: Content) -> None:
        said = await self._decide(self._handler.message(self._session, event.envelope, event.content))
        replies = (said,) if isinstance(said, Reply) else tuple(said or ())
        wanted = len(event.envelope.recipients) if self._settings.lmtp else 1
        if len(replies) not in (1, wanted):
            _log.error("smtp.wrong-number-of-replies", replies=len(replies), wanted=wanted)
            replies = (_TROUBLE,)
        self._protocol.answer(*replies)

    async def _decide(self, decision: Awaitable[T]) -> T | Reply:
        try:
            with trio.fail_after(self._settings.timeouts.handler):
                return await decision
        except trio.TooSlowError:
            _log.error("smtp.handler-too-slow", peer=self._session.peer)
        except Exception:  # noqa: BLE001 - a handler may fail in any way, and the client must hear of it
            _log.exception("smtp.handler-failed", peer=self._session.peer)
        return _TROUBLE

    async def _start_tls(self) -> None:
        context = self._settings.context
        assert context is not None, "TLS was offered without a certificate"
        with trio.fail_after(self._settings.timeouts.handshake):
            stream = await server_handshake(self._stream, context)
        self._stream = stream
        cipher = stream.cipher()
        self._protocol.tls_started(TlsInfo(protocol=stream.version() or "", cipher=cipher[0] if cipher else ""))
