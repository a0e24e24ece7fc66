"""What calling hooks costs, in microseconds of CPU time, by how many implement them: `python benchmarks/hooks.py`.

Each figure is the median of several runs. The targets are those that the delivery path can afford per connection.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from postward import hookspecs
from postward.contract import implementations
from postward.hooks import Hooks
from postward.model import Destination, Mode, MxHost, Scope, TlsPolicy
from postward.names import Domain

RUNS, CALLS = 9, 2000
TARGETS = {
    ("gather", 0, ""): 1,
    ("first", 0, ""): 1,
    ("gather", 4, "async"): 60,
    ("first", 4, "async"): 15,
}
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


class AnswersPlainly:
    """The same by plain methods, which hooks may have as well."""

    @hookspecs.hookimpl
    def host_policy(self, destination: Destination, mx: MxHost) -> TlsPolicy | None:
        return POLICY

    @hookspecs.hookimpl
    def resolve_route(self, domain: Domain) -> Destination | None:
        return DESTINATION


class Silent:
    """Has nothing to say, so that everybody is asked."""

    @hookspecs.hookimpl
    async def resolve_route(self, domain: Domain) -> Destination | None:
        return None


def hooks_of(count: int, kind: type[object] = Answers) -> Hooks:
    hooks = Hooks()
    for number in range(count):
        hooks.register(implementations(f"p{number}", kind()))
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


async def gathering(hooks: Hooks) -> object:
    return await hooks.gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)


async def asking(hooks: Hooks) -> object:
    return await hooks.first(hookspecs.resolve_route, domain=HOST.name)


async def main() -> int:
    cases: list[tuple[str, float | None, Callable[[], Awaitable[object]]]] = []
    for count in (0, 1, 4, 16):
        for kind in (Answers, AnswersPlainly) if count else (Answers,):
            how = "" if not count else "async" if kind is Answers else "sync"
            gather, first = partial(gathering, hooks_of(count, kind)), partial(asking, hooks_of(count, kind))
            cases.append((f"gather, {count} {how}", TARGETS.get(("gather", count, how)), gather))
            cases.append((f"first, the first of {count} {how} answers", TARGETS.get(("first", count, how)), first))
    cases += [(f"first, none of {count} async answers", None, partial(asking, hooks_of(count, Silent))) for count in (1, 4, 16)]
    print(f"{'call':<40}{'µs':>8}{'target':>8}")
    over = False
    for name, target, call in cases:
        figure = await measure(call)
        late = target is not None and figure > target
        print(f"{name:<40}{figure:>8.2f}{'' if target is None else target:>8}{'  OVER' if late else ''}")
        over |= late
    return int(over)


sys.exit(trio.run(main))
