"""The lab's names, packet by packet: what a stub resolver would see of a validating one."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.lab.zones import BOGUS, CUT, EXPIRED, SERVFAIL, SILENT, UNSIGNED, Signing, Zones


@pytest.fixture
def zones() -> Zones:
    built = Zones()
    built.add(
        "signed.test",
        "@ MX 10 mx\nmx A 127.0.1.1\n_25._tcp.mx TLSA 3 1 1 " + "ab" * 32 + "\nalias CNAME mx\nout CNAME host.plain.test.\n"
        "loop CNAME loop\nbad CNAME host.broken.test.\nbig TXT " + " ".join(f'"{"x" * 250}"' for _ in range(8)),
    )
    built.add("plain.test", "host A 127.0.1.2\nback CNAME mx.signed.test.", signing=Signing.INSECURE)
    built.add("broken.test", "host A 127.0.1.3", signing=Signing.BOGUS)
    return built


def ask(zones: Zones, name: str, rdtype: str, *, udp: bool = True, ad: bool = True, edns: bool = True) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, use_edns=0 if edns else False)
    if ad:
        query.flags |= dns.flags.AD
    wire = zones.reply(query.to_wire(), udp=udp)
    assert wire is not None
    response = dns.message.from_wire(wire)
    assert query.is_response(response)
    return response


def is_secure(response: dns.message.Message) -> bool:
    return bool(response.flags & dns.flags.AD)


def test_secure_answer_has_ad() -> None:
    response = ask(zones_of(), "mx.signed.test", "A")
    assert is_secure(response)
    assert response.answer[0][0].address == "127.0.1.1"


def zones_of() -> Zones:
    built = Zones()
    built.add("signed.test", "mx A 127.0.1.1")
    return built


def test_ad_only_for_who_asks(zones: Zones) -> None:
    """RFC 6840 §5.8: AD without AD or DO in the query would confuse old clients."""
    assert not is_secure(ask(zones, "mx.signed.test", "A", ad=False))
    query = dns.message.make_query("mx.signed.test", "A", want_dnssec=True)
    wire = zones.reply(query.to_wire(), udp=True)
    assert wire is not None
    assert is_secure(dns.message.from_wire(wire))


def test_insecure_answer(zones: Zones) -> None:
    response = ask(zones, "host.plain.test", "A")
    assert response.answer
    assert not is_secure(response)


@pytest.mark.parametrize(
    ("name", "rcode"),
    [
        ("signed.test", dns.rcode.NOERROR),
        ("_tcp.mx.signed.test", dns.rcode.NOERROR),
        ("nothing.signed.test", dns.rcode.NXDOMAIN),
    ],
)
def test_denials_are_secure_too(zones: Zones, name: str, rcode: dns.rcode.Rcode) -> None:
    """An empty non-terminal exists (RFC 8020)."""
    response = ask(zones, name, "TXT")
    assert (response.rcode(), response.answer) == (rcode, [])
    assert response.authority[0].rdtype == dns.rdatatype.SOA
    assert is_secure(response)


def test_names_outside_do_not_exist(zones: Zones) -> None:
    response = ask(zones, "elsewhere.example", "MX")
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert not is_secure(response)


def test_cname_inside_a_zone(zones: Zones) -> None:
    response = ask(zones, "alias.signed.test", "A")
    assert [rrset.rdtype for rrset in response.answer] == [dns.rdatatype.CNAME, dns.rdatatype.A]
    assert is_secure(response)


@pytest.mark.parametrize("name", ["out.signed.test", "back.plain.test"])
def test_one_insecure_link_makes_the_chain_insecure(zones: Zones, name: str) -> None:
    """RFC 7672 §2.1.3."""
    response = ask(zones, name, "A")
    assert len(response.answer) == 2
    assert not is_secure(response)


def test_the_first_link_alone_can_be_asked_for(zones: Zones) -> None:
    assert is_secure(ask(zones, "out.signed.test", "CNAME"))


@pytest.mark.parametrize("name", ["loop.signed.test", "bad.signed.test"])
def test_chains_that_fail(zones: Zones, name: str) -> None:
    response = ask(zones, name, "A")
    assert (response.rcode(), response.answer) == (dns.rcode.SERVFAIL, [])


def test_bogus_zone(zones: Zones) -> None:
    response = ask(zones, "host.broken.test", "A")
    assert response.rcode() == dns.rcode.SERVFAIL
    assert not is_secure(response)
    assert [error.code for error in response.extended_errors()] == [6]


@pytest.mark.parametrize(("fault", "codes"), [(BOGUS, [6]), (EXPIRED, [7]), (SERVFAIL, [])])
def test_faults_of_one_question(zones: Zones, fault, codes: list[int]) -> None:
    zones.fault("_25._tcp.mx.signed.test", "TLSA", fault)
    response = ask(zones, "_25._tcp.mx.signed.test", "TLSA")
    assert response.rcode() == dns.rcode.SERVFAIL
    assert [error.code for error in response.extended_errors()] == codes
    assert ask(zones, "mx.signed.test", "A").rcode() == dns.rcode.NOERROR


def test_no_extended_error_without_edns(zones: Zones) -> None:
    """RFC 6891 §7: no OPT to a client that sent none."""
    response = ask(zones, "host.broken.test", "A", edns=False)
    assert response.edns == -1
    assert response.rcode() == dns.rcode.SERVFAIL


def test_unsigned_records_in_a_signed_zone(zones: Zones) -> None:
    zones.fault("_25._tcp.mx.signed.test", "TLSA", UNSIGNED)
    response = ask(zones, "_25._tcp.mx.signed.test", "TLSA")
    assert response.answer
    assert not is_secure(response)


def test_silence(zones: Zones) -> None:
    zones.fault("mx.signed.test", None, SILENT)
    assert zones.reply(dns.message.make_query("mx.signed.test", "A").to_wire(), udp=True) is None


def test_too_big_for_udp(zones: Zones) -> None:
    """RFC 2181 §9: cut, with TC set and nothing half; whole over TCP."""
    response = ask(zones, "big.signed.test", "TXT")
    assert response.flags & dns.flags.TC
    assert response.answer == []
    assert ask(zones, "big.signed.test", "TXT", udp=False).answer


def test_cut_by_a_fault(zones: Zones) -> None:
    zones.fault("mx.signed.test", "A", CUT)
    assert ask(zones, "mx.signed.test", "A").flags & dns.flags.TC
    assert ask(zones, "mx.signed.test", "A", udp=False).answer


def test_other_opcodes_and_classes(zones: Zones) -> None:
    notify = dns.message.make_query("signed.test", "SOA")
    notify.set_opcode(4)
    chaos = dns.message.make_query("version.bind", "TXT", rdclass="CH")
    for query, rcode in ((notify, dns.rcode.NOTIMP), (chaos, dns.rcode.REFUSED)):
        wire = zones.reply(query.to_wire(), udp=True)
        assert wire is not None
        assert dns.message.from_wire(wire).rcode() == rcode


def test_a_response_is_never_answered(zones: Zones) -> None:
    query = dns.message.make_query("mx.signed.test", "A")
    assert zones.reply(dns.message.make_response(query).to_wire(), udp=True) is None


@given(st.binary(max_size=100), st.booleans())
def test_garbage(packet: bytes, udp: bool) -> None:
    """Any packet gets an answer that parses, or none."""
    answer = zones_of().reply(packet, udp=udp)
    if answer is not None:
        assert dns.message.from_wire(answer).flags & dns.flags.QR


@given(st.data())
def test_damaged_questions(data: st.DataObject) -> None:
    wire = bytearray(dns.message.make_query("mx.signed.test", "A").to_wire())
    for _ in range(data.draw(st.integers(1, 5))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    answer = zones_of().reply(bytes(wire), udp=True)
    assert answer is None or answer[:2] == bytes(wire[:2])
