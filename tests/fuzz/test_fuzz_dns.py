"""Bytes from the network as DNS messages: whatever comes, it is an answer in one of four states, and nothing is raised."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from hypothesis import strategies as st

from fuzzing import fuzz, mutated
from postward.dns import Answer, Status, ede, wire
from postward.dns.health import outcome
from postward.names import Domain

NAME = dns.name.from_text("_25._tcp.mx.example.com")
RECORDS = {
    "TLSA": (f"3 1 1 {'ab' * 32}", f"2 0 2 {'cd' * 64}"),
    "A": ("192.0.2.1", "192.0.2.2"),
    "AAAA": ("2001:db8::1",),
    "MX": ("10 mx.example.com.", "0 ."),
    "TXT": ('"v=STSv1; id=1;"', '"a" "b"'),
    "CNAME": ("other.example.net.",),
}


def reply(
    rdtype: str, *texts: str, rcode: str = "NOERROR", alias: bool = False, errors: bool = False, ad: bool = True
) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(wire.make_query(NAME, rdtype)))
    message.flags |= dns.flags.RA | (dns.flags.AD if ad else 0)
    message.set_rcode(dns.rcode.from_text(rcode))
    owner = dns.name.from_text("real.example.net") if alias else NAME
    if alias:
        message.answer.append(dns.rrset.from_text(NAME, 60, "IN", "CNAME", owner.to_text()))
    if texts:
        message.answer.append(dns.rrset.from_text(owner, 300, "IN", rdtype, *texts))
    else:
        message.authority.append(dns.rrset.from_text("example.com.", 60, "IN", "SOA", "ns. h. 1 2 3 4 5"))
    if errors:
        options = [dns.edns.EDEOption(7, "signature expired"), dns.edns.EDEOption(22, None)]
        message.use_edns(0, options=options)
    return message.to_wire(max_size=65_535)


SEEDS = [
    (rdtype, data)
    for rdtype, texts in RECORDS.items()
    for data in (
        reply(rdtype, *texts),
        reply(rdtype, *texts, alias=True, ad=False),
        reply(rdtype),
        reply(rdtype, rcode="NXDOMAIN"),
        reply(rdtype, rcode="SERVFAIL", errors=True),
        reply(rdtype, *texts, errors=True),
    )
]


def understood(rdtype: str, data: bytes, *, trusted: bool) -> None:
    if len(data) < 12:
        return  # `is_answer` lets nothing through that has no header
    reading = wire.read(data, NAME, rdtype, trusted=trusted, server="127.0.0.1:53")
    assert reading.chain[0] == NAME
    assert len(reading.chain) <= wire.MAX_ALIASES + 1
    assert len(reading.records) <= wire.MAX_RECORDS
    answer = wire.join(Domain(NAME.to_text(True)), rdtype, [reading])
    assert trusted or not answer.authenticated
    assert (answer.failure is None) == (answer.status is not Status.FAILED)
    assert not (answer.failure and (answer.records or answer.authenticated))
    assert answer.status is not Status.SECURE or (answer.authenticated and answer.records)
    assert answer.ttl >= 0
    assert outcome(answer)
    printable(answer)


def printable(answer: Answer) -> None:
    """What reaches logs and reports is one line without control characters."""
    if answer.failure is not None:
        assert answer.failure.slug.replace("-", "").isalnum()
        assert all(ede.clean(text) == text for _, text in answer.failure.ede)
    for text in answer.texts if answer.rdtype == "TXT" else ():
        assert isinstance(text, str)


def test_messages() -> None:
    def check(given: tuple[tuple[str, bytes], bool]) -> None:
        understood(*given[0], trusted=given[1])

    messages = st.sampled_from(SEEDS).flatmap(lambda seed: st.tuples(st.just(seed[0]), mutated([seed[1]])))
    fuzz(st.tuples(messages, st.booleans()), check)


def test_noise() -> None:
    fuzz(st.binary(max_size=600), lambda data: understood("TLSA", data, trusted=True))


def test_whether_it_is_an_answer() -> None:
    query = wire.make_query(NAME, "TLSA")

    def check(data: bytes) -> None:
        if wire.is_answer(query, data):
            assert data[:2] == query[:2]
            wire.is_truncated(data)

    fuzz(mutated([query, query[:2] + b"\x81" + query[3:], reply("TLSA", *RECORDS["TLSA"])]), check)
