"""The journal and the cursors: what was put in is taken out once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection

from postward.clock import SettableClock
from postward.errors import StoreError
from postward.model import MessageResult, ResultBatch, TlsResult, Window
from postward.names import Domain
from postward.store import StaleBatch, Store, codec, open_store
from postward.store.cursors import GRACE
from result_kit import DAY, counted, counter_schema, counting, message_result, tls_result

SCHEMAS = {"alpha": counter_schema("alpha"), "beta": counter_schema("beta")}


def opened(
    where: Path | None = None,
    *,
    consumers: tuple[str, ...] = ("alpha", "beta"),
    node: str = "mx1",
    clock: SettableClock | None = None,
) -> AbstractAsyncContextManager[Store]:
    url = "sqlite://" if where is None else f"sqlite:///{where / 'results.db'}"
    return open_store(
        url=url,
        node_path=Path(":memory:") if where is None else where / f"{node}.db",
        node=node,
        schemas=SCHEMAS,
        consumers=consumers,
        clock=clock or SettableClock(Window.of_day(DAY).start),
        inline=True,
    )


async def read(store: Store, consumer: str = "alpha") -> ResultBatch:
    batch = await store.journal.read(consumer)
    assert batch is not None
    return batch


# --- what is written ---


async def test_results_come_back_as_they_were_in_order() -> None:
    async with opened() as store:
        results = [tls_result(1), message_result(2), tls_result(3)]
        for result in results:
            await store.journal.append(result)
        batch = await read(store)
        assert [entry.result for entry in batch.entries] == results
        assert [entry.count for entry in batch.entries] == [1, 1, 1]
        assert [entry.sequence for entry in batch.entries] == sorted({entry.sequence for entry in batch.entries})
        assert (batch.node, batch.consumer) == ("mx1", "alpha")


def unpacked(*results: TlsResult | MessageResult) -> list[Any]:
    kinds = {codec.encode(result)[0] for result in results}
    payload = codec.pack((1, codec.encode(result)[1]) for result in results)
    codec.memory.forget()
    found = codec.unpack(kinds.pop(), payload)
    assert isinstance(found, list)
    return [result for _, result in found]


def test_decoding_gives_equal_objects_of_the_same_types() -> None:
    for result in (tls_result(5), message_result(5)):
        (decoded,) = unpacked(result)
        assert decoded == result
        assert codec.encode(decoded) == codec.encode(result)
    (decoded,) = unpacked(tls_result(5))
    assert isinstance(decoded.policies[0].domain, Domain)


async def test_identical_results_of_one_commit_are_one_row() -> None:
    async with opened() as store:
        await store.journal.append(tls_result(1), tls_result(2), tls_result(1), tls_result(1))
        batch = await read(store)
        assert [(entry.result, entry.count) for entry in batch.entries] == [(tls_result(1), 3), (tls_result(2), 1)]


async def test_identical_results_of_concurrent_callers_are_one_row() -> None:
    async with opened() as store:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(store.journal.append, tls_result(1))
        batch = await read(store)
        assert sum(entry.count for entry in batch.entries) == 100
        assert len(batch.entries) <= 2


async def test_a_result_belongs_to_the_transaction_that_journals_it() -> None:
    """The same transaction as the outcome: stored with it, or not at all."""
    async with opened() as store:

        def attempt(fails: bool, connection: Connection) -> None:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS node_outcome (n INTEGER)")
            connection.exec_driver_sql("INSERT INTO node_outcome VALUES (1)")
            store.journal.append_in(connection, [tls_result(1)])
            if fails:
                raise LookupError

        with pytest.raises(LookupError):
            await store.node_db.write(lambda c: attempt(True, c))
        assert await store.journal.read("alpha") is None
        await store.node_db.write(lambda c: attempt(False, c))
        assert len((await read(store)).entries) == 1


async def test_a_failing_neighbour_neither_loses_nor_doubles_a_result() -> None:
    async with opened() as store:

        def fail(connection: Connection) -> None:
            store.journal.append_in(connection, [tls_result(9)])
            raise LookupError

        async def failing() -> None:
            with pytest.raises(LookupError):
                await store.node_db.write(fail)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(store.journal.append, tls_result(number % 3))
                nursery.start_soon(failing)
        entries = (await read(store)).entries
        assert sum(entry.count for entry in entries) == 20
        assert tls_result(9) not in {entry.result for entry in entries}


async def test_the_journal_refuses_a_transaction_of_another_database() -> None:
    async with opened() as store:
        with pytest.raises(ValueError, match="node's own database"):
            await store.write(lambda c: store.journal.append_in(c, [tls_result()]))


async def test_growth_after_a_failed_commit_is_not_announced() -> None:
    """A reader must not be woken for entries that were rolled back, over and over."""
    async with opened() as store:
        await store.node_db.write(
            lambda c: (
                c.exec_driver_sql(
                    "CREATE TABLE node_x (n INTEGER PRIMARY KEY, p INTEGER REFERENCES node_x DEFERRABLE INITIALLY DEFERRED)"
                )
                and None
            )
        )

        def fails_at_commit(connection: Connection) -> None:
            store.journal.append_in(connection, [tls_result(1)])
            connection.exec_driver_sql("INSERT INTO node_x VALUES (1, 99)")

        with pytest.raises(Exception, match="FOREIGN KEY"):
            await store.node_db.write(fails_at_commit)
        assert store.journal.end == 0


@pytest.mark.parametrize("bad", ["a string", None, 7])
async def test_what_is_no_result_is_refused(bad: object) -> None:
    async with opened() as store:
        with pytest.raises((TypeError, AttributeError)):
            await store.journal.append(bad)  # type: ignore[arg-type]


async def test_a_huge_result_is_refused() -> None:
    async with opened() as store:
        with pytest.raises(ValueError, match="too large"):
            await store.journal.append(MessageResult(day=DAY, kind="x", data="x" * (1 << 20)))


async def test_text_that_is_no_unicode_is_kept_as_far_as_possible() -> None:
    """A peer's HELO can hold any bytes; they must not make its result unwritable."""
    async with opened() as store:
        await store.journal.append(MessageResult(day=DAY, kind="x", data="a\udc80b"))
        assert (await read(store)).entries[0].result == MessageResult(day=DAY, kind="x", data="a?b")


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_text_survives(kind: str, data: str) -> None:
    result = MessageResult(day=DAY, kind=kind, data=data)
    assert unpacked(result) == [result]


