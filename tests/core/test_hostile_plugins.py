"""Whatever plugin code does is contained: the others answer, core goes on, and the log names plugin and hook."""

from __future__ import annotations

import gc
import math
from collections.abc import Awaitable, Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from postward import hookspecs
from postward.contract import implementations
from postward.hooks import HookFailed, Hooks
from postward.hookspecs import hookimpl
from postward.model import Destination, Mode, MxHost, Scope, TlsPolicy
from postward.names import Domain

HOST = MxHost(name=Domain("mx.example.org"))
DESTINATION = Destination(domain=Domain("example.org"), hosts=(HOST,))
POLICY = TlsPolicy(kind="x-good", mode=Mode.ENFORCE, domain=HOST.name, scope=Scope.HOST)

Act = Callable[[], Awaitable[Any]]


async def a_cancelled() -> trio.Cancelled:
    """A real `Cancelled`, kept from a scope of one's own."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            kept = exc
            raise
    return kept


class Ugly(Exception):
    """Cannot even be described."""

    def __str__(self) -> str:
        raise SystemExit(3)


def raising(error: BaseException) -> Act:
    async def act() -> None:
        raise error

    return act


async def leaks_cancelled() -> None:
    raise await a_cancelled()


async def group_with_cancelled() -> None:
    raise BaseExceptionGroup("g", [await a_cancelled(), ValueError("inside")])


async def nursery_of_failures() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raising(ValueError("one")))
        nursery.start_soon(raising(SystemExit(2)))


async def hangs() -> None:
    await trio.sleep_forever()


async def swallows_cancels() -> None:
    for _ in range(3):
        with trio.move_on_after(1e5):
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                raise ValueError("no") from None


async def answers_nonsense() -> object:
    return object()


async def cancels_the_scope_around_it() -> None:
    status: Any = trio.lowlevel.current_task()._cancel_status  # type: ignore[attr-defined]
    status._scope.cancel()
    await trio.lowlevel.checkpoint()


async def leaks_a_nursery() -> TlsPolicy:
    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(trio.sleep_forever)
    return POLICY


async def leaks_a_scope() -> None:
    trio.CancelScope().__enter__()
    raise ValueError("in an open scope")


async def changes_its_arguments() -> None:
    HOST.name = Domain("evil.example")  # type: ignore[misc]


HOSTILE: dict[str, Act] = {
    "Exception": raising(ValueError("no")),
    "SystemExit": raising(SystemExit(1)),
    "KeyboardInterrupt": raising(KeyboardInterrupt()),
    "GeneratorExit": raising(GeneratorExit()),
    "BaseException": raising(BaseException("odd")),
    "StopIteration": raising(StopIteration()),
    "undescribable": raising(Ugly()),
    "ExceptionGroup": raising(ExceptionGroup("g", [ValueError("a"), ExceptionGroup("h", [KeyError("b")])])),
    "BaseExceptionGroup": raising(BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError("a")])),
    "group with Cancelled": group_with_cancelled,
    "Cancelled out of nowhere": leaks_cancelled,
    "failures in a nursery": nursery_of_failures,
    "hangs": hangs,
    "turns a cancel into an error": swallows_cancels,
    "nonsense": answers_nonsense,
    "cancels the scope around it": cancels_the_scope_around_it,
    "leaks a nursery": leaks_a_nursery,
    "leaks a scope": leaks_a_scope,
    "changes its arguments": changes_its_arguments,
}


class Hostile:
    """Does the same in every way of being called."""

    def __init__(self, act: Act) -> None:
        self.act = act

    @hookimpl
    async def host_policy(self) -> Any:
        return await self.act()

    @hookimpl
    async def resolve_route(self) -> Any:
        return await self.act()

    @hookimpl
    async def connection_closed(self) -> None:
        await self.act()


class Good:
    """Answers what it should, after others had their turn."""

    told = 0

    @hookimpl
    async def host_policy(self) -> TlsPolicy:
        await trio.lowlevel.checkpoint()
        return POLICY

    @hookimpl
    async def resolve_route(self) -> Destination:
        return DESTINATION

    @hookimpl
    async def connection_closed(self) -> None:
        await trio.lowlevel.checkpoint()
        self.told += 1


def hooks_of(act: Act, good: Good | None, *, first: bool = True, **options: Any) -> Hooks:
    hooks = Hooks()
    plugins: list[tuple[str, object]] = [("hostile", Hostile(act))]
    if good is not None:
        plugins.insert(1 if first else 0, ("good", good))
    for name, plugin in plugins:
        hooks.register(implementations(name, plugin, **options))
    return hooks


every = pytest.mark.parametrize("act", HOSTILE.values(), ids=HOSTILE)


def named(logs: list[Any]) -> bool:
    return any(line["event"] == "hook-failed" and line["plugin"] == "hostile" for line in logs)


@every
@pytest.mark.parametrize("first", [True, False])
async def test_gather(act: Act, first: bool, autojump_clock: trio.testing.MockClock) -> None:
    with capture_logs() as logs:
        outcomes = await hooks_of(act, Good(), first=first).gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)
        await trio.sleep(1)
    by_plugin = {one.plugin: one for one in outcomes}
    assert isinstance(by_plugin["hostile"].error, HookFailed)
    assert by_plugin["hostile"].value is None
    if act is cancels_the_scope_around_it:  # the scope of both: then nobody has an answer, and nobody's is "no policy"
        assert set(by_plugin) == {"good", "hostile"}
    else:
        assert by_plugin["good"].value == POLICY
    assert named(logs)


@every
async def test_gather_alone(act: Act, autojump_clock: trio.testing.MockClock) -> None:
    """One implementation runs in the caller's own task, which must live on, too."""
    with capture_logs() as logs:
        (outcome,) = await hooks_of(act, None).gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)
        await trio.sleep(1)
    assert isinstance(outcome.error, HookFailed)
    assert outcome.error.hook == "host_policy"
    assert named(logs)


