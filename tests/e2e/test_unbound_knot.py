"""The resolver against a real validator and really signed zones (RFC 4035 §4.3, RFC 7672 §2.1)."""

from __future__ import annotations

import pytest

from postward.dns import Answer, Status, SystemResolver
from postward.model import Security
from postward.names import Domain
from signed_dns import DELEGATED, SignedDns

pytestmark = [pytest.mark.loopback, pytest.mark.interop]

DIGEST = "ab" * 32
RECORDS = f"""
@ MX 10 mx1
mx1 A 127.0.0.2
mx1 AAAA ::1
_25._tcp.mx1 TLSA 3 1 1 {DIGEST}
_smtp._tls TXT "v=TLSRPTv1;" "rua=mailto:tls@example.net"
alias CNAME mx1
out CNAME mx1.insecure.test.
bad CNAME mx1.bogus.test.
loop CNAME loop2
loop2 CNAME loop
dangling CNAME nothing
*.wild A 127.0.0.3
a.empty.nonterminal A 127.0.0.4
"""
MANY = "".join(f"many TXT {number:03}{'x' * 200}\n" for number in range(40))


@pytest.fixture(scope="session")
def nameserver(signed_dns: SignedDns) -> str:
    for zone in ("secure.test", "nsec3.test", "insecure.test", "bogus.test", "expired.test", "unsigned.test"):
        signed_dns.add(zone, RECORDS)
    for zone in DELEGATED:
        signed_dns.add(zone, RECORDS)
    signed_dns.add("secure.test", MANY)
    signed_dns.add("insecure.test", "into CNAME mx1.secure.test.")
    return signed_dns.nameserver


async def ask(nameserver: str, name: str, rdtype: str) -> Answer:
    return await SystemResolver([nameserver]).query(name, rdtype)


@pytest.mark.parametrize("zone", ["secure.test", "nsec3.test"])
async def test_signed_records_are_secure(nameserver: str, zone: str) -> None:
    """RFC 7672 §2.1.1."""
    answer = await ask(nameserver, f"_25._tcp.mx1.{zone}", "TLSA")
    assert answer.status is Status.SECURE
    assert answer.security is Security.SECURE
    record = answer.records[0]
    assert (record.usage, record.selector, record.mtype, record.cert.hex()) == (3, 1, 1, DIGEST)
    assert 0 < answer.ttl <= 60
    texts = await ask(nameserver, f"_smtp._tls.{zone}", "TXT")
    assert texts.texts == ("v=TLSRPTv1;rua=mailto:tls@example.net",)


async def test_unsigned_records_are_insecure(nameserver: str) -> None:
    """RFC 7672 §2.1.1: no chain of trust leads there, which is no failure."""
    answer = await ask(nameserver, "insecure.test", "MX")
    assert (answer.status, answer.authenticated) == (Status.INSECURE, False)
    assert answer.records[0].exchange.to_text() == "mx1.insecure.test."


@pytest.mark.parametrize("zone", ["secure.test", "nsec3.test"])
@pytest.mark.parametrize(
    ("host", "nxdomain"), [("mx1", False), ("nothing", True), ("dangling", True), ("empty.nonterminal", False)]
)
async def test_an_absence_can_be_proven(nameserver: str, zone: str, host: str, nxdomain: bool) -> None:
    answer = await ask(nameserver, f"{host}.{zone}", "TLSA")
    assert (answer.status, answer.authenticated, answer.nxdomain) == (Status.ABSENT, True, nxdomain)
    assert not answer.records


async def test_an_absence_in_an_unsigned_zone_is_not_proven(nameserver: str) -> None:
    for host, nxdomain in (("mx1", False), ("nothing", True)):
        answer = await ask(nameserver, f"{host}.insecure.test", "TLSA")
        assert (answer.status, answer.authenticated, answer.nxdomain) == (Status.ABSENT, False, nxdomain)


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("mx1.bogus.test", {6}),
        ("bad.secure.test", {6}),
        ("mx1.expired.test", {7}),
        ("mx1.unsigned.test", {9, 10}),
    ],
)
async def test_what_does_not_validate_has_failed_and_says_why(nameserver: str, name: str, codes: set[int]) -> None:
    """RFC 8914 §4: an extended error names the reason; RFC 7672 §2.1.2: bogus is no absence."""
    answer = await ask(nameserver, name, "A")
    assert (answer.status, answer.authenticated, answer.records) == (Status.FAILED, False, ())
    assert answer.failure is not None
    assert answer.failure.rcode == "SERVFAIL"
    assert answer.failure.about_dnssec
    assert {code for code, _ in answer.failure.ede} & codes
    assert answer.failure.slug.startswith(f"extended-dns-error-{min(codes)}-") or len(codes) > 1


