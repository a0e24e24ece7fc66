"""Where mail goes: MX, implicit MX, literals, and what DNSSEC says of them (RFC 5321 §5.1, RFC 7505, RFC 7672 §2)."""

from __future__ import annotations

import pytest

from postward.delivery.route import MAX_ADDRESSES, MAX_HOSTS, RouteError, find_route, nearer_than, resolve_host
from postward.dns import ZoneResolver
from postward.model import MxHost, Security
from postward.names import Domain

ZONE = """
@ IN MX 20 mx2
@ IN MX 10 mx1
mx1 IN A 192.0.2.1
mx1 IN AAAA 2001:db8::1
mx1 IN AAAA 2001:db8::2
mx2 IN CNAME elsewhere.unsigned.test.
null IN MX 0 .
bare IN A 192.0.2.9
empty IN TXT x
alias IN CNAME @
many IN MX 1 mx1
"""


@pytest.fixture
def dns() -> ZoneResolver:
    resolver = ZoneResolver({"example.test": ZONE})
    resolver.set_zone("unsigned.test", "elsewhere IN A 192.0.2.2\n@ IN MX 1 mx\n", "insecure")
    return resolver


async def test_hosts_come_in_order_of_preference(dns: ZoneResolver) -> None:
    route = await find_route(Domain("example.test"), dns)
    assert [host.name for host in route.hosts] == ["mx1.example.test", "mx2.example.test"]
    assert (route.security, route.from_mx) == (Security.SECURE, True)


async def test_a_host_listed_twice_is_tried_once(dns: ZoneResolver) -> None:
    dns.set_zone("twice.test", "@ IN MX 30 a\n@ IN MX 20 b\n@ IN MX 10 A\n@ IN MX 20 c")
    route = await find_route(Domain("twice.test"), dns)
    assert [host.preference for host in route.hosts] == [10, 20, 20]
    assert route.hosts[0].name == "a.twice.test"


async def test_hosts_that_are_no_nearer_than_we_are_left_out(dns: ZoneResolver) -> None:
    """RFC 5321 §5.1: what they do with such mail is to bring it here."""
    dns.set_zone("loop.test", "@ IN MX 10 a\n@ IN MX 20 us\n@ IN MX 20 b\n@ IN MX 30 c")
    route = await find_route(Domain("loop.test"), dns)
    for ours in (True, False):
        left = nearer_than(Domain("us.loop.test"), route, ours=ours)
        assert [host.name for host in left.hosts] == ["a.loop.test"]
    assert nearer_than(Domain("else.test"), route, ours=True) is route


@pytest.mark.parametrize("domain", ["example.test", "bare.example.test"])
async def test_where_we_are_the_nearest_mail_comes_back(dns: ZoneResolver, domain: str) -> None:
    """A loop only if it is this program that answers there, and not another server of the same machine."""
    route = await find_route(Domain(domain), dns)
    us = route.hosts[0].name
    with pytest.raises(RouteError, match=r"^554 5\.4\.6 ") as caught:
        nearer_than(us, route, ours=True)
    assert caught.value.permanent
    assert nearer_than(us, route, ours=False) is route


async def test_the_policy_domain_stays_the_one_asked_for(dns: ZoneResolver) -> None:
    """RFC 8461 §3.4, and a forged CNAME must not lead to another domain's policy."""
    route = await find_route(Domain("alias.example.test"), dns)
    assert (route.domain, route.canonical) == ("alias.example.test", "example.test")


async def test_an_unsigned_zone_is_insecure(dns: ZoneResolver) -> None:
    assert (await find_route(Domain("unsigned.test"), dns)).security is Security.INSECURE


async def test_null_mx_is_final(dns: ZoneResolver) -> None:
    """RFC 7505 §4.1: 556 5.1.10."""
    with pytest.raises(RouteError, match=r"^556 5.1.10 ") as caught:
        await find_route(Domain("null.example.test"), dns)
    assert caught.value.permanent


async def test_no_mx_means_the_domain_itself(dns: ZoneResolver) -> None:
    """RFC 5321 §5.1."""
    route = await find_route(Domain("bare.example.test"), dns)
    assert [(host.name, host.preference) for host in route.hosts] == [("bare.example.test", -1)]
    assert not route.from_mx


async def test_a_domain_that_does_not_exist_is_final(dns: ZoneResolver) -> None:
    with pytest.raises(RouteError, match=r"^550 5.1.2 ") as caught:
        await find_route(Domain("nothing.example.test"), dns)
    assert caught.value.permanent


async def test_a_failed_lookup_defers_and_keeps_its_cause(dns: ZoneResolver) -> None:
    """RFC 7672 §2.1.2: failed is not absent; RFC 8914 causes reach the report."""
    dns.fault("example.test", "MX", "SERVFAIL", [(7, "expired")])
    with pytest.raises(RouteError, match=r"^451 ") as caught:
        await find_route(Domain("example.test"), dns)
    assert not caught.value.permanent
    assert caught.value.failure is not None
    assert caught.value.failure.reason == "extended-dns-error-7-signature-expired"


