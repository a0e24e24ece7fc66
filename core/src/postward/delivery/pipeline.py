"""From a message to the hosts of its next hops: routes, policies, hosts in order, and the result of every session.

The domain's policies are asked once per delivery, before any connection; the host's before each host. Whether a connection
may be used is decided in one place, `compose.may_proceed`. Failures are temporary unless proven permanent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import trio

from postward import hookspecs
from postward.delivery.attempt import Dialler, Offer, Session, refusal
from postward.delivery.compose import (
    NO_POLICY,
    Judged,
    acting,
    exclusions,
    may_proceed,
    needs_tls,
    no_policy,
    policy_results,
    stand_in,
    without_tls,
)
from postward.delivery.route import RouteError, find_route, nearer_than, resolve_host
from postward.delivery.wish import header_of
from postward.errors import StoreError
from postward.log import correlated
from postward.model import (
    ConnectionReport,
    Delivery,
    Destination,
    Message,
    Mode,
    MxHost,
    PolicyResult,
    RecipientOutcome,
    Scope,
    Security,
    TlsPolicy,
    TlsResult,
    TlsWish,
    day_of,
)
from postward.names import Address, Domain
from postward.smtp.reply import Reply

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.dns import Resolver
    from postward.hooks import Hooks, Outcome
    from postward.net import Network
    from postward.store import Journal
    from postward.tls import TrustStore

__all__ = ["Pipeline", "may_proceed"]

DOMAINS_AT_ONCE: Final = 10
DOMAIN_LIMIT: Final = 3600.0
_TLS_FIRST: Final = 530  # RFC 3207 §4


@dataclass(slots=True)
class _Run:
    """The delivery to one next hop, while it goes on."""

    destination: Destination
    offer: Offer
    policies: list[TlsPolicy]
    attempts: list[ConnectionReport] = field(default_factory=list)
    decided: dict[Address, RecipientOutcome] = field(default_factory=dict)
    last_reply: dict[Address, str] = field(default_factory=dict)
    last_error: str = ""
    hosts: int = 0
    unmet: int = 0
    absent: int = 0
    refused: int = 0

    @property
    def open(self) -> tuple[Address, ...]:
        return tuple(address for address in self.offer.recipients if address not in self.decided)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Delivers messages, and probes domains. One per program; calls may run side by side.

    `takes_mail`: this program is what answers for `hostname` at port 25, so mail for it would come round in a circle.
    """

    hooks: Hooks
    dns: Resolver
    net: Network
    trust: TrustStore
    clock: Clock
    journal: Journal
    hostname: Domain
    tls_always: bool
    log: FilteringBoundLogger
    observe: Callable[[ConnectionReport], None]
    takes_mail: bool = False

    async def deliver(self, message: Message) -> Delivery:
        """Deliver to every recipient's next hop and say what came of it. Never raises for the network or a peer.

        Every TLS result is durable when this returns. Nothing is tried a second time later: that is a queue's work.
        """
        groups: dict[Domain, list[Address]] = {}
        for address in dict.fromkeys(message.recipients):
            groups.setdefault(address.domain, []).append(address)
        eight_bit, smtputf8 = not message.content.isascii(), _in_utf8(header_of(message.content))
        runs: dict[Domain, Delivery] = {}
        limit = trio.CapacityLimiter(DOMAINS_AT_ONCE)

        async def one(domain: Domain, recipients: tuple[Address, ...]) -> None:
            offer = Offer(message=message, recipients=recipients, wish=message.wish, eight_bit=eight_bit, smtputf8=smtputf8)
            async with limit:
                runs[domain] = await self._to_domain(domain, offer)

        async with trio.open_nursery() as nursery:
            for domain, addresses in groups.items():
                nursery.start_soon(one, domain, tuple(addresses))
        outcomes = {outcome.address: outcome for run in runs.values() for outcome in run.recipients}
        return Delivery(
            recipients=tuple(outcomes[address] for address in message.recipients),
            attempts=tuple(attempt for domain in groups for attempt in runs[domain].attempts),
        )

    async def probe(self, domain: Domain, *, wish: TlsWish = TlsWish.FOLLOW) -> Delivery:
        """Do all that a delivery does up to EHLO behind TLS, at every host of a domain; send no mail, count nothing."""
        return await self._to_domain(domain, Offer(message=None, recipients=(), wish=wish))

    async def _to_domain(self, domain: Domain, offer: Offer) -> Delivery:
        started = self.clock.now()
        run = _Run(destination=Destination(domain=domain, hosts=()), offer=offer, policies=[])
        try:
            run.destination = await self._route(domain)
        except RouteError as exc:
            await self._no_route(run, exc, started)
            return _finish(run, permanent=exc.permanent, reply=exc.reply)
        with trio.move_on_after(DOMAIN_LIMIT):
            run.policies = await self._domain_policies(run.destination)
            for mx in run.destination.hosts:
                await self._to_host(run, mx)
                if offer.message is not None and not run.open:
                    break
        # Only what every host said alike is final; one that could not be reached may think otherwise.
        final = run.hosts > 0 and run.hosts in (run.unmet, run.refused, run.absent)
        return _finish(run, permanent=final, reply=run.last_error if final else "")

    async def _route(self, domain: Domain) -> Destination:
        if not domain.is_literal:
            outcome = await self.hooks.first(hookspecs.resolve_route, domain=domain)
            if outcome is not None and outcome.value is not None:
                return outcome.value
            if outcome is not None and outcome.on_error == "defer":
                raise RouteError(f"451 4.3.0 plugin {outcome.plugin} could not route {domain}", permanent=False)
        return nearer_than(self.hostname, await find_route(domain, self.dns), ours=self.takes_mail)

    async def _no_route(self, run: _Run, error: RouteError, started: int) -> None:
        domain = run.destination.domain
        policies: tuple[PolicyResult, ...] = ()
        if error.failure is not None:
            policies = (PolicyResult(kind=NO_POLICY, mode=Mode.NONE, domain=domain, passed=False, failure=error.failure),)
            await self._count(run, policies, host=None)
        self._report(run, domain, Session(error=error.reply), policies, address="", started=started)

    # --- policies ---

    async def _domain_policies(self, destination: Destination) -> list[TlsPolicy]:
        if destination.domain.is_literal:
            return []
        outcomes = await self.hooks.gather(hookspecs.domain_policy, destination=destination)
        return _issued(outcomes, destination.domain, Scope.DOMAIN)

    async def _host_policies(self, destination: Destination, mx: MxHost) -> list[TlsPolicy]:
        if destination.domain.is_literal or mx.name.is_literal:
            return []
        outcomes = await self.hooks.gather(hookspecs.host_policy, destination=destination, mx=mx)
        return _issued(outcomes, mx.name, Scope.HOST)

    # --- one host ---

    async def _to_host(self, run: _Run, mx: MxHost) -> None:
        run.hosts += 1
        started = self.clock.now()
        try:
            mx = await resolve_host(mx, self.dns)
        except RouteError as exc:
            run.absent += exc.permanent
            run.last_error = exc.reply
            results = await self._unresolved(run, mx, exc)
            self._report(run, mx.name, Session(error=exc.reply), results, address="", started=started)
            return
        policies = acting([*run.policies, *await self._host_policies(run.destination, mx)])
        if run.offer.wish is not TlsWish.IGNORE and (excluded := exclusions(policies, mx.name)):
            await self._excluded(run, mx, excluded, started)
            return
        policies = policies or [no_policy(run.destination.domain)]
        dialler = Dialler(
            hooks=self.hooks,
            net=self.net,
            trust=self.trust,
            clock=self.clock,
            hostname=self.hostname,
            policies=policies,
            mx=mx,
            secure_mx=not run.destination.from_mx or run.destination.security is Security.SECURE,
            tls_needed=needs_tls(policies, run.offer.wish, insists=run.offer.insists, always=self.tls_always),
            offer=replace(run.offer, recipients=run.open),
        )
        for address in mx.addresses:
            if await self._to_address(run, dialler, address):
                break

    async def _unresolved(self, run: _Run, mx: MxHost, error: RouteError) -> tuple[PolicyResult, ...]:
        """A host whose addresses DNSSEC takes away fails under whatever applies: its owner has to learn of it."""
        if error.failure is None:
            return ()
        policies = acting(run.policies) or [no_policy(run.destination.domain)]
        results = policy_results(without_tls(policies, mx.name, error.failure))
        await self._count(run, results, host=mx.name)
        return results

    async def _excluded(self, run: _Run, mx: MxHost, verdicts: Judged, started: int) -> None:
        """A host that an enforcing policy rules out before dialling: that, too, is a result."""
        results = policy_results(verdicts)
        await self._count(run, results, host=mx.name)
        session = Session(error=refusal(verdicts), policy_failed=True)
        self._settle(run, session)
        self._report(run, mx.name, session, results, address="", started=started)

    async def _to_address(self, run: _Run, dialler: Dialler, address: str) -> bool:
        """Try one address, in clear again where TLS broke and that is allowed. Whether the host needs no further address."""
        session, results = await self._connect(run, dialler, address)
        if session.tls_broken and not dialler.tls_needed and run.offer.message is not None:
            session, _ = await self._connect(run, dialler, address, instead_of=results)
        # An address that fell silent, broke off or had no time says nothing of the host's others (RFC 5321 §5.1).
        heard = session.replies is not None or (session.refused is not None and session.refused.permanent)
        return not session.error or heard or session.policy_failed or session.requiretls_unmet

    async def _connect(
        self, run: _Run, dialler: Dialler, address: str, *, instead_of: tuple[PolicyResult, ...] | None = None
    ) -> tuple[Session, tuple[PolicyResult, ...]]:
        """Make one connection and note what came of it; with `instead_of`, in clear, under the verdicts of the one before."""
        with correlated():
            started = self.clock.now()
            session = await dialler.connect(address, use_tls=instead_of is None)
            if instead_of is not None and run.offer.wish is not TlsWish.IGNORE:
                session.replies = tuple(map(_not_final, session.replies)) if session.replies else None
            results = policy_results(session.verdicts) if instead_of is None else instead_of
            if session.counted:
                await self._count(run, results, host=dialler.mx.name, address=address, session=session)
            self._settle(run, session)
            self._report(run, dialler.mx.name, session, results, address=address, started=started)
            return session, results

    # --- results ---

    def _settle(self, run: _Run, session: Session) -> None:
        """Note what a session decided: a positive or permanent reply ends a recipient, anything else leaves it open."""
        if session.error:
            run.last_error = _as_reply(session)
        run.unmet += session.requiretls_unmet
        run.refused += session.refused is not None and session.refused.permanent
        for address, reply in zip(run.open, session.replies or (), strict=False):
            if reply.positive or reply.permanent:
                run.decided[address] = RecipientOutcome(
                    address=address, delivered=reply.positive, permanent=not reply.positive, reply=str(reply)
                )
            else:
                run.last_reply[address] = str(reply)

    async def _count(
        self,
        run: _Run,
        results: tuple[PolicyResult, ...],
        *,
        host: Domain | None,
        address: str = "",
        session: Session | None = None,
    ) -> None:
        """Make one result durable; a probe counts nothing."""
        message = run.offer.message
        if message is None:
            return
        tls = session.tls if session else None
        result = TlsResult(
            day=day_of(self.clock.now()),
            domain=run.destination.domain,
            host=host,
            policies=results,
            sending_ip=session.local_address if session else "",
            receiving_ip=address,
            receiving_helo=session.helo if session else "",
            protocol=tls.protocol if tls else "",
            cipher=tls.cipher if tls else "",
            pkix=session.pkix if session else None,
            is_report=message.is_report,
        )
        try:
            await self.journal.append(result)
        except StoreError as exc:
            # The session is over; what it came to for the mail must not be lost on top of its result.
            self.log.error("result-not-journalled", domain=result.domain, host=result.host, error=str(exc))

    def _report(
        self,
        run: _Run,
        host: Domain,
        session: Session,
        results: tuple[PolicyResult, ...],
        *,
        address: str,
        started: int,
    ) -> None:
        report = ConnectionReport(
            domain=run.destination.domain,
            host=host,
            address=address,
            tls=session.tls,
            policies=results,
            delivered=any(reply.positive for reply in session.replies or ()),
            error=session.error,
            started=started,
            ended=self.clock.now(),
            bytes_sent=session.bytes_sent,
            bytes_received=session.bytes_received,
        )
        run.attempts.append(report)
        self.observe(report)
        self.log.info(
            "connection",
            domain=report.domain,
            host=report.host,
            address=address,
            tls=session.tls.protocol if session.tls else None,
            policies=[f"{each.kind}:{each.mode}:{'passed' if each.passed else 'failed'}" for each in results],
            delivered=report.delivered,
            error=report.error,
        )


