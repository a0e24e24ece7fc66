"""Rules of the table against hosts of every kind."""

from __future__ import annotations

import pytest
from postward_required_tls.plugin import KIND, RequiredTls, key_pin

from postward.testing import Harness, conformance, self_signed

PIN = "sha256:" + 64 * "a"


def test_it_keeps_to_the_contract() -> None:
    conformance(RequiredTls, domains={"good.test": {"pins": [PIN]}, "other.test": {"webpki": True}})


async def delivered(harness: Harness) -> bool:
    return (await harness.deliver("you@example.test")).delivered


async def test_no_tls_no_mail(harness: Harness) -> None:
    harness.use(RequiredTls, domains={"example.test": {}})
    [host] = harness.domain("example.test", harness.mx("mx.example.test", certificate=None))
    assert not await delivered(harness)
    host.renew(self_signed(["mx.example.test"]))
    assert await delivered(harness)


async def test_only_pinned_keys_are_good(harness: Harness) -> None:
    issued = harness.certificate("mx.example.test")
    harness.use(RequiredTls, domains={"example.test": {"pins": [PIN, key_pin(issued.certificate)]}})
    [host] = harness.domain("example.test", harness.mx("mx.example.test", certificate=issued))
    assert await delivered(harness)
    host.renew(harness.certificate("mx.example.test"))
    delivery = await harness.deliver("you@example.test")
    [policy] = delivery.attempts[0].policies
    assert (policy.kind, policy.passed, policy.failure and policy.failure.reason) == (KIND, False, "no-pinned-key")
    assert not delivery.recipients[0].permanent


async def test_a_pin_may_be_that_of_an_authority(harness: Harness) -> None:
    issued = harness.certificate("mx.example.test", with_root=True)
    harness.use(RequiredTls, domains={"example.test": {"pins": [key_pin(harness.authority.root)]}})
    harness.domain("example.test", harness.mx("mx.example.test", certificate=issued))
    assert await delivered(harness)


@pytest.mark.parametrize(("days", "good"), [(90, True), (0.5, False)])
async def test_the_webpki_vouches_for_dates_and_names(harness: Harness, days: float, good: bool) -> None:
    harness.use(RequiredTls, domains={"example.test": {"webpki": True}})
    harness.domain("example.test", harness.mx("mx.example.test", certificate=harness.certificate("mx.example.test", days=days)))
    assert await delivered(harness) is good


async def test_domains_outside_the_table_are_left_alone(harness: Harness) -> None:
    harness.use(RequiredTls, domains={"other.test": {}})
    harness.domain("example.test", harness.mx("mx.example.test", certificate=None))
    assert await delivered(harness)


async def test_a_pin_that_is_none_stops_the_start(harness: Harness) -> None:
    harness.use(RequiredTls, domains={"example.test": {"pins": ["sha1:00"]}})
    with pytest.raises(Exception, match="64 hexadecimal digits"):
        await harness.start()
