"""A proxy in memory, and the mail that goes through it."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from postward_socks_route import socks
from postward_socks_route.plugin import SocksRoute

from postward import Domain, Endpoint
from postward.testing import Harness, conformance

PROXY = "192.0.2.80"


class Proxy:
    """Speaks SOCKS5, and dials for its clients unless it is to `fail`."""

    def __init__(self, harness: Harness, *, password: bytes | None = None, fail: int = 0) -> None:
        self.harness, self.password, self.fail = harness, password, fail
        self.asked: list[tuple[str, int]] = []
        harness.net.listen(PROXY, 1080, self.serve)

    async def serve(self, stream: trio.abc.Stream) -> None:
        methods = (await stream.receive_some(100))[2:]
        if self.password is not None:
            assert socks.PASSWORD in methods
            await stream.send_all(b"\x05\x02")
            right = (await stream.receive_some(600)).endswith(self.password)
            await stream.send_all(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return
        else:
            await stream.send_all(b"\x05\x00")
        request = await stream.receive_some(100)
        address = ".".join(str(octet) for octet in request[4:8])
        self.asked.append((address, int.from_bytes(request[8:10], "big")))
        if self.fail:
            await stream.send_all(bytes([5, self.fail, 0, 1]) + bytes(6))
            return
        endpoint = Endpoint(host=Domain("x.test"), address=address, port=self.asked[-1][1])
        far = await self.harness.net.open_stream(endpoint)
        await stream.send_all(b"\x05\x00\x00\x03\x05proxy\x00\x00")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(pump, stream, far))
            nursery.start_soon(partial(pump, far, stream))


async def pump(source: trio.abc.Stream, target: trio.abc.Stream) -> None:
    try:
        while data := await source.receive_some(65_536):
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    await target.aclose()


def test_it_keeps_to_the_contract() -> None:
    conformance(SocksRoute, smarthosts={"example.net": "relay.example.org:587"})


async def test_mail_goes_through_the_proxy_and_tls_through_it(harness: Harness) -> None:
    proxy = Proxy(harness)
    harness.use(SocksRoute, proxy=f"{PROXY}:1080")
    [host] = harness.domain("example.test")
    assert (await harness.deliver("you@example.test")).delivered
    assert proxy.asked == [(host.address, 25)]
    assert [mail.protocol for mail in host.mails] == ["TLSv1.3"]


@pytest.mark.parametrize(("password", "delivered"), [("right", True), ("wrong", False)])
async def test_the_proxy_may_want_a_password(harness: Harness, password: str, delivered: bool) -> None:
    proxy = Proxy(harness, password=b"right")
    harness.use(SocksRoute, proxy=f"{PROXY}:1080", username="me", password=password)
    harness.domain("example.test")
    assert (await harness.deliver("you@example.test")).delivered is delivered
    assert bool(proxy.asked) is delivered


async def test_what_the_proxy_cannot_reach_is_unreachable_and_never_dialled_directly(harness: Harness) -> None:
    Proxy(harness, fail=5)
    harness.use(SocksRoute, proxy=f"{PROXY}:1080")
    [host] = harness.domain("example.test")
    delivery = await harness.deliver("you@example.test")
    assert not delivery.delivered
    assert not delivery.recipients[0].permanent
    assert "refused the connection" in delivery.attempts[0].error
    assert host.sessions == 0


async def test_a_domain_has_a_smarthost(harness: Harness) -> None:
    harness.use(SocksRoute, smarthosts={"example.test": "relay.other.test:587"})
    relay = harness.mx("relay.other.test")
    relay.domains.add(Domain("example.test"))
    harness.net.listen(relay.address, 587, relay)
    assert (await harness.deliver("you@example.test")).delivered
    assert len(relay.mails) == 1