def damage(change: str) -> Callable[[Connection], None]:
    return lambda connection: connection.exec_driver_sql(f"UPDATE node_journal SET {change}") and None


async def test_damaged_entries_are_skipped_one_by_one() -> None:
    async with opened() as store:
        await store.journal.append(tls_result(1), tls_result(2), tls_result(3))
        await store.journal.append(tls_result(4))
        bad = "payload = CAST(REPLACE(CAST(payload AS TEXT), 'd2.example.com', 'not..a..name') AS BLOB)"
        await store.node_db.write(damage(bad))
        assert [entry.result for entry in (await read(store)).entries] == [tls_result(n) for n in (1, 3, 4)]
        page = await store.journal.page(0)
        assert page is not None
        assert [sequence for sequence, _ in page.unreadable] == [2]


@pytest.mark.parametrize("bad", ["payload = 'garbage'", "payload = ''", "entries = 2", "payload = '[[1]]'", "payload = X'ff'"])
async def test_a_damaged_row_is_skipped(bad: str) -> None:
    async with opened() as store:
        await store.journal.append(tls_result(1), tls_result(2), tls_result(3))
        await store.journal.append(tls_result(4))
        await store.node_db.write(damage(f"{bad} WHERE sequence = 3"))
        assert [entry.result for entry in (await read(store)).entries] == [tls_result(4)]


async def test_entries_of_a_newer_version_wait_for_a_newer_program() -> None:
    async with opened() as store:
        for number in range(3):
            await store.journal.append(tls_result(number))
        await store.node_db.write(damage("kind = 'tls.9' WHERE sequence = 2"))
        first = await read(store)
        assert [entry.sequence for entry in first.entries] == [1]
        await store.consume(first, counting("alpha", first))
        with pytest.raises(StoreError, match="newer version"):
            await store.journal.read("alpha")


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 500])
async def test_pages_cover_every_entry_once_whatever_their_size(limit: int) -> None:
    async with opened() as store:
        number = 0
        for size in (1, 5, 1, 1, 12, 3, 700):
            await store.journal.append(*(tls_result(n) for n in range(number, number + size)))
            number += size
        position, found = 0, []
        while (page := await store.journal.page(position, limit)) is not None:
            assert 1 <= len(page.entries) <= limit
            assert page.last == page.entries[-1].sequence
            position = page.last
            found += page.entries
        assert [entry.sequence for entry in found] == list(range(1, number + 1))
        assert [entry.result for entry in found] == [tls_result(n) for n in range(number)]


# --- cursors ---


