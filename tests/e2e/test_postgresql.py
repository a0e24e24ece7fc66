"""The results database on a real PostgreSQL: the same promises, with several nodes that share it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from postgresql_server import Server
from postward.clock import SettableClock
from postward.errors import StoreError
from postward.model import Schema, Window
from postward.store import Database, Store, open_store, status, upgrade
from postward.store.engine import open_engines
from result_kit import DAY, counted, counter_schema, counting, tls_result

pytestmark = [pytest.mark.loopback, pytest.mark.interop]


def opened(url: str, where: Path, node: str = "mx1", clock: SettableClock | None = None) -> AbstractAsyncContextManager[Store]:
    return open_store(
        url=url,
        node_path=where / f"{node}.db",
        node=node,
        schemas={"alpha": counter_schema("alpha")},
        consumers=["alpha"],
        clock=clock or SettableClock(Window.of_day(DAY).start),
    )


async def drain(store: Store) -> None:
    while (batch := await store.journal.read("alpha")) is not None:
        await store.consume(batch, counting("alpha", batch))


async def test_nodes_share_counters_and_count_each_result_once(url: str, tmp_path: Path) -> None:
    async with opened(url, tmp_path, "mx1") as one, opened(url, tmp_path, "mx2") as two:

        async def work(store: Store) -> None:
            for _ in range(5):
                await store.journal.append(*(tls_result(n) for n in range(5)))
                batch = await store.journal.read("alpha")
                assert batch is not None
                async with trio.open_nursery() as nursery:
                    for _ in range(3):  # the same batch, again and at once
                        nursery.start_soon(store.consume, batch, counting("alpha", batch))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, one)
            nursery.start_soon(work, two)
        assert await counted(one, "alpha") == {f"d{n}.example.com": 10 for n in range(5)}


async def test_two_processes_of_one_node_do_not_double(url: str, tmp_path: Path) -> None:
    """They take turns at the row of their position."""
    async with opened(url, tmp_path) as one, opened(url, tmp_path) as other:
        for _ in range(5):
            await one.journal.append(tls_result(1))
            batches = [await store.journal.read("alpha") for store in (one, other)]
            async with trio.open_nursery() as nursery:
                for store, batch in zip((one, other), batches, strict=True):
                    assert batch is not None
                    nursery.start_soon(store.consume, batch, counting("alpha", batch))
            for store in (one, other):
                assert await store.journal.read("alpha") is None
        assert await counted(one, "alpha") == {"d1.example.com": 5}


async def test_a_day_closes_when_both_nodes_have_passed_it(url: str, tmp_path: Path) -> None:
    day = Window.of_day(DAY)
    clock = SettableClock(day.start)
    async with opened(url, tmp_path, "mx1", clock) as one, opened(url, tmp_path, "mx2", clock) as two:
        await two.journal.append(tls_result(1))
        clock.advance(day.end - day.start + 600_000_000)
        await one.beat()
        await two.beat()
        assert await one.closed_until("alpha") == day.start
        await drain(two)
        await two.beat()
        assert await one.closed_until("alpha") == day.end


async def test_a_failing_write_fails_alone(url: str, tmp_path: Path) -> None:
    async with opened(url, tmp_path) as store:
        failed: list[int] = []

        async def one(number: int) -> None:
            key = "same" if number % 5 == 0 else str(number)
            try:
                await store.write(lambda c: c.exec_driver_sql("INSERT INTO alpha_seen VALUES (%s, 1)", (key,)) and None)
            except IntegrityError:
                failed.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
        assert len(failed) == 3
        assert len(await counted(store, "alpha")) == 17


async def test_deadlocks_with_others_are_tried_again(url: str, tmp_path: Path) -> None:
    async with opened(url, tmp_path, "mx1") as one, opened(url, tmp_path, "mx2") as two:
        await one.write(lambda c: c.exec_driver_sql("INSERT INTO alpha_seen VALUES ('a', 0), ('b', 0)") and None)

        async def work(store: Store, order: str) -> None:
            def add(connection: Connection) -> None:
                for key in order:
                    connection.exec_driver_sql("UPDATE alpha_seen SET n = n + 1 WHERE key = %s", (key,))
                    connection.exec_driver_sql("SELECT pg_sleep(0.05)")

            for _ in range(4):
                await store.write(add)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, one, "ab")
            nursery.start_soon(work, two, "ba")
        assert await counted(one, "alpha") == {"a": 8, "b": 8}


async def test_readers_cannot_write(url: str, tmp_path: Path) -> None:
    async with opened(url, tmp_path) as store:
        with pytest.raises(StoreError, match="read-only"):
            await store.read(lambda c: c.exec_driver_sql("DELETE FROM alpha_seen") and None)


def test_programs_that_start_at_once_upgrade_once(url: str) -> None:
    def create(op: object) -> None:
        counter_schema("plug").migrations[0](op)  # type: ignore[arg-type]

    def grow(op: object) -> None:
        op.add_column("plug_seen", sa.Column("more", sa.Text, server_default="x"))  # type: ignore[attr-defined]

    schemas = {"plug": Schema(migrations=(create, grow))}
    assert status(url, schemas)[0].pending == 2
    with ThreadPoolExecutor(6) as pool:
        before = list(pool.map(lambda _: upgrade(url, schemas)[0].current, range(6)))
    assert sorted(before) == [0, 2, 2, 2, 2, 2]
    assert status(url, schemas)[0].pending == 0
    with pytest.raises(StoreError, match="newer version"):
        upgrade(url, {"plug": Schema(migrations=(create,))})


def test_a_migration_that_fails_changes_nothing(url: str) -> None:
    def bad(op: object) -> None:
        raise LookupError("a bug")

    schemas = {"plug": counter_schema("plug"), "bad": Schema(migrations=(bad,))}
    with pytest.raises(StoreError, match="a bug; nothing was changed"):
        upgrade(url, schemas)
    assert [state.current for state in status(url, schemas)] == [0, 0]


async def test_a_restart_of_the_server_is_one_error_at_most(server: Server, url: str, tmp_path: Path) -> None:
    async with opened(url, tmp_path) as store:
        await store.journal.append(tls_result(1))
        batch = await store.journal.read("alpha")
        assert batch is not None
        await trio.to_thread.run_sync(server.stop)
        with pytest.raises(StoreError) as caught:
            await store.consume(batch, counting("alpha", batch))
        assert "\n" not in str(caught.value)
        with pytest.raises(StoreError):
            await store.read(lambda c: None)
        await store.journal.append(tls_result(2))  # the journal is local: deliveries go on
        await trio.to_thread.run_sync(server.start)
        await drain(store)
        assert await counted(store, "alpha") == {"d1.example.com": 1, "d2.example.com": 1}
        await trio.to_thread.run_sync(server.stop)
        await trio.to_thread.run_sync(server.start)
        # The pool's connections are all dead; nobody notices.
        assert await counted(store, "alpha") == {"d1.example.com": 1, "d2.example.com": 1}
        await store.write(lambda c: c.exec_driver_sql("UPDATE alpha_seen SET n = 7") and None)


async def test_an_unreachable_server_is_one_line_without_the_password() -> None:
    database = Database(open_engines("postgresql+psycopg://me:secret@/x?host=/nonexistent"))
    with pytest.raises(StoreError) as caught:
        await database.read(lambda c: None)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    await database.aclose()
