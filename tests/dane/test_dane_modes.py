"""The DANE plugin as operators set it: mandatory, audit, digests, and a resolver that does not validate (RFC 7672 §6, §9.1)."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest
import structlog
import structlog.testing

from dane_rig import DIGEST, RECORD, ZONE, Rig
from postward.model import (
    PASSED,
    Mode,
    ResultType,
)
from postward_dane.plugin import Dane


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


async def test_mandatory_dane_defers_when_the_lookup_fails() -> None:
    """RFC 7672 §2.1.2, §6."""
    rig = Rig(mandatory=["example.org"])
    rig.dns.fault("_25._tcp.mx.example.org", "TLSA", "TIMEOUT")
    policy = await rig.policy()
    assert (policy.mode, policy.problem is not None) == (Mode.ENFORCE, True)


async def test_the_order_of_digests_is_the_operators() -> None:
    """RFC 7671 §9: digest agility in a configurable order; a digest that is turned off is as good as unknown."""
    zone = f"@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx TLSA {RECORD}\n_25._tcp.mx TLSA 3 1 2 {'02' * 64}\n"
    rig = Rig(zone)
    assert not (await rig.judge(await rig.policy())).passed
    for digests in (["sha256", "sha512"], ["sha256"]):
        rig = Rig(zone, digests=digests)
        assert await rig.judge(await rig.policy()) == PASSED
    policy = await Rig(digests=["sha512"]).policy()
    assert [note.detail for note in policy.notes] == ["the matching type 1 is turned off"]
    assert (policy.requires_tls, policy.authenticates) == (True, False)


@pytest.mark.parametrize(
    "config",
    [
        {"mandatory": ["no domain"]},
        {"unknown": 1},
        {"mandatory": ["a.b"], "audit": ["A.b"]},
        {"digests": []},
        {"digests": ["md5"]},
        {"digests": ["sha256", "sha256"]},
    ],
)
def test_configuration_that_makes_no_sense(config: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        Dane.Config(**config)
