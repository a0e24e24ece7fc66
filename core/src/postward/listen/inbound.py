"""Mail to report addresses: taken from anybody, judged, offered to the plugins, and delivered with what came of that.

This is no relaying: a stranger can reach exactly the configured addresses. Who may relay can do both at once; then the reports
are taken in first, because a report that comes again is counted once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from postward.errors import StoreError
from postward.inbound import TakenIn, take_in, without_our_fields
from postward.listen.maildir import Full
from postward.listen.next_hop import Declined
from postward.listen.received import Arrival, count_hops, received_field
from postward.listen.relay import MAX_HOPS
from postward.log import correlated_as, current_cid, fresh_cid
from postward.model import Disposition, InboundMessage
from postward.model.content import header_of
from postward.names import Address
from postward.smtp.server import Refusal, Reply

if TYPE_CHECKING:
    from postward.hooks import Hooks
    from postward.listen.addresses import ReportAddresses
    from postward.listen.maildir import Maildir
    from postward.listen.next_hop import NextHop
    from postward.listen.pace import Pace
    from postward.listen.relay import Relay, Services
    from postward.smtp.envelope import Envelope
    from postward.smtp.server import Session, Sink
    from postward.store import Journal

MAX_MESSAGE: Final = 16 << 20
MAX_HELD: Final = 256 << 20
_TOO_LARGE: Final = "reports may have 16 MiB at most"
_BUSY: Final = Reply(451, ("too much mail from you just now, please come back",), "4.7.0")
_NO_ROOM: Final = Reply(452, ("no room for more mail just now",), "4.3.1")
_NOT_STORED: Final = Reply(451, ("the message could not be delivered just now",), "4.3.0")
_NOT_TAKEN: Final = Reply(554, ("the message was refused behind this server",), "5.7.1")
_LOOP: Final = Reply(554, ("this message goes in circles",), "5.4.6")
_DISPOSITION_REPLY: Final = {
    Disposition.DEFER: Reply(451, ("this message cannot be judged just now",), "4.7.0"),
    Disposition.REJECT: Reply(550, ("this message is not accepted",), "5.7.1"),
}


class Mailbox(Protocol):
    """Where what was received goes."""

    async def put(self, cid: str, envelope: Envelope, content: bytes) -> None:
        """Deliver it. Raises `StoreError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaildirBox:
    """A Maildir as a mailbox."""

    maildir: Maildir
    hostname: str

    async def put(self, cid: str, envelope: Envelope, content: bytes) -> None:
        """One file, with the envelope in front of it."""
        recipients = "".join(f"Delivered-To: {recipient}\r\n" for recipient in envelope.recipients)
        head = f"Return-Path: <{envelope.sender or ''}>\r\n{recipients}".encode("utf-8", "replace")
        await self.maildir.deliver(f"{cid}.{self.hostname}", head + content)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHopBox:
    """A server as a mailbox."""

    hop: NextHop

    async def put(self, cid: str, envelope: Envelope, content: bytes) -> None:
        """Hand it over."""
        await self.hop.deliver(envelope.sender, envelope.recipients, content)


@dataclass(slots=True, kw_only=True)
class Intake:
    """What all listeners of a process share. `held` is how many octets of messages are in memory."""

    services: Services
    addresses: ReportAddresses
    hooks: Hooks
    journal: Journal
    mailbox: Mailbox
    pace: Pace
    held: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """Decides for one listener: report addresses for everybody, the rest as `relay` says."""

    intake: Intake
    relay: Relay

    async def mail(self, session: Session, sender: Address | None, parameters: Mapping[str, str]) -> Reply | None:
        """Anybody may begin: whether it is about reports is seen with the recipients."""
        if self.relay.may_send(session):
            return await self.relay.mail(session, sender, parameters)
        return None if self.intake.services.room(int(parameters.get("SIZE") or 0)) else _NO_ROOM

    async def rcpt(self, session: Session, recipient: Address, parameters: Mapping[str, str]) -> Reply | None:
        """A report address for anybody, others for whom the relay serves."""
        if self.intake.addresses.match(recipient) is not None:
            return None
        if self.relay.may_send(session):
            return await self.relay.rcpt(session, recipient, parameters)
        return self.relay.denial

    async def content(self, session: Session, envelope: Envelope) -> Sink | Reply:
        """Take it in, send it on, or both."""
        known = {recipient: self.intake.addresses.match(recipient) for recipient in envelope.recipients}
        if not any(known.values()):
            return await self.relay.content(session, envelope)
        services = self.intake.services
        if not self.relay.may_send(session) and not self.intake.pace.may(session.peer, services.clock.now()):
            services.log.info("reports-too-often", peer=session.peer)
            return _BUSY
        bases = tuple(dict.fromkeys(base for base in known.values() if base is not None))
        ours = _Report(self.intake, session, _part(envelope, [known[each] is not None for each in envelope.recipients]), bases)
        others = _part(envelope, [known[each] is None for each in envelope.recipients])
        if not others.recipients:
            return ours
        relayed = await self.relay.content(session, others)
        return relayed if isinstance(relayed, Reply) else _Both(ours, relayed)

    async def authenticate(self, session: Session, user: str, password: str) -> bool | Reply:
        """As the relay has it."""
        return await self.relay.authenticate(session, user, password)


def _part(envelope: Envelope, wanted: Sequence[bool]) -> Envelope:
    """The envelope with some of its recipients."""
    recipients = tuple(each for each, take in zip(envelope.recipients, wanted, strict=True) if take)
    dsn = tuple(each for each, take in zip(envelope.dsn, wanted, strict=True) if take) if envelope.dsn else ()
    return replace(envelope, recipients=recipients, dsn=dsn)


class _Report:
    """One message to report addresses (`postward.smtp.server.Sink`)."""

    def __init__(self, intake: Intake, session: Session, envelope: Envelope, addresses: Sequence[Address]) -> None:
        self._intake, self._session, self._envelope, self._addresses = intake, session, envelope, addresses
        self._content = bytearray()

    async def write(self, piece: bytes) -> None:
        """Keep the next piece."""
        if len(self._content) + len(piece) > MAX_MESSAGE:
            raise Refusal(552, "5.3.4", _TOO_LARGE)
        if self._intake.held + len(piece) > MAX_HELD:
            raise Refusal(452, "4.3.1", _NO_ROOM.lines[0])
        self._content += piece
        self._intake.held += len(piece)

    async def finish(self) -> Reply:
        """Judge it and deliver it; the reply is positive when both are done."""
        content = bytes(self._content)
        header = header_of(content)
        if count_hops(header) >= MAX_HOPS:
            self._release()
            return _LOOP
        services, session, envelope = self._intake.services, self._session, self._envelope
        cid, now = fresh_cid(), services.clock.now()
        message = InboundMessage(
            client_ip=ipaddress.ip_address(session.peer) if session.peer else None,
            helo=session.helo,
            sender=envelope.sender,
            recipients=envelope.recipients,
            content=content,
            received=now,
        )
        client = current_cid()
        with correlated_as(cid):
            taken = await take_in(message, self._addresses, self._intake.hooks, self._intake.journal)
            reply = _refusal(taken) or await self._deliver(cid, now, header, content, taken)
        services.log.info(
            "report-mail",
            cid=cid,
            session=client,
            peer=session.peer or "unix",
            sender=str(envelope.sender or "<>"),
            recipients=[str(each) for each in envelope.recipients[:10]],
            size=len(content),
            accepted=taken.receipt.accepted if taken.receipt else False,
            reason=(taken.receipt.reason if taken.receipt else taken.judgement.reason) or None,
            reply=str(reply),
        )
        self._release()
        return reply

    async def abort(self) -> None:
        """Forget it."""
        self._release()

    def _release(self) -> None:
        self._intake.held -= len(self._content)
        self._content = bytearray()

    async def _deliver(self, cid: str, now: int, header: bytes, content: bytes, taken: TakenIn) -> Reply:
        session, recipients = self._session, self._envelope.recipients
        received = received_field(
            Arrival(
                helo=session.helo,
                peer=ipaddress.ip_address(session.peer) if session.peer else None,
                tls=session.tls,
                protocol=session.protocol,
                hostname=self._intake.services.hostname,
                cid=cid,
                received=now,
                recipient=recipients[0] if len(recipients) == 1 and recipients[0].is_ascii else None,
            )
        )
        cleaned = taken.fields + received + without_our_fields(header + b"\r\n").removesuffix(b"\r\n") + content[len(header) :]
        try:
            await self._intake.mailbox.put(cid, self._envelope, cleaned)
        except Full as exc:
            self._intake.services.log.warning("inbound-full", error=str(exc))
            # A report that is counted has come to where it belongs; what fills the mailbox must not keep reports out.
            return _done(cid) if taken.receipt is not None and taken.receipt.accepted else _NO_ROOM
        except Declined as exc:
            self._intake.services.log.warning("inbound-declined", error=str(exc))
            return _NOT_TAKEN if exc.permanent else _NOT_STORED
        except StoreError as exc:
            self._intake.services.log.error("inbound-not-delivered", error=str(exc))
            return _NOT_STORED
        return _done(cid)


def _done(cid: str) -> Reply:
    return Reply(250, (f"taken as {cid}",), "2.0.0")


def _refusal(taken: TakenIn) -> Reply | None:
    """What a plugin or a judgement answers in place of taking the message."""
    judgement = taken.judgement
    fallback = _DISPOSITION_REPLY.get(judgement.disposition)
    if fallback is None or not judgement.reply:
        return fallback
    code, _, text = judgement.reply.partition(" ")
    enhanced, _, rest = text.partition(" ")
    good = code.isdecimal() and int(code) // 100 == fallback.code // 100 and enhanced.startswith(f"{code[0]}.")
    return Reply(int(code), (rest,), enhanced) if good else fallback


class _Both:
    """A message to report addresses and to others (`postward.smtp.server.Sink`)."""

    def __init__(self, report: _Report, relayed: Sink) -> None:
        self._report, self._relayed = report, relayed

    async def write(self, piece: bytes) -> None:
        """Give the next piece to both."""
        await self._report.write(piece)
        await self._relayed.write(piece)

    async def finish(self) -> Reply | Sequence[Reply]:
        """The reports first: only they may come a second time."""
        reply = await self._report.finish()
        if not reply.positive:
            await self._relayed.abort()
            return reply
        return await self._relayed.finish()

    async def abort(self) -> None:
        """Forget it, on both sides."""
        await self._report.abort()
        await self._relayed.abort()
