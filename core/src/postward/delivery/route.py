"""Where mail for a domain goes: MX records, or the domain itself (RFC 5321 §5.1), with what DNSSEC says of them.

A lookup that failed never reads as an absence: it defers (RFC 7672 §2.1.2). Addresses are looked up before TLSA records,
because some name servers answer those with errors (RFC 7672 §2.2.2). Preference alone orders the hosts (RFC 7672 §2.2.1).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from postward.addresses import names_a_host
from postward.dns import Answer, Resolver, Status
from postward.errors import InvalidName, PostwardError
from postward.model import Destination, Failure, MxHost, ResultType, Security
from postward.names import Domain

MAX_HOSTS: Final = 30
MAX_ADDRESSES: Final = 8


class RouteError(PostwardError):
    """A domain, or one host, that mail cannot be sent to.

    `reply` is in the form of an SMTP reply; `failure` is set where DNSSEC is the cause and a report should say so.
    """

    def __init__(self, reply: str, *, permanent: bool, failure: Failure | None = None) -> None:
        super().__init__(reply)
        self.reply, self.permanent, self.failure = reply, permanent, failure


@dataclass(frozen=True, slots=True)
class _Exchange:
    preference: int
    name: Domain


async def find_route(domain: Domain, resolver: Resolver) -> Destination:
    """The hosts of a domain by preference alone, whatever TLSA records they have (RFC 7672 §2.2.1). Raises `RouteError`."""
    if domain.is_literal:
        return _literal(domain)
    answer = await resolver.query(domain, "MX")
    if answer.status is Status.FAILED:
        raise _failed(answer, f"MX records of {domain}")
    if answer.found:
        return Destination(
            domain=domain,
            hosts=_hosts(domain, answer),
            security=answer.security,
            canonical=answer.canonical,
        )
    if answer.nxdomain:
        raise RouteError(f"550 5.1.2 the domain {domain} does not exist", permanent=True)
    implicit = MxHost(name=domain, preference=-1)
    return Destination(domain=domain, hosts=(implicit,), security=answer.security, canonical=answer.canonical, from_mx=False)


def _literal(domain: Domain) -> Destination:
    if not names_a_host(str(domain.ip)):
        raise RouteError(f"550 5.1.2 no host can have the address {domain}", permanent=True)
    host = MxHost(name=domain, preference=-1, addresses=(str(domain.ip),), canonical=domain)
    return Destination(domain=domain, hosts=(host,), canonical=domain, from_mx=False)


def nearer_than(us: Domain, destination: Destination, *, ours: bool) -> Destination:
    """The destination without hosts that are no nearer to it than we are: they would bring mail back (RFC 5321 §5.1).

    Where `us` is its nearest host itself, mail has arrived. If we answer at that name (`ours`) that is a loop, `RouteError`;
    otherwise another server of this machine does, and nothing is left out.
    """
    own = next((host.preference for host in destination.hosts if host.name == us), None)
    if own is None:
        return destination
    nearer = tuple(host for host in destination.hosts if host.preference < own)
    if nearer:
        return replace(destination, hosts=nearer)
    if ours:
        raise RouteError(f"554 5.4.6 mail for {destination.domain} would come back: {us} is its mail host", permanent=True)
    return destination


def _hosts(domain: Domain, answer: Answer) -> tuple[MxHost, ...]:
    exchanges: list[_Exchange] = []
    null = False
    for record in answer.records:
        text = record.exchange.to_text()
        null = null or text == "."
        try:
            exchanges.append(_Exchange(record.preference, Domain(text)))
        except InvalidName:
            continue
    if exchanges:
        random.shuffle(exchanges)
        exchanges.sort(key=lambda exchange: exchange.preference)
        # A host that is listed twice is tried once, in its better place.
        nearest: dict[Domain, int] = {}
        for each in exchanges:
            nearest.setdefault(each.name, each.preference)
        hosts = [MxHost(name=name, preference=preference) for name, preference in nearest.items()]
        return tuple(hosts[:MAX_HOSTS])
    if null:
        raise RouteError(f"556 5.1.10 {domain} accepts no mail (null MX)", permanent=True)
    raise RouteError(f"451 4.4.4 no MX record of {domain} names a host", permanent=False)


async def resolve_host(mx: MxHost, resolver: Resolver) -> MxHost:
    """The host with its addresses and what DNSSEC says of them. Raises `RouteError`: only this host is out (RFC 7672 §2.1.2).

    An address family that is absent or could not be looked up does not spoil the other; the answer is secure only where
    what is used of it is (RFC 7672 §2.1.3).
    """
    if mx.addresses:
        return mx
    answers = await resolver.addresses(mx.name)
    found = [answer for answer in answers if answer.found]
    if not found:
        failed = next((answer for answer in answers if answer.status is Status.FAILED), None)
        if failed is not None:
            raise _failed(failed, f"addresses of {mx.name}")
        permanent = mx.preference == -1
        raise RouteError(f"{'550 5.1.2' if permanent else '451 4.4.4'} {mx.name} has no address", permanent=permanent)
    addresses = _interleave(answers)
    if not addresses:
        raise RouteError(f"451 4.4.4 {mx.name} has no address that a host can have", permanent=False)
    secure = all(answer.authenticated for answer in found)
    canonical = found[0].canonical
    return replace(
        mx,
        addresses=addresses,
        security=Security.SECURE if secure else Security.INSECURE,
        canonical=canonical,
        alias_security=await _alias_security(mx.name, resolver, secure=secure) if canonical != mx.name else None,
    )


async def _alias_security(name: Domain, resolver: Resolver, *, secure: bool) -> Security:
    """What DNSSEC says of the first CNAME alone: the bit of a chain speaks for all of it (RFC 7672 §2.2.2).

    Raises `RouteError` when that cannot be told: taking it as insecure would switch DANE off for whoever blocks the answer.
    """
    if secure:
        return Security.SECURE
    if resolver.validating is False:
        return Security.INSECURE
    answer = await resolver.query(name, "CNAME")
    if answer.status is Status.FAILED:
        raise _failed(answer, f"alias {name}")
    return answer.security


def _interleave(answers: tuple[Answer, Answer]) -> tuple[str, ...]:
    four, six = ([each.address for each in answer.records if names_a_host(each.address)] for answer in answers)
    random.shuffle(four)
    random.shuffle(six)
    paired = [address for pair in zip(six, four, strict=False) for address in pair]
    rest = six[len(four) :] or four[len(six) :]
    return tuple((paired + rest)[:MAX_ADDRESSES])


def _failed(answer: Answer, what: str) -> RouteError:
    trouble = answer.failure
    slug = trouble.slug if trouble else "dns-failure"
    told = trouble is not None and trouble.about_dnssec  # other trouble passes, and need not be told (RFC 8460 §4.3.4)
    failure = Failure(result_type=ResultType.DNSSEC_INVALID, reason=slug, detail=trouble.detail if trouble else "")
    return RouteError(f"451 4.4.3 looking up the {what} failed: {slug}", permanent=False, failure=failure if told else None)
