"""A resolver made of zone texts: names, wildcards, aliases, security and faults, all in memory.

For tests, for the harness, and for anybody who wants answers without a network. It answers as a validating resolver would
(RFC 1034 §4.3.2, RFC 4592, RFC 8020), not as an authoritative server does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import dns.exception
import dns.name
import dns.node
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.zone
import trio

from postward.dns import ede as registry
from postward.dns import rdata, wire
from postward.dns.answer import Answer
from postward.errors import InvalidName
from postward.names import Domain

ZoneSecurity = Literal["secure", "insecure", "bogus"]

_TTL: Final = 3600
_WILDCARD: Final = dns.name.from_text("*", None)
# TLSA records with any data pass through the zone parser as a private type, because it refuses those that cannot be used.
_DISGUISE: Final = dns.rdatatype.RdataType.make(65_280)
_TLSA: Final = re.compile(
    r"\bTLSA[ \t]+(\d{1,3})[ \t]+(\d{1,3})[ \t]+(\d{1,3})[ \t]+((?:[0-9a-fA-F]{2}[ \t]*)*)(?=$|;)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class _Zone:
    nodes: Mapping[dns.name.Name, dns.node.Node]
    existing: frozenset[dns.name.Name]
    security: ZoneSecurity


@dataclass(frozen=True, slots=True)
class _Fault:
    rcode: str
    ede: tuple[tuple[int, str], ...]
    delay: float


class ZoneResolver:
    """Answers from zones that can be changed at any time; nothing is cached.

    `zones` maps an origin to the text of its zone file; a `$TTL` of an hour and a SOA record need not be written. Those
    listed are `secure`; see `set_zone` for others. Names in no zone do not exist, insecurely. `queries` counts what was
    asked; `validating` and `problems` can be set.
    """

    def __init__(self, zones: Mapping[str, str] | None = None, *, validating: bool | None = True) -> None:
        self._zones: dict[dns.name.Name, _Zone] = {}
        self._faults: dict[tuple[str, str], _Fault] = {}
        self.queries: Counter[tuple[str, str]] = Counter()
        self.validating = validating
        self.problems: Sequence[str] = ()
        for origin, text in (zones or {}).items():
            self.set_zone(origin, text)

    def set_zone(self, origin: str, text: str, security: ZoneSecurity = "secure") -> None:
        """Add a zone or put another in its place. Raises `ValueError` for text that is no zone file, with the line."""
        name = dns.name.from_text(origin)
        if security not in ("secure", "insecure", "bogus"):
            raise ValueError(f"security of a zone is secure, insecure or bogus, not {security!r}")
        try:
            text = _TLSA.sub(_as_unknown, text)
            zone = dns.zone.from_text(f"$TTL {_TTL}\n{text}", name, relativize=False, check_origin=False)
        except dns.exception.DNSException as exc:
            raise ValueError(f"zone {origin!r} cannot be read: {exc}") from exc
        nodes = {dns.name.Name(owner.labels): node for owner, node in zone.nodes.items()}
        self._zones[name] = _Zone(nodes, frozenset(_with_ancestors(nodes, name)), security)

    def remove(self, origin: str) -> None:
        """Take a zone away; its names no longer exist. Raises `KeyError` when there is none."""
        del self._zones[dns.name.from_text(origin)]

    def fault(
        self,
        name: str,
        rdtype: str = "ANY",
        rcode: str = "SERVFAIL",
        ede: Iterable[tuple[int, str]] = (),
        *,
        delay: float = 0,
    ) -> None:
        """Make questions for a name fail, also when a CNAME leads there: of one type, or of `ANY`.

        `rcode` is any text of `DnsFailure.rcode`, `TIMEOUT` among them; empty lets the answer through. `ede` are extended
        errors, code and text. `delay` is seconds of waiting before.
        """
        self._faults[str(Domain(name)), rdtype.upper()] = _Fault(rcode, tuple(ede), delay)

    def mend(self, name: str, rdtype: str = "ANY") -> None:
        """Undo `fault`. Raises `KeyError` when there is none."""
        del self._faults[str(Domain(name)), rdtype.upper()]

    async def query(self, name: Domain | str, rdtype: str) -> Answer:
        """Answer one question, following CNAMEs. Raises `InvalidName`, and `ValueError` for an unknown type."""
        domain, rdtype = Domain(name), rdtype.upper()
        if domain.is_literal:
            raise InvalidName(f"an address literal has no DNS records: {domain}")
        try:
            kind = dns.rdatatype.from_text(rdtype)
        except dns.rdatatype.UnknownRdatatype:
            raise ValueError(f"not a record type: {rdtype!r}") from None
        self.queries[str(domain), rdtype] += 1
        await trio.lowlevel.checkpoint()
        readings: list[wire.Reading] = []
        target = dns.name.from_text(domain)
        while True:
            reading = await self._read(target, kind)
            if len(readings) >= wire.MAX_ALIASES:
                reading = wire.failed(target, "LOOP", "the CNAMEs lead in a circle or on and on")
            readings.append(reading)
            if reading.finished:
                return wire.join(domain, rdtype, readings)
            target = reading.chain[-1]

    async def addresses(self, name: Domain) -> tuple[Answer, Answer]:
        """Ask for A and AAAA, in this order."""
        return await self.query(name, "A"), await self.query(name, "AAAA")

    async def _read(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> wire.Reading:
        text = name.to_text(omit_final_dot=True).lower()
        fault = self._faults.get((text, rdtype.name)) or self._faults.get((text, "ANY"))
        if fault is not None:
            await trio.sleep(fault.delay)
            if fault.rcode:
                return wire.failed(name, fault.rcode, f"{fault.rcode}, as a fault demands", fault.ede)
        zone = self._zone_of(name)
        if zone is None:
            return wire.Reading(chain=(name,), nxdomain=True)
        if zone.security == "bogus":
            return wire.failed(name, "SERVFAIL", f"{registry.NAMES[6]}: {text}", ((6, "the zone is bogus"),))
        return _look_up(zone, name, rdtype)

    def _zone_of(self, name: dns.name.Name) -> _Zone | None:
        while name not in self._zones:
            if name == dns.name.root:
                return None
            name = name.parent()
        return self._zones[name]


def _with_ancestors(names: Iterable[dns.name.Name], origin: dns.name.Name) -> Iterable[dns.name.Name]:
    """The names and the empty ones between them and the origin, which exist as well (RFC 8020 §2)."""
    yield origin
    for name in names:
        while name != origin and name.is_subdomain(origin):
            yield name
            name = name.parent()


def _look_up(zone: _Zone, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> wire.Reading:
    secure = zone.security == "secure"
    owner = name
    if name not in zone.existing:
        encloser = name.parent()
        while encloser not in zone.existing:
            encloser = encloser.parent()
        owner = _WILDCARD.derelativize(encloser)
        if owner not in zone.existing:
            return wire.Reading(chain=(name,), authenticated=secure, nxdomain=True)
    if rdataset := _rdataset(zone, owner, rdtype):
        return wire.Reading(chain=(name,), authenticated=secure, records=tuple(rdataset), ttl=rdataset.ttl)
    if alias := _rdataset(zone, owner, dns.rdatatype.CNAME):
        return wire.Reading(chain=(name, alias[0].target), authenticated=secure, ttl=alias.ttl, finished=False)
    return wire.Reading(chain=(name,), authenticated=secure)


def _rdataset(zone: _Zone, owner: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.rdataset.Rdataset | None:
    node = zone.nodes.get(owner)
    if node is None:
        return None
    if rdtype != dns.rdatatype.TLSA:
        return node.get_rdataset(dns.rdataclass.IN, rdtype)
    unknown = node.get_rdataset(dns.rdataclass.IN, _DISGUISE)
    return unknown and dns.rdataset.from_rdata_list(unknown.ttl, [rdata.tlsa(record.to_wire() or b"") for record in unknown])


def _as_unknown(match: re.Match[str]) -> str:
    data = bytes.fromhex(match[4])
    numbers = bytes(min(int(number), 255) for number in match.group(1, 2, 3))
    return f"TYPE{int(_DISGUISE)} \\# {len(numbers) + len(data)} {(numbers + data).hex()}"
