"""The running health of the resolver: outcomes by reason, the repeated self-test, and what it says when something changes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
import structlog.testing
import trio

from plugin_rig import VirtualClock
from postward.dns import SystemResolver, ZoneResolver
from postward.dns.answer import Answer, DnsFailure, Status
from postward.dns.health import FILE, Tally, Watch, load_health, outcome
from postward.dns.selftest import SelfTest
from postward.model import MICROSECONDS
from postward.names import Domain

NAME = Domain("mx.example.org")
GOOD, BAD, UNKNOWN = SelfTest(validating=True), SelfTest(validating=False, problems=("no AD",)), SelfTest(validating=None)


def answer(status: Status, *, authenticated: bool = False, failure: DnsFailure | None = None) -> Answer:
    return Answer(
        name=NAME, rdtype="TLSA", status=status, authenticated=authenticated, canonical=NAME, failure=failure, records=()
    )


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (answer(Status.SECURE, authenticated=True), "secure"),
        (answer(Status.INSECURE), "insecure"),
        (answer(Status.ABSENT, authenticated=True), "secure-absent"),
        (answer(Status.ABSENT), "insecure-absent"),
        (answer(Status.FAILED, failure=DnsFailure(rcode="SERVFAIL")), "servfail"),
        (answer(Status.FAILED, failure=DnsFailure(rcode="TIMEOUT")), "timeout"),
        (answer(Status.FAILED, failure=DnsFailure(rcode="SERVFAIL", ede=((22, ""), (7, "")))), "bogus"),
        (answer(Status.FAILED, failure=DnsFailure(rcode="SERVFAIL", ede=((22, ""),))), "servfail"),
    ],
)
def test_every_outcome_has_a_word(given: Answer, word: str) -> None:
    """RFC 7672 §2.1.1: secure, insecure, bogus and indeterminate are counted apart, and an absence by what proves it."""
    assert outcome(given) == word
    tally = Tally()
    tally.note(given)
    assert tally.by_type() == {"TLSA": {word: 1}}


class Program:
    """A watch over tests that come out as the test says; the last one repeats."""

    def __init__(self, results: Sequence[SelfTest], file: Path | None = None) -> None:
        self.results, self.times = list(results), list[float]()
        self.tally = Tally()
        self.watch = Watch(self.ask, self.tally, clock=VirtualClock(), log=structlog.get_logger(), file=file)

    async def ask(self) -> SelfTest:
        self.times.append(trio.current_time())
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]


async def test_a_change_is_loud_and_only_a_change(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 6698 §4.1: a resolver that has stopped validating must not go unnoticed; nor its return."""
    program = Program([GOOD, BAD, BAD, UNKNOWN, GOOD, GOOD])
    with structlog.testing.capture_logs() as logs:
        for _ in range(6):
            await program.watch.test()
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [
        ("error", "resolver-does-not-validate"),
        ("warning", "resolver-validates-again"),
    ]
    assert logs[0]["problems"] == ["no AD"]


async def test_no_evidence_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    program = Program([BAD, UNKNOWN])
    await program.watch.test()
    since = program.watch.health.since
    await trio.sleep(60)
    await program.watch.test()
    assert (program.watch.health.validating, program.watch.health.since) == (False, since)
    assert program.watch.health.tested == since + 60 * MICROSECONDS


async def test_it_asks_more_often_while_in_doubt(autojump_clock: trio.testing.MockClock) -> None:
    program = Program([UNKNOWN, BAD, GOOD])
    await program.watch.test()
    with trio.move_on_after(60 + 60 + 300 + 1):
        await program.watch.run()
    assert program.times == [0, 60, 120, 420]


async def test_what_was_found_stands_in_a_file(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    program = Program([BAD], tmp_path / FILE)
    program.tally.note(answer(Status.INSECURE))
    with structlog.testing.capture_logs():
        await program.watch.test()
    assert load_health(tmp_path / FILE) == program.watch.health
    assert os.listdir(tmp_path) == [FILE]
    assert program.watch.health.outcomes == {"TLSA": {"insecure": 1}}


@pytest.mark.parametrize("content", ["", "{}", "[]", "[" * 9000, json.dumps({"validating": True, "since": "x"}), "\0"])
def test_a_file_of_rubbish_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert load_health(tmp_path / FILE) is None
    assert load_health(tmp_path / "nothing") is None


async def test_a_file_that_cannot_be_written_is_no_trouble(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    program = Program([GOOD], tmp_path / "missing" / FILE)
    with structlog.testing.capture_logs() as logs:
        await program.watch.test()
    assert [entry["event"] for entry in logs] == ["resolver-health-not-saved"]
    assert program.watch.health.validating


async def test_the_resolver_keeps_its_last_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that was found out and then falls silent is still not believed."""
    results = [BAD, UNKNOWN, GOOD]

    async def test(*_: Any) -> SelfTest:
        return results.pop(0)

    monkeypatch.setattr("postward.dns.resolver.self_test", test)
    resolver = SystemResolver(["127.0.0.1"])
    found = []
    for _ in range(3):
        await resolver.run_self_test("org.", "")
        found.append(resolver.validating)
    assert found == [False, False, True]


def test_zones_in_memory_need_no_watch() -> None:
    assert ZoneResolver().validating is True
