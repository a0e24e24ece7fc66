"""SPF behind its adapter (RFC 7208)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_dns import FakeDns
from postward.names import Address
from postward_dmarc.questions import answer_all, remembering
from postward_dmarc.spf import check

SENDER = Address.parse("joe@example.com")
V4, V6 = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1")


def zone(record, **more):
    records = {("example.com", "TXT"): [f'"{record}"']}
    for key, value in more.items():
        name, _, rdtype = key.rpartition("__")
        records[name.replace("_", "."), rdtype] = value
    return FakeDns(records)


async def spf(dns, ip=V4, helo="mx.example.com", sender=SENDER):
    return await answer_all(check(ip, helo, sender), remembering(dns))


@pytest.mark.parametrize(
    ("record", "result"),
    [
        ("v=spf1 ip4:192.0.2.0/24 -all", "pass"),
        ("v=spf1 ip4:198.51.100.0/24 -all", "fail"),
        ("v=spf1 ip4:198.51.100.0/24 ~all", "softfail"),
        ("v=spf1 ?all", "neutral"),
        ("v=spf1", "neutral"),
        ("v=spf10 -all", "none"),
        ("nothing", "none"),
        ("v=spf1 nonsense -all", "permerror"),
        ("v=spf1 ip4:300.1.1.1 -all", "permerror"),
        ("v=spf1 a -all", "fail"),
        ("v=spf1 a:mail.example.com -all", "pass"),
        ("v=spf1 mx -all", "pass"),
        ("v=spf1 include:good.example -all", "pass"),
        ("v=spf1 include:bad.example -all", "fail"),
        ("v=spf1 include:gone.example -all", "permerror"),
        ("v=spf1 include:broken.example -all", "temperror"),
        ("v=spf1 redirect=good.example", "pass"),
        ("v=spf1 redirect=gone.example", "permerror"),
        ("v=spf1 exists:%{ir}.list.example -all", "pass"),
        ("v=spf1 ptr -all", "pass"),
        ("v=spf1 -all exp=why.example", "fail"),
        ("v=spf1 " + " ".join(f"include:l{i}.example" for i in range(11)) + " -all", "permerror"),
        ("v=spf1 a:gone1.example a:gone2.example a:gone3.example -all", "permerror"),
        ("v=spf1 include:loop.example -all", "permerror"),
    ],
)
async def test_results(record, result):
    """RFC 7208 §2.6, §4.6.4 and the mechanisms."""
    dns = zone(
        record,
        good_example__TXT=['"v=spf1 ip4:192.0.2.1 -all"'],
        bad_example__TXT=['"v=spf1 -all"'],
        broken_example__TXT="SERVFAIL",
        loop_example__TXT=['"v=spf1 include:loop.example -all"'],
        mail_example_com__A=["192.0.2.1"],
        example_com__MX=["10 mail.example.com."],
        example_com__A=["198.51.100.9"],
        **{"1_2_0_192_list_example__A": ["127.0.0.2"], "1_2_0_192_in-addr_arpa__PTR": ["mail.example.com."]},
        **{f"l{i}_example__TXT": ['"v=spf1 ?all"'] for i in range(11)},
    )
    found = await spf(dns)
    assert (found.result, found.domain) == (result, "example.com")
    assert len(dns.queries) == len(set(dns.queries)), "asked twice"
    assert ("why.example", "TXT") not in dns.queries


@pytest.mark.parametrize("local", ["bounce+1", "a=b/c", "x-", "'quoted'"])
async def test_macros_put_local_parts_into_names(local):
    """RFC 7208 §7: what is no host name is asked about all the same."""
    dns = zone("v=spf1 exists:%{l}.%{d} -all", **{f"{local}_example_com__A": ["127.0.0.2"]})
    assert (await spf(dns, sender=Address(local, SENDER.domain))).result == "pass"
    assert (await spf(dns, sender=Address("other", SENDER.domain))).result == "fail"


async def test_split_records_are_joined():
    dns = FakeDns({("example.com", "TXT"): ['"v=spf1 ip4:192" ".0.2.1 -all"', '"other"']})
    assert (await spf(dns)).result == "pass"


async def test_several_records_are_an_error():
    """RFC 7208 §4.5."""
    assert (await spf(FakeDns({("example.com", "TXT"): ['"v=spf1 -all"', '"v=spf1 +all"']}))).result == "permerror"


async def test_ipv6():
    dns = zone("v=spf1 ip6:2001:db8::/32 a:six.example -all", six_example__AAAA=["2001:db8:1::1"])
    assert (await spf(dns, ip=V6)).result == "pass"
    assert (await spf(zone("v=spf1 a:six.example -all", six_example__AAAA=["2001:db8::1"]), ip=V6)).result == "pass"
    assert (await spf(dns, ip=ipaddress.ip_address("::ffff:192.0.2.1"))).result == "fail"


async def test_null_path_is_postmaster_at_helo():
    """RFC 7208 §2.4."""
    found = await spf(zone("v=spf1 ip4:192.0.2.1 -all"), sender=None, helo="example.com")
    assert (found.result, found.domain, found.null_path) == ("pass", "example.com", True)


@pytest.mark.parametrize(
    ("ip", "helo", "sender", "reason"),
    [
        (None, "mx.example.com", SENDER, "client address is not known"),
        (V4, "[192.0.2.1]", None, "no domain name to ask about"),
        (V4, "bad name", None, "HELO is no domain name"),
        (V4, "", None, "HELO is no domain name"),
        (V4, "x", Address.parse("joe@localhost"), "no domain name to ask about"),
    ],
)
async def test_nothing_to_ask_about(ip, helo, sender, reason):
    dns = FakeDns()
    found = await spf(dns, ip=ip, helo=helo, sender=sender)
    assert (found.result, found.reason, dns.queries) == ("none", reason, [])


async def test_a_record_that_wants_too_many_lookups():
    """RFC 7208 §4.6.4: ten MX terms with ten hosts each are the most that is followed."""
    records = {("example.com", "TXT"): ['"v=spf1 ' + " ".join(f"mx:m{i}.example" for i in range(10)) + ' -all"']}
    for i in range(10):
        records[f"m{i}.example", "MX"] = [f"{j} h{j}.m{i}.example." for j in range(10)]
        records.update({(f"h{j}.m{i}.example", "A"): ["198.51.100.1"] for j in range(10)})
    dns = FakeDns(records)
    assert (await spf(dns)).result == "fail"
    assert len(dns.queries) == 111
    records["m0.example", "MX"].append("99 h.m0.example.")
    assert (await spf(FakeDns(records))).result == "permerror"


@settings(deadline=None)
@given(
    record=st.text(alphabet="v=spf1 +-~?aimxptrincludeexists:%{}/.4680_", max_size=60), local=st.text(min_size=1, max_size=10)
)
async def test_any_record_has_a_result(record, local):
    dns = FakeDns({("example.com", "TXT"): [f'"v=spf1 {record}"']})
    found = await spf(dns, sender=Address(local, SENDER.domain))
    assert found.result in {"pass", "fail", "softfail", "neutral", "none", "permerror", "temperror"}