@every
@pytest.mark.parametrize("on_error", ["defer", "ignore"])
async def test_first(act: Act, on_error: str, autojump_clock: trio.testing.MockClock) -> None:
    with capture_logs() as logs:
        outcome = await hooks_of(act, Good(), on_error=on_error).first(hookspecs.resolve_route, domain=HOST.name)
        await trio.sleep(1)
    assert outcome is not None
    assert outcome.plugin == ("hostile" if on_error == "defer" else "good")
    assert (outcome.error is None) == (on_error == "ignore")
    assert named(logs)


@every
async def test_notify(act: Act, autojump_clock: trio.testing.MockClock) -> None:
    good = Good()
    with capture_logs() as logs:
        await hooks_of(act, good).notify(hookspecs.connection_closed, connection=None)  # type: ignore[arg-type]
        await trio.sleep(1)
    if act is not cancels_the_scope_around_it:
        assert good.told == 1
    if act is not answers_nonsense:  # answers of observers are not looked at
        assert named(logs)


@every
def test_the_task_survives_to_its_end(act: Act) -> None:
    """What a plugin leaves behind must not show when the task that called it ends."""

    async def one() -> None:
        await hooks_of(act, None).gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)
        await hooks_of(act, Good()).gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)

    async def main() -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
        return "alive"

    with capture_logs():
        assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == "alive"


SYNC: dict[str, BaseException] = {
    "Exception": ValueError("no"),
    "SystemExit": SystemExit(1),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "BaseException": BaseException("odd"),
    "StopIteration": StopIteration(),
    "undescribable": Ugly(),
    "BaseExceptionGroup": BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError("a")]),
}