async def test_a_delegation_that_the_parent_vouches_for_is_secure(nameserver: str) -> None:
    """RFC 4035 §5.2: the chain of trust goes through the DS record of the parent."""
    answer = await ask(nameserver, "_25._tcp.mx1.good.parent.test", "TLSA")
    assert (answer.status, answer.records[0].cert.hex()) == (Status.SECURE, DIGEST)


@pytest.mark.parametrize("rdtype", ["MX", "A", "TLSA"])
async def test_a_wrong_ds_makes_everything_below_bogus(nameserver: str, rdtype: str) -> None:
    """RFC 4035 §5.2, RFC 7672 §2.1.2: a key that the parent does not vouch for is no absence of DNSSEC."""
    name = {"MX": "wrongds.parent.test", "A": "mx1.wrongds.parent.test"}.get(rdtype, "_25._tcp.mx1.wrongds.parent.test")
    answer = await ask(nameserver, name, rdtype)
    assert (answer.status, answer.authenticated) == (Status.FAILED, False)
    assert answer.failure is not None
    assert answer.failure.about_dnssec


@pytest.mark.parametrize("rdtype", ["MX", "A", "TLSA"])
async def test_an_opt_out_delegation_is_insecure(nameserver: str, rdtype: str) -> None:
    """RFC 5155 §6: the parent proves only that it need not say anything, and that is insecure, not bogus."""
    name = {"MX": "optout.parent.test", "A": "mx1.optout.parent.test"}.get(rdtype, "_25._tcp.mx1.optout.parent.test")
    answer = await ask(nameserver, name, rdtype)
    assert (answer.status, answer.authenticated) == (Status.INSECURE, False)


async def test_an_absence_below_an_opt_out_parent_is_not_proven(nameserver: str) -> None:
    """RFC 5155 §9.2: with opt-out, even the name error of the parent is not authenticated."""
    answer = await ask(nameserver, "missing.parent.test", "TLSA")
    assert (answer.status, answer.authenticated, answer.nxdomain) == (Status.ABSENT, False, True)


async def test_a_chain_of_aliases_is_as_secure_as_its_weakest_link(nameserver: str) -> None:
    """RFC 7672 §2.1.3."""
    inside = await ask(nameserver, "alias.secure.test", "A")
    assert (inside.status, inside.canonical) == (Status.SECURE, "mx1.secure.test")
    outside = await ask(nameserver, "out.secure.test", "A")
    assert (outside.status, outside.canonical) == (Status.INSECURE, "mx1.insecure.test")
    into = await ask(nameserver, "into.insecure.test", "A")
    assert (into.status, into.canonical) == (Status.INSECURE, "mx1.secure.test")
    first = await ask(nameserver, "out.secure.test", "CNAME")
    assert (first.status, first.canonical) == (Status.SECURE, "out.secure.test")


async def test_aliases_in_a_circle_have_failed(nameserver: str) -> None:
    answer = await ask(nameserver, "loop.secure.test", "A")
    assert answer.status is Status.FAILED


async def test_a_wildcard_is_secure(nameserver: str) -> None:
    assert (await ask(nameserver, "some.wild.secure.test", "A")).status is Status.SECURE


async def test_an_answer_too_large_for_udp_comes_over_tcp(nameserver: str) -> None:
    """RFC 7766 §5."""
    answer = await ask(nameserver, "many.secure.test", "TXT")
    assert (answer.status, len(answer.records)) == (Status.SECURE, 40)


async def test_a_name_that_nobody_serves_has_failed(nameserver: str) -> None:
    answer = await ask(nameserver, "example.org", "A")
    assert answer.status is Status.FAILED


async def test_both_kinds_of_address(nameserver: str) -> None:
    v4, v6 = await SystemResolver([nameserver]).addresses(Domain("mx1.secure.test"))
    assert [record.address for answer in (v4, v6) for record in answer.records] == ["127.0.0.2", "::1"]


async def test_the_self_test_tells_a_validator_from_an_authority(nameserver: str, signed_dns: SignedDns) -> None:
    """RFC 6698 §4.1: what does not validate must not be believed."""
    validator = SystemResolver([nameserver])
    found = await validator.run_self_test("secure.test.", "mx1.bogus.test.")
    assert (found.validating, found.problems, validator.validating) == (True, (), True)
    authority = SystemResolver([signed_dns.authority])
    found = await authority.run_self_test("secure.test.", "mx1.bogus.test.")
    assert (found.validating, len(found.problems)) == (False, 2)
    distrustful = SystemResolver([nameserver], trust_ad="never")
    assert (await distrustful.run_self_test("secure.test.", "")).validating is False


async def test_nothing_is_secure_once_the_self_test_has_failed(nameserver: str) -> None:
    resolver = SystemResolver([nameserver])
    await resolver.run_self_test("insecure.test.", "")
    assert resolver.validating is False
    assert (await resolver.query("secure.test", "MX")).status is Status.INSECURE
