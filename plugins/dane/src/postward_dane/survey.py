"""Looking at a domain as a sender with DANE does, host by host, and at the certificates that its hosts show (RFC 7672 §2.2)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from postward.delivery import RouteError, find_route, resolve_host
from postward.dns import Status
from postward.model import Destination, Endpoint, MxHost
from postward.names import Domain
from postward.smtp import NoPeer, fetch_peer
from postward_dane import base, match, tlsa
from postward_dane.pem import describe
from postward_dane.seen import SeenHost, SeenRecord, Survey

if TYPE_CHECKING:
    from postward.dns import Answer
    from postward_dane.plugin import Dane

AT_ONCE: Final = 5
ADDRESSES: Final = 2
CONNECT_WITHIN: Final = 20.0


async def survey(plugin: Dane, domain: Domain, *, connect: bool, port: int = 25) -> Survey:
    """Look at every mail host of a domain, or at a host without MX records. Never raises for the network."""
    core = plugin.core
    blank = Survey(domain=domain, port=port, validating=core.dns.validating, problems=tuple(core.dns.problems))
    try:
        destination = await find_route(domain, core.dns)
    except RouteError as exc:
        return replace(blank, error=exc.reply)
    found: dict[Domain, SeenHost] = {}
    slots = trio.CapacityLimiter(AT_ONCE)

    async def look(mx: MxHost) -> None:
        async with slots:
            found[mx.name] = await see_host(plugin, destination, replace(mx, port=port), connect=connect)

    async with trio.open_nursery() as nursery:
        for mx in destination.hosts:
            nursery.start_soon(look, mx)
    return replace(
        blank,
        mx_security=destination.security,
        from_mx=destination.from_mx,
        hosts=tuple(found[mx.name] for mx in destination.hosts),
    )


async def see_host(plugin: Dane, destination: Destination, mx: MxHost, *, connect: bool) -> SeenHost:
    """Look at one host: addresses, then records, then its certificate."""
    blank = SeenHost(name=mx.name, preference=mx.preference)
    if mx.name.is_literal:
        return replace(blank, error="an address in place of a name, to which DANE does not apply")
    try:
        mx = await resolve_host(mx, plugin.core.dns)
    except RouteError as exc:
        return replace(blank, error=exc.reply, failure=exc.failure)
    seen = await _records(plugin, mx, blank)
    return await _certificate(plugin, destination, mx, seen) if connect else seen


async def _records(plugin: Dane, mx: MxHost, blank: SeenHost) -> SeenHost:
    """The records that decide. Those of a host that DANE passes over are looked for too: their owner means them to count."""
    seen = replace(
        blank,
        addresses=mx.addresses,
        addresses_security=mx.security,
        canonical=mx.canonical if mx.canonical != mx.name else None,
        asked=bool(base.base_domains(mx)),
    )
    candidates = base.base_domains(mx)
    for candidate in candidates or (mx.name,):
        if (owner := base.tlsa_name(candidate, mx.port)) is None:
            continue
        answer = await plugin.core.dns.query(owner, "TLSA")
        seen = _state(plugin, replace(seen, base=candidate), answer)
        if seen.tlsa in (Status.SECURE, Status.FAILED):
            break
    return seen


def _state(plugin: Dane, seen: SeenHost, answer: Answer) -> SeenHost:
    if answer.failure is not None:
        return replace(seen, tlsa="failed", tlsa_failure=answer.failure.slug)
    records = tlsa.of_rdata(answer.records)
    used = frozenset(tlsa.usable(records, plugin.strongest_first))
    shown = tuple(
        SeenRecord(
            record=each,
            why=""
            if each in used
            else tlsa.unusable(each, plugin.strongest_first) or "a stronger digest is published beside it",
        )
        for each in records
    )
    return replace(seen, tlsa=answer.status.value, ttl=answer.ttl, records=shown)


async def _certificate(plugin: Dane, destination: Destination, mx: MxHost, seen: SeenHost) -> SeenHost:
    core, name = plugin.core, seen.base or mx.name
    trouble: list[str] = []
    for address in mx.addresses[:ADDRESSES]:
        endpoint = Endpoint(host=mx.name, address=address, port=mx.port)
        try:
            peer = await fetch_peer(core.net, endpoint, name, core.hostname, within=CONNECT_WITHIN)
        except NoPeer as exc:
            trouble.append(f"{address}: {exc}")
            continue
        names = base.reference_names(destination, mx, name)
        judged = partial(match.judge, chain=peer.chain, names=names, at=core.clock.now(), common_name=plugin.config.common_name)
        used = [each.record for each in seen.usable]
        return replace(
            seen,
            address=address,
            protocol=peer.protocol,
            cipher=peer.cipher,
            chain=peer.chain,
            certificate=describe(peer.chain[0]) if peer.chain else None,
            records=tuple(each if each.why else replace(each, verdict=judged([each.record])) for each in seen.records),
            verdict=judged(used) if used else None,
        )
    return replace(seen, unreachable="; ".join(trouble) or "it has no address")
