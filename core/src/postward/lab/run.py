"""Send mail through the lab, let its day end, and see what the reports say.

The relay is the product as it is, `App` with the lab's configuration; only its clock stands at yesterday's noon, so that no
run meets a real midnight, and at the end of the day moves on to today.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import trio

from postward.app import App
from postward.clock import SettableClock, SystemClock
from postward.config import load
from postward.delivery.wish import wish_of
from postward.dns import SystemResolver
from postward.lab.case import Case, expect, outcome
from postward.lab.receive import Receipt, due, receive
from postward.lab.world import HOSTNAME, SENDER, World
from postward.model import MICROSECONDS, Delivery, Message, TlsWish, Window, day_of
from postward.names import Address, Domain

AT_ONCE: Final = 8
_HOUR: Final = 3600 * MICROSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What came of one case. `outcome` also says when the host's own mailbox contradicts the relay."""

    case: Case
    expected: str
    outcome: str
    delivery: Delivery

    @property
    def ok(self) -> bool:
        """Whether it is what had to come of it."""
        return self.outcome == self.expected


@dataclass(slots=True)
class LabRun:
    """What the whole run came to. `problems` are lines about the reports."""

    results: list[CaseResult] = field(default_factory=list)
    sent: int = 0
    receipts: list[Receipt] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def right(self) -> int:
        """How many cases came out as they had to."""
        return sum(result.ok for result in self.results)

    @property
    def received(self) -> int:
        """How many reports arrived and were found to be true."""
        return sum(not receipt.problems for receipt in self.receipts)

    @property
    def ok(self) -> bool:
        """Whether everything is as it has to be."""
        return self.right == len(self.results) and not self.problems


class Watcher:
    """Sees the run while it goes on; this one does not look."""

    def case_done(self, result: CaseResult) -> None:
        """A case is done. Called in the order of the table."""

    def stage(self, text: str) -> None:
        """The run has come to something new, in words for people."""


async def run(world: World, watcher: Watcher) -> LabRun:
    """Run every case of a world that is being served, and check its reports."""
    done = LabRun()
    clock = yesterday_noon()
    day = day_of(clock.now())
    watcher.stage("assembling the relay")
    async with App(load(world.config_file), clock=clock) as app:
        watcher.stage("delivering")
        await _deliver_all(world, app, done, watcher)
        watcher.stage(f"ending {day} and sending the reports about it")
        clock.advance(Window.of_day(day).end + _HOUR - clock.now())
        report_run = await app.run_reports()
        done.sent = report_run.sent
    watcher.stage("examining the reports")
    resolver = SystemResolver([world.nameserver])
    done.receipts = await receive(world, resolver, day)
    done.problems = list(_problems(world, done))
    return done


def yesterday_noon() -> SettableClock:
    """A clock that starts at 12:00 UTC of the day before today."""
    now = SystemClock().now()
    return SettableClock(Window.of_day(day_of(now)).start - 12 * _HOUR)


async def _deliver_all(world: World, app: App, done: LabRun, watcher: Watcher) -> None:
    """Run the cases side by side, and tell of them in the order of the table."""
    finished: dict[int, CaseResult] = {}
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(number: int, case: Case) -> None:
        async with limit:
            finished[number] = await deliver(world, app, case)
        while (result := finished.get(len(done.results))) is not None:
            done.results.append(result)
            watcher.case_done(result)

    async with trio.open_nursery() as nursery:
        for number, case in enumerate(world.cases):
            nursery.start_soon(one, number, case)


async def deliver(world: World, app: App, case: Case) -> CaseResult:
    """Send one message to a case."""
    expectation = expect(case, world.without)
    recipient = Address("someone", Domain(case.domain))
    content = letter(case, recipient)
    message = Message(
        sender=Address("someone", SENDER),
        recipients=(recipient,),
        content=content,
        wish=wish_of(content, require=case.wish is TlsWish.REQUIRE),
    )
    delivery = await app.deliver(message)
    said = outcome(delivery)
    arrived = [str(mail.host) for mail in world.mailbox.to(recipient) if mail.content == content]
    if arrived != ([expectation.arrives] if expectation.arrives else []):
        said += f"; arrived at {', '.join(arrived) or 'no host'}"
    return CaseResult(case=case, expected=str(expectation), outcome=said, delivery=delivery)


def letter(case: Case, recipient: Address) -> bytes:
    """The message of a case: small, with leading dots and a line that looks like the end, so that both are put to the test."""
    fields = [
        f"From: <someone@{SENDER}>",
        f"To: <{recipient}>",
        f"Subject: {case.name}",
        f"Message-ID: <{case.name}@{HOSTNAME}>",
        *(["TLS-Required: No"] if case.wish is TlsWish.IGNORE else []),
    ]
    return "\r\n".join([*fields, "", f"This is about {case.why}.", ".", "..", ".QUIT", ""]).encode()


def _problems(world: World, done: LabRun) -> Iterator[str]:
    """What is wrong with the reports: in themselves, missing, repeated, or not asked for."""
    for receipt in done.receipts:
        for problem in receipt.problems:
            yield f"report by {receipt.by} about {receipt.domain or 'nobody knows what'}: {problem}"
    wanted = due(world.cases, world.without)
    came = Counter((receipt.by, receipt.domain) for receipt in done.receipts)
    for way, domain in sorted(wanted - came.keys()):
        yield f"no report by {way} about {domain}"
    for (way, domain), times in sorted(came.items()):
        if (way, domain) not in wanted:
            yield f"a report by {way} about {domain} that nobody asked for"
        elif times > 1:
            yield f"{times} reports by {way} about {domain}"
    if done.sent != len(done.receipts):
        yield f"{done.sent} reports were sent and {len(done.receipts)} arrived"
