"""The DANE plugin over zones in memory: what it finds for each host, and how it judges (RFC 7672 §2.2)."""

from __future__ import annotations

import dataclasses

import pytest

from dane_rig import AUTHORITY, DIGEST, MX, RECORD, Rig
from postward.delivery.compose import prior_verdict
from postward.delivery.route import RouteError
from postward.hookspecs import hookimpl
from postward.lab.ca import DAY, tlsa
from postward.model import (
    PASSED,
    Destination,
    Mode,
    MxHost,
    ResultType,
    Scope,
    Security,
)
from postward.names import Domain
from postward_dane.plugin import Binding, Dane


async def test_a_usable_record_makes_an_enforcing_policy() -> None:
    """RFC 7672 §2.2: authenticated TLS or nothing; the policy domain of a report is the base domain (RFC 8460 §1.1)."""
    rig = Rig()
    policy = await rig.policy()
    assert (policy.kind, policy.mode, policy.scope, policy.domain) == ("tlsa", Mode.ENFORCE, Scope.HOST, MX)
    assert policy.requires_tls
    assert policy.authenticates
    assert policy.server_name == MX
    assert policy.evidence == (RECORD,)
    assert (policy.problem, policy.notes) == (None, ())
    assert isinstance(policy.data, Binding)
    assert policy.data.names == (MX, Domain("example.org"))
    assert await rig.judge(policy) == PASSED


async def test_a_mismatch_is_a_failed_verdict() -> None:
    rig = Rig(f"@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx TLSA 3 1 1 {DIGEST}\n")
    verdict = await rig.judge(await rig.policy())
    assert (verdict.passed, verdict.failure.reason) == (False, "dane-no-match")


async def test_the_clock_of_the_core_says_what_has_expired() -> None:
    """DANE-TA checks dates (RFC 7672 §3.1.2), by the seam for time."""
    rig = Rig(f"@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx TLSA {tlsa(AUTHORITY.root, 2, 0, 0)}\n")
    policy = await rig.policy()
    assert await rig.judge(policy) == PASSED
    rig.now += 2 * DAY
    assert (await rig.judge(policy)).failure.result_type is ResultType.CERTIFICATE_EXPIRED


async def test_the_evidence_is_the_whole_rrset_in_fixed_order() -> None:
    """RFC 8460 §4.5."""
    records = [f"3 1 1 {DIGEST}", f"0 0 1 {DIGEST}", RECORD]
    zone = "@ MX 10 mx\nmx A 192.0.2.1\n" + "".join(f"_25._tcp.mx TLSA {record}\n" for record in records)
    assert (await Rig(zone).policy()).evidence == tuple(sorted(records))


@pytest.mark.parametrize("record", [f"0 1 1 {DIGEST}", f"1 0 1 {DIGEST}", "3 1 1 00", f"3 1 7 {DIGEST}", f"3 9 1 {DIGEST}"])
async def test_unusable_records_require_tls_and_prove_nothing(record: str) -> None:
    """RFC 7672 §2.2: TLS without authentication, never clear text; told as `tlsa-invalid`."""
    rig = Rig(f"@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx TLSA {record}\n")
    policy = await rig.policy()
    assert policy.mode is Mode.ENFORCE
    assert policy.requires_tls
    assert not policy.authenticates
    assert policy.problem is None
    assert [(note.result_type, note.reason) for note in policy.notes] == [(ResultType.TLSA_INVALID, "all-unusable-records")]
    assert await rig.judge(policy, (b"whatever",)) == PASSED


@pytest.mark.parametrize("rcode", ["SERVFAIL", "TIMEOUT", "REFUSED", "MALFORMED"])
async def test_a_failed_lookup_excludes_the_host(rcode: str) -> None:
    """RFC 7672 §2.1.2: "failed" never reads as "absent"."""
    rig = Rig()
    rig.dns.fault("_25._tcp.mx.example.org", "TLSA", rcode)
    policy = await rig.policy()
    assert policy.mode is Mode.ENFORCE
    assert policy.problem is not None
    assert (policy.problem.result_type, policy.problem.reason) == (ResultType.DNSSEC_INVALID, f"dns-{rcode.lower()}")
    assert prior_verdict(policy, MX) is not None
    assert policy.domain == MX