async def test_consume_moves_the_position_with_the_writes() -> None:
    async with opened() as store:
        await store.journal.append(tls_result(1), tls_result(1))
        batch = await read(store)

        def fail(connection: Connection) -> None:
            counting("alpha", batch)(connection)
            raise LookupError

        with pytest.raises(LookupError):
            await store.consume(batch, fail)
        assert await counted(store, "alpha") == {}
        assert await store.journal.read("alpha") == batch
        await store.consume(batch, counting("alpha", batch))
        assert await counted(store, "alpha") == {"d1.example.com": 2}
        assert await store.journal.read("alpha") is None
        assert await store.journal.read("beta") is not None


async def test_a_batch_that_comes_again_is_counted_once() -> None:
    async with opened() as store:
        await store.journal.append(tls_result(1))
        batch = await read(store)
        for _ in range(3):
            await store.consume(batch, counting("alpha", batch))
        assert await counted(store, "alpha") == {"d1.example.com": 1}


async def test_a_batch_of_which_a_part_was_taken_is_refused_and_the_rest_comes() -> None:
    async with opened() as store:
        for number in range(4):
            await store.journal.append(tls_result(number))
        whole = await read(store)
        first = await store.journal.read("alpha", 2)
        assert first is not None
        await store.consume(first, counting("alpha", first))
        with pytest.raises(StaleBatch):
            await store.consume(whole, counting("alpha", whole))
        rest = await read(store)
        assert [entry.result for entry in rest.entries] == [tls_result(2), tls_result(3)]
        await store.consume(rest, counting("alpha", rest))
        assert await counted(store, "alpha") == {f"d{n}.example.com": 1 for n in range(4)}


async def test_two_processes_of_one_node_count_each_result_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        await one.journal.append(tls_result(1))
        await other.journal.append(tls_result(2))
        early = await read(one)
        late = await read(other)
        assert len(early.entries) == len(late.entries) == 2
        await one.consume(early, counting("alpha", early))
        await other.consume(late, counting("alpha", late))
        assert await other.journal.read("alpha") is None
        assert await counted(one, "alpha") == {"d1.example.com": 1, "d2.example.com": 1}


async def test_a_consumer_starts_at_its_enabling_and_keeps_its_place(tmp_path: Path) -> None:
    async with opened(tmp_path, consumers=("alpha",)) as store:
        await store.journal.append(tls_result(1))
    async with opened(tmp_path) as store:
        assert (await read(store, "alpha")).entries[0].result == tls_result(1)
        assert await store.journal.read("beta") is None
        await store.journal.append(tls_result(2))
        assert [entry.result for entry in (await read(store, "beta")).entries] == [tls_result(2)]
    async with opened(tmp_path, consumers=("beta",)) as store:
        assert store.consumers == ("beta",)
        with pytest.raises(KeyError):
            store.position("alpha")
    async with opened(tmp_path) as store:  # enabled anew: from here on
        assert await store.journal.read("alpha") is None


async def test_consuming_for_somebody_who_is_not_enabled_is_refused() -> None:
    async with opened(consumers=("alpha",)) as store:
        await store.journal.append(tls_result(1))
        entries = (await read(store)).entries
        foreign = ResultBatch(node="mx1", consumer="beta", entries=entries)
        with pytest.raises(StoreError, match="not enabled"):
            await store.consume(foreign, counting("beta", foreign))
        with pytest.raises(ValueError, match="node"):
            await store.consume(ResultBatch(node="mx2", consumer="alpha", entries=entries), lambda c: None)


async def test_sequences_are_never_given_twice(tmp_path: Path) -> None:
    """Emptied, or lost with its file: what is journalled later must not look consumed."""
    async with opened(tmp_path) as store:
        await store.journal.append(tls_result(1))
        batch = await read(store)
        for consumer in ("alpha", "beta"):
            mine = ResultBatch(node="mx1", consumer=consumer, entries=batch.entries)
            await store.consume(mine, counting(consumer, mine))
        await store.journal.trim(batch.entries[-1].sequence)
        await store.journal.append(tls_result(2))
        assert (await read(store)).entries[0].sequence > batch.entries[-1].sequence
        await store.pass_over("alpha", store.journal.end)
    for end in ("", "-wal", "-shm"):
        await trio.Path(tmp_path / f"mx1.db{end}").unlink(missing_ok=True)
    async with opened(tmp_path) as store:
        await store.journal.append(tls_result(3))
        after = await read(store)
        assert [entry.result for entry in after.entries] == [tls_result(3)]
        await store.consume(after, counting("alpha", after))
        assert await counted(store, "alpha") == {"d1.example.com": 1, "d3.example.com": 1}


# --- days ---


