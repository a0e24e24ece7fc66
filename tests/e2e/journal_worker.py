"""The program that `test_kill_journal` kills: appends results, says which are safe, and has a plugin count them."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

sys.path.insert(0, str(Path(__file__).parents[1]))

import structlog
import trio
from sqlalchemy import Connection

from postward.clock import SettableClock
from postward.emission import Emitter
from postward.model import ResultBatch, Window
from postward.store import Store, open_store
from result_kit import DAY, StubHooks, counter_schema, counting, tls_result

if TYPE_CHECKING:
    from postward.hooks import Hooks


def say(numbers: list[int]) -> None:
    sys.stdout.write(" ".join(map(str, numbers)) + "\n")
    sys.stdout.flush()


async def append_groups(store: Store, first: int) -> None:
    for start in itertools.count(first, 7):
        numbers = list(range(start, start + 7))
        await store.journal.append(*map(tls_result, numbers))
        say(numbers)


async def append_with_an_outcome(store: Store, first: int) -> None:
    for number in itertools.count(first):

        def write(connection: Connection, number: int = number) -> None:
            store.journal.append_in(connection, [tls_result(number)])

        await store.node_db.write(write)
        say([number])


async def main(where: Path, first: int, finish: bool) -> None:
    clock = SettableClock(Window.of_day(DAY).start)
    async with open_store(
        url=f"sqlite:///{where / 'results.db'}",
        node_path=where / "node.db",
        node="mx1",
        schemas={"alpha": counter_schema("alpha")},
        consumers=["alpha"],
        clock=clock,
    ) as store:

        async def emit(batch: ResultBatch) -> None:
            await store.consume(batch, counting("alpha", batch))

        emitter = Emitter(cast("Hooks", StubHooks({"alpha": emit})), store, ["alpha"], clock, structlog.get_logger())
        async with trio.open_nursery() as nursery:
            await nursery.start(emitter.run)
            if finish:
                await emitter.caught_up()
                nursery.cancel_scope.cancel()
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            for lane in range(3):
                nursery.start_soon(append_groups, store, first + lane * 100_000)
                nursery.start_soon(append_with_an_outcome, store, first + (lane + 5) * 100_000)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), "--finish" in sys.argv)
