"""Verdicts are remembered for a minute, by the whole chain and the name, and no longer."""

from __future__ import annotations

from postward.lab.ca import DAY, Authority
from postward.model import MICROSECONDS, ResultType
from postward.names import Domain
from postward.tls import TrustStore

NOW = 1_795_521_600 * MICROSECONDS
HOST, OTHER = Domain("mx.example.test"), Domain("mx2.example.test")
AUTHORITY = Authority("Test")


def test_a_certificate_expires_although_its_chain_was_judged_before() -> None:
    chain = AUTHORITY.issue([HOST], not_before=NOW - DAY, not_after=NOW).chain
    trust = TrustStore(extra=[AUTHORITY.root])
    assert trust.verify(chain, HOST, at=NOW - 1).passed
    assert trust.verify(chain, HOST, at=NOW + 3 * MICROSECONDS).passed, "the same minute"
    late = trust.verify(chain, HOST, at=NOW + 61 * MICROSECONDS)
    assert late.failure is not None
    assert late.failure.result_type is ResultType.CERTIFICATE_EXPIRED
    assert trust.verify(chain, HOST, at=NOW - 1).passed, "a clock that is set back finds no verdict from its future"


def test_another_name_or_chain_is_judged_anew() -> None:
    chain = AUTHORITY.issue([HOST], not_before=NOW - DAY).chain
    trust = TrustStore(extra=[AUTHORITY.root])
    assert trust.verify(chain, HOST, at=NOW).passed
    assert not trust.verify(chain, OTHER, at=NOW).passed
    stranger = Authority("Another").issue([HOST], not_before=NOW - DAY).chain
    assert not trust.verify(stranger, HOST, at=NOW).passed