async def test_a_day_is_closed_when_it_is_over_and_taken() -> None:
    day = Window.of_day(DAY)
    clock = SettableClock(day.start + 3600_000_000)
    async with opened(clock=clock) as store:
        assert await store.closed_until("alpha") == 0
        await store.beat()
        assert await store.closed_until("alpha") == day.start
        await store.journal.append(tls_result(1))
        clock.advance(day.end - clock.now() + 1_000_000)
        clock.advance(600_000_000)
        await store.beat()
        assert await store.closed_until("alpha") == day.start
        batch = await read(store)
        await store.consume(batch, counting("alpha", batch))
        await store.beat()
        assert await store.closed_until("alpha") == day.end
        assert await store.closed_until("beta") == day.start


async def test_a_day_is_not_closed_in_the_minutes_behind_midnight() -> None:
    """A session of yesterday may still be on its way into an empty journal."""
    day = Window.of_day(DAY)
    clock = SettableClock(day.end + 1_000_000)
    async with opened(clock=clock) as store:
        await store.beat()
        assert await store.closed_until("alpha") == day.start
        clock.advance(600_000_000)
        await store.beat()
        assert await store.closed_until("alpha") == day.end


async def test_a_day_waits_for_every_live_node_and_for_a_dead_one_six_hours(tmp_path: Path) -> None:
    day = Window.of_day(DAY)
    clock = SettableClock(day.start)
    async with opened(tmp_path, clock=clock) as one:
        async with opened(tmp_path, node="mx2", clock=clock) as two:
            await two.journal.append(tls_result(1))
            clock.advance(day.end - day.start + 600_000_000)
            await one.beat()
            assert await one.closed_until("alpha") == day.end  # mx2 was last seen a day ago
            await two.beat()
            assert await one.closed_until("alpha") == day.start
        clock.advance(GRACE // 2)
        await one.beat()
        assert await one.closed_until("alpha") == day.start
        clock.advance(GRACE // 2 + 1_000_000)
        await one.beat()
        assert await one.closed_until("alpha") == day.end


# --- bounds ---


async def test_the_journal_is_bounded_by_age() -> None:
    """Row by row: an old day from a foreign source takes nothing else with it."""
    async with opened() as store:
        await store.journal.append(tls_result(1), tls_result(2, "2026-02-01"), tls_result(2, "2026-02-01"), tls_result(3))
        assert await store.journal.bound("2026-02-15", max_days=14) is None
        dropped = await store.journal.bound("2026-02-16", max_days=14)
        assert dropped is not None
        assert (dropped.entries, dropped.results, dropped.first_day) == (1, 2, "2026-02-01")
        assert [entry.result for entry in (await read(store)).entries] == [tls_result(1), tls_result(3)]


async def test_the_journal_is_bounded_by_size() -> None:
    async with opened() as store:
        for number in range(10):
            await store.journal.append(tls_result(number))
        size = len(codec.encode(tls_result(1))[1]) + 6
        dropped = await store.journal.bound(DAY, max_bytes=4 * size + 10)
        assert dropped is not None
        assert dropped.entries == 6
        assert [entry.result for entry in (await read(store)).entries] == [tls_result(n) for n in range(6, 10)]


async def test_a_reader_is_woken_by_growth_alone() -> None:
    async with opened() as store:
        woken: list[bool] = []

        async def wait() -> None:
            await store.journal.grown(store.journal.end)
            woken.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await store.node_db.write(lambda c: None)
            await trio.testing.wait_all_tasks_blocked()
            assert not woken
            await store.journal.append(tls_result())
        assert woken


async def test_entries_of_another_process_are_noticed(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.journal.grown, one.journal.end)
            await trio.testing.wait_all_tasks_blocked()
            await other.journal.append(tls_result(1))
        assert one.journal.end == other.journal.end


async def test_errors_of_the_caller_come_out_alone() -> None:
    """Not wrapped into a group by the store's own nursery."""
    with pytest.raises(LookupError):
        async with opened():
            raise LookupError


@pytest.mark.parametrize("inline", [True, False])
async def test_cancellation_passes_and_what_was_handed_in_is_written(tmp_path: Path, inline: bool) -> None:
    def opened_here() -> AbstractAsyncContextManager[Store]:
        return open_store(
            url=f"sqlite:///{tmp_path / 'results.db'}",
            node_path=tmp_path / "mx1.db",
            node="mx1",
            schemas=SCHEMAS,
            consumers=("alpha",),
            clock=SettableClock(),
            inline=inline,
        )

    with trio.CancelScope() as scope:
        async with opened_here() as store:
            await store.journal.append(tls_result(1))
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    async with opened_here() as store:
        assert len((await read(store)).entries) == 1


async def test_any_directory_name_will_do(tmp_path: Path) -> None:
    where = tmp_path / "a b?c#d%20é:@"
    async with opened(where) as store:
        await store.journal.append(tls_result(1))
    assert await trio.Path(where / "mx1.db").exists()
