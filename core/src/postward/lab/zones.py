"""The names of the lab: zones, what DNSSEC says of each, and what goes wrong with single questions.

It answers as a validating resolver would, without signing anything: a secure zone comes with the AD bit to whoever asks for it
(RFC 6840 §5.7, §5.8), a bogus one as SERVFAIL with an extended error (RFC 8914), and a chain of CNAMEs is as secure as its
least secure link (RFC 4035 §3.2.3). Nothing here touches a socket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.zone

PAYLOAD: Final = 1232
_PLAIN_PAYLOAD: Final = 512
_MAX_CHAIN: Final = 16
_TTL: Final = 60
_HEADER: Final = 12


class Signing(StrEnum):
    """What a validator finds when it looks at a zone."""

    SECURE = "secure"
    INSECURE = "insecure"
    BOGUS = "bogus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one question.

    `rcode` is answered in place of the records, with the extended error `ede`; `silent` answers nothing at all; `unsigned`
    takes these records out of what is signed; `cut` truncates every answer over UDP.
    """

    rcode: dns.rcode.Rcode | None = None
    ede: int | None = None
    silent: bool = False
    unsigned: bool = False
    cut: bool = False


SERVFAIL: Final = Fault(rcode=dns.rcode.SERVFAIL)
BOGUS: Final = Fault(rcode=dns.rcode.SERVFAIL, ede=6)
EXPIRED: Final = Fault(rcode=dns.rcode.SERVFAIL, ede=7)
NO_KEY: Final = Fault(rcode=dns.rcode.SERVFAIL, ede=9)
SILENT: Final = Fault(silent=True)
UNSIGNED: Final = Fault(unsigned=True)
CUT: Final = Fault(cut=True)


@dataclass(frozen=True, slots=True)
class _Zone:
    signing: Signing
    data: dns.zone.Zone


@dataclass(slots=True)
class _Reply:
    """An answer in the making."""

    message: dns.message.Message
    secure: bool = True
    ede: int | None = None
    cut: bool = False
    silent: bool = False


@dataclass(slots=True)
class Zones:
    """All zones there are. Names outside of them do not exist."""

    _zones: dict[dns.name.Name, _Zone] = field(default_factory=dict)
    _faults: dict[tuple[dns.name.Name, dns.rdatatype.RdataType | None], Fault] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add(".", "", signing=Signing.INSECURE)

    def add(self, origin: str, records: str, *, signing: Signing = Signing.SECURE) -> None:
        """Put a zone in the place of any of the same name; `records` is a zone file without SOA and NS, names relative to it.

        Raises `dns.exception.DNSException` for records that cannot be read.
        """
        name = dns.name.from_text(origin)
        text = f"$TTL {_TTL}\n@ SOA ns.lab.test. hostmaster.lab.test. 1 3600 600 86400 {_TTL}\n@ NS ns.lab.test.\n{records}\n"
        data = dns.zone.from_text(text, origin=name, relativize=False, check_origin=False)
        self._zones[name] = _Zone(signing, data)

    def fault(self, name: str, rdtype: str | None, fault: Fault) -> None:
        """Let questions for a name go wrong, of one type or (None) of every type."""
        kind = dns.rdatatype.from_text(rdtype) if rdtype else None
        self._faults[dns.name.from_text(name), kind] = fault

    def reply(self, wire: bytes, *, udp: bool) -> bytes | None:
        """Answer one packet. None: say nothing, be it because the packet is no question or because of a fault."""
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError):
            return _malformed(wire)
        if query.flags & dns.flags.QR:
            return None
        reply = _Reply(dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD))
        self._answer(query, reply)
        return None if reply.silent else _to_wire(query, reply, udp=udp)

    def _answer(self, query: dns.message.Message, reply: _Reply) -> None:
        if query.opcode() != dns.opcode.QUERY:
            reply.message.set_rcode(dns.rcode.NOTIMP)
        elif len(query.question) != 1:
            reply.message.set_rcode(dns.rcode.FORMERR)
        elif query.question[0].rdclass != dns.rdataclass.IN:
            reply.message.set_rcode(dns.rcode.REFUSED)
        else:
            self._follow(query.question[0].name, query.question[0].rdtype, reply)

    def _follow(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, reply: _Reply) -> None:
        """Collect the records, across zones where CNAMEs lead there."""
        for _ in range(_MAX_CHAIN):
            zone = self._zone_of(name)
            fault = self._faults.get((name, rdtype)) or self._faults.get((name, None)) or Fault()
            reply.silent, reply.cut = reply.silent or fault.silent, reply.cut or fault.cut
            if zone.signing is Signing.BOGUS and fault.rcode is None:
                fault = BOGUS
            if fault.rcode is not None:
                return self._fail(fault, reply)
            reply.secure = reply.secure and zone.signing is Signing.SECURE and not fault.unsigned
            records = zone.data.get_rrset(name, rdtype)
            if records is not None:
                reply.message.answer.append(records)
                return None
            alias = zone.data.get_rrset(name, dns.rdatatype.CNAME)
            if alias is None:
                return self._deny(name, zone, reply)
            reply.message.answer.append(alias)
            name = alias[0].target
        return self._fail(SERVFAIL, reply)

    def _zone_of(self, name: dns.name.Name) -> _Zone:
        while name not in self._zones:
            name = name.parent()
        return self._zones[name]

    def _fail(self, fault: Fault, reply: _Reply) -> None:
        assert fault.rcode is not None
        reply.message.answer.clear()
        reply.message.set_rcode(fault.rcode)
        reply.ede, reply.secure = fault.ede, False

    def _deny(self, name: dns.name.Name, zone: _Zone, reply: _Reply) -> None:
        """No such record; no such name only where nothing stands below it either (RFC 8020)."""
        assert zone.data.origin is not None
        soa = zone.data.get_rrset(zone.data.origin, dns.rdatatype.SOA)
        assert soa is not None
        reply.message.authority.append(soa)
        if not any(owner.is_subdomain(name) for owner in zone.data):
            reply.message.set_rcode(dns.rcode.NXDOMAIN)


def _to_wire(query: dns.message.Message, reply: _Reply, *, udp: bool) -> bytes:
    message = reply.message
    if reply.secure and (query.flags & dns.flags.AD or query.ednsflags & dns.flags.DO):
        message.flags |= dns.flags.AD
    if query.edns >= 0 and reply.ede is not None:
        error = dns.edns.EDEOption(dns.edns.EDECode(reply.ede), "said by the lab")
        message.use_edns(0, query.ednsflags & dns.flags.DO, PAYLOAD, options=[error])
    room = (max(min(query.payload, PAYLOAD), _PLAIN_PAYLOAD) if query.edns >= 0 else _PLAIN_PAYLOAD) if udp else 65535
    if not (udp and reply.cut):
        try:
            return message.to_wire(max_size=room)
        except dns.exception.TooBig:
            pass
    message.answer.clear()
    message.authority.clear()
    message.flags |= dns.flags.TC
    return message.to_wire(max_size=room)


def _malformed(wire: bytes) -> bytes | None:
    """FORMERR for what has at least the header of a question, nothing for the rest, so that no two servers echo for ever."""
    if len(wire) < _HEADER or wire[2] & 0x80:
        return None
    return wire[:2] + bytes((0x80 | wire[2] & 0x79, 0x80 | dns.rcode.FORMERR)) + bytes(8)
