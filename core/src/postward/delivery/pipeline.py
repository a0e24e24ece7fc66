"""From a message to the hosts of its next hops: routes, policies, hosts in order, and the result of every session.

The domain's policies are asked once per delivery, before any connection; the host's before each host. Whether a connection
may be used is decided in one place, `compose.may_proceed`; a host that fails counts as out of reach, and its successors follow
in their order (RFC 8461 §5.1). Failures are temporary unless proven permanent. A connection that
a caller keeps serves its next message without any of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from postward import hookspecs
from postward.delivery.attempt import Dialler, Session, refusal
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
from postward.delivery.keep import Keeper, Kept
from postward.delivery.offer import Offer, offer_of
from postward.delivery.results import Results
from postward.delivery.route import RouteError, find_route, nearer_than, resolve_host
from postward.delivery.run import Run, not_final, other_family
from postward.log import correlated, current_cid
from postward.model import (
    ConnectionReport,
    Delivery,
    Destination,
    Message,
    Mode,
    MxHost,
    PolicyResult,
    Scope,
    Security,
    TlsPolicy,
    TlsResult,
    TlsWish,
)
from postward.model.content import as_content
from postward.names import Address, Domain
from postward.smtp.client import SmtpError

if TYPE_CHECKING:
    from postward.clock import Clock
    from postward.dns import Resolver
    from postward.hooks import Hooks, Outcome
    from postward.net import Network
    from postward.tls import TrustStore

__all__ = ["Pipeline", "may_proceed"]

DOMAINS_AT_ONCE: Final = 10
DOMAIN_LIMIT: Final = 3600.0


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
    hostname: Domain
    tls_always: bool
    results: Results
    takes_mail: bool = False

    async def deliver(self, message: Message) -> Delivery:
        """Deliver to every recipient's next hop and say what came of it. Never raises for the network or a peer.

        Every TLS result is durable when this returns. Nothing is tried a second time later: that is a queue's work.
        """
        groups: dict[Domain, list[Address]] = {}
        for address in dict.fromkeys(message.recipients):
            groups.setdefault(address.domain, []).append(address)
        message = replace(message, content=as_content(message.content))
        runs: dict[Domain, Delivery] = {}
        limit = trio.CapacityLimiter(DOMAINS_AT_ONCE)

        async def one(domain: Domain, recipients: tuple[Address, ...]) -> None:
            async with limit:
                runs[domain] = await self._to_domain(domain, offer_of(message, recipients))

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

    async def deliver_to(
        self, domain: Domain, message: Message, *, keeper: Keeper, results: list[TlsResult], first: bool = True
    ) -> Delivery:
        """Deliver a message whose recipients are all of one domain, for a queue. Never raises for the network or a peer.

        A connection may be left to `keeper`, and one that it keeps is used. What there is to journal is added to `results`,
        so that it can be stored in one transaction with what became of the recipients. `first`: it was not tried before.
        """
        offer = offer_of(message, message.recipients)
        return await self._to_domain(domain, offer, keeper=keeper, results=results, first=first)

    async def _to_domain(
        self,
        domain: Domain,
        offer: Offer,
        *,
        keeper: Keeper | None = None,
        results: list[TlsResult] | None = None,
        first: bool = True,
    ) -> Delivery:
        started = self.clock.now()
        run = Run(
            destination=Destination(domain=domain, hosts=()),
            offer=offer,
            policies=[],
            keeper=keeper,
            results=results,
            first=first,
            cid=current_cid(),
        )
        if keeper is not None and await self._over_kept(run, keeper, started):
            return run.finish(permanent=False, reply="")
        try:
            run.destination = await self._route(domain)
        except RouteError as exc:
            await self._no_route(run, exc, started)
            return run.finish(permanent=exc.permanent, reply=exc.reply)
        with trio.move_on_after(DOMAIN_LIMIT):
            run.policies = await self._domain_policies(run.destination)
            for mx in run.destination.hosts:
                await self._to_host(run, mx)
                if offer.message is not None and not run.open:
                    break
        # Only what every host said alike is final; one that could not be reached may think otherwise.
        final = run.hosts > 0 and run.hosts in (run.unmet, run.refused, run.absent)
        return run.finish(permanent=final, reply=run.last_error if final else "")

    # --- a connection that was kept ---

    async def _over_kept(self, run: Run, keeper: Keeper, started: int) -> bool:
        """Use the connection that is kept, if there is one. False when everything is still to be done."""
        kept = await keeper.take(run.destination.domain, run.offer.wish, is_report=run.offer.is_report)
        if kept is None:
            return False
        if run.offer.insists and not kept.session.require_tls:
            # It was made for a bounce, which goes without what this message insists on.
            await keeper.close()
            return False
        session = Session(tls=kept.session.tls, helo=kept.session.helo, require_tls=kept.session.require_tls)
        try:
            await kept.dialler.send(kept.connection, session, run.offer)
        except (SmtpError, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            await keeper.close(str(exc))
            session.error = session.error or str(exc)
            if session.replies is None and not kept.connection.content_begun:
                # Nothing of this message was offered, so a new connection can do it without sending anything twice.
                return False
        kept.messages += 1
        run.settle(session, kept.dialler.mx.name)
        run.attempts.append(
            replace(
                kept.report,
                delivered=any(reply.positive for reply in session.replies or ()),
                error=session.error,
                started=started,
                ended=self.clock.now(),
            )
        )
        return True

    def _keep(self, run: Run, keeper: Keeper, dialler: Dialler, session: Session, report: ConnectionReport) -> None:
        """Leave an open connection for the next message; what it comes to is told when it ends."""
        assert session.connection is not None
        cid = current_cid()

        def ended(kept: Kept, error: str) -> None:
            connection = kept.connection
            self.results.tell(
                replace(
                    report,
                    error=error,
                    ended=self.clock.now(),
                    bytes_sent=connection.bytes_sent,
                    bytes_received=connection.bytes_received,
                    messages=kept.messages,
                ),
                message=run.cid,
                cid=cid,
            )

        opened = trio.current_time()
        kept = Kept(connection=session.connection, dialler=dialler, session=session, report=report, opened=opened)
        keeper.keep(kept, ended)

    async def _route(self, domain: Domain) -> Destination:
        if not domain.is_literal:
            outcome = await self.hooks.first(hookspecs.resolve_route, domain=domain)
            if outcome is not None and outcome.value is not None:
                return outcome.value
            if outcome is not None and outcome.on_error == "defer":
                raise RouteError(f"451 4.3.0 plugin {outcome.plugin} could not route {domain}", permanent=False)
        return nearer_than(self.hostname, await find_route(domain, self.dns), ours=self.takes_mail)

    async def _no_route(self, run: Run, error: RouteError, started: int) -> None:
        domain = run.destination.domain
        policies: tuple[PolicyResult, ...] = ()
        if error.failure is not None:
            policies = (PolicyResult(kind=NO_POLICY, mode=Mode.NONE, domain=domain, passed=False, failure=error.failure),)
            await self.results.count(run, policies, host=None)
        self.results.report(run, domain, Session(error=error.reply), policies, address="", started=started)

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

    async def _to_host(self, run: Run, mx: MxHost) -> None:
        run.hosts += 1
        started = self.clock.now()
        try:
            mx = await resolve_host(mx, self.dns)
        except RouteError as exc:
            run.absent += exc.permanent
            run.last_error = exc.reply
            # RFC 7672 §2.2.1: what is logged and reported is the name that the MX record has, not what an alias makes of it.
            results = await self._unresolved(run, mx, exc)
            self.results.report(run, mx.name, Session(error=exc.reply), results, address="", started=started)
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
            offer=run.offer,
        )
        left = mx.addresses
        while left:
            address, left = left[0], left[1:]
            others = other_family(address, left) if run.first else ()
            dialler = replace(dialler, offer=replace(run.offer, recipients=run.open))
            if not await self._to_address(run, dialler, address, objects_to=bool(others)):
                continue
            if not run.objected:
                break
            left, run.objected = others, False

    async def _unresolved(self, run: Run, mx: MxHost, error: RouteError) -> tuple[PolicyResult, ...]:
        """A host whose addresses DNSSEC takes away fails under whatever applies: its owner has to learn of it."""
        if error.failure is None:
            return ()
        policies = acting(run.policies) or [no_policy(run.destination.domain)]
        results = policy_results(without_tls(policies, mx.name, error.failure))
        await self.results.count(run, results, host=mx.name)
        return results

    async def _excluded(self, run: Run, mx: MxHost, verdicts: Judged, started: int) -> None:
        """A host that an enforcing policy rules out before dialling: that, too, is a result."""
        results = policy_results(verdicts)
        await self.results.count(run, results, host=mx.name)
        session = Session(error=refusal(verdicts), policy_failed=True)
        run.settle(session, mx.name)
        self.results.report(run, mx.name, session, results, address="", started=started)

    async def _to_address(self, run: Run, dialler: Dialler, address: str, *, objects_to: bool) -> bool:
        """Try one address, in clear again where TLS broke and that is allowed. Whether the host needs no further address.

        It does as long as no server said anything of the mail: each address may be another machine (RFC 5321 §5.1). With
        `objects_to`, what the server has against this family of addresses is not final.
        """
        session, results = await self._connect(run, dialler, address, objects_to=objects_to)
        if run.offer.message is None:
            return session.counted or session.refused is not None
        if session.tls_broken and not dialler.tls_needed:
            session, _ = await self._connect(run, dialler, address, instead_of=results, objects_to=objects_to)
        refused = session.refused is not None and session.refused.permanent
        return session.replies is not None or refused or session.requiretls_unmet

    async def _connect(
        self,
        run: Run,
        dialler: Dialler,
        address: str,
        *,
        instead_of: tuple[PolicyResult, ...] | None = None,
        objects_to: bool = False,
    ) -> tuple[Session, tuple[PolicyResult, ...]]:
        """Make one connection and note what came of it; with `instead_of`, in clear, under the verdicts of the one before."""
        with correlated():
            started = self.clock.now()
            keep = run.keeper is not None and run.keeper.empty
            session = await dialler.connect(address, use_tls=instead_of is None, keep=keep)
            if instead_of is not None and run.offer.wish is not TlsWish.IGNORE:
                session.replies = tuple(map(not_final, session.replies)) if session.replies else None
            if objects_to:
                run.soften(session)
            results = policy_results(session.verdicts) if instead_of is None else instead_of
            if session.counted:
                await self.results.count(run, results, host=dialler.mx.name, address=address, session=session)
            run.settle(session, dialler.mx.name)
            report = self.results.report(run, dialler.mx.name, session, results, address=address, started=started)
            if session.connection is not None and run.keeper is not None:
                self._keep(run, run.keeper, dialler, session, report)
            return session, results


def _issued(outcomes: Sequence[Outcome[TlsPolicy]], domain: Domain, scope: Scope) -> list[TlsPolicy]:
    """What the plugins brought, each under its issuer's name; for a plugin that failed, what must not be skipped."""
    policies: list[TlsPolicy] = []
    for outcome in outcomes:
        if outcome.value is not None:
            policies.append(replace(outcome.value, source=outcome.plugin, scope=scope))
        elif outcome.error is not None and outcome.on_error == "defer":
            policies.append(stand_in(outcome.plugin, domain, str(outcome.error)))
    return policies
