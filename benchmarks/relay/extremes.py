"""A long queue and a large message: what they cost Postward in memory and time."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from processes import free_port, memory, wait_for_greeting
from relays import Postward, send, wait_until_taken
from surroundings import World

from postward.app import App
from postward.config import load
from postward.model import MICROSECONDS
from postward.names import Address, Domain
from postward.queue.rows import Entry, raw
from postward.queue.types import NewMessage, NewRecipient

if TYPE_CHECKING:
    from sqlalchemy import Connection

MIB: Final = 1024 * 1024
_BODY: Final = b"Subject: x\r\n\r\n" + b"0123456789abcde\r\n" * 588
_AT_ONCE: Final = 1000
_HOUR: Final = 3600 * MICROSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class LongQueue:
    """With so many messages waiting: seconds from the start to the greeting, MiB of the largest process, seconds of a page."""

    messages: int
    workers: int
    start: float
    largest: float
    rss: float
    first_page: float
    first_page_with_program: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeMessage:
    """MiB of a message, and by how much the relay's RSS grew at most while it passed through; seconds it took."""

    size: float
    growth: float
    before: float
    seconds: float


async def _fill(file: Path, domains: tuple[str, ...], messages: int) -> float:
    """Queue messages that have been tried and wait; returns how long the first page takes."""

    def insert(connection: Connection, entries: list[Entry]) -> None:
        for entry in entries:
            entry.insert(connection)

    def defer(connection: Connection, until: int) -> None:
        database = raw(connection)
        reply = "451 4.3.0 come back later"
        database.execute("UPDATE queue_recipients SET next_try = ?, attempts = 1, last_reply = ?", (until, reply))
        database.execute("UPDATE queue_destinations SET next_due = ?", (until,))

    async with App(load(file)) as app:
        write, now = app.store.node_db.write, app.clock.now()
        for first in range(0, messages, _AT_ONCE):
            entries = [
                Entry(
                    NewMessage(
                        cid=secrets.token_hex(6),
                        sender=Address.parse("from@sender.test"),
                        recipients=(NewRecipient(address=Address("to", Domain(domains[number % len(domains)]))),),
                        received=now,
                        eight_bit=False,
                    ),
                    _BODY,
                    len(_BODY),
                    "",
                )
                for number in range(first, first + _AT_ONCE)
            ]
            await write(partial(insert, entries=entries))
        await write(partial(defer, until=now + _HOUR))
        started = time.perf_counter()
        page = await app.queue.list(limit=50)
        assert len(page.messages) == 50
        return time.perf_counter() - started


def long_queue(world: World, directory: Path, messages: int, workers: int) -> LongQueue:
    """Fill a queue, start the relay on it, and look."""
    directory.mkdir()
    relay, port = Postward(workers=workers, plugins=True), free_port()
    file = relay.configure(world, directory, port)
    first_page = trio.run(_fill, file, world.domains, messages)
    started = time.perf_counter()
    with (directory / "log").open("wb") as log:
        command = [sys.executable, "-m", "postward", "run", "--config", str(file)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for_greeting(port)
        took = time.perf_counter() - started
        time.sleep(3)
        held = memory(process.pid)
        return LongQueue(
            messages=messages,
            workers=workers,
            start=took,
            largest=held.largest / MIB,
            rss=held.rss / MIB,
            first_page=first_page,
            first_page_with_program=_list(file),
        )
    finally:
        process.terminate()
        process.wait()


def _list(file: Path) -> float | None:
    """How long the command takes beside the running relay, with the start of the program; None where there is none."""
    command = [sys.executable, "-m", "postward", "queue", "list", "--config", str(file)]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return None if done.returncode else time.perf_counter() - started


def large_message(world: World, directory: Path, size: int) -> LargeMessage:
    """Send one large message through the relay and watch its memory."""
    with Postward(plugins=True).running(world, directory) as (process, port):
        taken = world.taken
        wait_until_taken(world, taken + 200, 60, send(port, world.domains[:1], 200))
        time.sleep(3)
        before = peak = memory(process).rss
        started = time.monotonic()
        [sender] = send(port, world.domains[:1], 1, size)
        while world.taken < taken + 201 and time.monotonic() < started + 300:
            peak = max(peak, memory(process).rss)
            time.sleep(0.02)
        wait_until_taken(world, taken + 201, 1, [sender])
        return LargeMessage(size=size / MIB, growth=(peak - before) / MIB, before=before / MIB, seconds=world.last - started)
