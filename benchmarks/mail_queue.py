"""What the queue costs: CPU per message for commit, claim and settle, and how long the first page of a long queue takes.

python benchmarks/mail_queue.py [--messages 20000] [--destinations 20] [--long 100000]
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
import time
from functools import partial
from pathlib import Path

import trio

from postward.clock import SystemClock
from postward.names import Address, Domain
from postward.queue import EVERYTHING, SCHEMA, End, NewMessage, NewRecipient, Pick, Queue
from postward.queue.rows import Entry
from postward.store import open_store

SENDERS = 20
BODY = b"Subject: x\r\n\r\n" + b"0123456789abcde\r\n" * 588
BATCH = 20


async def measure(messages: int, destinations: int, long: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = SystemClock()
        async with open_store(
            url="sqlite://",
            node_path=Path(folder) / "node.db",
            node="mx",
            schemas={},
            consumers=(),
            clock=clock,
            node_schemas={"queue": SCHEMA},
        ) as store:
            queue = Queue(store.node_db, store.journal, Path(folder) / "spool", clock)
            domains = [Domain(f"d{number}.example") for number in range(destinations)]
            sender = Address.parse("from@sender.example")

            def message(number: int) -> NewMessage:
                to = NewRecipient(address=Address("user", domains[number % destinations]))
                return NewMessage(
                    cid=secrets.token_hex(6),
                    sender=sender,
                    recipients=(to,),
                    received=clock.now(),
                    eight_bit=False,
                    head=b"Received: x\r\n",
                )

            async def send(first: int) -> None:
                for number in range(first, messages, SENDERS):
                    writer = queue.writer()
                    await writer.write(BODY)
                    await writer.commit(message(number))

            async def commit() -> None:
                async with trio.open_nursery() as nursery:
                    for first in range(SENDERS):
                        nursery.start_soon(send, first)

            jobs = []

            async def claim() -> None:
                taken: set[int] = set()
                while len(jobs) < messages:
                    due = await queue.due(clock.now(), destinations)
                    for domain in due:
                        got = await queue.claim(domain, clock.now(), BATCH, taken)
                        taken.update(job.message.id for job in got)
                        jobs.extend(got)
                    if len(taken) > 2000:  # more are never in flight
                        await finish()
                        taken.clear()

            settled = [0.0, 0.0]

            async def finish() -> None:
                wall, cpu = time.perf_counter(), time.process_time()
                todo = jobs[done[0] :]
                done[0] = len(jobs)
                async with trio.open_nursery() as nursery:
                    for first in range(SENDERS):
                        nursery.start_soon(settle, todo[first::SENDERS])
                settled[0] += time.perf_counter() - wall
                settled[1] += time.process_time() - cpu

            async def settle(mine: list) -> None:  # type: ignore[type-arg]
                for job in mine:
                    await queue.settle(
                        job, [End(recipient=one.id, state="delivered", reply="250 ok") for one in job.recipients]
                    )

            done = [0]
            total = 0.0
            wall, cpu = time.perf_counter(), time.process_time()
            await commit()
            total += report("commit", messages, time.perf_counter() - wall, time.process_time() - cpu)
            wall, cpu = time.perf_counter(), time.process_time()
            await claim()
            await finish()
            all_wall, all_cpu = time.perf_counter() - wall, time.process_time() - cpu
            total += report("claim", messages, all_wall - settled[0], all_cpu - settled[1])
            total += report("settle", messages, *settled)
            print(f"all three: {total:.0f} µs CPU per message")

            def fill(connection: object, start: int) -> None:
                for number in range(start, min(start + 1000, long)):
                    Entry(message(number), BODY, len(BODY), "").insert(connection)  # type: ignore[arg-type]

            for start in range(0, long, 1000):
                await store.node_db.write(partial(fill, start=start))
            now = clock.now()
            for name, call in (
                ("due", lambda: queue.due(now, 20)),
                ("next_due", queue.next_due),
                ("claim 20", lambda: queue.claim(domains[0], now, 20)),
                ("list", lambda: queue.list(EVERYTHING)),
                ("list destination", lambda: queue.list(Pick(domain=domains[0]))),
                ("list sender", lambda: queue.list(Pick(sender=str(sender)))),
                ("list held", lambda: queue.list(Pick(held=True))),
                ("counts", queue.counts),
                ("clean", queue.clean),
                ("hold all", lambda: queue.hold(EVERYTHING)),
                ("release a destination", lambda: queue.release(Pick(domain=domains[0]))),
            ):
                wall = time.perf_counter()
                await call()
                print(f"{long} queued: {name}: {(time.perf_counter() - wall) * 1000:.1f} ms")


def report(name: str, messages: int, wall: float, cpu: float) -> float:
    each = cpu / messages * 1e6
    print(f"{name}: {messages / wall:.0f} messages/s, {each:.0f} µs CPU per message")
    return each


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--destinations", type=int, default=20)
    parser.add_argument("--long", type=int, default=100_000)
    options = parser.parse_args()
    trio.run(measure, options.messages, options.destinations, options.long)