@pytest.mark.parametrize("error", SYNC.values(), ids=SYNC)
def test_collect(error: BaseException) -> None:
    class Raises:
        @hookimpl
        def dns_records(self) -> None:
            raise error

    class Answers:
        @hookimpl
        def dns_records(self) -> list[Any]:
            return []

    hooks = Hooks()
    hooks.register(implementations("hostile", Raises()))
    hooks.register(implementations("good", Answers()))
    with capture_logs() as logs:
        bad, good = hooks.collect(hookspecs.dns_records, domain=HOST.name)
    assert isinstance(bad.error, HookFailed)
    assert good.value == ()
    assert named(logs)


def test_collect_refuses_nonsense_and_hidden_coroutines() -> None:
    async def later() -> list[Any]:
        return []

    class Sly:
        def __init__(self, answer: Callable[[], Any]) -> None:
            self.answer = answer

        @hookimpl
        def dns_records(self) -> Any:
            return self.answer()

    for answer, complaint in ((later, "awaitable"), (lambda: "text", "not a sequence"), (lambda: [1], "not DnsRecord")):
        hooks = Hooks()
        hooks.register(implementations("hostile", Sly(answer)))
        with capture_logs():
            (outcome,) = hooks.collect(hookspecs.dns_records, domain=HOST.name)
        assert complaint in str(outcome.error)
    gc.collect()  # a coroutine that was never awaited would warn, and a warning is an error here


@every
@pytest.mark.parametrize("alone", [True, False])
async def test_while_core_is_being_cancelled(act: Act, alone: bool, autojump_clock: trio.testing.MockClock) -> None:
    """The cancellation gets through, the plugin's error does not, and nothing hangs."""
    hooks = hooks_of(act, None if alone else Good())
    with capture_logs(), trio.CancelScope() as scope:
        scope.cancel()
        await hooks.gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)
        await trio.sleep_forever()
    assert scope.cancelled_caught
    await trio.sleep(1)


@pytest.mark.parametrize("alone", [True, False])
async def test_a_cancellation_is_no_failure_of_the_plugin(alone: bool, autojump_clock: trio.testing.MockClock) -> None:
    """Every end of the program would else log every plugin that was at work."""
    hooks = hooks_of(hangs, None if alone else Good())
    returned = False
    with capture_logs() as logs, trio.move_on_after(5) as scope:
        await hooks.gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)
        returned = True
    assert scope.cancelled_caught
    assert not returned
    assert logs == []
    assert hooks.stats["hostile", "host_policy"].failures == 0


@pytest.mark.parametrize("alone", [True, False])
async def test_an_error_in_cleanup_does_not_escape_a_cancellation(alone: bool, autojump_clock: trio.testing.MockClock) -> None:
    """A nursery of a plugin that fails while core cancels raises a group of both; only the cancellation goes on."""

    async def cleans_up_badly() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_at_the_end)
            await trio.sleep_forever()

    async def fails_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    hooks = hooks_of(cleans_up_badly, None if alone else Good())
    with capture_logs() as logs, trio.move_on_after(5) as scope:
        await hooks.gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)
    assert scope.cancelled_caught
    assert named(logs)


async def test_a_task_in_the_callers_nursery_is_contained(autojump_clock: trio.testing.MockClock) -> None:
    async def plants() -> None:
        parent = trio.lowlevel.current_task().parent_nursery
        assert parent is not None
        parent.start_soon(raising(ValueError("planted")))

    with capture_logs() as logs:
        outcomes = await hooks_of(plants, Good()).gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)
    assert any("planted" in line.get("error", "") for line in logs)
    assert all(one.plugin in ("good", "hostile") for one in outcomes)


async def test_arguments_cannot_be_changed() -> None:
    with capture_logs():
        (outcome,) = await hooks_of(changes_its_arguments, None).gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)
    assert outcome.error is not None
    assert isinstance(outcome.error.__cause__, FrozenInstanceError)
    assert HOST.name == "mx.example.org"


async def test_no_deadline_stays_behind(autojump_clock: trio.testing.MockClock) -> None:
    for act in HOSTILE.values():
        with capture_logs():
            await hooks_of(act, None).gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)
        assert trio.current_effective_deadline() == math.inf
