"""A plugin that is up to no good beside one that does its work, in the whole program: mail, policies, log and figures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from postward import (
    ConnectionReport,
    Core,
    Destination,
    Domain,
    Mode,
    MxHost,
    ResultBatch,
    Schema,
    Scope,
    StoreError,
    TlsPeer,
    TlsPolicy,
    Verdict,
    hookimpl,
)
from postward.testing import Harness

Act = Callable[[], Awaitable[Any]]


def raises(error: BaseException) -> Act:
    async def act() -> None:
        raise error

    return act


async def hangs() -> None:
    await trio.sleep_forever()


async def answers_the_wrong_type() -> object:
    return "yes"


async def leaks_a_task() -> object:
    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(trio.sleep_forever)
    return None


async def cancels() -> None:
    status: Any = trio.lowlevel.current_task()._cancel_status  # type: ignore[attr-defined]
    status._scope.cancel()
    await trio.lowlevel.checkpoint()


class Odd(BaseException):
    """Not even an Exception."""


ACTS: dict[str, Act] = {
    "raises": raises(ValueError("no")),
    "SystemExit": raises(SystemExit(1)),
    "KeyboardInterrupt": raises(KeyboardInterrupt()),
    "an exception group": raises(ExceptionGroup("g", [ValueError("a"), KeyError("b")])),
    "a BaseException": raises(Odd("odd")),
    "hangs": hangs,
    "cancels": cancels,
    "leaks a task": leaks_a_task,
    "wrong type": answers_the_wrong_type,
}
HOOKS = ["resolve_route", "domain_policy", "host_policy", "connection_closed", "emit", "open_stream"]


class Good:
    """Wants TLS of everybody, and counts."""

    def __init__(self, config: None, core: Core) -> None:
        self.core, self.counted, self.seen = core, 0, 0

    @hookimpl
    async def host_policy(self, destination: Destination, mx: MxHost) -> TlsPolicy | None:
        return TlsPolicy(kind="x-good", mode=Mode.ENFORCE, domain=mx.name, scope=Scope.HOST, authenticates=False)

    @hookimpl
    async def verify_tls(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
        return Verdict(passed=True) if policy.kind == "x-good" else None

    @hookimpl
    async def connection_closed(self, connection: ConnectionReport) -> None:
        self.seen += 1

    @hookimpl
    async def emit(self, batch: ResultBatch) -> None:
        self.counted += len(batch.entries)


def bad(hook: str, act: Act) -> type[Any]:
    """A plugin that does it in one hook."""

    async def method(self: object) -> Any:
        return await act()

    def __init__(self: object, config: None, core: Core) -> None:
        pass

    method.__name__ = hook
    return type("Bad", (), {"__init__": __init__, hook: hookimpl(method)})


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("hook", HOOKS)
async def test_mail_goes_on_and_the_culprit_is_named(harness: Harness, hook: str, act: Act) -> None:
    """The operator wants its failures ignored, so mail is delivered by what the others say, and never in a weaker way."""
    harness.use(bad(hook, act), on_error="ignore", time_limit=5.0)
    harness.use(Good)
    [host] = harness.domain("example.test")
    [clear] = harness.domain("clear.test", harness.mx("mx.clear.test", certificate=None))
    with trio.fail_after(600):
        delivery = await harness.deliver("you@example.test")
        weaker = await harness.deliver("you@clear.test")
        await trio.sleep(60)
    # What a hook that is not asked for an answer returns is looked at by nobody.
    harmless = act is answers_the_wrong_type and hook in ("emit", "connection_closed")
    assert delivery.delivered
    assert len(host.mails) == 1
    assert not weaker.delivered
    assert clear.mails == []
    assert harmless or harness.failures("bad") > 0
    named = [line for line in harness.log if line["event"] == "hook-failed" and line["plugin"] == "bad"]
    assert harmless or {line["hook"] for line in named} == {hook}
    assert harness.plugin("good").seen > 0
    assert harness.plugin("good").counted > 0


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("hook", ["domain_policy", "host_policy"])
async def test_without_a_word_about_it_mail_waits(harness: Harness, hook: str, act: Act) -> None:
    """Nobody knows what an enforcing policy would have said."""
    harness.use(bad(hook, act), time_limit=5.0)
    [host] = harness.domain("example.test")
    delivery = await harness.deliver("you@example.test")
    assert not delivery.delivered
    assert not delivery.recipients[0].permanent
    assert host.mails == []


@pytest.mark.parametrize("on_error", ["ignore", "defer"])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
async def test_a_judge_that_fails_has_not_passed_anybody(harness: Harness, act: Act, on_error: str) -> None:
    class Bad(Good):
        @hookimpl
        async def verify_tls(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
            answer: Any = await act()
            return answer

    harness.use(Bad, on_error=on_error, time_limit=5.0)
    [host] = harness.domain("example.test")
    assert not (await harness.deliver("you@example.test")).delivered
    assert host.mails == []


async def test_what_is_given_cannot_be_changed(harness: Harness) -> None:
    class Changes:
        def __init__(self, config: None, core: Core) -> None: ...

        @hookimpl
        async def host_policy(self, destination: Destination, mx: MxHost) -> TlsPolicy | None:
            mx.name = Domain("mx.evil.test")  # type: ignore[misc]
            return None

    harness.use(Changes, on_error="ignore")
    harness.use(Good)
    harness.domain("example.test")
    delivery = await harness.deliver("you@example.test")
    assert [(each.host, each.delivered) for each in delivery.attempts] == [("mx.example.test", True)]
    assert harness.failures("changes") == 1


async def test_a_table_of_another_plugin_is_refused_and_left_alone(harness: Harness) -> None:
    class Grabs:
        def __init__(self, config: None, core: Core) -> None: ...

        @hookimpl
        def register_schema(self) -> Schema:
            return Schema(migrations=(lambda operations: operations.drop_table("tlsrpt_sessions"),))

    harness.use("tlsrpt", organization="Example")
    harness.use(Grabs)
    with pytest.raises(StoreError, match=r"'grabs'.*tlsrpt_sessions may be another's"):
        await harness.start()
