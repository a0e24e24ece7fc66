"""Policy hosts that lie, over memory streams and real TLS: bounded time and memory, one result, no crash (RFC 8461 §3.3).

The same hosts over sockets, from one call of the program, are among those of `tests/e2e/test_hostile_peers.py`.
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from postward.http import H11Client
from postward.lab.ca import Authority
from postward.model import Mode, ResultType
from postward.names import Domain
from postward.testing.network import MemoryNetwork
from postward.tls import TlsError, TrustStore, server_handshake

AUTHORITY = Authority("Policy hosts")
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.b.example\r\nmax_age: 604800\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
FETCH, INVALID, WEBPKI = ResultType.STS_POLICY_FETCH_ERROR, ResultType.STS_POLICY_INVALID, ResultType.STS_WEBPKI_INVALID

Act = Callable[[Any], Awaitable[None]]


@dataclass
class Host:
    """A policy host that does `act` behind the request; `sent` counts octets that the client has taken."""

    act: Act
    name: str = "mta-sts.b.example"
    sent: int = 0
    served: int = 0
    asked: list[bytes] = field(default_factory=list)

    async def __call__(self, transport: trio.abc.Stream) -> None:
        self.served += 1
        try:
            stream = await server_handshake(transport, AUTHORITY.issue([self.name]).server_context())
            self.asked.append(bytes(await stream.receive_some(65_536)))
            await self.act(_Counting(stream, self))
            await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError, TlsError):
            pass


@dataclass
class _Counting:
    stream: Any
    host: Host

    async def send_all(self, data: bytes) -> None:
        await self.stream.send_all(data)
        self.host.sent += len(data)


def say(*parts: bytes, endlessly: bytes = b"", pause: float = 0) -> Act:
    async def act(stream: Any) -> None:
        for part in parts:
            await stream.send_all(part)
        while endlessly:
            await trio.sleep(pause)
            await stream.send_all(endlessly)

    return act


async def silence(_: Any) -> None:
    await trio.sleep_forever()


def page(status: bytes, body: bytes = POLICY) -> Act:
    return say(b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def whole(body: bytes, *more: bytes) -> Act:
    head = HEAD + b"".join(line + b"\r\n" for line in more)
    return say(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


@dataclass
class World:
    sts: Any
    net: MemoryNetwork
    host: Host | None = None

    async def ask(self, act: Act, name: str = "mta-sts.b.example") -> Any:
        self.host = Host(act, name)
        self.net.listen("192.0.2.80", 443, self.host)
        with trio.fail_after(85):
            return await self.sts.ask()


@pytest.fixture
async def world(sts: Any) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        net = MemoryNetwork(nursery, lockstep=False)
        sts.core.dns.set_zone("b.example", '_mta-sts TXT "v=STSv1; id=1"\nmta-sts A 192.0.2.80\n')
        sts.core.http = H11Client(net, sts.core.dns, TrustStore(extra=[AUTHORITY.root]))
        yield World(sts, net)
        nursery.cancel_scope.cancel()


BIG = POLICY + b"".join(b"mx: h%d.b.example\r\n" % number for number in range(3000))
BOMB = gzip.compress(bytes(50 << 20))
FULL = POLICY + b"x: " + b"a" * (65_536 - len(POLICY) - 3)
CASES: dict[str, tuple[Act, ResultType, str]] = {
    "drip of the body": (say(HEAD + b"Content-Length: 5000\r\n\r\n", endlessly=b"a", pause=5), FETCH, "timeout"),
    "drip of the head": (say(b"HTTP/1.1 200 OK\r\n", endlessly=b"X: y\r\n", pause=5), FETCH, "timeout"),
    "a hang-up": (say(), FETCH, "protocol"),
    "for ever silent": (silence, FETCH, "timeout"),
    "endless body": (say(HEAD + b"\r\n", endlessly=b"a" * 8192), FETCH, "too-large"),
    "endless chunks": (say(CHUNKED, endlessly=b"2000\r\n" + b"a" * 8192 + b"\r\n"), FETCH, "too-large"),
    "chunks of an octet": (say(CHUNKED, endlessly=b"1\r\na\r\n" * 500), FETCH, "too-large"),
    "endless chunk extensions": (say(CHUNKED, endlessly=b"1;" + b"x" * 8000 + b"\r\na\r\n"), FETCH, "too-large"),
    "endless head": (say(b"HTTP/1.1 200 OK\r\n", endlessly=b"X: " + b"a" * 8000 + b"\r\n"), FETCH, "too-large"),
    "endless interim responses": (say(endlessly=b"HTTP/1.1 102 Processing\r\n\r\n"), FETCH, "protocol"),
    "one octet too many": (whole(FULL + b"a"), FETCH, "too-large"),
    "a length that lies": (say(HEAD + b"Content-Length: 99999999999\r\n\r\n"), FETCH, "too-large"),
    "a body that is cut": (say(HEAD + b"Content-Length: 500\r\n\r\n" + POLICY), FETCH, "protocol"),
    "gzip bomb": (whole(BOMB, b"Content-Encoding: gzip"), FETCH, "protocol"),
    "gzip bomb, chunked": (say(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", BOMB), FETCH, "protocol"),
    "gzip without saying so": (whole(gzip.compress(POLICY)), INVALID, "policy-syntax-error"),
    "3000 mx lines": (whole(BIG[:65_000]), INVALID, "policy-syntax-error"),
    "10000 mx lines": (whole(POLICY + b"mx:a\n" * 10_000), INVALID, "policy-syntax-error"),
    "NULs": (whole(b"\0" * 60_000), INVALID, "policy-syntax-error"),
    "NULs in a line": (whole(POLICY.replace(b"enforce", b"enforce\0")), INVALID, "policy-syntax-error"),
    "UTF-16": (whole(POLICY.decode().encode("utf-16"), b"X: y"), INVALID, "policy-syntax-error"),
    "Latin-1": (whole(POLICY + b"x: \xfc\r\n"), INVALID, "policy-syntax-error"),
    "empty": (whole(b""), INVALID, "policy-syntax-error"),
    "a web page": (whole(b"<!DOCTYPE html>\n<html>not found</html>\n"), INVALID, "policy-syntax-error"),
    "a redirect": (page(b"301 Moved\r\nLocation: https://mta-sts.b.example/x", b""), FETCH, "http-status-301"),
    "a part": (page(b"206 Partial"), FETCH, "http-status-206"),
    "an error page with a policy": (page(b"404 No"), FETCH, "http-status-404"),
    "no HTTP": (say(b"version: STSv1\r\n\r\n" + POLICY), FETCH, "protocol"),
}


@pytest.mark.parametrize("name", CASES)
async def test_each_costs_a_bounded_amount_and_is_recorded_once(world: World, autojump_clock: MockClock, name: str) -> None:
    """RFC 8461 §3.3: one minute, 64 KiB, status 200 and no redirects; without a cache mail goes as without MTA-STS."""
    act, kind, reason = CASES[name]
    started = trio.current_time()
    policy = await world.ask(act)
    assert (policy.mode, policy.problem.result_type, policy.problem.reason) == (Mode.NONE, kind, reason)
    assert trio.current_time() - started <= 60.1
    assert world.host is not None
    assert (world.host.served, len(world.net.dialled)) == (1, 1), "nothing is asked twice"
    assert world.host.sent < 1_000_000
    assert len(policy.evidence) <= 200
    assert max(map(len, policy.evidence), default=0) <= 500
    assert not any("\t" != letter < " " or "\x7f" <= letter < "\xa0" for line in policy.evidence for letter in line)
    row = await world.sts.row()
    assert (row.text, row.failed_id, len(row.last_error) <= 300, row.last_error.isprintable()) == ("", "1", True, True)
    again = await world.ask(act)
    assert (again.problem.reason, world.host.served) == ("back-off-after-recent-fetch-error", 0)


@pytest.mark.parametrize("body", [POLICY, FULL], ids=["short", "64 KiB"])
async def test_the_limit_is_exact(world: World, autojump_clock: MockClock, body: bytes) -> None:
    """RFC 8461 §3.3: 64 KiB are a policy."""
    assert (await world.ask(whole(body))).mode is Mode.ENFORCE
    assert (await world.sts.row()).text == body.decode()


async def test_small_chunks_are_fine(world: World, autojump_clock: MockClock) -> None:
    chunks = b"".join(b"%x\r\n%c\r\n" % (1, octet) for octet in POLICY) + b"0\r\n\r\n"
    assert (await world.ask(say(CHUNKED + chunks))).mode is Mode.ENFORCE


@pytest.mark.parametrize("name", ["b.example", "mta-sts.c.example", "mta-sts.host.example"])
async def test_the_certificate_is_that_of_the_policy_host(world: World, autojump_clock: MockClock, name: str) -> None:
    """RFC 8461 §3.3: DNS-ID `mta-sts.<domain>`; §8.2: also where a CNAME leads to another host."""
    world.sts.core.dns.set_zone("b.example", '_mta-sts TXT "v=STSv1; id=1"\nmta-sts CNAME mta-sts.host.example.\n')
    world.sts.core.dns.set_zone("host.example", "mta-sts A 192.0.2.80\n")
    policy = await world.ask(whole(POLICY), name)
    assert (policy.problem.result_type, policy.problem.reason) == (WEBPKI, "certificate-host-mismatch")
    assert world.host is not None
    assert world.host.asked in ([], [b""]), "nothing is asked of a stranger"


async def test_a_delegated_policy_host(world: World, autojump_clock: MockClock) -> None:
    """RFC 8461 §8.2: the provider answers under the customer's name, with a certificate for it; §7.1: which SNI asks for."""
    world.sts.core.dns.set_zone("b.example", '_mta-sts TXT "v=STSv1; id=1"\nmta-sts CNAME mta-sts.host.example.\n')
    world.sts.core.dns.set_zone("host.example", "mta-sts A 192.0.2.80\n")
    assert (await world.ask(whole(POLICY), "*.b.example")).mode is Mode.ENFORCE
    assert world.host is not None
    assert b"\r\nhost: mta-sts.b.example\r\n" in world.host.asked[0].lower()
    (endpoint,) = world.net.dialled
    assert endpoint.host == Domain("mta-sts.b.example")


async def test_a_hostile_answer_leaves_a_cached_policy_alone(world: World, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.3: whatever the policy host does later, an unexpired policy acts."""
    await world.ask(whole(POLICY))
    world.sts.core.dns.set_zone("b.example", '_mta-sts TXT "v=STSv1; id=2"\nmta-sts A 192.0.2.80\n')
    for name in ("drip of the body", "endless chunks", "10000 mx lines", "a redirect"):
        policy = await world.ask(CASES[name][0])
        assert (policy.mode, policy.problem, len(policy.notes)) == (Mode.ENFORCE, None, 1)
        await trio.sleep(301)
