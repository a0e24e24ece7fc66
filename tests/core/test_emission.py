"""Handing results to plugins: each once, in order, whoever fails, stops or crashes."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
import structlog.testing
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from postward.clock import Clock, SettableClock
from postward.emission import TRIM_ROWS, Emitter
from postward.hooks import Hooks
from postward.model import MICROSECONDS, ResultBatch, Window
from postward.store import Store, open_store
from postward.store.journal import BATCH_ROWS
from result_kit import DAY, StubHooks, counted, counter_schema, counting, key_of, tls_result

NAMES = ("alpha", "beta")
Emit = Callable[[ResultBatch], Awaitable[None]]


def opened(
    where: Path | None = None, clock: Clock | None = None, consumers: Sequence[str] = NAMES
) -> AbstractAsyncContextManager[Store]:
    return open_store(
        url="sqlite://" if where is None else f"sqlite:///{where / 'results.db'}",
        node_path=Path(":memory:") if where is None else where / "node.db",
        node="mx1",
        schemas={name: counter_schema(name) for name in NAMES},
        consumers=consumers,
        clock=clock or VirtualClock(),
        inline=True,
    )


class VirtualClock:
    """Wall time that follows trio's clock."""

    def now(self) -> int:
        return Window.of_day(DAY).start + round(trio.current_time() * MICROSECONDS)

    async def sleep_until(self, instant: int) -> None:
        await trio.sleep(max(0, instant - self.now()) / MICROSECONDS)


@asynccontextmanager
async def emitting(
    store: Store, emit: dict[str, Emit], *, names: Sequence[str] = NAMES, clock: Clock | None = None
) -> AsyncIterator[Emitter]:
    emitter = Emitter(cast("Hooks", StubHooks(emit)), store, names, clock or VirtualClock(), structlog.get_logger("test"))
    async with trio.open_nursery() as nursery:
        await nursery.start(emitter.run)
        yield emitter
        nursery.cancel_scope.cancel()


def taking(store: Store, name: str) -> Emit:
    async def emit(batch: ResultBatch) -> None:
        await store.consume(batch, counting(name, batch))

    return emit