async def test_the_extended_error_is_the_reason() -> None:
    """RFC 8914 tells why the resolver did not believe the answer."""
    rig = Rig()
    rig.dns.fault("_25._tcp.mx.example.org", "TLSA", "SERVFAIL", [(7, "signature expired")])
    policy = await rig.policy()
    assert policy.problem is not None
    assert policy.problem.reason == "extended-dns-error-7-signature-expired"


async def test_no_records_no_policy() -> None:
    """RFC 7672 §2.2: a proven absence leaves opportunistic TLS."""
    rig = Rig("@ MX 10 mx\nmx A 192.0.2.1\n")
    assert await rig.find() is None
    assert rig.asked() == ["_25._tcp.mx.example.org"]


async def test_insecure_addresses_are_not_asked_for_tlsa() -> None:
    """RFC 7672 §2.2.2: broken name servers answer TLSA with errors, and insecure records would not count anyway."""
    rig = Rig(security="insecure")
    rig.dns.fault("_25._tcp.mx.example.org", "TLSA", "SERVFAIL")
    assert await rig.find() is None
    assert rig.asked() == []


async def test_insecure_records_are_none() -> None:
    """RFC 6698 §4.1: a TLSA RRset without DNSSEC is unusable; here an alias leads it out of the signed zone."""
    rig = Rig("@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx CNAME tlsa.unsigned.test.\n")
    rig.dns.set_zone("unsigned.test", f"tlsa TLSA {RECORD}\n", "insecure")
    assert await rig.find() is None


async def test_records_behind_a_secure_alias_count_and_the_base_stays() -> None:
    """RFC 7672 §2.2.3."""
    rig = Rig("@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx CNAME shared.provider.test.\n")
    rig.dns.set_zone("provider.test", f"shared TLSA {RECORD}\n")
    policy = await rig.policy()
    assert policy.domain == policy.server_name == MX
    assert await rig.judge(policy) == PASSED


async def test_an_insecure_mx_with_a_secure_host() -> None:
    """RFC 7672 §2.2.1: its TLSA may be used, but proves nothing of the next hop; names are the host's only."""
    rig = Rig()
    rig.dns.set_zone("unsigned.test", "@ MX 10 mx.example.org.\n", "insecure")
    policy = await rig.policy("unsigned.test")
    assert policy.mode is Mode.ENFORCE
    assert not policy.authenticates
    assert policy.data.names == (MX,)
    assert await rig.judge(policy) == PASSED


async def test_an_implicit_mx() -> None:
    """RFC 7672 §2.2.2: destinations without MX go the same way, and the name is the one that was asked for."""
    rig = Rig(f"@ A 192.0.2.1\n_25._tcp TLSA {RECORD}\n")
    policy = await rig.policy()
    assert policy.domain == Domain("example.org")
    assert policy.authenticates
    assert policy.data.names == (Domain("example.org"),)


async def test_a_chosen_host_needs_no_secure_mx() -> None:
    """RFC 7672 §2.2: a smarthost, or a domain whose absence of MX is unproven, is known by the name that was asked for."""
    rig = Rig()
    mx = MxHost(name=MX, security=Security.SECURE, addresses=("192.0.2.1",), canonical=MX)
    policy = await rig.plugin.host_policy(Destination(domain=MX, hosts=(mx,), from_mx=False), mx)
    assert policy is not None
    assert policy.authenticates


ALIASED = "@ MX 10 mx\nmx CNAME real.provider.test.\n"


