"""The DANE plugin over zones in memory: what it finds for each host, and how it judges (RFC 7672 §2.2)."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest
import structlog
import structlog.testing

from postward.delivery.compose import prior_verdict
from postward.delivery.route import RouteError, find_route, resolve_host
from postward.dns import ZoneResolver
from postward.hookspecs import hookimpl
from postward.lab.ca import DAY, Authority, tlsa
from postward.model import (
    PASSED,
    Destination,
    Endpoint,
    Mode,
    MxHost,
    ResultType,
    Scope,
    Security,
    TlsPeer,
    TlsPolicy,
)
from postward.names import Domain
from postward_dane.plugin import Binding, Dane

NOW = 1_800_000_000_000_000
AUTHORITY = Authority("Lab", not_before=0)
MX = Domain("mx.example.org")
LEAF = AUTHORITY.issue([MX], not_before=NOW - DAY, not_after=NOW + DAY)
RECORD = tlsa(LEAF.certificate)
ZONE = f"@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx TLSA {RECORD}\n"
DIGEST = "01" * 32


class Rig:
    def __init__(self, zone: str = ZONE, security: Any = "secure", **config: Any) -> None:
        self.dns = ZoneResolver()
        self.dns.set_zone("example.org", zone, security)
        self.now = NOW
        self.core: Any = SimpleNamespace(
            plugin="dane", dns=self.dns, clock=SimpleNamespace(now=lambda: self.now), log=structlog.get_logger()
        )
        self.plugin = Dane(Dane.Config(**config), self.core)

    async def find(self, domain: str = "example.org") -> TlsPolicy | None:
        """The policy of the first host of a domain, routed as core does, and with its source filled in as core does."""
        destination = await find_route(Domain(domain), self.dns)
        mx = await resolve_host(destination.hosts[0], self.dns)
        policy = await self.plugin.host_policy(destination, mx)
        return dataclasses.replace(policy, source="dane") if policy else None

    async def policy(self, domain: str = "example.org") -> TlsPolicy:
        policy = await self.find(domain)
        assert policy is not None
        return policy

    def asked(self) -> list[str]:
        return [name for name, rdtype in self.dns.queries if rdtype == "TLSA"]

    async def judge(self, policy: TlsPolicy, chain: tuple[bytes, ...] = LEAF.chain) -> Any:
        endpoint = Endpoint(host=MX, address="192.0.2.1", port=25)
        peer = TlsPeer(endpoint=endpoint, server_name=MX, protocol="TLSv1.3", cipher="x", chain=chain)
        return await self.plugin.verify_tls(policy, peer)


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
    rig = Rig(f"{ALIASED}_25._tcp.mx TLSA {RECORD}\n")
    rig.dns.set_zone("provider.test", "real A 192.0.2.1\n")
    assert (await rig.policy()).domain == MX
    assert rig.asked() == ["_25._tcp.real.provider.test", "_25._tcp.mx.example.org"]


async def test_the_first_secure_records_decide_even_when_unusable() -> None:
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


async def test_without_a_validating_resolver_dane_is_off_and_says_so_once() -> None:
    """RFC 7672 §2.1.1: no security-aware resolver, no DANE; back with it, and each change is said once."""
    rig = Rig()
    with structlog.testing.capture_logs() as logs:
        for validating in (True, False, False, None, False, True):
            rig.dns.validating, rig.dns.problems = validating, () if validating else ("no AD",)
            rig.dns.queries.clear()
            assert (await rig.find() is None) is (validating is False)
            assert rig.asked() == ([] if validating is False else ["_25._tcp.mx.example.org"])
    assert [(entry["log_level"], entry["event"].partition(":")[0]) for entry in logs] == [
        ("error", "DANE is off"),
        ("warning", "DANE is on again"),
    ] * 2
    assert logs[0]["problems"] == ["no AD"]


@pytest.mark.parametrize(
    ("zone", "security", "reason"),
    [
        ("@ MX 10 mx\nmx A 192.0.2.1\n", "secure", "no-tlsa-records"),
        (ZONE, "insecure", "insecure-address"),
        (f"@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx TLSA 1 1 1 {DIGEST}\n", "secure", "all-unusable-records"),
    ],
)
async def test_mandatory_dane(zone: str, security: str, reason: str) -> None:
    """RFC 7672 §6: only over authenticated TLS; else the mail waits, and the report says `dane-required`."""
    policy = await Rig(zone, security, mandatory=["Example.ORG."]).policy()
    assert policy.mode is Mode.ENFORCE
    assert policy.problem is not None
    assert (policy.problem.result_type, policy.problem.reason) == (ResultType.DANE_REQUIRED, reason)


async def test_mandatory_dane_wants_a_secure_mx() -> None:
    """RFC 7672 §2.2.1, §6."""
    rig = Rig(mandatory=["unsigned.test"])
    rig.dns.set_zone("unsigned.test", "@ MX 10 mx.example.org.\n", "insecure")
    policy = await rig.policy("unsigned.test")
    assert policy.problem is not None
    assert (policy.problem.result_type, policy.problem.reason) == (ResultType.DANE_REQUIRED, "insecure-mx")


async def test_mandatory_dane_without_a_validating_resolver() -> None:
    rig = Rig(mandatory=["example.org"])
    rig.dns.validating = False
    policy = await rig.policy()
    assert policy.problem is not None
    assert policy.problem.reason == "resolver-does-not-validate"


async def test_mandatory_dane_that_is_there() -> None:
    rig = Rig(mandatory=["example.org"])
    policy = await rig.policy()
    assert policy.problem is None
    assert policy.authenticates
    assert await rig.judge(policy) == PASSED


async def test_audit() -> None:
    """RFC 7672 §9.1: recorded and reported, never in the way."""
    rig = Rig(audit=["example.org"])
    assert (await rig.policy()).mode is Mode.TESTING
    rig.dns.fault("_25._tcp.mx.example.org", "TLSA", "SERVFAIL")
    policy = await rig.policy()
    assert policy.mode is Mode.TESTING
    assert policy.problem is not None


async def test_policies_of_others_are_not_judged() -> None:
    rig = Rig()
    policy = await rig.policy()
    assert await rig.judge(dataclasses.replace(policy, source="other")) is None
    assert await rig.judge(dataclasses.replace(policy, data=None)) is None


@pytest.mark.parametrize("config", [{"mandatory": ["no domain"]}, {"unknown": 1}, {"mandatory": ["a.b"], "audit": ["A.b"]}])
def test_configuration_that_makes_no_sense(config: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        Dane.Config(**config)


def test_the_plugin_marks_its_hooks() -> None:
    assert hookimpl is not None
    assert all(hasattr(method, "postward_impl") for method in (Dane.host_policy, Dane.verify_tls))
