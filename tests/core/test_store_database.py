"""The group-commit writer: isolation, order, cancellation, shutdown, and errors an operator can read."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from postward.errors import StoreError
from postward.store import Database
from postward.store import engine as engines_module
from postward.store.engine import open_engines


@asynccontextmanager
async def running(url: str, *, inline: bool) -> AsyncIterator[Database]:
    database = Database(open_engines(url), inline=inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        try:
            await database.write(
                lambda c: c.exec_driver_sql("CREATE TABLE t (n INTEGER PRIMARY KEY, parent INTEGER REFERENCES t)") and None
            )
            yield database
        finally:
            await database.aclose()


def insert(number: int) -> Callable[[Connection], int]:
    def run(connection: Connection) -> int:
        connection.exec_driver_sql("INSERT INTO t (n) VALUES (?)", (number,))
        return number

    return run


def numbers(connection: Connection) -> list[int]:
    return [row.n for row in connection.exec_driver_sql("SELECT n FROM t ORDER BY n")]


@pytest.fixture(params=["file", "memory", "inline"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, bool]:
    return {
        "file": (f"sqlite:///{tmp_path / 'a' / 'x.db'}", False),
        "memory": ("sqlite://", False),
        "inline": ("sqlite://", True),
    }[str(request.param)]


def count_commits(database: Database) -> list[int]:
    commits: list[int] = []

    class Counter:
        def begun(self) -> None: ...
        def before_commit(self, connection: Connection) -> None: ...
        def settled(self) -> None: ...
        def after_commit(self) -> None:
            commits.append(1)

    database.companion = Counter()
    return commits


async def test_many_writers_share_a_commit_and_all_get_their_value(place: tuple[str, bool]) -> None:
    async with running(place[0], inline=place[1]) as database:
        commits = count_commits(database)
        values: list[int] = []

        async def one(number: int) -> None:
            values.append(await database.write(insert(number)))

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(one, number)
        assert sorted(values) == list(range(300))
        assert await database.read(numbers) == list(range(300))
        assert len(commits) <= 3


async def test_one_failing_write_fails_alone(place: tuple[str, bool]) -> None:
    async with running(place[0], inline=place[1]) as database:
        failed: dict[int, BaseException] = {}

        def bad(connection: Connection) -> None:
            connection.exec_driver_sql("INSERT INTO t (n) VALUES (1000)")
            raise LookupError("mine")

        async def one(number: int) -> None:
            try:
                await database.write(bad if number % 10 == 3 else insert(number))
            except LookupError as exc:
                failed[number] = exc

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(one, number)
        assert sorted(failed) == [3, 13, 23, 33]
        assert all(str(exc) == "mine" for exc in failed.values())
        assert await database.read(numbers) == [n for n in range(40) if n % 10 != 3]


async def test_a_constraint_that_fails_is_the_callers_own_error(place: tuple[str, bool]) -> None:
    async with running(place[0], inline=place[1]) as database:
        await database.write(insert(1))
        with pytest.raises(IntegrityError):
            await database.write(insert(1))
        with pytest.raises(IntegrityError):
            await database.write(lambda c: c.exec_driver_sql("INSERT INTO t VALUES (2, 99)") and None)


@pytest.mark.parametrize("method", ["commit", "rollback", "swallowed commit"])
async def test_a_write_function_cannot_end_the_shared_transaction(place: tuple[str, bool], method: str) -> None:
    async with running(place[0], inline=place[1]) as database:

        def unruly(connection: Connection) -> None:
            insert(500)(connection)
            if method == "swallowed commit":
                try:
                    connection.commit()
                except RuntimeError:
                    return
            getattr(connection, method)()

        errors: list[RuntimeError] = []

        async def run_unruly() -> None:
            try:
                await database.write(unruly)
            except RuntimeError as exc:
                errors.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, insert(1))
            nursery.start_soon(run_unruly)
            nursery.start_soon(database.write, insert(2))
        assert len(errors) == 1
        assert "must not" in str(errors[0])
        assert await database.read(numbers) == [1, 2]


async def test_exit_and_interrupt_inside_a_function_reach_only_its_caller(place: tuple[str, bool]) -> None:
    async with running(place[0], inline=place[1]) as database:
        for kind in (SystemExit, KeyboardInterrupt, GeneratorExit):

            def leave(_connection: Connection, kind: type[BaseException] = kind) -> None:
                raise kind

            with pytest.raises(kind):
                await database.write(leave)
        assert await database.write(insert(7)) == 7


async def test_a_caller_cancelled_before_its_turn_leaves_nothing(place: tuple[str, bool]) -> None:
    async with running(place[0], inline=place[1]) as database:
        with trio.CancelScope() as scope:
            scope.cancel()
            await database.write(insert(1))
        assert scope.cancelled_caught

        async def cancelled_while_waiting(started: trio.Event) -> None:
            with trio.CancelScope() as inner:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(database.write, insert(2))
                    await trio.lowlevel.checkpoint()
                    inner.cancel()
            started.set()

        done = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancelled_while_waiting, done)
        await database.write(insert(3))
        assert await database.read(numbers) in ([3], [2, 3])


async def test_a_write_that_was_taken_is_finished_whatever_happens_to_its_caller(tmp_path: Path) -> None:
    async with running(f"sqlite:///{tmp_path / 'x.db'}", inline=False) as database:
        entered, release = trio.Event(), trio.Event()

        def slow(connection: Connection) -> int:
            insert(1)(connection)
            trio.from_thread.run_sync(entered.set)
            trio.from_thread.run(release.wait)
            return 5

        got: list[int] = []

        async def caller(scope: trio.CancelScope) -> None:
            with scope:
                got.append(await database.write(slow))

        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller, scope)
            await entered.wait()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert not got
            release.set()
        # The caller learns what became of it, instead of a cancellation that could mean either.
        assert got == [5]
        assert await database.read(numbers) == [1]


async def test_closing_finishes_what_is_queued_and_refuses_what_comes_after(place: tuple[str, bool]) -> None:
    async with running(place[0], inline=place[1]) as database:
        values: list[int] = []

        async def one(number: int) -> None:
            values.append(await database.write(insert(number)))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
            for _ in range(2):  # every task has handed in its write
                await trio.lowlevel.checkpoint()
            await database.aclose()
        assert sorted(values) == list(range(20))
        for use in (database.write, database.read):
            with pytest.raises(StoreError, match="closed"):
                await use(numbers)


async def test_closing_gives_up_in_bounded_time(tmp_path: Path) -> None:
    """A hanging write holds up the ones behind it; those fail with a clear error when the time is over."""
    async with running(f"sqlite:///{tmp_path / 'x.db'}", inline=False) as database:
        entered, release = trio.Event(), trio.Event()

        def hang(_connection: Connection) -> None:
            trio.from_thread.run_sync(entered.set)
            trio.from_thread.run(release.wait)

        errors: list[StoreError] = []

        async def behind() -> None:
            try:
                await database.write(insert(1))
            except StoreError as exc:
                errors.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, hang)
            await entered.wait()
            nursery.start_soon(behind)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: database.aclose(finish_within=0))
            await trio.testing.wait_all_tasks_blocked()
            release.set()
        assert len(errors) == 1
        assert "closed" in str(errors[0])


async def test_readers_cannot_write_and_see_only_commits(tmp_path: Path) -> None:
    async with running(f"sqlite:///{tmp_path / 'x.db'}", inline=False) as database:
        with pytest.raises(StoreError, match="may only be read"):
            await database.read(insert(1))
        assert await database.read(numbers) == []


async def test_a_database_locked_by_another_program_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "BUSY_SECONDS", 0)
    path = tmp_path / "x.db"
    async with running(f"sqlite:///{path}", inline=False) as database:
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked") as caught:
                await database.write(insert(1))
            assert "\n" not in str(caught.value)
            assert str(path) in str(caught.value)
            assert await database.read(numbers) == []  # readers do not wait for writers
        finally:
            other.close()
        assert await database.write(insert(1)) == 1


async def test_a_full_disk_is_one_clear_line_and_passes(tmp_path: Path) -> None:
    async with running(f"sqlite:///{tmp_path / 'x.db'}", inline=False) as database:

        def fill(connection: Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
            try:
                for number in range(100_000):
                    insert(number)(connection)
            finally:
                connection.exec_driver_sql("PRAGMA max_page_count=1000000")

        with pytest.raises(StoreError, match="disk is full"):
            await database.write(fill)
        assert await database.write(insert(1)) == 1
        assert await database.read(numbers) == [1]


async def test_a_file_that_is_no_database_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"hello" * 1000)
    database = Database(open_engines(f"sqlite:///{path}"))
    with pytest.raises(StoreError, match="no SQLite database"):
        await database.read(numbers)
    await database.aclose()


def test_files_are_private_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.db"
    open_engines(f"sqlite:///{path}").dispose()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "oracle+cx://", "", "://"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(StoreError):
        open_engines(url)


async def test_commits_are_synchronous_and_logged_ahead(tmp_path: Path) -> None:
    """Durable on return: WAL with synchronous=FULL (2), and foreign keys are enforced."""
    async with running(f"sqlite:///{tmp_path / 'x.db'}", inline=False) as database:

        def pragmas(connection: Connection) -> list[object]:
            names = ("journal_mode", "synchronous", "foreign_keys")
            return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

        assert await database.write(pragmas) == ["wal", 2, 1]
