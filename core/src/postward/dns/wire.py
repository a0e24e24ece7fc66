"""DNS messages, asked and understood; no input or output.

The query has AD set and DO clear, so a validator tells its verdict without sending the proofs (RFC 6840 §5.7), and offers 1232
bytes over UDP, which are not fragmented (RFC 9715). Nothing here raises for what a response contains.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from postward.dns import ede
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
    """A query with a random id. Raises `dns.exception.DNSException` for a type that does not exist."""
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
        message = dns.message.from_wire(response)
        return _read_message(message, name, dns.rdatatype.from_text(rdtype), trusted=trusted, server=server)
    except Exception as exc:  # noqa: BLE001 - whatever bytes make the parser raise, they are a malformed answer
        return failed(name, "MALFORMED", ede.clean(f"{server} sent a malformed answer: {exc or type(exc).__name__}"))


def _read_message(
    message: dns.message.Message, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, *, trusted: bool, server: str
) -> Reading:
    rcode = message.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        # AD on an error means nothing, whoever sets it.
        return _refused(message, name, server)
    chain, ttl = [name], _MAX_TTL
    while rdtype != dns.rdatatype.CNAME and (alias := _rrset(message, chain[-1], dns.rdatatype.CNAME)):
        target = alias[0].target
        if target in chain or len(chain) > MAX_ALIASES:
            return failed(name, "LOOP", f"the CNAMEs lead in a circle or on and on, seen by {server}")
        chain.append(target)
        ttl = min(ttl, _ttl(alias.ttl))
    rrset = _rrset(message, chain[-1], rdtype)
    nxdomain = rcode == dns.rcode.NXDOMAIN
    if rrset and nxdomain:
        return failed(name, "MALFORMED", f"{server} sent records of a name and said that it does not exist")
    if rrset and len(rrset) > MAX_RECORDS:
        return failed(name, "MALFORMED", f"{server} sent more than {MAX_RECORDS} {rdtype.name} records")
    authenticated = trusted and bool(message.flags & dns.flags.AD)
    if rrset:
        ttl = min(ttl, _ttl(rrset.ttl))
        return Reading(chain=tuple(chain), records=tuple(rrset), authenticated=authenticated, ttl=ttl)
    negative = _negative_ttl(message)
    if len(chain) > 1 and not nxdomain and negative is None:
        return Reading(chain=tuple(chain), authenticated=authenticated, ttl=ttl, finished=False)
    # Without the SOA nothing says how long the absence holds, so it is not kept.
    return Reading(chain=tuple(chain), authenticated=authenticated, nxdomain=nxdomain, ttl=min(ttl, negative or 0))


def _refused(message: dns.message.Message, name: dns.name.Name, server: str) -> Reading:
    rcode = dns.rcode.to_text(message.rcode())
    errors = tuple((int(option.code), ede.clean(option.text or "")) for option in message.extended_errors()[:_MAX_EDE])
    said = "; ".join(f"{ede.NAMES.get(code, code)}{f' ({text})' if text else ''}" for code, text in errors)
    return failed(name, rcode, f"{server} answered {rcode}{f': {said}' if said else ''}", errors)


def _rrset(message: dns.message.Message, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.rrset.RRset | None:
    return message.get_rrset(message.answer, name, dns.rdataclass.IN, rdtype)


def _ttl(ttl: int) -> int:
    return ttl if ttl <= _MAX_TTL else 0  # RFC 2181 §8


def _negative_ttl(message: dns.message.Message) -> int | None:
    """How long an absence holds (RFC 2308 §5); None without the SOA record that says so."""
    for rrset in message.authority:
        if rrset.rdtype == dns.rdatatype.SOA and rrset:
            return min(_ttl(rrset.ttl), _ttl(rrset[0].minimum))
    return None


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