async def test_every_consumer_gets_everything_in_order(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as store:
        seen: dict[str, list[int]] = {name: [] for name in NAMES}

        async def note(name: str, batch: ResultBatch) -> None:
            assert (batch.node, batch.consumer) == ("mx1", name)
            seen[name] += [entry.sequence for entry in batch.entries]

        async with emitting(store, {name: partial(note, name) for name in NAMES}) as emitter:
            for start in range(0, 1200, 400):
                await store.journal.append(*(tls_result(n) for n in range(start, start + 400)))
            assert await emitter.caught_up()
            assert seen["alpha"] == seen["beta"] == list(range(1, 1201))
            assert emitter.position("alpha") == 1200  # core has moved it: nobody consumed
            assert await emitter.caught_up()
        with pytest.raises(KeyError):
            emitter.position("gamma")


async def test_batches_are_bounded_and_a_burst_comes_together(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as store:
        sizes: list[int] = []

        async def note(batch: ResultBatch) -> None:
            sizes.append(len(batch.entries))

        async with emitting(store, {"alpha": note}, names=["alpha"]) as emitter:
            for number in range(2 * BATCH_ROWS + 100):
                await store.journal.append(tls_result(number))
            await emitter.caught_up()
        assert sum(sizes) == 2 * BATCH_ROWS + 100
        assert max(sizes) <= BATCH_ROWS
        assert len(sizes) <= 5


async def test_a_failing_consumer_gets_the_same_batch_again_and_hinders_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Back-off 1 s, doubling to 5 min."""
    async with opened() as store:
        tries: list[tuple[float, tuple[int, ...]]] = []

        async def failing(batch: ResultBatch) -> None:
            tries.append((trio.current_time(), tuple(entry.sequence for entry in batch.entries)))
            if len(tries) <= 11:
                raise RuntimeError("not today")
            await taking(store, "alpha")(batch)

        with structlog.testing.capture_logs() as logs:
            async with emitting(store, {"alpha": failing, "beta": taking(store, "beta")}) as emitter:
                await store.journal.append(tls_result(1), tls_result(1))
                await trio.sleep(0.5)
                assert await counted(store, "beta") == {"d1.example.com": 2}
                state = emitter.state("alpha")
                assert (state.behind, state.failures, state.error) == (1, 1, "not today")
                await trio.sleep(3600)
                assert await counted(store, "alpha") == {"d1.example.com": 2}
                assert emitter.state("alpha").failures == 0
        assert {sequences for _, sequences in tries} == {(1,)}
        pauses = [round(later - earlier, 3) for (earlier, _), (later, _) in itertools.pairwise(tries)]
        assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
        failures = [line for line in logs if line["event"] == "emit-failed"]
        assert len(failures) == 11
        assert failures[0]["plugin"] == "alpha"


async def test_caught_up_says_no_in_time_and_tries_a_waiting_consumer_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as store:
        broken = True

        async def emit(batch: ResultBatch) -> None:
            if broken:
                raise RuntimeError
            await taking(store, "alpha")(batch)

        async with emitting(store, {"alpha": emit}, names=["alpha"]) as emitter:
            await store.journal.append(tls_result())
            await trio.sleep(700)
            assert not await emitter.caught_up(timeout=0.2)
            broken = False
            started = trio.current_time()
            assert await emitter.caught_up()
            assert trio.current_time() - started < 1


async def test_a_consumer_that_fails_behind_its_commit_is_not_asked_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as store:
        calls = 0

        async def emit(batch: ResultBatch) -> None:
            nonlocal calls
            calls += 1
            await taking(store, "alpha")(batch)
            raise RuntimeError("after the commit")

        async with emitting(store, {"alpha": emit}, names=["alpha"]) as emitter:
            await store.journal.append(tls_result())
            await trio.sleep(0.5)
            assert emitter.state("alpha").failures == 0
        assert calls == 1
        assert await counted(store, "alpha") == {"d0.example.com": 1}


async def test_a_consumer_that_consumes_in_parts_loses_and_doubles_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as store:
        fail = True

        async def emit(batch: ResultBatch) -> None:
            nonlocal fail
            for entry in batch.entries:
                part = ResultBatch(node=batch.node, consumer=batch.consumer, entries=(entry,))
                await store.consume(part, counting("alpha", part))
                if fail:
                    fail = False
                    raise RuntimeError("in the middle")

        async with emitting(store, {"alpha": emit}, names=["alpha"]) as emitter:
            await store.journal.append(*(tls_result(n) for n in range(5)))
            await emitter.caught_up()
        assert await counted(store, "alpha") == {f"d{n}.example.com": 1 for n in range(5)}


async def test_taken_entries_leave_the_journal_and_waiting_ones_stay(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as store:
        gate = trio.Event()

        async def slow(batch: ResultBatch) -> None:
            await gate.wait()

        def rows(connection: Connection) -> int:
            return int(connection.exec_driver_sql("SELECT COALESCE(SUM(entries), 0) FROM node_journal").scalar_one())

        async with emitting(store, {"alpha": taking(store, "alpha"), "beta": slow}) as emitter:
            await store.journal.append(*(tls_result(n) for n in range(50)))
            await trio.sleep(100)
            assert emitter.position("alpha") == 50
            assert await store.node_db.read(rows) == 50
            gate.set()
            await emitter.caught_up()
            assert await store.node_db.read(rows) == 0
            for start in range(0, 3 * TRIM_ROWS, 1000):  # and in a long burst, before the next heartbeat
                await store.journal.append(*(tls_result(n) for n in range(start, start + 1000)))
            await trio.sleep(10)
            assert (emitter.state("alpha").behind, emitter.state("beta").behind) == (0, 0)
            assert await store.node_db.read(rows) < 2 * TRIM_ROWS


async def test_what_is_dropped_for_age_is_said_loudly_and_emission_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clock = SettableClock(Window.of_day(DAY).start)
    async with opened(clock=clock) as store:
        working = False

        async def emit(batch: ResultBatch) -> None:
            if not working:
                raise RuntimeError("broken")
            await taking(store, "alpha")(batch)

        with structlog.testing.capture_logs() as logs:
            async with emitting(store, {"alpha": emit}, names=["alpha"], clock=clock) as emitter:
                await store.journal.append(tls_result(1), tls_result(1), tls_result(2))
                await trio.sleep(1)
                clock.advance(16 * 86_400 * MICROSECONDS)
                await emitter.beat()
                dropped = [line for line in logs if line["event"] == "journal-dropped"]
                assert [(line["results"], line["behind"], line["log_level"]) for line in dropped] == [
                    (3, {"alpha": 2}, "error")
                ]
                working = True
                await store.journal.append(tls_result(7, "2026-03-17"))
                assert await emitter.caught_up()
                assert await counted(store, "alpha") == {"d7.example.com": 1}
                await store.journal.append(tls_result(8, "2020-01-01"))
                assert await emitter.caught_up()
        assert len([line for line in logs if line["event"] == "journal-dropped"]) == 1


async def test_taken_entries_are_not_reported_as_dropped(autojump_clock: trio.testing.MockClock) -> None:
    clock = SettableClock(Window.of_day(DAY).start)
    async with opened(clock=clock) as store:
        with structlog.testing.capture_logs() as logs:
            async with emitting(store, {n: taking(store, n) for n in NAMES}, clock=clock) as emitter:
                await store.journal.append(tls_result(1))
                await trio.sleep(1)
                assert (emitter.position("alpha"), emitter.position("beta")) == (1, 1)
                clock.advance(20 * 86_400 * MICROSECONDS)
                await emitter.caught_up()
        assert not [line for line in logs if line["event"] == "journal-dropped"]


async def test_a_damaged_entry_is_named_and_passed(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as store:
        await store.journal.append(tls_result(1))
        await store.journal.append(tls_result(2))
        await store.node_db.write(
            lambda c: c.exec_driver_sql("UPDATE node_journal SET payload = 'x' WHERE sequence = 2") and None
        )
        with structlog.testing.capture_logs() as logs:
            async with emitting(store, {n: taking(store, n) for n in NAMES}) as emitter:
                assert await emitter.caught_up(timeout=10)
        assert await counted(store, "alpha") == {"d1.example.com": 1}
        assert {line["sequence"] for line in logs if line["event"] == "journal-entry-unreadable"} == {2}


async def test_without_consumers_the_journal_empties_itself(autojump_clock: trio.testing.MockClock) -> None:
    async with opened(consumers=()) as store, emitting(store, {}, names=()) as emitter:
        await store.journal.append(tls_result())
        assert await emitter.caught_up()
        assert await store.journal.page(0) is None


# --- any sequence of events ---

FAILURES = ("before", "inside", "behind", "none")
operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, 4), min_size=1, max_size=6)),
        st.tuples(st.just("append in"), st.tuples(st.integers(0, 4), st.booleans())),
        st.tuples(st.just("emit"), st.lists(st.sampled_from(FAILURES), max_size=3)),
        st.tuples(st.just("replay"), st.sampled_from(NAMES)),
        st.tuples(st.just("part"), st.tuples(st.sampled_from(NAMES), st.integers(1, 3))),
        st.tuples(st.just("crash"), st.booleans()),
        st.tuples(st.just("trim"), st.none()),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(operations)
def test_whatever_happens_each_consumer_counts_each_result_once(operations: list[tuple[str, Any]]) -> None:
    """Appends, failures of every kind, crashes (the files opened anew) and replays: in equals out, for each consumer."""
    where = Path(tempfile.mkdtemp())
    try:
        trio.run(_interpret, where, operations, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        shutil.rmtree(where)


async def _interpret(where: Path, operations: list[tuple[str, Any]]) -> None:
    put: Counter[str] = Counter()
    replays: dict[str, ResultBatch] = {}
    todo = [*operations, ("emit", []), ("crash", True), ("emit", [])]
    while todo:
        async with opened(where) as store:
            while todo:
                name, value = todo.pop(0)
                if name == "crash":
                    break
                await _one(store, name, value, put, replays)
    async with opened(where) as store:
        for name in NAMES:
            assert await counted(store, name) == put


async def _one(store: Store, name: str, value: Any, put: Counter[str], replays: dict[str, ResultBatch]) -> None:
    if name == "append":
        await store.journal.append(*map(tls_result, value))
        put.update(key_of(tls_result(number)) for number in value)
    elif name == "append in":
        number, fails = value

        def together(connection: Connection) -> None:
            store.journal.append_in(connection, [tls_result(number)])
            if fails:
                raise LookupError

        try:
            await store.node_db.write(together)
        except LookupError:
            return
        put[key_of(tls_result(number))] += 1
    elif name == "replay" and value in replays:
        await store.consume(replays[value], counting(value, replays[value]))
    elif name == "part":
        consumer, limit = value
        if (batch := await store.journal.read(consumer, limit)) is not None:
            await store.consume(batch, counting(consumer, batch))
            replays[consumer] = batch
    elif name == "emit":
        await _emit(store, list(value), replays)
    elif name == "trim":
        await store.journal.trim(min(store.position(consumer) for consumer in NAMES))


async def _emit(store: Store, failures: list[str], replays: dict[str, ResultBatch]) -> None:
    async def emit(consumer: str, batch: ResultBatch) -> None:
        failure = failures.pop() if failures else "none"
        count = counting(consumer, batch)

        def count_and_fail(connection: Connection) -> None:
            count(connection)
            raise LookupError

        if failure == "before":
            raise LookupError
        await store.consume(batch, count_and_fail if failure == "inside" else count)
        replays[consumer] = batch
        if failure == "behind":
            raise LookupError

    with structlog.testing.capture_logs():
        async with emitting(store, {consumer: partial(emit, consumer) for consumer in NAMES}) as emitter:
            assert await emitter.caught_up(timeout=1000)
