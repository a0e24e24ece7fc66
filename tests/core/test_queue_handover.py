"""A message that was just committed goes to its lane without being read back, and never twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from postward.dkim import Signer
from postward.model import Delivery, Message, RecipientOutcome, TlsWish
from postward.names import Address, Domain
from postward.queue import INLINE_BYTES, Job, NewMessage, NewRecipient
from postward.queue.bounce import Bouncer
from postward.queue.destination import CLAIM, HANDED_OVER, Destination
from postward.queue.handover import pack, unpack
from postward.queue.runner import REMEMBERED_SECONDS, Runner
from postward.queue.writer import HAND_OVER_WITHIN
from queue_kit import BODY, NOW, SENDER, Rig, new_message, opened

A, B = Domain("a.example"), Domain("b.example")
HOST = Domain("relay.example")


async def committed(rig: Rig, message: NewMessage, body: bytes = BODY) -> tuple[Job, ...]:
    writer = rig.queue.writer()
    await writer.write(body)
    return await writer.commit(message)


def plain(jobs: Sequence[Job]) -> list[Any]:
    """Jobs as values: contents are equal only by their octets."""
    return [(replace(job, message=replace(job.message, content=None)), job.message.content.whole) for job in jobs]  # type: ignore[arg-type]


FULL = NewMessage(
    cid="0123456789ab",
    sender=SENDER,
    recipients=(
        NewRecipient(address=Address.parse("Ü@a.example"), notify=("SUCCESS", "DELAY"), orcpt="rfc822;o@x"),
        NewRecipient(address=Address.parse("x@b.example")),
        NewRecipient(address=Address.parse("y@a.example"), notify=("NEVER",)),
    ),
    received=NOW,
    eight_bit=False,
    wish=TlsWish.REQUIRE,
    smtputf8=True,
    ret="HDRS",
    envid="e+2B",
    is_report=True,
    is_bounce=True,
    head="Received: für\r\n".encode(),
)


@pytest.mark.parametrize("message", [FULL, new_message("x@a.example", sender=None)], ids=["full", "bare"])
async def test_the_jobs_of_a_commit_are_those_that_a_claim_finds(tmp_path: Path, message: NewMessage) -> None:
    async with opened(tmp_path) as rig:
        jobs = await committed(rig, message)
        claimed = [job for domain in (A, B) for job in await rig.queue.claim(domain, NOW, 10)]
        assert plain(jobs) == plain(claimed)
        assert plain([unpack(pack(job)) for job in jobs]) == plain(jobs)


async def test_what_is_large_or_has_too_many_recipients_has_to_be_claimed(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        assert await committed(rig, new_message("x@a.example", sender=SENDER), b"x" * (INLINE_BYTES + 1)) == ()
        many = new_message(*(f"{number}@a.example" for number in range(101)), "x@b.example", sender=SENDER)
        assert [job.domain for job in await committed(rig, many)] == [B]


# --- one destination ---


class Reads:
    """Answers claims with `found`, as slowly as a test wants."""

    def __init__(self) -> None:
        self.found: list[Job] = []
        self.made = 0
        self.go_on = trio.Event()
        self.go_on.set()

    async def __call__(self, destination: Destination, limit: int) -> list[Job]:
        self.made += 1
        await self.go_on.wait()
        found, self.found = self.found, []
        return found


async def some_jobs(tmp_path: Path, count: int) -> list[Job]:
    async with opened(tmp_path) as rig:
        return [(await committed(rig, new_message("x@a.example", sender=SENDER)))[0] for _ in range(count)]


async def test_a_job_is_taken_only_where_nothing_else_may_bring_it(tmp_path: Path, autojump_clock: object) -> None:
    reads = Reads()
    first, second, third = await some_jobs(tmp_path, 3)
    destination = Destination(A, most=2, claim=reads)
    assert not destination.offer(first), "older mail has not been looked for"
    reads.go_on = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(destination.next_job, 1.0)
        await trio.testing.wait_all_tasks_blocked()
        taken = destination.offer(first)
        reads.go_on.set()
    assert not taken, "the read that goes on may bring it, too"
    assert destination.offer(second)
    assert await destination.next_job(1.0) is second
    assert reads.made == 1
    destination.stop()
    assert not destination.offer(third)


async def test_a_waiting_lane_gets_it_at_once(tmp_path: Path, autojump_clock: object) -> None:
    [job] = await some_jobs(tmp_path, 1)
    destination = Destination(A, most=2, claim=Reads())
    got: list[Job | None] = []

    async def lane() -> None:
        got.append(await destination.next_job(10.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lane)
        await trio.testing.wait_all_tasks_blocked()
        assert destination.offer(job)
        await trio.testing.wait_all_tasks_blocked()
        assert got == [job]


async def test_no_more_are_kept_than_are_soon_done(tmp_path: Path, autojump_clock: object) -> None:
    [job] = await some_jobs(tmp_path, 1)
    destination = Destination(A, most=2, claim=Reads())
    assert await destination.next_job(0.1) is None
    jobs = [replace(job, message=replace(job.message, id=number)) for number in range(HANDED_OVER + 1)]
    assert [destination.offer(each) for each in jobs] == [True] * HANDED_OVER + [False]
    assert HANDED_OVER >= CLAIM


# --- the runner ---


class Deliverer:
    """A pipeline whose every delivery succeeds."""

    def __init__(self) -> None:
        self.done: list[Address] = []

    async def deliver_to(self, domain: Domain, message: Message, **_: object) -> Delivery:
        await trio.sleep(0.1)
        self.done += message.recipients
        return Delivery(
            recipients=tuple(
                RecipientOutcome(address=each, delivered=True, permanent=False, reply="250 2.0.0 ok", host=HOST)
                for each in message.recipients
            ),
            attempts=(),
        )


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[tuple[Runner, Deliverer]]:
    log, deliverer = structlog.get_logger(), Deliverer()
    bouncer = Bouncer(hostname=HOST, signer=Signer([]), clock=rig.clock, log=log)
    runner = Runner(queue=rig.queue, pipeline=deliverer, bouncer=bouncer, clock=rig.clock, log=log)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        yield runner, deliverer
        nursery.cancel_scope.cancel()


async def put(rig: Rig, runner: Runner, to: str) -> tuple[Job, ...]:
    jobs = await committed(rig, new_message(to, sender=SENDER))
    runner.wake({Address.parse(to).domain}, jobs)
    return jobs


async def test_mail_for_a_destination_at_work_is_not_read_back(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as rig, running(rig) as (runner, deliverer):
        await put(rig, runner, "first@a.example")
        await trio.sleep(1)
        reads = []
        claim = rig.queue.claim
        monkeypatch.setattr(rig.queue, "claim", lambda *given: reads.append(given) or claim(*given))
        for number in range(5):
            await put(rig, runner, f"{number}@a.example")
        await trio.sleep(1)
        assert len(deliverer.done) == 6
        assert not reads
        assert await rig.wrong() == []
        assert await rig.rows("SELECT * FROM queue_messages") == []


async def test_a_job_that_is_told_late_is_not_done_again(tmp_path: Path, autojump_clock: object) -> None:
    async with opened(tmp_path) as rig, running(rig) as (runner, deliverer):
        jobs = await put(rig, runner, "first@a.example")
        await trio.sleep(REMEMBERED_SECONDS / 20)
        assert len(deliverer.done) == 1
        runner.wake({A}, jobs)
        runner.wake({A}, jobs)
        await trio.sleep(1)
        assert len(deliverer.done) == 1


async def test_a_job_that_is_told_twice_is_done_once(tmp_path: Path, autojump_clock: object) -> None:
    async with opened(tmp_path) as rig, running(rig) as (runner, deliverer):
        await put(rig, runner, "first@a.example")
        await trio.sleep(1)
        jobs = await put(rig, runner, "second@a.example")
        runner.wake({A}, jobs)
        await trio.sleep(1)
        assert len(deliverer.done) == 2


async def test_what_is_settled_is_remembered_for_a_while_only(tmp_path: Path, autojump_clock: object) -> None:
    async with opened(tmp_path) as rig, running(rig) as (runner, _):
        await put(rig, runner, "first@a.example")
        await trio.sleep(REMEMBERED_SECONDS + 1)
        await put(rig, runner, "second@a.example")
        await trio.sleep(1)
        assert len(runner._done) == 1


@pytest.mark.parametrize("took", [0.0, HAND_OVER_WITHIN + 1])
async def test_a_commit_that_took_long_hands_nothing_over(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch, took: float
) -> None:
    """Another worker may have found and delivered it meanwhile."""
    async with opened(tmp_path) as rig:
        insert = rig.queue._insert

        async def slow(entry: Any) -> int:
            number = await insert(entry)
            await trio.sleep(took)
            return number

        monkeypatch.setattr(rig.queue, "_insert", slow)
        assert bool(await committed(rig, new_message("x@a.example", sender=SENDER))) is (took == 0)
        assert len(await rig.queue.claim(A, NOW, 10)) == 1