async def test_the_expanded_name_comes_first() -> None:
    """RFC 7672 §2.2.2, §8.1: behind a secure alias the last name is the base, and so the SNI."""
    rig = Rig(f"{ALIASED}_25._tcp.mx TLSA 3 1 1 {DIGEST}\n")
    rig.dns.set_zone("provider.test", f"real A 192.0.2.1\n_25._tcp.real TLSA {RECORD}\n")
    policy = await rig.policy()
    assert policy.domain == policy.server_name == Domain("real.provider.test")
    assert policy.data.names == (Domain("real.provider.test"), Domain("example.org"))
    assert rig.asked() == ["_25._tcp.real.provider.test"]


async def test_the_original_name_comes_second() -> None:
    """RFC 7672 §2.2.2: the name of the MX record counts when the one at the end of its aliases has no records."""
    rig = Rig(f"{ALIASED}_25._tcp.mx TLSA {RECORD}\n")
    rig.dns.set_zone("provider.test", "real A 192.0.2.1\n")
    assert (await rig.policy()).domain == MX
    assert rig.asked() == ["_25._tcp.real.provider.test", "_25._tcp.mx.example.org"]


async def test_the_first_secure_records_decide_even_when_unusable() -> None:
    """RFC 7672 §2.2.2: no falling through to the original name."""
    rig = Rig(f"{ALIASED}_25._tcp.mx TLSA {RECORD}\n")
    rig.dns.set_zone("provider.test", f"real A 192.0.2.1\n_25._tcp.real TLSA 1 1 1 {DIGEST}\n")
    policy = await rig.policy()
    assert policy.domain == Domain("real.provider.test")
    assert not policy.authenticates


async def test_a_failed_lookup_of_the_first_name_is_not_passed_over() -> None:
    """RFC 7672 §2.1.2."""
    rig = Rig(f"{ALIASED}_25._tcp.mx TLSA {RECORD}\n")
    rig.dns.set_zone("provider.test", "real A 192.0.2.1\n")
    rig.dns.fault("_25._tcp.real.provider.test", "TLSA", "SERVFAIL")
    policy = await rig.policy()
    assert policy.problem is not None
    assert policy.domain == Domain("real.provider.test")


async def test_a_secure_alias_into_an_unsigned_zone_leaves_the_original_name() -> None:
    """RFC 7672 §2.2.2: large hosted-mail domains have unsigned address zones."""
    rig = Rig(f"{ALIASED}_25._tcp.mx TLSA {RECORD}\n")
    rig.dns.set_zone("provider.test", "real A 192.0.2.1\n", "insecure")
    assert (await rig.policy()).domain == MX
    assert rig.asked() == ["_25._tcp.mx.example.org"]


async def test_the_real_port_is_asked_for() -> None:
    """RFC 7672 §2.2.3."""
    rig = Rig(f"mx A 192.0.2.1\n_2525._tcp.mx TLSA {RECORD}\n")
    mx = MxHost(name=MX, port=2525, security=Security.SECURE, addresses=("192.0.2.1",))
    policy = await rig.plugin.host_policy(Destination(domain=MX, hosts=(mx,), from_mx=False), mx)
    assert policy is not None
    assert rig.asked() == ["_2525._tcp.mx.example.org"]


async def test_a_name_too_long_for_tlsa_records_has_none() -> None:
    """RFC 1035 §2.3.4: there is no room for `_25._tcp.` before it, so there is nothing to ask for."""
    host = ".".join(["a" * 60] * 3 + ["b" * 53, "example.org"])
    assert len(host) == 248
    rig = Rig(f"@ MX 10 {host}.\n{host}. A 192.0.2.1\n")
    assert await rig.find() is None
    required = await Rig(f"@ MX 10 {host}.\n{host}. A 192.0.2.1\n", mandatory=["example.org"]).policy()
    assert required.problem is not None
    assert required.problem.result_type is ResultType.DANE_REQUIRED


