"""A runner on a queue in memory, with a pipeline that answers as a test wants, in mock time."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio.testing

from postward.delivery.keep import Keeper
from postward.dkim import Signer
from postward.model import ConnectionReport, Delivery, Message, RecipientOutcome
from postward.names import Address, Domain
from postward.queue.bounce import Bouncer
from postward.queue.runner import Runner
from queue_kit import NOW, Rig, opened

HOST = Domain("relay.sender.example")
Answer = Callable[[Domain, Message], Awaitable[str]]


class MockTime:
    """Wall time that goes as fast as trio's."""

    def now(self) -> int:
        return NOW + int(trio.current_time() * 1_000_000)

    async def sleep_until(self, instant: int) -> None:
        await trio.sleep(max(instant - self.now(), 0) / 1_000_000)


class Pipeline:
    """Answers as a test wants: a reply, empty where no server says a word."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.offered: list[tuple[Domain, str]] = []
        self.busy = Counter[Domain]()
        self.most = Counter[Domain]()
        self.spoke = 0

    async def deliver_to(
        self, domain: Domain, message: Message, *, keeper: Keeper, results: list[Any], first: bool
    ) -> Delivery:
        self.offered += [(domain, str(address)) for address in message.recipients]
        self.busy[domain] += 1
        self.most[domain] = max(self.most[domain], self.busy[domain])
        try:
            reply = await self.answer(domain, message)
        finally:
            self.busy[domain] -= 1
        return Delivery(
            recipients=tuple(
                RecipientOutcome(
                    address=address,
                    delivered=reply.startswith("2"),
                    permanent=reply.startswith("5"),
                    reply=reply or "451 4.4.1 connecting failed",
                    host=f"mx.{domain}" if reply else "",
                )
                for address in message.recipients
            ),
            attempts=(
                ConnectionReport(
                    domain=domain,
                    host=domain,
                    address="",
                    tls=None,
                    policies=(),
                    delivered=False,
                    bytes_received=self.spoke,
                ),
            ),
        )


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **more: self.lines.append((level, event, more))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [more for _, name, more in self.lines if name == event]


class Site:
    """A queue with a runner on it."""

    def __init__(self, rig: Rig, answer: Answer, **options: Any) -> None:
        self.rig, self.pipeline, self.log = rig, Pipeline(answer), Log()
        rig.queue._clock = rig.clock = MockTime()  # type: ignore[assignment]
        bouncer = Bouncer(hostname=HOST, signer=options.pop("signer", Signer([])), clock=rig.clock, log=self.log)  # type: ignore[arg-type]
        self.runner = Runner(
            queue=rig.queue,
            pipeline=self.pipeline,  # type: ignore[arg-type]
            bouncer=bouncer,
            clock=rig.clock,
            log=self.log,  # type: ignore[arg-type]
            **options,
        )

    async def put(self, *to: str, **how: Any) -> str:
        cid = await self.rig.put(*to, **how)
        self.runner.wake({Address.parse(one).domain for one in to})
        return cid

    async def left(self) -> int:
        ((count,),) = await self.rig.rows("SELECT COUNT(*) FROM queue_recipients")
        return int(count)

    async def empty(self, within: float = 60) -> None:
        with trio.fail_after(within):
            while await self.left():  # noqa: ASYNC110 - other processes could empty a queue as well
                await trio.sleep(0.1)

    async def delivered(self, count: int, within: float) -> None:
        with trio.fail_after(within):
            while self.runner.counts.delivered < count:  # noqa: ASYNC110
                await trio.sleep(0.01)

    def offered(self, domain: str) -> list[str]:
        return [address for name, address in self.pipeline.offered if name == domain]


@asynccontextmanager
async def site(folder: Path, answer: Answer, **options: Any) -> AsyncIterator[Site]:
    async with opened(folder) as rig, trio.open_nursery() as nursery:
        made = Site(rig, answer, **options)
        nursery.start_soon(made.runner.run)
        yield made
        assert await rig.wrong() == []
        nursery.cancel_scope.cancel()
    assert (made.runner._held, made.runner.counts.lanes, made.runner.counts.destinations) == (0, 0, 0)


async def taken(domain: Domain, message: Message) -> str:
    await trio.sleep(0.01)
    return "250 2.0.0 taken"


async def silent(domain: Domain, message: Message) -> str:
    await trio.sleep(0.01)
    return ""
