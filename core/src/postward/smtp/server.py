"""One connection of a server on trio: the server's machine, a stream, a handler that decides, and a limit to every wait.

Content goes from the stream into the sink that the handler gave, one piece at a time: nothing more is read from the client
until the sink has taken what there is, so a slow disk slows the client down and fills no memory.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Protocol, TypeVar

import structlog
import trio

from postward.model import TlsInfo
from postward.names import Address
from postward.smtp.envelope import Envelope
from postward.smtp.reply import Refusal, Reply
from postward.smtp.server_events import Begin, Drop, Event, Login, Mail, Piece, Rcpt
from postward.smtp.server_protocol import ServerProtocol
from postward.smtp.settings import ServerSettings, ServerTimeouts, Session
from postward.tls import TlsError, TlsStream, server_handshake

__all__ = ["Closing", "Envelope", "Handler", "Refusal", "Reply", "ServerSettings", "ServerTimeouts", "Session", "Sink", "serve"]

_READ: Final = 64 * 1024
_CLOSE_WITHIN: Final = 2.0
_LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
_ABORT_WITHIN: Final = 30.0
_SENDER_OK: Final = Reply(250, ("sender ok",), "2.1.0")
_RECIPIENT_OK: Final = Reply(250, ("recipient ok",), "2.1.5")
_LOGGED_IN: Final = Reply(235, ("welcome",), "2.7.0")
_NOT_LOGGED_IN: Final = Reply(535, ("user or password is wrong",), "5.7.8")
_LOGIN_TROUBLE: Final = Reply(454, ("nobody can log in just now, please come back",), "4.7.0")
_ENDING: Final = Reply(421, ("this server is about to end, please come back",), "4.3.2")
_TROUBLE: Final = Reply(451, ("something failed here, please come back",), "4.3.0")
T = TypeVar("T")
_log = structlog.get_logger("postward.smtp")


class Sink(Protocol):
    """Takes one message, piece by piece. Each sink ends with one call: `abort`, or a `finish` that did not raise.

    An error, or taking longer than the time limit, is answered 451 behind the end of the message, a `Refusal` with its reply.
    """

    async def write(self, piece: bytes) -> None:
        """Take the next piece of content, which has CRLF lines; a piece never ends within a CRLF.

        Nothing is read from the client until this returns.
        """

    async def finish(self) -> Reply | Sequence[Reply]:
        """Take responsibility for the message, or refuse it; over LMTP one reply for all recipients, or one for each.

        A positive reply is a promise, so commit first.
        """

    async def abort(self) -> None:
        """Forget the message: the client is gone or has reset it, it is too large or has bad line ends, or a call failed.

        It runs to its end even when the task is cancelled, for half a minute at most. Behind a `finish` that failed or was
        cancelled, what it may have committed stays committed.
        """


class Handler(Protocol):
    """Decides about mail. One object may serve many connections at once; `session` tells them apart.

    An error, or taking longer than the time limit, is answered 451 and logged, a `Refusal` with its reply; a reply 421 ends
    the session. The parameters are those that MAIL and RCPT may have, in upper case, with good values.
    """

    async def mail(self, session: Session, sender: Address | None, parameters: Mapping[str, str]) -> Reply | None:
        """Decide about a sender. None accepts."""

    async def rcpt(self, session: Session, recipient: Address, parameters: Mapping[str, str]) -> Reply | None:
        """Decide about a recipient. None accepts."""

    async def content(self, session: Session, envelope: Envelope) -> Sink | Reply:
        """Say where the content goes, or refuse it before it comes."""

    async def authenticate(self, session: Session, user: str, password: str) -> bool | Reply:
        """Whether this is the user's password; a reply says more than no. Only asked where `ServerSettings.auth` is set."""
        return False


class Closing:
    """Lets the connections of a server that is about to end go: each hears 421 as soon as no message of it is on its way."""

    def __init__(self) -> None:
        self._begun = False
        self._waiting: set[trio.CancelScope] = set()

    def begin(self) -> None:
        """From now on nobody is waited for who has not begun a message (RFC 5321 §3.8)."""
        self._begun = True
        for scope in self._waiting:
            scope.cancel()

    @contextmanager
    def may_end(self, scope: trio.CancelScope) -> Iterator[None]:
        """Within this block, `scope` is cancelled when the server ends."""
        self._waiting.add(scope)
        if self._begun:
            scope.cancel()
        try:
            yield
        finally:
            self._waiting.remove(scope)

    @property
    def begun(self) -> bool:
        """Whether the server is about to end."""
        return self._begun


