"""Calling hooks: order, typing of answers, time limits, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from postward import hookspecs
from postward.contract import implementations
from postward.hooks import HookFailed, Hooks
from postward.hookspecs import hookimpl
from postward.model import (
    AuthResult,
    Delivered,
    Destination,
    DnsRecord,
    Mode,
    MxHost,
    Report,
    ReportTarget,
    Scope,
    TlsPeer,
    TlsPolicy,
    Verdict,
    Window,
)
from postward.names import Domain

HOST = MxHost(name=Domain("mx.example.org"))
DESTINATION = Destination(domain=Domain("example.org"), hosts=(HOST,))


def policy(kind: str = "x-a", **changes: Any) -> TlsPolicy:
    return TlsPolicy(**{"kind": kind, "mode": Mode.ENFORCE, "domain": HOST.name, "scope": Scope.HOST} | changes)


class Says:
    """Answers `host_policy` with a given value after a given number of seconds."""

    def __init__(self, answer: object, after: float = 0) -> None:
        self.answer, self.after, self.calls = answer, after, 0

    @hookimpl
    async def host_policy(self, destination: Destination, mx: MxHost) -> Any:
        self.calls += 1
        await trio.sleep(self.after)
        return self.answer


class SaysAtOnce:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    @hookimpl
    def host_policy(self, mx: MxHost) -> Any:
        return self.answer


class Routes:
    def __init__(self, answer: object, log: list[str], name: str) -> None:
        self.answer, self.log, self.name = answer, log, name

    @hookimpl
    async def resolve_route(self, domain: Domain) -> Any:
        self.log.append(self.name)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def hooks_of(*plugins: object, **options: Any) -> Hooks:
    hooks = Hooks()
    for index, plugin in enumerate(plugins):
        hooks.register(implementations(f"p{index}", plugin, **options))
    return hooks


async def ask(hooks: Hooks) -> list[Any]:
    return await hooks.gather(hookspecs.host_policy, destination=DESTINATION, mx=HOST)


async def test_nobody_implements_it() -> None:
    hooks = Hooks()
    assert await ask(hooks) == []
    assert await hooks.first(hookspecs.resolve_route, domain=HOST.name) is None
    assert hooks.collect(hookspecs.register_schema) == []
    assert (await hooks.call_one("p0", hookspecs.resolve_route, domain=HOST.name)).value is None


async def test_answers_come_in_configuration_order_whoever_is_first(autojump_clock: trio.testing.MockClock) -> None:
    hooks = hooks_of(Says(policy("x-a"), 3), SaysAtOnce(policy("x-b")), Says(None, 1), Says(policy("x-d"), 2))
    outcomes = await ask(hooks)
    assert [(one.plugin, one.value.kind) for one in outcomes] == [("p0", "x-a"), ("p1", "x-b"), ("p3", "x-d")]
    assert trio.current_time() == 3  # side by side: the slowest counts, not the sum


async def test_positional_arguments_reach_their_names() -> None:
    outcomes = await hooks_of(SaysAtOnce(policy())).gather(hookspecs.host_policy, DESTINATION, HOST)
    assert outcomes[0].value == policy()


async def test_first_stops_at_the_first_answer() -> None:
    log: list[str] = []
    hooks = hooks_of(Routes(None, log, "a"), Routes(DESTINATION, log, "b"), Routes(DESTINATION, log, "c"))
    outcome = await hooks.first(hookspecs.resolve_route, domain=HOST.name)
    assert outcome is not None
    assert (outcome.plugin, outcome.value, log) == ("p1", DESTINATION, ["a", "b"])


async def test_first_asks_the_named_plugin_before_the_others() -> None:
    log: list[str] = []
    hooks = hooks_of(*(Routes(None, log, name) for name in "abc"))
    assert await hooks.first(hookspecs.resolve_route, first="p2", domain=HOST.name) is None
    assert log == ["c", "a", "b"]
    log.clear()
    await hooks.first(hookspecs.resolve_route, first="unknown", domain=HOST.name)
    assert log == ["a", "b", "c"]


async def test_a_failure_ends_the_asking() -> None:
    log: list[str] = []
    hooks = hooks_of(Routes(ValueError("no"), log, "a"), Routes(DESTINATION, log, "b"))
    outcome = await hooks.first(hookspecs.resolve_route, domain=HOST.name)
    assert outcome is not None
    assert isinstance(outcome.error, HookFailed)
    assert log == ["a"]


async def test_an_ignored_failure_is_as_if_not_asked() -> None:
    log: list[str] = []
    hooks = hooks_of(Routes(ValueError("no"), log, "a"), Routes(DESTINATION, log, "b"), on_error="ignore")
    outcome = await hooks.first(hookspecs.resolve_route, domain=HOST.name)
    assert outcome is not None
    assert outcome.plugin == "p1"


async def test_a_crashed_judge_is_never_replaced() -> None:
    """`on_error` does not apply to `verify_tls`: a crash is a failed policy, not a chance for somebody else to pass it."""

    class Crashes:
        @hookimpl
        async def verify_tls(self, policy: TlsPolicy) -> Verdict | None:
            raise RuntimeError("bug")

    class Passes:
        @hookimpl
        async def verify_tls(self, peer: TlsPeer) -> Verdict | None:
            return Verdict(passed=True)

    hooks = hooks_of(Crashes(), Passes(), on_error="ignore")
    peer = TlsPeer(endpoint=None, server_name=HOST.name, protocol="", cipher="", chain=())  # type: ignore[arg-type]
    outcome = await hooks.first(hookspecs.verify_tls, first="p0", policy=policy(), peer=peer)
    assert outcome is not None
    assert outcome.plugin == "p0"
    assert outcome.value is None


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_a_limit_is_kept_alone_and_side_by_side(others: int, autojump_clock: trio.testing.MockClock) -> None:
    hooks = hooks_of(Says(policy(), 1e6), *(Says(policy(f"x-{i}"), i) for i in range(others)))
    outcomes = await ask(hooks)
    assert "within 90 s" in str(outcomes[0].error)
    assert [one.value.kind for one in outcomes[1:]] == [f"x-{i}" for i in range(others)]
    assert trio.current_time() == pytest.approx(90)


async def test_time_limit_lowers_the_limit_of_one_plugin(autojump_clock: trio.testing.MockClock) -> None:
    hooks = Hooks()
    hooks.register(implementations("quick", Says(policy(), 50), time_limit=2))
    hooks.register(implementations("slow", Says(policy(), 50), time_limit=500))
    quick, slow = await ask(hooks)
    assert "within 2 s" in str(quick.error)
    assert slow.value == policy()
    assert trio.current_time() == pytest.approx(50)


async def test_an_answer_behind_the_limit_is_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    class Stubborn:
        @hookimpl
        async def host_policy(self) -> TlsPolicy | None:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)
            return policy()

    for hooks in (hooks_of(Stubborn()), hooks_of(Stubborn(), Says(None))):
        (outcome,) = await ask(hooks)
        assert "within 90 s" in str(outcome.error)


async def test_mode_as_text_is_no_mode() -> None:
    """`"enforce" == Mode.ENFORCE` holds and `is` does not: such a policy would not bind (RFC 8461 §5)."""
    (outcome,) = await ask(hooks_of(Says(policy(mode="enforce"))))
    assert outcome.value is None
    assert "TlsPolicy.mode is str, not Mode" in str(outcome.error)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("enforce", "is str, not TlsPolicy"),
        (False, "is bool, not TlsPolicy"),
        ([policy()], "is list, not TlsPolicy"),
        (policy(domain="example.org"), "TlsPolicy.domain is str, not Domain"),
        (policy(mx_patterns=["a"]), "TlsPolicy.mx_patterns is list, not a tuple"),
        (policy(mx_patterns=(1,)), "TlsPolicy.mx_patterns [0] is int, not str"),
        (policy(problem="x"), "TlsPolicy.problem is str, not Failure"),
    ],
)
async def test_nonsense_is_named(answer: object, complaint: str) -> None:
    (outcome,) = await ask(hooks_of(Says(answer)))
    assert complaint in str(outcome.error)
    assert outcome.value is None


async def test_sequences_are_checked_by_element_and_frozen() -> None:
    class Authenticates:
        def __init__(self) -> None:
            self.answer: list[object] = [AuthResult(method="dkim", result="pass")]

        @hookimpl
        async def authenticate(self) -> Sequence[AuthResult]:
            return self.answer  # type: ignore[return-value]

    plugin = Authenticates()
    (outcome,) = await hooks_of(plugin).gather(hookspecs.authenticate, message=None)  # type: ignore[arg-type]
    assert outcome.value == (AuthResult(method="dkim", result="pass"),)
    plugin.answer.append("spf=pass")
    (outcome,) = await hooks_of(plugin).gather(hookspecs.authenticate, message=None)  # type: ignore[arg-type]
    assert "[1] is str, not AuthResult" in str(outcome.error)


async def test_lists_reach_plugins_as_tuples() -> None:
    class Judges:
        @hookimpl
        async def judge(self, results: Sequence[AuthResult]) -> None:
            results.append(None)  # type: ignore[attr-defined]

    results: list[AuthResult] = []
    (outcome,) = await hooks_of(Judges()).gather(hookspecs.judge, message=None, results=results)  # type: ignore[arg-type]
    assert "append" in str(outcome.error)
    assert results == []


def test_collect_needs_no_trio() -> None:
    class Suggests:
        @hookimpl
        def dns_records(self, domain: Domain) -> list[DnsRecord]:
            return [DnsRecord(name=domain, rdtype="TXT", value='"x"', why="y")]

    (outcome,) = hooks_of(Suggests()).collect(hookspecs.dns_records, domain=HOST.name)
    assert outcome.value is not None
    assert outcome.value[0].name == HOST.name


async def test_call_one_asks_only_that_plugin() -> None:
    first, second = Says(policy()), Says(policy("x-b"))
    outcome = await hooks_of(first, second).call_one("p1", hookspecs.host_policy, destination=DESTINATION, mx=HOST)
    assert outcome.value == policy("x-b")
    assert (first.calls, second.calls) == (0, 1)


async def test_calls_and_failures_are_counted_and_a_failure_is_logged_once() -> None:
    hooks = hooks_of(Says(policy()), Says("nonsense"))
    with capture_logs() as logs:
        await ask(hooks)
        await ask(hooks)
    good, bad = hooks.stats["p0", "host_policy"], hooks.stats["p1", "host_policy"]
    assert (good.calls, good.failures, bad.calls, bad.failures) == (2, 0, 2, 2)
    assert good.seconds >= good.slowest > 0
    failures = [line for line in logs if line["event"] == "hook-failed"]
    assert [(line["plugin"], line["hook"]) for line in failures] == [("p1", "host_policy")] * 2


async def test_plugins_for_is_in_call_order() -> None:
    assert hooks_of(Says(None), SaysAtOnce(None)).plugins_for(hookspecs.host_policy) == ("p0", "p1")
    assert Hooks().plugins_for(hookspecs.host_policy) == ()


async def test_deliver_report_takes_a_plain_method() -> None:
    class Sends:
        @hookimpl
        def deliver_report(self, report: Report) -> Delivered:
            return Delivered(accepted=True)

    report = Report(
        kind="tls",
        report_id="1",
        policy_domain=HOST.name,
        window=Window.of_day("2026-01-01"),
        submitter=HOST.name,
        subject="s",
        filename="f",
        media_type="m",
        content=b"",
    )
    outcome = await hooks_of(Sends()).first(hookspecs.deliver_report, report=report, target=ReportTarget(uri="mailto:a@b.c"))
    assert outcome is not None
    assert outcome.value == Delivered(accepted=True)


@given(st.lists(st.sampled_from(["answer", "nothing", "raise", "plain", "nonsense"]), max_size=6))
def test_gather_gives_each_plugin_its_own_outcome(kinds: list[str]) -> None:
    """Whatever the mixture: one outcome for each that answered or failed, in order, and nothing for the silent."""

    class Raises:
        @hookimpl
        async def host_policy(self) -> None:
            raise ValueError

    made: dict[str, Any] = {
        "answer": lambda: Says(policy()),
        "nothing": lambda: Says(None),
        "raise": Raises,
        "plain": lambda: SaysAtOnce(policy()),
        "nonsense": lambda: Says(3),
    }
    with capture_logs():
        outcomes = trio.run(ask, hooks_of(*(made[kind]() for kind in kinds)))
    expected = [(f"p{i}", kind in ("answer", "plain")) for i, kind in enumerate(kinds) if kind != "nothing"]
    assert [(one.plugin, one.error is None) for one in outcomes] == expected
    assert all((one.value is None) == (one.error is not None) for one in outcomes)
