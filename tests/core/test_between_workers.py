"""What workers tell each other: names always arrive, messages only while they are fresh."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from postward.names import Domain
from postward.queue import Job, shard_of
from postward.service.between import FRESH, Between
from postward.service.workers import Place
from queue_kit import BODY, SENDER, new_message, opened

pytestmark = pytest.mark.loopback

NAMES = [Domain(f"d{number}.example") for number in range(3000)]
OWN, OTHERS = ([name for name in NAMES if shard_of(name) % 2 == index] for index in (0, 1))


class Workers:
    """Two workers in one process. `heard` is what the second one was woken with; `now` is their time."""

    def __init__(self, stack: ExitStack) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
        for pair in pairs:
            for sock in pair:
                sock.setblocking(False)
                stack.enter_context(sock)
        self.now = 0.0
        self.heard: set[Domain] = set()
        self.jobs: list[Job] = []
        self.looked = False
        self._news = trio.Event()
        wakes = tuple(pair[1] for pair in pairs)
        self.first, self.second = (
            Between(
                Place(index=index, count=2, wakes=wakes, inbox=pairs[index][0], lifeline=-1, ready=-1),
                self._wake if index else lambda domains, jobs: None,
                self._look_everywhere,
                clock=lambda: self.now,
            )
            for index in range(2)
        )

    def _look_everywhere(self) -> None:
        self.looked = True
        self._news.set()

    def _wake(self, domains: Collection[Domain], jobs: Sequence[Job]) -> None:
        self.heard.update(domains)
        self.jobs += jobs
        self._news.set()

    async def until_heard(self, wanted: int) -> None:
        with trio.fail_after(10):
            while len(self.heard) < wanted:
                self._news = trio.Event()
                await self._news.wait()


@pytest.fixture
def workers() -> Iterator[Workers]:
    with ExitStack() as stack:
        yield Workers(stack)


async def jobs_for(tmp_path: Path, names: Sequence[Domain], body: bytes = BODY) -> list[Job]:
    jobs: list[Job] = []
    async with opened(tmp_path) as rig:
        for name in names:
            writer = rig.queue.writer()
            await writer.write(body)
            jobs += await writer.commit(new_message(f"x@{name}", sender=SENDER))
    return jobs


async def test_names_and_messages_arrive_at_their_worker_only(tmp_path: Path, workers: Workers, nursery: trio.Nursery) -> None:
    names = [OWN[0], OTHERS[0]]
    nursery.start_soon(workers.first.run)
    nursery.start_soon(workers.second.run)
    workers.first.tell(names, await jobs_for(tmp_path, names))
    await workers.until_heard(1)
    assert workers.heard == {OTHERS[0]}
    assert [job.domain for job in workers.jobs] == [OTHERS[0]]


async def test_no_name_is_lost_while_a_worker_does_not_listen(tmp_path: Path, workers: Workers, nursery: trio.Nursery) -> None:
    nursery.start_soon(workers.first.run)
    jobs = await jobs_for(tmp_path, OTHERS[:60], b"Subject: x\r\n\r\n" + b"x" * 60_000)
    for job in jobs:
        workers.first.tell({job.domain}, [job])
        await trio.lowlevel.checkpoint()
    for name in OTHERS:
        workers.first.tell({name}, ())
    assert workers.first._outboxes[1]._held < 2_000_000, "messages for one that does not listen take no memory without end"
    nursery.start_soon(workers.second.run)
    await workers.until_heard(len(OTHERS))
    assert workers.jobs


async def test_small_messages_with_many_recipients_fit_too(tmp_path: Path, workers: Workers, nursery: trio.Nursery) -> None:
    """What does not fit into a datagram would be lost with all names in it."""
    names = OTHERS[:40]
    async with opened(tmp_path) as rig:
        jobs = []
        for name in names:
            writer = rig.queue.writer()
            await writer.write(BODY)
            recipients = [f"{'x' * 57}{number}@{name}" for number in range(100)]
            jobs += await writer.commit(new_message(*recipients, sender=SENDER))
    for name, job in zip(names, jobs, strict=True):
        workers.first.tell({name}, [job])
    nursery.start_soon(workers.first.run)
    nursery.start_soon(workers.second.run)
    with trio.fail_after(10):
        while {job.domain for job in workers.jobs} != set(names):
            await workers._news.wait()
            workers._news = trio.Event()


@pytest.mark.parametrize("age", [0.0, FRESH])
async def test_a_message_that_comes_late_is_but_a_name(
    tmp_path: Path, workers: Workers, nursery: trio.Nursery, age: float
) -> None:
    workers.first.tell(OTHERS[:1], await jobs_for(tmp_path, OTHERS[:1]))
    workers.now = age
    nursery.start_soon(workers.first.run)
    nursery.start_soon(workers.second.run)
    await workers.until_heard(1)
    assert len(workers.jobs) == (age == 0)


async def test_a_message_from_before_the_start_of_a_worker_is_but_a_name(
    tmp_path: Path, workers: Workers, nursery: trio.Nursery
) -> None:
    workers.second._started = 1.0
    workers.first.tell(OTHERS[:1], await jobs_for(tmp_path, OTHERS[:1]))
    nursery.start_soon(workers.first.run)
    nursery.start_soon(workers.second.run)
    await workers.until_heard(1)
    assert workers.jobs == []


async def test_a_change_by_an_operator_reaches_the_others(workers: Workers, nursery: trio.Nursery) -> None:
    nursery.start_soon(workers.first.run)
    nursery.start_soon(workers.second.run)
    workers.first.tell_all()
    with trio.fail_after(10):
        while not workers.looked:
            await workers._news.wait()
    assert workers.heard == set()
