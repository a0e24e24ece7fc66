"""One connection to one address: SMTP up to verified TLS, verdicts of every policy, and then the mail.

The handshake does not verify; every policy is judged on the same chain, so that every failure can be reported, and only then
is it decided whether the connection may be used. A session's result counts once, and only after the first read behind the
handshake, because TLS 1.3 servers report certificate trouble there (RFC 8446 §4.4.2.4, §6.2).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from postward import hookspecs
from postward.delivery.compose import Judged, authenticated, may_proceed, prior_verdict, server_name, without_tls
from postward.delivery.offer import Offer
from postward.model import (
    PASSED,
    BytesContent,
    Endpoint,
    Failure,
    MxHost,
    ResultType,
    TlsInfo,
    TlsPeer,
    TlsPolicy,
    TlsWish,
    Verdict,
)
from postward.names import Address, Domain
from postward.smtp.client import Envelope, Reply, SmtpConnection, SmtpError
from postward.smtp.client_protocol import too_many_recipients
from postward.stream import SocketStream
from postward.tls import TlsError, classify, client_handshake, late_alert

if TYPE_CHECKING:
    from postward.clock import Clock
    from postward.hooks import Hooks
    from postward.net import Network
    from postward.tls import TlsStream, TrustStore

CONNECT_LIMIT: Final = 30.0
HANDSHAKE_LIMIT: Final = 60.0
SESSION_LIMIT: Final = 1800.0

REQUIRETLS_UNMET: Final = "5.7.30"
_STARTTLS_TROUBLE: Final = {"protocol": "starttls-response-injection", "timeout": "io-timeout-during-starttls"}


@dataclass(slots=True, kw_only=True)
class Session:
    """What one connection came to. `replies` are those of the recipients, None when it did not get that far.

    `counted`: TLS was negotiated, refused, missing or broken, so there is a result to report. `tls_broken`: the same
    address may be tried again in clear where that is allowed. `refused`: the server spoke, and said no to the whole session.
    `connection` is the open connection where it was to be kept and is of further use. `require_tls`: all that REQUIRETLS
    demands is there; `requiretls_unmet`: it is not, so the message must not go.
    """

    verdicts: Judged = ()
    pkix: Verdict | None = None
    tls: TlsInfo | None = None
    counted: bool = False
    tls_broken: bool = False
    connected: bool = False
    connection: SmtpConnection | None = None
    replies: tuple[Reply, ...] | None = None
    refused: Reply | None = None
    error: str = ""
    helo: str = ""
    local_address: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0
    require_tls: bool = False
    requiretls_unmet: bool = False
    policy_failed: bool = False
    dsn_relayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialler:
    """Makes connections to the addresses of one host under the policies that apply to it."""

    hooks: Hooks
    net: Network
    trust: TrustStore
    clock: Clock
    hostname: Domain
    policies: Sequence[TlsPolicy]
    mx: MxHost
    secure_mx: bool
    tls_needed: bool
    offer: Offer = field(repr=False)

    async def connect(self, address: str, *, use_tls: bool, keep: bool = False) -> Session:
        """Make one connection, from the first packet to QUIT. Never raises for what the network or the peer did.

        With `keep`, a connection over which the message could be offered stays open, as `connection` of the session.
        """
        session = Session()
        endpoint = Endpoint(host=self.mx.name, address=address, port=self.mx.port)
        try:
            with trio.fail_after(SESSION_LIMIT):
                with trio.fail_after(CONNECT_LIMIT):
                    stream = await self.net.open_stream(endpoint)
                session.connected = True
                session.local_address = _local_address(stream)
                connection = SmtpConnection(stream)
                try:
                    await self._talk(connection, endpoint, session, use_tls=use_tls)
                    if keep and session.replies is not None and connection.usable:
                        session.connection = connection
                    elif not session.tls_broken:
                        await connection.quit()
                finally:
                    session.bytes_sent, session.bytes_received = connection.bytes_sent, connection.bytes_received
                    session.helo = connection.remote_name
                    if session.connection is None:
                        await connection.aclose()
        except OSError as exc:
            what = "the connection broke" if session.connected else "connecting failed"
            session.error = session.error or f"{what}: {os.strerror(exc.errno) if exc.errno else _one_line(exc)}"
        except (SmtpError, TlsError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            session.error = session.error or _one_line(exc)
        except trio.TooSlowError:
            session.error = session.error or ("the session took too long" if session.connected else "connecting took too long")
        return session

    async def _talk(self, connection: SmtpConnection, endpoint: Endpoint, session: Session, *, use_tls: bool) -> None:
        greeting = await connection.greet()
        if not greeting.positive:
            session.refused, session.error = greeting, str(greeting)
            return
        hello = await connection.ehlo(str(self.hostname))
        if not hello.positive:
            session.refused, session.error = hello, str(hello)
        elif await self._usable(connection, endpoint, session, use_tls=use_tls) and self.offer.message is not None:
            await self.send(connection, session, self.offer)

    async def _usable(self, connection: SmtpConnection, endpoint: Endpoint, session: Session, *, use_tls: bool) -> bool:
        if use_tls and not await self._secure(connection, endpoint, session):
            return False
        if self.offer.wish is not TlsWish.REQUIRE:
            return True
        lacking = self._lacking(connection, session)
        session.require_tls = not lacking
        if lacking and self.offer.insists:
            session.error, session.requiretls_unmet = lacking, lacking.startswith("5")
            return False
        return True

    async def _secure(self, connection: SmtpConnection, endpoint: Endpoint, session: Session) -> bool:
        """STARTTLS, handshake, verdicts, and the first read. False when mail must not go over this connection."""
        session.counted = True
        if "STARTTLS" not in connection.extensions and not self.tls_needed:
            missing = Failure(result_type=ResultType.STARTTLS_NOT_SUPPORTED)
            session.verdicts = without_tls(self.policies, self.mx.name, missing)
            return True
        reply = await self._ask_for_tls(connection, session)
        if reply is None or not reply.positive:
            return False
        try:
            with trio.fail_after(HANDSHAKE_LIMIT):
                name = server_name(self.policies, self.mx)
                stream, peer = await client_handshake(connection.stream, endpoint, name)
        except (TlsError, trio.TooSlowError) as exc:
            self._broken(session, exc)
            return False
        session.tls = TlsInfo(protocol=peer.protocol, cipher=peer.cipher)
        session.pkix = self.trust.verify(peer.chain, self.mx.name, at=self.clock.now())
        session.verdicts = await self._judge(peer)
        connection.upgraded(stream)
        if not may_proceed(session.verdicts) and self.offer.wish is not TlsWish.IGNORE:
            session.error, session.policy_failed = refusal(session.verdicts), True
            return False
        return await self._first_read(connection, stream, session)

    async def _ask_for_tls(self, connection: SmtpConnection, session: Session) -> Reply | None:
        """Send STARTTLS, also where it is not offered but needed. None, or a reply that is not positive, means no TLS."""
        try:
            reply = await connection.starttls()
        except SmtpError as exc:
            offered = "STARTTLS" in connection.extensions
            kind = ResultType.VALIDATION_FAILURE if offered else ResultType.STARTTLS_NOT_SUPPORTED
            reason = _STARTTLS_TROUBLE.get(exc.kind, "connection-closed-during-starttls")
            self._fail_tls(session, Failure(result_type=kind, reason=reason, detail=_one_line(exc)))
            return None
        if not reply.positive:
            reason = f"smtp-starttls-reply-code-{reply.code}"
            self._fail_tls(session, Failure(result_type=ResultType.STARTTLS_NOT_SUPPORTED, reason=reason, detail=str(reply)))
            session.error = f"STARTTLS was refused: {reply}"
            if self.offer.insists and reply.permanent:
                session.requiretls_unmet = True
                session.error = f"550 {REQUIRETLS_UNMET} REQUIRETLS needs TLS, and STARTTLS was refused: {reply}"
            await connection.quit()
        return reply

    async def _judge(self, peer: TlsPeer) -> Judged:
        verdicts: list[tuple[TlsPolicy, Verdict]] = []
        for policy in self.policies:
            verdict = prior_verdict(policy, self.mx.name)
            verdicts.append((policy, verdict or await self._ask_issuer(policy, peer)))
        return verdicts

    async def _ask_issuer(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict:
        if not policy.source:
            return PASSED
        outcome = await self.hooks.first(hookspecs.verify_tls, policy=policy, peer=peer, first=policy.source)
        if outcome is None:
            return Verdict.fail(ResultType.VALIDATION_FAILURE, "policy-not-judged", f"nobody judged the policy {policy.kind}")
        if outcome.value is None:
            return Verdict.fail(ResultType.VALIDATION_FAILURE, "policy-verification-failed", str(outcome.error))
        return outcome.value

    async def _first_read(self, connection: SmtpConnection, stream: TlsStream, session: Session) -> bool:
        try:
            hello = await connection.ehlo(str(self.hostname))
        except SmtpError as exc:
            alert = await late_alert(stream, exc)
            if alert is None:
                raise
            self._fail_tls(session, alert)
            session.tls = None
            return False
        if not hello.positive:
            session.refused, session.error = hello, str(hello)
            return False
        return True

    def _broken(self, session: Session, error: Exception) -> None:
        if isinstance(error, TlsError):
            failure = error.failure
        else:
            failure = classify(error) or Failure(
                result_type=ResultType.VALIDATION_FAILURE,
                reason="io-timeout-during-handshake",
                detail="the handshake took too long",
            )
        self._fail_tls(session, failure)

    def _fail_tls(self, session: Session, failure: Failure) -> None:
        session.tls_broken = True
        session.verdicts = without_tls(self.policies, self.mx.name, failure)
        session.error = f"TLS failed: {failure.reason or failure.result_type.value}" + (
            f" ({failure.detail})" if failure.detail else ""
        )

    def _lacking(self, connection: SmtpConnection, session: Session) -> str:
        """What a message with REQUIRETLS misses here, in the form of a reply; "" when it may go (RFC 8689 §4.2.1)."""
        if session.tls is None or not authenticated(session.verdicts, secure_mx=self.secure_mx, pkix=session.pkix):
            if problem := next((policy.problem for policy in self.policies if policy.problem), None):
                # The policy that would have vouched may be had later.
                why = problem.reason or problem.result_type.value
                return f"451 4.7.5 REQUIRETLS needs a server that a policy vouches for, and it could not be had: {why}"
            return f"550 {REQUIRETLS_UNMET} REQUIRETLS needs a server that a policy or DNSSEC vouches for"
        if "REQUIRETLS" not in connection.extensions:
            return f"550 {REQUIRETLS_UNMET} the server does not support REQUIRETLS"
        return ""

    async def send(self, connection: SmtpConnection, session: Session, offer: Offer) -> None:
        """Offer a message over a connection that may be used, and note the replies. Raises what `SmtpConnection.send` does.

        Recipients that are one too many for a server follow in a further transaction (RFC 5321 §4.5.3.1.10).
        """
        content, message = offer.content, offer.message
        assert message is not None
        assert content is not None
        replies: dict[Address, Reply] = {}
        wish = message.dsn
        session.dsn_relayed = wish is not None and "DSN" in connection.extensions
        left = offer.recipients
        while left:
            envelope = Envelope(
                sender=message.sender,
                recipients=left,
                require_tls=session.require_tls,
                smtputf8=offer.smtputf8,
                eight_bit=content.eight_bit,
                size=content.size,
                ret=wish.ret if wish else "",
                envid=wish.envid if wish else "",
                dsn=tuple(offer.requests[address] for address in left) if offer.requests else (),
            )
            proper = isinstance(content, BytesContent) and content.proper
            said = await connection.send(envelope, content.pieces() if content.whole is None else content.whole, proper=proper)
            replies.update(zip(left, said, strict=True))
            session.replies = tuple(replies[address] for address in offer.recipients)
            too_many = tuple(address for address, reply in zip(left, said, strict=True) if too_many_recipients(reply))
            left = too_many if any(reply.positive for reply in said) and connection.usable else ()
        refused = [str(reply) for reply in replies.values() if not reply.positive]
        session.error = refused[0] if refused else ""


def refusal(verdicts: Judged) -> str:
    """Which enforcing policy was not satisfied, and why, in one line; for now, as another policy may come (RFC 8461 §5.1)."""
    failed = next((policy, verdict) for policy, verdict in verdicts if not verdict.passed and policy.mode.value == "enforce")
    policy, verdict = failed
    why = verdict.failure
    said = f"{why.result_type.value}{f' {why.reason}' if why.reason else ''}" if why else "not satisfied"
    return f"the {policy.kind} policy of {policy.domain} is not satisfied: {said}"


def _local_address(stream: trio.abc.Stream) -> str:
    if isinstance(stream, SocketStream):
        return str(stream.socket.getsockname()[0])
    return ""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:500]