async def serve(
    stream: trio.abc.Stream, handler: Handler, settings: ServerSettings, *, peer: str, closing: Closing | None = None
) -> None:
    """Serve one connection from its greeting to its end, STARTTLS included, and close it.

    `peer` is the client's IP address, empty over a Unix socket. Never raises for what the client or the network did.
    """
    peer = _plain_address(peer)
    connection = _Connection(stream, handler, settings, peer, closing or Closing())
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
        await connection.drop()
        await connection.aclose()


class _Connection:
    def __init__(
        self, stream: trio.abc.Stream, handler: Handler, settings: ServerSettings, peer: str, closing: Closing
    ) -> None:
        self._transport, self._stream, self._closing = stream, stream, closing
        self._handler, self._settings = handler, settings
        self._session = Session(peer=peer, lmtp=settings.lmtp)
        self._protocol = ServerProtocol(settings, self._session)
        self._clean = self._half_said = False
        self._sink: Sink | None = None
        # The number of the awaited command and when it must be here; when the message began, and octets since then.
        self._progress, self._until = -1, math.inf
        # One scope bounds all waits for the client, because one for each costs more than what it waits for.
        self._scope = trio.CancelScope()
        self._begin, self._octets = 0.0, 0

    async def run(self) -> None:
        if self._settings.implicit_tls:
            await self._start_tls()
        self._protocol.greet()
        try:
            with self._scope:
                await self._converse()
            if self._scope.cancelled_caught:
                if not self._closing.begun or self._protocol.in_message:
                    raise trio.TooSlowError
                await self.leave(_ENDING)
                self._clean = not self._half_said
        except trio.TooSlowError:
            await self.leave(Reply(421, ("you took too long",), "4.4.2"))
            raise

    async def _converse(self) -> None:
        while not self._protocol.closed:
            event = await self._next_event()
            if event is not None:
                await self._act(event)
            elif not self._protocol.closed:
                break
        await self._flush()
        self._clean = True

    async def leave(self, reply: Reply) -> None:
        """Say a last word to whoever still listens."""
        if not self._protocol.closed and not self._half_said:
            self._protocol.give_up(reply)
            with trio.move_on_after(_CLOSE_WITHIN):
                await self._flush()

    async def aclose(self) -> None:
        if self._clean:
            with trio.move_on_after(_CLOSE_WITHIN), suppress(*_LOST):
                if isinstance(self._stream, TlsStream):
                    # close_notify (RFC 8446 §6.1): some clients take an end without it for a failure.
                    await self._stream.unwrap()
                await self._transport.aclose()
        await trio.aclose_forcefully(self._transport)

    async def drop(self) -> None:
        """Let the sink forget its message, if there is one."""
        sink, self._sink = self._sink, None
        if sink is None:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _ABORT_WITHIN) as scope:
            try:
                await sink.abort()
            except Exception:  # noqa: BLE001 - the message is lost to the sink either way
                _log.exception("smtp.abort-failed", peer=self._session.peer)
        if scope.cancelled_caught:
            _log.error("smtp.abort-too-slow", peer=self._session.peer)

    async def _next_event(self) -> Event | None:
        """The next thing to decide; None at the end."""
        protocol = self._protocol
        event = protocol.next_event()
        while event is None and not protocol.closed:
            await self._flush()
            self._scope.deadline = self._patience()
            if protocol.in_message:
                data = await self._stream.receive_some(_READ)
            else:
                with self._closing.may_end(self._scope):
                    data = await self._stream.receive_some(_READ)
            self._scope.deadline = math.inf
            if self._scope.cancel_called:
                # It came in the very moment of the end: nothing must be begun that would be cancelled.
                await trio.lowlevel.checkpoint()
            if not data:
                return None
            self._octets += len(data)
            protocol.receive(bytes(data))
            event = protocol.next_event()
        return event

    def _patience(self) -> float:
        """When the client must have sent something more: a whole command, or as much of a message as it should."""
        limits, now = self._settings.timeouts, trio.current_time()
        if self._protocol.in_message:
            rate = self._settings.min_rate
            slowest = limits.data_block + self._octets / rate if rate else math.inf
            return min(now + limits.data_block, self._begin + min(limits.message, slowest))
        if self._progress != self._protocol.progress:
            self._progress, self._until = self._protocol.progress, now + limits.command
        return self._until

    async def _flush(self) -> None:
        """Say what there is to say. A deadline stays behind, to be replaced by that of what comes next."""
        if data := self._protocol.data_to_send():
            # Whatever stops this leaves half a reply behind, and nothing may follow that.
            self._half_said = True
            self._scope.deadline = trio.current_time() + self._settings.timeouts.reply
            await self._stream.send_all(data)
            self._half_said = False

    async def _act(self, event: Event) -> None:
        session, handler, protocol = self._session, self._handler, self._protocol
        if isinstance(event, Mail):
            reply = await self._decide(handler.mail(session, event.sender, event.parameters))
            protocol.answer(reply or _SENDER_OK)
        elif isinstance(event, Rcpt):
            reply = await self._decide(handler.rcpt(session, event.recipient, event.parameters))
            protocol.answer(reply or _RECIPIENT_OK)
        elif isinstance(event, Piece):
            await self._take(event)
        elif isinstance(event, Begin):
            await self._open(event)
        elif isinstance(event, Drop):
            await self.drop()
        elif isinstance(event, Login):
            await self._log_in(event)
        else:
            await self.drop()
            await self._flush()
            self._scope.deadline = math.inf
            await self._start_tls()

    async def _open(self, event: Begin) -> None:
        said = await self._decide(self._handler.content(self._session, event.envelope))
        self._begin, self._octets = trio.current_time(), 0
        if isinstance(said, Reply):
            self._protocol.answer(_TROUBLE if said.positive or said.intermediate else said)
        else:
            self._sink = said
            self._protocol.go_ahead()

    async def _take(self, piece: Piece) -> None:
        assert self._sink is not None, "a piece of no message"
        begin = trio.current_time()
        said = await self._decide(self._hand_over(self._sink, piece))
        # What our own side needed is not held against the client.
        self._begin += trio.current_time() - begin
        if self._sink is not None and (piece.last or said is not None):
            await self.drop()
        if not piece.last and isinstance(said, Reply):
            self._protocol.discard(said)
        elif piece.last:
            self._protocol.answer(*self._one_or_each(said or ()))

    async def _hand_over(self, sink: Sink, piece: Piece) -> Reply | Sequence[Reply] | None:
        if piece.content:
            await sink.write(piece.content)
        if not piece.last:
            return None
        said = await sink.finish()
        self._sink = None
        return said

    def _one_or_each(self, said: Reply | Sequence[Reply]) -> Sequence[Reply]:
        replies = (said,) if isinstance(said, Reply) else tuple(said)
        wanted = self._protocol.recipients if self._settings.lmtp else 1
        if len(replies) in (1, wanted):
            return replies
        _log.error("smtp.wrong-number-of-replies", replies=len(replies), wanted=wanted)
        return (_TROUBLE,)

    async def _log_in(self, login: Login) -> None:
        said = await self._decide(self._handler.authenticate(self._session, login.user, login.password), _LOGIN_TROUBLE)
        reply = said if isinstance(said, Reply) else _LOGGED_IN if said is True else _NOT_LOGGED_IN
        if not reply.positive:
            _log.info("smtp.login-failed", peer=self._session.peer, user=login.user, reply=str(reply))
            await trio.sleep(self._settings.timeouts.login)
        self._protocol.answer(reply)

    async def _decide(self, decision: Awaitable[T], trouble: Reply = _TROUBLE) -> T | Reply:
        """What handler or sink say, within the time that they have; a reply that refuses when they fail."""
        try:
            with trio.CancelScope(deadline=trio.current_time() + self._settings.timeouts.handler):
                return await decision
            _log.error("smtp.handler-too-slow", peer=self._session.peer)
        except Refusal as refusal:
            return refusal.reply
        except Exception:  # noqa: BLE001 - a handler may fail in any way, and the client must hear of it
            _log.exception("smtp.handler-failed", peer=self._session.peer)
        return trouble

    async def _start_tls(self) -> None:
        context = self._settings.context
        assert context is not None, "TLS was offered without a certificate"
        with trio.fail_after(self._settings.timeouts.handshake):
            stream = await server_handshake(self._stream, context)
        self._stream = stream
        cipher = stream.connection.cipher()
        self._protocol.tls_started(TlsInfo(protocol=stream.connection.version() or "", cipher=cipher[0] if cipher else ""))


def _plain_address(peer: str) -> str:
    """The address as it is, but IPv4 in IPv6 as IPv4, so that whoever compares it with a network sees one form."""
    try:
        mapped = ipaddress.IPv6Address(peer).ipv4_mapped
    except ValueError:
        return peer
    return str(mapped) if mapped else peer
