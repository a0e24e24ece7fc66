"""DNS messages, asked and understood; no input or output.

The query has AD set and DO clear, so a validator tells its verdict without sending the proofs (RFC 6840 §5.7), and offers 1232
bytes over UDP, which are not fragmented (RFC 9715). Nothing here raises for what a response contains.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, cast

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.wire

from postward.dns import ede, rdata
from postward.dns.answer import Answer, DnsFailure, Status
from postward.errors import InvalidName
from postward.names import Domain

MAX_ALIASES: Final = 16
"""CNAMEs followed before a chain counts as a loop."""
MAX_RECORDS: Final = 512
"""Records of one type at one name; more are refused as MALFORMED, because no mail host needs them."""
_MAX_ALL_RECORDS: Final = 1024
_MAX_EDE: Final = 8
_UDP_SIZE: Final = 1232
_MAX_TTL: Final = 2**31 - 1
_HEADER: Final = struct.Struct("!HHHHHH")
_ANSWER, _AUTHORITY, _ADDITIONAL = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One response, understood.

    `chain` leads from the asked name along the CNAMEs to the last one. `finished` is False when the response says nothing
    of that last name, so it has to be asked for: some forwarders do not follow CNAMEs.
    """

    chain: tuple[dns.name.Name, ...]
    records: tuple[Any, ...] = ()
    authenticated: bool = False
    nxdomain: bool = False
    ttl: int = 0
    finished: bool = True
    failure: DnsFailure | None = None


def make_query(name: dns.name.Name, rdtype: str) -> bytes:
    """A query with a random id: AD set, CD and DO clear (RFC 6840 §5.7), little enough for one datagram (RFC 9715 §3).

    Raises `dns.exception.DNSException` for a type that does not exist.
    """
    query = dns.message.make_query(
        name,
        rdtype,
        use_edns=0,
        payload=_UDP_SIZE,
        flags=int(dns.flags.RD | dns.flags.AD),
        want_dnssec=False,
    )
    return query.to_wire()


def is_answer(query: bytes, response: bytes) -> bool:
    """Whether `response` belongs to `query`: its id, its question (RFC 5452 §9.1). An error may come without a question."""
    if len(response) < _HEADER.size:
        return False
    identity, flags, questions, *_ = _HEADER.unpack_from(response)
    if identity != int.from_bytes(query[:2], "big") or not flags & dns.flags.QR or flags & 0x7800:
        return False
    if questions == 0:
        return bool(flags & 0x000F)
    end = _question_end(query)
    return questions == 1 and response[_HEADER.size : end].lower() == query[_HEADER.size : end].lower()


def _question_end(query: bytes) -> int:
    offset = _HEADER.size
    while query[offset]:
        offset += 1 + query[offset]
    return offset + 5


def is_truncated(response: bytes) -> bool:
    """Whether the answer did not fit and must be asked for over TCP (RFC 7766 §5)."""
    return bool(int.from_bytes(response[2:4], "big") & dns.flags.TC)


def failed(name: dns.name.Name, rcode: str, detail: str, errors: tuple[tuple[int, str], ...] = ()) -> Reading:
    """A reading of a lookup that failed."""
    return Reading(chain=(name,), failure=DnsFailure(rcode=rcode, ede=errors, detail=detail))


def read(response: bytes, name: dns.name.Name, rdtype: str, *, trusted: bool, server: str) -> Reading:
    """Understand a response that `is_answer`. `trusted`: its AD bit counts. `server` is for the details of a failure."""
    *_, answers, authorities, additional = _HEADER.unpack_from(response)
    if answers + authorities + additional > _MAX_ALL_RECORDS:
        return failed(name, "MALFORMED", f"{server} sent more than {_MAX_ALL_RECORDS} records")
    try:
        return _understand(_parse(response, dns.rdatatype.from_text(rdtype)), name, trusted=trusted, server=server)
    except Exception as exc:  # noqa: BLE001 - whatever bytes make the parser raise, they are a malformed answer
        return failed(name, "MALFORMED", ede.clean(f"{server} sent a malformed answer: {exc or type(exc).__name__}"))


@dataclass(slots=True)
class _Set:
    """The records of one type at one name; their smallest TTL. Equal ones count once (RFC 2181 §5)."""

    ttl: int = _MAX_TTL
    records: dict[dns.rdata.Rdata, None] = field(default_factory=dict)

    def add(self, record: dns.rdata.Rdata, ttl: int) -> None:
        self.ttl = min(self.ttl, _ttl(ttl))
        self.records[record] = None


@dataclass(slots=True)
class _Message:
    """What matters of a response: the records asked for, the aliases, how long an absence holds, and errors."""

    rdtype: dns.rdatatype.RdataType
    rcode: int
    authenticated: bool
    answers: dict[dns.name.Name, _Set] = field(default_factory=dict)
    aliases: dict[dns.name.Name, _Set] = field(default_factory=dict)
    absence: int | None = None
    referral: bool = False
    errors: tuple[tuple[int, str], ...] = ()


def _parse(response: bytes, rdtype: dns.rdatatype.RdataType) -> _Message:
    """Read a response, and of its records only those that matter. Raises what dnspython does, and `ValueError`."""
    _, flags, questions, *sections = _HEADER.unpack_from(response)
    message = _Message(rdtype, flags & 0x000F, bool(flags & dns.flags.AD))
    parser = dns.wire.Parser(response, _HEADER.size)
    for _ in range(questions):
        _parse_name(parser)
        parser.get_struct("!HH")
    for section, count in enumerate(sections):
        for _ in range(count):
            _parse_record(message, section, parser)
    return message