def _issued(outcomes: Sequence[Outcome[TlsPolicy]], domain: Domain, scope: Scope) -> list[TlsPolicy]:
    """What the plugins brought, each under its issuer's name; for a plugin that failed, what must not be skipped."""
    policies: list[TlsPolicy] = []
    for outcome in outcomes:
        if outcome.value is not None:
            policies.append(replace(outcome.value, source=outcome.plugin, scope=scope))
        elif outcome.error is not None and outcome.on_error == "defer":
            policies.append(stand_in(outcome.plugin, domain, str(outcome.error)))
    return policies


def _in_utf8(header: bytes) -> bool:
    """Whether a header needs SMTPUTF8: it has UTF-8. Octets of any other kind are no such text (RFC 6532 §3.2)."""
    try:
        return not header.decode().isascii()
    except UnicodeDecodeError:
        return False


def _not_final(reply: Reply) -> Reply:
    """A server that wants TLS, and with which TLS just broke, may have it mended by the next time."""
    return Reply(451, (f"TLS failed, and without it: {reply}",), "4.7.5") if reply.code == _TLS_FIRST else reply


def _as_reply(session: Session) -> str:
    """Our own words in the form of a temporary SMTP reply; a server's reply stays as it is."""
    if session.error[:3].isdigit():
        return session.error
    enhanced = "4.7.5" if session.policy_failed or session.tls_broken else "4.4.1"
    return f"451 {enhanced} {session.error}"


def _finish(run: _Run, *, permanent: bool, reply: str) -> Delivery:
    """Decide what is still open: `reply` for all, or else the last word on each, as a temporary failure."""
    for address in run.open:
        said = reply or run.last_reply.get(address) or run.last_error or f"451 4.4.4 no host of {address.domain} could be tried"
        if not permanent and said.startswith("5"):
            said = f"451 4.4.1 not every host of {address.domain} could be tried, one said: {said}"
        run.decided[address] = RecipientOutcome(address=address, delivered=False, permanent=permanent, reply=said)
    return Delivery(
        recipients=tuple(run.decided[address] for address in run.offer.recipients),
        attempts=tuple(run.attempts),
    )
