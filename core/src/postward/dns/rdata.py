"""Record data that dnspython is too strict about.

A TLSA record whose digest has the wrong length is not an answer that cannot be read but a record that cannot be used
(RFC 6698 §4.1, RFC 7671 §9): whether any usable record is left decides whether mail may go in clear, so it must stay visible.
"""

from __future__ import annotations

from typing import Any, Final

import dns.immutable
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TLSA
import dns.wire

MIN_TLSA: Final = 3


@dns.immutable.immutable
class LenientTlsa(dns.rdtypes.ANY.TLSA.TLSA):
    """A TLSA record with any data: `usage`, `selector`, `mtype`, `cert`, as of dnspython's own."""

    def __init__(self, rdclass: Any, rdtype: Any, usage: int, selector: int, mtype: int, cert: bytes) -> None:
        dns.rdata.Rdata.__init__(self, rdclass, rdtype)
        self.usage, self.selector, self.mtype, self.cert = usage, selector, mtype, cert


def tlsa(data: bytes) -> dns.rdata.Rdata:
    """A TLSA record of its RDATA. Raises `ValueError` when that is shorter than its three numbers."""
    if len(data) < MIN_TLSA:
        raise ValueError("a TLSA record needs three numbers")
    usage, selector, mtype = data[:MIN_TLSA]
    return LenientTlsa(dns.rdataclass.IN, dns.rdatatype.TLSA, usage, selector, mtype, data[MIN_TLSA:])


def read(rdtype: dns.rdatatype.RdataType, parser: dns.wire.Parser) -> dns.rdata.Rdata:
    """The record at the parser's place, which is restricted to its RDATA. Raises what dnspython does."""
    if rdtype == dns.rdatatype.TLSA:
        return tlsa(parser.get_remaining())
    return dns.rdata.from_wire_parser(dns.rdataclass.IN, rdtype, parser)