@pytest.mark.parametrize(
    ("ede", "told"), [([], False), ([(22, "")], False), ([(23, ""), (14, "")], False), ([(22, ""), (9, "")], True)]
)
async def test_only_trouble_of_dnssec_is_told_to_the_owner(dns: ZoneResolver, ede: list[tuple[int, str]], told: bool) -> None:
    """RFC 8914 §4: 22 and 23 are of the network between others, which is nothing that the domain got wrong."""
    dns.fault("example.test", "MX", "SERVFAIL", ede)
    dns.fault("mx1.example.test", "A", "SERVFAIL", ede)
    dns.fault("mx1.example.test", "AAAA", "SERVFAIL", ede)
    for lookup in (find_route(Domain("example.test"), dns), resolve_host(MxHost(name=Domain("mx1.example.test")), dns)):
        with pytest.raises(RouteError) as caught:
            await lookup
        assert (caught.value.permanent, caught.value.failure is not None) == (False, told)


async def test_a_literal_goes_straight_to_its_address(dns: ZoneResolver) -> None:
    route = await find_route(Domain("[IPv6:2001:db8::5]"), dns)
    assert route.hosts[0].addresses == ("2001:db8::5",)
    assert not dns.queries


@pytest.mark.parametrize("literal", ["[0.0.0.0]", "[IPv6:::]", "[224.0.0.1]"])
async def test_a_literal_that_no_host_can_have(dns: ZoneResolver, literal: str) -> None:
    with pytest.raises(RouteError, match=r"^550 5\.1\.2 ") as caught:
        await find_route(Domain(literal), dns)
    assert caught.value.permanent


async def test_both_families_take_turns(dns: ZoneResolver) -> None:
    host = await resolve_host(MxHost(name=Domain("mx1.example.test")), dns)
    assert [":" in address for address in host.addresses] == [True, False, True]
    assert (host.security, host.alias_security, host.canonical) == (Security.SECURE, None, "mx1.example.test")


async def test_the_first_alias_is_told_apart_from_an_insecure_chain(dns: ZoneResolver) -> None:
    """RFC 7672 §2.2.2: the bit of a chain speaks for all of it, so the CNAME is asked for alone."""
    host = await resolve_host(MxHost(name=Domain("mx2.example.test")), dns)
    assert (host.security, host.alias_security) == (Security.INSECURE, Security.SECURE)
    assert host.canonical == "elsewhere.unsigned.test"


async def test_an_alias_of_which_nothing_could_be_learned_is_not_insecure(dns: ZoneResolver) -> None:
    """RFC 7672 §2.1.2, §2.1.3: else whoever blocks one answer would switch DANE off."""
    dns.fault("mx2.example.test", "CNAME", "TIMEOUT")
    with pytest.raises(RouteError) as caught:
        await resolve_host(MxHost(name=Domain("mx2.example.test")), dns)
    assert not caught.value.permanent
    dns.validating = False  # nothing is secure then anyway, and nothing is asked
    assert (await resolve_host(MxHost(name=Domain("mx2.example.test")), dns)).alias_security is Security.INSECURE


async def test_a_host_without_address_is_final_only_where_the_domain_is_its_own_host(dns: ZoneResolver) -> None:
    with pytest.raises(RouteError) as of_mx:
        await resolve_host(MxHost(name=Domain("empty.example.test"), preference=10), dns)
    with pytest.raises(RouteError) as implicit:
        await resolve_host(MxHost(name=Domain("empty.example.test"), preference=-1), dns)
    assert (of_mx.value.permanent, implicit.value.permanent) == (False, True)


async def test_one_failed_family_does_not_spoil_the_other(dns: ZoneResolver) -> None:
    """RFC 7672 §2.1.2: addresses that cannot be looked up leave out this host, for now."""
    dns.fault("mx1.example.test", "AAAA", "TIMEOUT")
    assert (await resolve_host(MxHost(name=Domain("mx1.example.test")), dns)).addresses == ("192.0.2.1",)
    dns.fault("mx1.example.test", "A", "SERVFAIL")
    with pytest.raises(RouteError) as caught:
        await resolve_host(MxHost(name=Domain("mx1.example.test")), dns)
    assert not caught.value.permanent


async def test_hosts_and_addresses_are_limited(dns: ZoneResolver) -> None:
    hosts = "".join(f"@ IN MX 1 h{number}\n" for number in range(100))
    addresses = "".join(f"h0 IN A 192.0.2.{number}\n" for number in range(100))
    dns.set_zone("flood.test", hosts + addresses)
    assert len((await find_route(Domain("flood.test"), dns)).hosts) == MAX_HOSTS
    assert len((await resolve_host(MxHost(name=Domain("h0.flood.test")), dns)).addresses) == MAX_ADDRESSES


async def test_addresses_that_no_host_has_are_left_out(dns: ZoneResolver) -> None:
    """0.0.0.0 would be this machine, whose own server might take the mail and bring it back."""
    dns.set_zone(
        "odd.test", "a IN A 0.0.0.0\na IN AAAA ::\na IN A 224.0.0.1\na IN AAAA ff02::1\nb IN A 0.0.0.0\nb IN A 192.0.2.7"
    )
    assert (await resolve_host(MxHost(name=Domain("b.odd.test")), dns)).addresses == ("192.0.2.7",)
    with pytest.raises(RouteError, match=r"^451 4\.4\.4 ") as caught:
        await resolve_host(MxHost(name=Domain("a.odd.test")), dns)
    assert not caught.value.permanent