def _parse_name(parser: dns.wire.Parser) -> dns.name.Name:
    name, length = dns.name.from_wire(parser.wire, parser.current)
    parser.seek(parser.current + length)
    return name


def _parse_record(message: _Message, section: int, parser: dns.wire.Parser) -> None:
    owner = _parse_name(parser)
    kind, rdclass, ttl, length = parser.get_struct("!HHIH")
    with parser.restrict_to(length):
        if section == _ADDITIONAL and kind == dns.rdatatype.OPT:
            message.rcode |= ttl >> 24 << 4
            options = dns.rdata.from_wire_parser(rdclass, kind, parser)
            message.errors = tuple(_extended_errors(options))
        elif rdclass == dns.rdataclass.IN and section == _ANSWER and kind == message.rdtype:
            message.answers.setdefault(owner, _Set()).add(rdata.read(kind, parser), ttl)
        elif rdclass == dns.rdataclass.IN and section == _ANSWER and kind == dns.rdatatype.CNAME:
            message.aliases.setdefault(owner, _Set()).add(rdata.read(kind, parser), ttl)
        elif rdclass == dns.rdataclass.IN and section == _AUTHORITY and kind == dns.rdatatype.SOA:
            soa: Any = rdata.read(kind, parser)
            message.absence = min(_ttl(ttl), _ttl(soa.minimum))  # RFC 2308 §5
        elif rdclass == dns.rdataclass.IN and section == _AUTHORITY and kind == dns.rdatatype.NS:
            message.referral = True
            parser.get_remaining()
        else:
            parser.get_remaining()


def _extended_errors(options: Any) -> Iterator[tuple[int, str]]:
    found = (option for option in options.options if isinstance(option, dns.edns.EDEOption))
    for option in islice(found, _MAX_EDE):
        yield int(option.code), ede.clean(option.text or "")


def _understand(message: _Message, name: dns.name.Name, *, trusted: bool, server: str) -> Reading:
    if message.rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        # AD on an error means nothing, whoever sets it.
        return _refused(message, name, server)
    chain, ttl = [name], _MAX_TTL
    while alias := message.aliases.get(chain[-1]):
        if len(alias.records) > 1:
            return failed(name, "MALFORMED", f"{server} sent several CNAMEs for one name")
        target = cast("dns.rdtypes.ANY.CNAME.CNAME", next(iter(alias.records))).target
        if len(chain) > MAX_ALIASES:
            return failed(name, "LOOP", f"the CNAMEs lead in a circle or on and on, seen by {server}")
        chain.append(target)
        ttl = min(ttl, alias.ttl)
    found = message.answers.get(chain[-1])
    nxdomain = message.rcode == dns.rcode.NXDOMAIN
    if found and nxdomain:
        return failed(name, "MALFORMED", f"{server} sent records of a name and said that it does not exist")
    if found and len(found.records) > MAX_RECORDS:
        return failed(name, "MALFORMED", f"{server} sent more than {MAX_RECORDS} {message.rdtype.name} records")
    authenticated = trusted and message.authenticated
    if found:
        return Reading(chain=tuple(chain), records=tuple(found.records), authenticated=authenticated, ttl=min(ttl, found.ttl))
    if message.referral and not nxdomain and message.absence is None and len(chain) == 1:
        # RFC 2308 §2.2: where to ask instead, not that there is nothing.
        return failed(name, "LAME", f"{server} does not answer but refers to other servers, so it is no resolver")
    if len(chain) > 1 and not nxdomain and message.absence is None:
        return Reading(chain=tuple(chain), authenticated=authenticated, ttl=ttl, finished=False)
    # RFC 2308 §5: without the SOA nothing says how long the absence holds, so it is not kept.
    ttl = min(ttl, message.absence or 0)
    return Reading(chain=tuple(chain), authenticated=authenticated, nxdomain=nxdomain, ttl=ttl)


def _refused(message: _Message, name: dns.name.Name, server: str) -> Reading:
    rcode = dns.rcode.to_text(dns.rcode.Rcode.make(message.rcode))
    said = "; ".join(f"{ede.NAMES.get(code, code)}{f' ({text})' if text else ''}" for code, text in message.errors)
    return failed(name, rcode, f"{server} answered {rcode}{f': {said}' if said else ''}", message.errors)


def _ttl(ttl: int) -> int:
    return ttl if ttl <= _MAX_TTL else 0  # RFC 2181 §8


def domain_of(name: dns.name.Name) -> Domain | None:
    """A DNS name as a `Domain`; None when it holds what no host name does, as RFC 2317 aliases may."""
    try:
        return Domain(name.to_text(omit_final_dot=True))
    except InvalidName:
        return None


def join(name: Domain, rdtype: str, readings: Sequence[Reading]) -> Answer:
    """The answer that one or more readings along a chain of CNAMEs amount to (RFC 7672 §2.1.3: any insecure link counts).

    `canonical` is the last name of the chain that is a domain name.
    """
    chain = [link for reading in readings for link in reading.chain]
    canonical = next((domain for link in reversed(chain) if (domain := domain_of(link))), name)
    last = readings[-1]
    if last.failure is not None:
        return Answer(name=name, rdtype=rdtype, status=Status.FAILED, canonical=canonical, failure=last.failure)
    authenticated = all(reading.authenticated for reading in readings)
    status = (Status.SECURE if authenticated else Status.INSECURE) if last.records else Status.ABSENT
    return Answer(
        name=name,
        rdtype=rdtype,
        status=status,
        authenticated=authenticated,
        records=last.records,
        canonical=canonical,
        nxdomain=last.nxdomain,
        ttl=min(reading.ttl for reading in readings),
    )
