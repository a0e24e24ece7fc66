"""What judging a server costs: CPU time per DANE-EE, DANE-TA and WebPKI verdict, and per handshake in memory, both ends.

Run: `python benchmarks/verify.py [seconds per line]`.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Final

import trio
from trio.testing import memory_stream_pair

from postward.lab.ca import Authority, Issued, tlsa
from postward.model import PASSED, Endpoint
from postward.names import Domain
from postward.tls import TrustStore, client_handshake, server_handshake
from postward_dane.match import judge
from postward_dane.tlsa import parse

HOST: Final = Domain("mx.example.org")
ENDPOINT: Final = Endpoint(host=HOST, address="192.0.2.1", port=25)
ROUND: Final = 20


def measure(what: str, work: Callable[[], object], seconds: float, *, per_call: int = 1) -> None:
    """Repeat `work` for a while and print CPU microseconds for each of its `per_call` pieces."""
    work()  # not counted: it fills caches, as the first delivery of a process does
    calls, start, end = 0, time.process_time(), time.monotonic() + seconds
    while time.monotonic() < end:
        work()
        calls += 1
    used = (time.process_time() - start) / (calls * per_call)
    print(f"{what:<44} {used * 1e6:9.1f} us CPU  {1 / used:9.0f}/s per core")


def handshakes(issued: Issued) -> Callable[[], None]:
    """A round of handshakes over memory streams, client and server in one process."""
    context = issued.server_context()

    async def serve(stream: trio.abc.Stream) -> None:
        await (await server_handshake(stream, context)).receive_some()

    async def main() -> None:
        for _ in range(ROUND):
            ours, theirs = memory_stream_pair()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, theirs)
                stream, _ = await client_handshake(ours, ENDPOINT, HOST)
                await stream.aclose()

    return lambda: trio.run(main)


# A verdict is remembered for a minute, so each call is another one.
NOW: Final = time.time_ns() // 1000
minutes = itertools.cycle(range(NOW, NOW + 10**12, 61_000_000))


def main() -> None:
    """Print one line per kind of verdict."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
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
