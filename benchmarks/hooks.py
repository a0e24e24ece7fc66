"""What calling hooks costs, in microseconds of CPU time: `python benchmarks/hooks.py`.

Each figure is the median of several runs. The targets are those that the delivery path can afford per connection.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

import trio

from postward import hookspecs
from postward.contract import implementations
from postward.hooks import Hooks
from postward.model import Destination, Mode, MxHost, Scope, TlsPolicy
from postward.names import Domain

RUNS, CALLS = 9, 2000
HOST = MxHost(name=Domain("mx.example.org"))
DESTINATION = Destination(domain=Domain("example.org"), hosts=(HOST,))
POLICY = TlsPolicy(kind="tlsa", mode=Mode.ENFORCE, domain=HOST.name, scope=Scope.HOST)


class Answers:
    """Answers at once, as a plugin with a warm cache does."""

    @hookspecs.hookimpl
    async def host_policy(self, destination: Destination, mx: MxHost) -> TlsPolicy | None:
        return POLICY

    @hookspecs.hookimpl
    async def resolve_route(self, domain: Domain) -> Destination | None:
        return DESTINATION


def hooks_of(count: int) -> Hooks:
    hooks = Hooks()
    for number in range(count):
        hooks.register(implementations(f"p{number}", Answers()))
    return hooks


async def measure(call: Callable[[], Awaitable[object]]) -> float:
    """Median microseconds of CPU time for one call."""
    figures = []
    for _ in range(RUNS):
        start = time.process_time()
        for _ in range(CALLS):
            await call()
        figures.append((time.process_time() - start) / CALLS * 1e6)
    return statistics.median(figures)


async def main() -> None:
    none, one, four = hooks_of(0), hooks_of(1), hooks_of(4)
    cases: list[tuple[str, float, Callable[[], Awaitable[object]]]] = [
        ("nobody implements it", 1, lambda: none.gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)),
        ("gather, one", 20, lambda: one.gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)),
        ("first, the first of four answers", 15, lambda: four.first(hookspecs.resolve_route, domain=HOST.name)),
        ("gather, four async", 60, lambda: four.gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)),
    ]
    print(f"{'call':<36}{'µs':>8}{'target':>8}")
    for name, target, call in cases:
        figure = await measure(call)
        print(f"{name:<36}{figure:>8.2f}{target:>8}{'' if figure <= target else '  OVER'}")


trio.run(main)
