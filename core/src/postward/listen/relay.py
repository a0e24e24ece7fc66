"""Mail that comes in to be sent on: who may hand it in, and the promise that a positive reply is.

Only the client decides: its network, or who logged in. What the recipient looks like opens nothing, be it with percent signs, a
source route or an address literal (RFC 5321 §7.1). `250` is said when message and envelope are on disk.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from postward.delivery.wish import wish_of
from postward.dkim import BodyHasher, signing_domain
from postward.errors import StoreError
from postward.listen.clients import WrongLogins
from postward.listen.received import Arrival, complete, count_hops, received_field
from postward.log import current_cid, fresh_cid
from postward.model import TlsWish
from postward.model.content import MAX_HEADER
from postward.names import Address, Domain, IpAddress
from postward.queue.types import Job, NewMessage, NewRecipient
from postward.smtp.server import Refusal, Reply

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.dkim import Signer
    from postward.listen.users import Users
    from postward.names import IpNetwork
    from postward.queue.store import Queue
    from postward.queue.writer import Writer
    from postward.smtp.envelope import Envelope
    from postward.smtp.server import Session, Sink

MAX_HOPS: Final = 100
_NO_ROOM: Final = Reply(452, ("no room for more mail just now",), "4.3.1")
_NOT_STORED: Final = Reply(451, ("the message could not be stored",), "4.3.0")
_NEVER: Final = Reply(554, ("a message of this kind cannot be stored",), "5.6.0")
_DENIED: Final = Reply(550, ("you may not send mail through this server",), "5.7.1")
_LOGIN_FIRST: Final = Reply(530, ("log in first",), "5.7.0")
_LATER: Final = Reply(454, ("too many failed logins from your network, please come back",), "4.7.0")
_LOOP: Final = Reply(554, ("this message goes in circles",), "5.4.6")
_NOT_HERE: Final = Reply(550, ("no mail is sent to that address",), "5.1.2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What all listeners share. `queued` is told the destinations of a message that has been committed, and the jobs at hand.

    `room(size)` says whether a message of that size may be taken.
    """

    hostname: Domain
    queue: Queue
    clock: Clock
    signer: Signer
    log: FilteringBoundLogger
    room: Callable[[int], bool]
    queued: Callable[[Collection[Domain], Sequence[Job]], None]
    wrong_logins: WrongLogins = field(default_factory=WrongLogins)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Decides for one listener (`postward.smtp.server.Handler`).

    Clients in `networks` may send, and so may those who have logged in as one of `users`; `trusted` is a Unix socket, where
    access to the file decides. `submission` completes what a mail program left out (RFC 6409 §8).
    """

    services: Services
    networks: tuple[IpNetwork, ...] = ()
    users: Users | None = None
    trusted: bool = False
    submission: bool = False
    _memo: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)

    async def mail(self, session: Session, sender: Address | None, parameters: Mapping[str, str]) -> Reply | None:
        """Refuse where nothing could come of it, before a recipient is named."""
        if not self.may_send(session):
            return self.denial
        return None if self.services.room(int(parameters.get("SIZE") or 0)) else _NO_ROOM

    async def rcpt(self, session: Session, recipient: Address, parameters: Mapping[str, str]) -> Reply | None:
        """Every address but those that lead back into this machine."""
        if recipient.domain.is_literal and _is_inside(recipient.domain.ip):
            return _NOT_HERE
        return None

    async def content(self, session: Session, envelope: Envelope) -> Sink | Reply:
        """Take the content into the queue."""
        return _Incoming(self.services, session, envelope, submission=self.submission)

    async def authenticate(self, session: Session, user: str, password: str) -> bool | Reply:
        """Whether this is the password of one of `users`; a client that was wrong too often hears nothing about it."""
        log, wrong, peer = self.services.log, self.services.wrong_logins, session.peer
        good = not wrong.too_many(peer) and self.users is not None and await self.users.check(user, password)
        # Asked again: many sessions may have guessed at once.
        if wrong.too_many(peer):
            log.warning("login-refused", user=user[:100], peer=peer, reason="too many failed logins from there")
            return _LATER
        if not good:
            wrong.count(peer)
            log.info("login-failed", user=user[:100], peer=peer)
        return good

    @property
    def denial(self) -> Reply:
        """What a client hears that may not send."""
        return _LOGIN_FIRST if self.users is not None else _DENIED

    def may_send(self, session: Session) -> bool:
        """Whether this client may send to anybody."""
        if self.trusted or session.user is not None:
            return True
        known = self._memo.get(session.peer)
        if known is None:
            known = _is_in(session.peer, self.networks)
            if len(self._memo) > 10_000:
                self._memo.clear()
            self._memo[session.peer] = known
        return known


def _is_in(peer: str, networks: Sequence[IpNetwork]) -> bool:
    try:
        ip: IpAddress = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    # A mapped address is that of an IPv4 client, and only a network of IPv4 can let it in.
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip.version == network.version and ip in network for network in networks)


def _is_inside(ip: IpAddress) -> bool:
    plain = getattr(ip, "ipv4_mapped", None) or ip
    return plain.is_loopback or plain.is_unspecified or plain.is_link_local or plain.is_multicast


class _Incoming:
    """One message on its way into the queue (`postward.smtp.server.Sink`)."""

    def __init__(self, services: Services, session: Session, envelope: Envelope, *, submission: bool) -> None:
        self._services, self._session, self._envelope = services, session, envelope
        self._submission = submission
        self._writer: Writer = services.queue.writer(proper=True)
        self._hasher = BodyHasher() if services.signer.domains else None
        self._head = bytearray()
        self._header: bytes | None = None

    async def write(self, piece: bytes) -> None:
        """Take the next piece; the header is looked at when all of it is here."""
        if b"\0" in piece:
            # Not allowed in 8-bit text (RFC 2045 §2.8), and a host that drops it would see lines that are none.
            raise Refusal(554, "5.6.0", "there is a NUL in the message")
        if self._header is None:
            self._collect(piece)
        elif self._hasher is not None:
            self._hasher.update(piece)
        try:
            await self._writer.write(piece)
        except StoreError as exc:
            self._services.log.error("message-not-stored", peer=self._session.peer, error=str(exc))
            raise Refusal(451, "4.3.0", _NOT_STORED.lines[0]) from exc

    def _collect(self, piece: bytes) -> None:
        start = max(len(self._head) - 3, 0)
        self._head += piece
        if self._head.startswith(b"\r\n"):
            end, body = 0, 2
        else:
            end = self._head.find(b"\r\n\r\n", start)
            body = end + 4
            if end < 0:
                if len(self._head) > MAX_HEADER:
                    # Without its end, nobody can say what a signature would be about.
                    self._header, self._hasher = bytes(self._head), None
                    self._head.clear()
                return
        self._header = bytes(self._head[:end])
        if self._hasher is not None:
            self._hasher.update(bytes(self._head[body:]))
        self._head.clear()

    async def finish(self) -> Reply:
        """Put the message into the queue; the reply is positive when it is on disk."""
        header = self._header if self._header is not None else bytes(self._head).removesuffix(b"\r\n")
        services, session, envelope = self._services, self._session, self._envelope
        if count_hops(header) >= MAX_HOPS:
            await self._writer.abort()
            return _LOOP
        cid, now = fresh_cid(), services.clock.now()
        message = NewMessage(
            cid=cid,
            sender=envelope.sender,
            recipients=self._recipients(),
            received=now,
            eight_bit=self._writer.eight_bit,
            wish=wish_of(header, require=envelope.require_tls),
            smtputf8=envelope.smtputf8,
            ret=envelope.ret,
            envid=envelope.envid,
            head=self._head_fields(header, cid, now),
        )
        try:
            jobs = await self._writer.commit(message)
        except (StoreError, OSError) as exc:
            services.log.error("message-not-stored", peer=session.peer, error=str(exc))
            return _NOT_STORED
        except ValueError as exc:
            services.log.warning("message-refused", peer=session.peer, error=str(exc))
            return _NEVER
        services.log.info(
            "message-queued",
            cid=cid,
            session=current_cid(),
            peer=session.peer or "unix",
            user=session.user,
            sender=str(envelope.sender or "<>"),
            recipients=len(message.recipients),
            size=self._writer.size,
            tls=session.tls.protocol if session.tls else None,
            requiretls=message.wish is TlsWish.REQUIRE or None,
        )
        services.queued({recipient.address.domain for recipient in message.recipients}, jobs)
        return Reply(250, (f"queued as {cid}",), "2.0.0")

    async def abort(self) -> None:
        """Forget it."""
        await self._writer.abort()

    def _recipients(self) -> tuple[NewRecipient, ...]:
        """Each address once: of one that was named twice, the first wishes count."""
        addresses, requests = self._envelope.recipients, self._envelope.dsn
        chosen: dict[Address, NewRecipient] = {}
        for number, address in enumerate(addresses):
            request = requests[number] if requests else None
            new = NewRecipient(address=address, notify=request.notify, orcpt=request.orcpt) if request else None
            chosen.setdefault(address, new or NewRecipient(address=address))
        return tuple(chosen.values())

    def _head_fields(self, header: bytes, cid: str, now: int) -> bytes:
        services, session, recipients = self._services, self._session, self._envelope.recipients
        added = complete(header, services.hostname, now) if self._submission else b""
        signature = b""
        domain = signing_domain(header, services.signer) if self._hasher is not None else None
        if domain is not None and self._hasher is not None:
            signature = services.signer.head(added + header, self._hasher.digest(), domain, at=now)
        received = received_field(
            Arrival(
                helo=session.helo,
                peer=ipaddress.ip_address(session.peer) if session.peer else None,
                tls=session.tls,
                protocol=session.protocol,
                hostname=services.hostname,
                cid=cid,
                received=now,
                recipient=recipients[0] if len(recipients) == 1 and recipients[0].is_ascii else None,
                require_tls=self._envelope.require_tls,
            )
        )
        return received + signature + added
