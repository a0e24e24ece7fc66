"""A queue on a disk or in memory, and messages for it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postward.clock import SettableClock
from postward.names import Address, Domain
from postward.queue import ALL, SCHEMA, End, NewMessage, NewRecipient, Queue, Shards
from postward.queue.rows import raw
from postward.store import Store, open_store

NOW = 1_900_000_000_000_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
SENDER = Address.parse("from@sender.example")
BODY = b"From: a\r\nSubject: x\r\n\r\nhello\r\n"


class FixedClock(SettableClock):
    """A clock that stands still until it is moved, backwards too."""

    def __init__(self) -> None:
        super().__init__(NOW)
        self.instant = NOW

    def now(self) -> int:
        return self.instant


@dataclass
class Rig:
    """An open queue with what stands around it."""

    queue: Queue
    store: Store
    clock: FixedClock
    spool: Path

    async def put(self, *to: str, body: bytes = BODY, **how: Any) -> str:
        """Queue a message and return its cid."""
        how.setdefault("sender", SENDER)
        how.setdefault("received", self.clock.now())
        message = new_message(*to, **how)
        writer = self.queue.writer()
        for start in range(0, len(body), 40_000):
            await writer.write(body[start : start + 40_000])
        await writer.commit(message)
        return message.cid

    async def rows(self, query: str, values: Iterable[Any] = ()) -> list[Any]:
        """What stands in the database."""
        return await self.store.node_db.read(lambda c: raw(c).execute(query, tuple(values)).fetchall())

    async def execute(self, query: str, values: Iterable[Any] = ()) -> None:
        """Change the database behind the queue's back."""
        await self.store.node_db.write(lambda c: raw(c).execute(query, tuple(values)) and None)

    async def wrong(self) -> list[str]:
        """What must never be: destinations that disagree with recipients, orphans of every kind."""
        found = []
        expected = dict(await self.rows("SELECT domain, MIN(next_try) FROM queue_recipients WHERE state = 0 GROUP BY domain"))
        for domain, due, waits in await self.rows("SELECT domain, next_due, not_before FROM queue_destinations"):
            if due != max(waits, expected.pop(domain, -1)):
                found.append(f"{domain} is due at {due}")
        found += [f"{domain} is not in the run queue" for domain in expected]
        messages = dict(await self.rows("SELECT id, spool FROM queue_messages"))
        with_recipients = {number for (number,) in await self.rows("SELECT DISTINCT message FROM queue_recipients")}
        bodies = {number for (number,) in await self.rows("SELECT message FROM queue_bodies")}
        files = {file.name for file in self.spool.iterdir()} if self.spool.exists() else set()
        if with_recipients != set(messages):
            found.append("messages and recipients differ")
        if bodies != {number for number, spool in messages.items() if not spool}:
            found.append("bodies without messages")
        if files != {spool for spool in messages.values() if spool}:
            found.append("files without messages")
        return found


def new_message(*to: str, **how: Any) -> NewMessage:
    """A message to `to`, with a cid of its own."""
    how.setdefault("cid", secrets.token_hex(6))
    how.setdefault("eight_bit", False)
    how.setdefault("received", NOW)
    return NewMessage(recipients=tuple(NewRecipient(address=Address.parse(one)) for one in to), **how)


def ends(job: Any, state: str = "delivered", **more: Any) -> list[End]:
    """The same end for all recipients of a job."""
    return [End(recipient=one.id, state=state, reply="250 2.0.0 ok", **more) for one in job.recipients]


@asynccontextmanager
async def opened(folder: Path, *, on_disk: bool = False, inline: bool = True, shards: Shards = ALL) -> AsyncIterator[Rig]:
    """A queue below `folder`: in memory, unless `on_disk`."""
    clock = FixedClock()
    async with open_store(
        url="sqlite://",
        node_path=folder / "node.db" if on_disk else Path(":memory:"),
        node="mx1",
        schemas={},
        consumers=("alpha",),
        clock=clock,
        inline=inline,
        node_schemas={"queue": SCHEMA},
    ) as store:
        queue = Queue(store.node_db, store.journal, folder / "spool", clock, shards=shards)
        yield Rig(queue, store, clock, folder / "spool")


def domain(text: str) -> Domain:
    return Domain(text)
