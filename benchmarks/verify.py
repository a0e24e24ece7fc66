"""What judging a server costs: CPU time per DANE-EE, DANE-TA and WebPKI verdict, and per handshake in memory, both ends; what
finding a DANE policy costs when its records are known; and the worst that hostile records and chains can make of a verdict.

Run: `python benchmarks/verify.py [seconds per line]`.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import dns.flags
import dns.message
import dns.rrset
import structlog
import trio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from trio.testing import memory_stream_pair

from postward.clock import SystemClock
from postward.dns import SystemResolver
from postward.dns.nameserver import Nameserver
from postward.lab.ca import Authority, Issued, tlsa
from postward.model import PASSED, Destination, Endpoint, MxHost, Security
from postward.names import Domain
from postward.tls import TlsError, TrustStore, client_handshake, server_handshake
from postward_dane.match import judge
from postward_dane.plugin import Dane
from postward_dane.tlsa import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from big_rsa import big_rsa

HOST: Final = Domain("mx.example.org")
ENDPOINT: Final = Endpoint(host=HOST, address="192.0.2.1", port=25)
ROUND: Final = 20
WARM: Final = 2000


def measure(what: str, work: Callable[[], object], seconds: float, *, per_call: int = 1) -> None:
    """Repeat `work` for a while and print CPU microseconds for each of its `per_call` pieces."""
    work()  # not counted: it fills caches, as the first delivery of a process does
    calls, start, end = 0, time.process_time(), time.monotonic() + seconds
    while time.monotonic() < end:
        work()
        calls += 1
    used = (time.process_time() - start) / (calls * per_call)
    print(f"{what:<52} {used * 1e6:9.1f} us CPU  {1 / used:9.0f}/s per core")


def handshakes(issued: Issued) -> Callable[[], None]:
    """A round of handshakes over memory streams, client and server in one process."""
    context = issued.server_context()

    async def serve(stream: trio.abc.Stream) -> None:
        # A client that goes at once may be gone before the server has sent its session tickets.
        with suppress(TlsError, trio.BrokenResourceError):
            await (await server_handshake(stream, context)).receive_some()

    async def main() -> None:
        for _ in range(ROUND):
            ours, theirs = memory_stream_pair()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, theirs)
                stream, _ = await client_handshake(ours, ENDPOINT, HOST)
                await stream.aclose()

    return lambda: trio.run(main)


class Answers:
    """A name server in memory: two TLSA records, secure, whatever is asked."""

    async def datagram(self, server: Nameserver, query: bytes, accept: Callable[[bytes], bool]) -> bytes:
        question = dns.message.from_wire(query)
        reply = dns.message.make_response(question)
        reply.flags |= dns.flags.AD
        texts = f"3 1 1 {'ab' * 32}", f"2 1 1 {'cd' * 32}"
        reply.answer.append(dns.rrset.from_text(question.question[0].name, 3600, "IN", "TLSA", *texts))
        return reply.to_wire()

    async def stream(self, server: Nameserver, query: bytes) -> bytes:
        raise NotImplementedError


def warm_policies() -> Callable[[], None]:
    """A round of `host_policy` for a host whose TLSA records the resolver still has."""
    core: Any = SimpleNamespace(
        plugin="dane", dns=SystemResolver(["127.0.0.1"], transport=Answers()), clock=SystemClock(), log=structlog.get_logger()
    )
    plugin = Dane(Dane.Config(), core)
    domain = Domain("example.org")
    mx = MxHost(name=HOST, security=Security.SECURE, canonical=HOST, addresses=("192.0.2.1",))
    destination = Destination(domain=domain, hosts=(mx,), security=Security.SECURE, canonical=domain)

    async def main() -> None:
        for _ in range(WARM):
            await plugin.host_policy(destination, mx)

    return lambda: trio.run(main)


def worst_verdicts() -> Iterator[tuple[str, Callable[[], object]]]:
    """The largest keys that OpenSSL takes, in the longest chain that is looked at, with as many records as are looked at."""
    key = big_rsa()
    authority = Authority("Big", key=key)
    for number in range(19):
        authority = authority.subordinate(f"Big {number}", key=key)
    chain = authority.issue(["other.example.org"]).chain[:20]
    anchors = [parse(tlsa(der, 2, 0, 1)) for der in chain[1:]]
    numbers = key.public_key().public_numbers()
    bare = []
    for number in range(20):
        other = rsa.RSAPublicNumbers(numbers.e, numbers.n - 2 * number - 2).public_key()
        bare.append(parse(f"2 1 0 {other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()}"))
    yield f"19 anchors in a chain of 20, {key.key_size} bits", lambda: judge(anchors, chain, [HOST])
    yield f"20 bare keys, chain of 20, {key.key_size} bits", lambda: judge(bare, chain, [HOST])


# A verdict is remembered for a minute, so each call is another one.
NOW: Final = time.time_ns() // 1000
minutes = itertools.cycle(range(NOW, NOW + 10**12, 61_000_000))


def main() -> None:
    """Print one line per kind of verdict."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    measure("DANE policy of a host, records known", warm_policies(), seconds, per_call=WARM)
    for what, work in worst_verdicts():
        measure(f"worst: {what}", work, seconds)
    for key in ("p256", "rsa"):
        authority = Authority("Benchmark", intermediate=True, key=key)
        issued = authority.issue([HOST], key=key, with_root=True)
        trust = TrustStore(extra=[authority.root])
        own = [parse(tlsa(issued.certificate))]
        anchor = [parse(tlsa(authority.certificate, 2, 1, 1))]
        assert (
            judge(own, issued.chain, [HOST])
            == judge(anchor, issued.chain, [HOST])
            == trust.verify(issued.chain, HOST)
            == PASSED
        )
        measure(f"{key}: DANE-EE verdict (3 1 1)", lambda own=own, issued=issued: judge(own, issued.chain, [HOST]), seconds)
        measure(f"{key}: DANE-TA verdict (2 1 1)", lambda own=anchor, issued=issued: judge(own, issued.chain, [HOST]), seconds)
        measure(
            f"{key}: WebPKI verdict",
            lambda trust=trust, issued=issued: trust.verify(issued.chain, HOST, at=next(minutes)),
            seconds,
        )
        trust.verify(issued.chain, HOST, at=NOW)
        measure(
            f"{key}: WebPKI verdict, remembered",
            lambda trust=trust, issued=issued: trust.verify(issued.chain, HOST, at=NOW),
            seconds,
        )
        measure(f"{key}: handshake, both ends", handshakes(issued), seconds, per_call=ROUND)


if __name__ == "__main__":
    main()