async def test_address_literals_are_left_alone() -> None:
    """RFC 7672 §2.2: DANE does not apply, be it mandatory or not."""
    literal = Domain("[192.0.2.1]")
    rig = Rig(mandatory=["example.org"])
    mx = MxHost(name=literal, security=Security.SECURE)
    assert await rig.plugin.host_policy(Destination(domain=literal, hosts=(mx,), from_mx=False), mx) is None


async def test_policies_of_others_are_not_judged() -> None:
    rig = Rig()
    policy = await rig.policy()
    assert await rig.judge(dataclasses.replace(policy, source="other")) is None
    assert await rig.judge(dataclasses.replace(policy, data=None)) is None


async def test_an_intermediate_alias_is_never_a_base() -> None:
    """RFC 7672 §2.2.2: only the last name of a chain of CNAMEs, and the first."""
    rig = Rig("@ MX 10 mx\nmx CNAME middle.provider.test.\n")
    rig.dns.set_zone("provider.test", f"middle CNAME real\nreal A 192.0.2.1\n_25._tcp.middle TLSA {RECORD}\n")
    assert await rig.find() is None
    assert rig.asked() == ["_25._tcp.real.provider.test", "_25._tcp.mx.example.org"]


async def test_a_broken_alias_of_the_records_is_no_absence() -> None:
    """RFC 7672 §2.1.3, §2.2.3: any error along the CNAMEs makes the lookup failed."""
    rig = Rig("@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx CNAME tlsa.bogus.test.\n")
    rig.dns.set_zone("bogus.test", f"tlsa TLSA {RECORD}\n", "bogus")
    policy = await rig.policy()
    assert policy.problem is not None
    assert policy.problem.reason == "extended-dns-error-6-dnssec-bogus"


@pytest.mark.parametrize("rdtype", ["A", "MX"])
async def test_the_extended_error_of_other_lookups_is_the_reason_too(rdtype: str) -> None:
    """RFC 8914 §4: the cause reaches the failure-reason-code, wherever along the way it happened (RFC 8460 §4.4)."""
    rig = Rig()
    rig.dns.fault("example.org" if rdtype == "MX" else "mx.example.org", rdtype, "SERVFAIL", [(22, "x"), (7, "expired")])
    with pytest.raises(RouteError) as caught:
        await rig.find()
    assert caught.value.failure is not None
    assert caught.value.failure.reason == "extended-dns-error-7-signature-expired"
    assert not caught.value.permanent


async def test_what_was_read_once_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of a cached answer are the same objects; those of another answer are others."""
    rig = Rig()
    records = (await rig.dns.query("_25._tcp.mx.example.org", "TLSA")).records
    first = rig.plugin.published(records)
    assert rig.plugin.published(records) is first
    assert rig.plugin.published([*records]) == first
    monkeypatch.setattr("postward_dane.plugin.REMEMBER", 3)
    kept = [[*records] for _ in range(9)]
    for each in kept:
        rig.plugin.published(each)
    assert len(rig.plugin._read) <= 4


def test_the_plugin_marks_its_hooks() -> None:
    assert hookimpl is not None
    assert all(hasattr(method, "postward_impl") for method in (Dane.host_policy, Dane.verify_tls))


async def test_what_is_found_is_counted() -> None:
    rig = Rig()
    await rig.find()
    await rig.find()
    rig.dns.set_zone("bare.example", "@ MX 10 mx\nmx A 192.0.2.1\n", "secure")
    rig.dns.set_zone("open.example", f"@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx TLSA {RECORD}\n", "insecure")
    rig.dns.set_zone("odd.example", f"@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx TLSA 0 0 1 {DIGEST}\n", "secure")
    for name in ("bare", "open", "odd"):
        await rig.find(f"{name}.example")
    rig.dns.validating = False
    await rig.find()
    assert dict(rig.plugin._hosts.family().values) == {
        ("usable",): 2,
        ("none",): 1,
        ("insecure-address",): 1,
        ("unusable",): 1,
        ("off",): 1,
    }
