"""The self-test: positive evidence only (RFC 6698 §4.1)."""

from __future__ import annotations

import pytest
import trio.testing

from postward.dns import ZoneResolver, self_test

RECORD = "@ SOA ns h 1 2 3 4 5\n@ A 192.0.2.1"


def network(good: str | None = "secure", bad: str | None = "bogus", rcode: str = "") -> ZoneResolver:
    resolver = ZoneResolver()
    if good:
        resolver.set_zone("good.test", RECORD, good)  # type: ignore[arg-type]
    if bad:
        resolver.set_zone("bad.test", RECORD, bad)  # type: ignore[arg-type]
    if rcode:
        resolver.fault("good.test", rcode=rcode)
        resolver.fault("bad.test", rcode=rcode)
    return resolver


@pytest.mark.parametrize(
    ("resolver", "names", "validating", "problems"),
    [
        (network(), ("good.test.", "bad.test."), True, 0),
        (network(), ("missing.good.test", "bad.test."), True, 0),
        (network(), ("good.test", ""), True, 0),
        (network(good="insecure", bad="insecure"), ("good.test", "bad.test"), False, 2),
        (network(good="insecure"), ("good.test", "bad.test"), False, 1),
        (network(good="insecure"), ("missing.good.test", "bad.test"), None, 1),
        (network(good=None), ("good.test", "bad.test"), None, 1),
        (network(good="insecure", bad="insecure"), ("missing.good.test", "bad.test"), False, 2),
        (network(bad="insecure"), ("good.test", "bad.test"), False, 1),
        (network(bad="secure"), ("good.test", "bad.test"), False, 1),
        (network(bad="insecure"), ("", "bad.test"), False, 1),
        (network(), ("", "bad.test"), None, 0),
        (network(bad=None), ("", "bad.test"), None, 0),
        (network(rcode="NETWORK"), ("good.test", "bad.test"), None, 1),
        (network(), ("", ""), None, 0),
        (network(), ("not a name", "bad.test"), None, 1),
        (network(), ("[192.0.2.1]", ""), None, 1),
    ],
)
async def test_evidence(resolver: ZoneResolver, names: tuple[str, str], validating: bool | None, problems: int) -> None:
    found = await self_test(resolver, *names)
    assert found.validating is validating
    assert len(found.problems) == problems, found.problems


async def test_it_ends_within_ten_seconds(autojump_clock: trio.testing.MockClock) -> None:
    resolver = network()
    resolver.fault("good.test", delay=1000, rcode="")
    found = await self_test(resolver, "good.test", "bad.test")
    assert trio.current_time() <= 10.1
    assert (found.validating, len(found.problems)) == (None, 1)
