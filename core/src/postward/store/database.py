"""One database, used from trio: many small writes share one transaction, and each caller wakes after its commit.

A commit costs one fsync, whether it holds one row or a thousand. So callers hand functions to one writer task; it runs all
that wait in one transaction on one thread. When one of them fails, everything is rolled back and each is run again alone:
only the guilty one fails. Readers have connections of their own and never wait for the writer (WAL).
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import trio
from sqlalchemy import Connection, event
from sqlalchemy.exc import SQLAlchemyError

from postward.errors import StoreError
from postward.store.engine import READERS, Engines, explain, is_conflict, is_lost

T = TypeVar("T")

AT_ONCE: Final = 1000
TRIES: Final = 5
FINISH_WITHIN: Final = 30.0


class Companion(Protocol):
    """Something that adds its own rows to every transaction, such as the journal."""

    def begun(self) -> None:
        """A transaction begins: forget what an undone one left behind. Called in the writer's thread."""

    def before_commit(self, connection: Connection) -> None:
        """Write what has come together. Called in the writer's thread."""

    def after_commit(self) -> None:
        """That transaction is on disk. Called in the writer's thread."""

    def settled(self) -> None:
        """One or more transactions have ended, well or not. Called in the trio thread."""


class _Job(Generic[T]):
    __slots__ = ("abandoned", "error", "fn", "taken", "task", "value")

    def __init__(self, fn: Callable[[Connection], T]) -> None:
        self.fn = fn
        self.task = trio.lowlevel.current_task()
        self.taken = self.abandoned = False
        self.value: T | None = None
        self.error: BaseException | None = StoreError("the database was closed before this was written")


class _Undone(Exception):
    """A transaction that was not committed, and in which phase it failed."""

    def __init__(self, phase: str, error: BaseException) -> None:
        self.phase, self.error = phase, error
        super().__init__(phase)


class Database:
    """A database with one writer task. `run` must be running for `write` to return.

    With `inline`, functions run in the trio thread, in the same order and the same transactions: for tests whose time is not
    real, because a clock that jumps takes a working thread for idleness.
    """

    def __init__(self, engines: Engines, *, inline: bool = False) -> None:
        self.engines = engines
        self.companion: Companion | None = None
        self._inline = inline
        self._queue: deque[_Job[Any]] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self._closing = False
        self._committing = False
        self._finished = trio.Event()
        self._started = False
        self._scope = trio.CancelScope(shield=True)
        self._write_limit = trio.CapacityLimiter(1)
        self._read_limit = self._write_limit if engines.in_memory else trio.CapacityLimiter(READERS)
        event.listen(engines.writer, "commit", self._refuse_commit)

    def _refuse_commit(self, _connection: Connection) -> None:
        if not self._committing:
            raise RuntimeError("a write function must not commit: the transaction is shared with others")

    @property
    def inline(self) -> bool:
        """Whether functions run in the trio thread."""
        return self._inline

    async def write(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn(connection)` in a transaction and return its value once that is committed to disk.

        `fn` runs in another thread and may run twice, so it must have no other effects; it must be quick, because others
        share its transaction. What it raises comes out unchanged, and nothing of it is stored; trouble with the database
        itself comes out as `StoreError`. A caller that is cancelled before its turn leaves nothing behind; from its turn on,
        cancellation waits for the commit.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closing:
            raise StoreError(f"database {self.engines.name}: it is closed")
        job = _Job(fn)
        self._queue.append(job)
        self._idle.unpark()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            if job.taken:
                return trio.lowlevel.Abort.FAILED
            job.abandoned = True
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if job.error is not None:
            raise job.error
        return job.value  # type: ignore[return-value]  # no error: fn has returned

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn(connection)` on a connection that cannot write, and return its value. Raises as `write` does.

        What it sees is one consistent state. A cancelled caller waits until `fn` has returned.
        """
        if self._closing:
            raise StoreError(f"database {self.engines.name}: it is closed")
        work = partial(self._read, fn)
        if self._inline:
            await trio.lowlevel.checkpoint()
            return work()
        return await trio.to_thread.run_sync(work, limiter=self._read_limit)

    def _read(self, fn: Callable[[Connection], T]) -> T:
        for last in (False, True):
            try:
                with self.engines.reader.connect() as connection, connection.begin() as transaction:
                    value = fn(connection)
                    transaction.rollback()
                    return value
            # The driver's own errors pass by SQLAlchemy where its own connection is used.
            except (SQLAlchemyError, sqlite3.Error) as exc:
                if not last and is_lost(exc):
                    continue
                if (trouble := explain(exc, self.engines.name)) is not None:
                    raise trouble from exc
                raise
        raise AssertionError("unreachable")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what callers hand in, until `aclose`. Cancellation does not end it: what was taken must be finished."""
        self._started = True
        try:
            with self._scope:
                task_status.started()
                while self._queue or not self._closing:
                    if self._queue:
                        await self._next_batch()
                    else:
                        await self._idle.park()
        finally:
            self._closing = True
            for job in self._take(len(self._queue)):
                trio.lowlevel.reschedule(job.task)
            self._finished.set()

    def _take(self, most: int) -> list[_Job[Any]]:
        jobs = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
        jobs = [job for job in jobs if not job.abandoned]
        for job in jobs:
            job.taken = True
        return jobs

    async def _next_batch(self) -> None:
        jobs = self._take(AT_ONCE)
        if not jobs:
            return
        try:
            if self._inline:
                self._settle(jobs)
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                await trio.to_thread.run_sync(self._settle, jobs, limiter=self._write_limit)
        finally:
            if self.companion is not None:
                self.companion.settled()
            for job in jobs:
                trio.lowlevel.reschedule(job.task)

    async def aclose(self, *, finish_within: float = FINISH_WITHIN) -> None:
        """Finish what is queued, for `finish_within` seconds at most, then close; what is left fails with `StoreError`."""
        self._closing = True
        with trio.CancelScope(shield=True):
            if self._started:
                self._scope.deadline = trio.current_time() + finish_within
                self._idle.unpark()
                await self._finished.wait()
            if self._inline:
                self.engines.dispose()
            else:
                await trio.to_thread.run_sync(self.engines.dispose)

    # --- from here on: the writer's thread ---

    def _settle(self, jobs: list[_Job[Any]]) -> None:
        """Run jobs in one transaction, or each alone if that fails, and leave a value or an error in each of them."""
        try:
            values = self._with_retries(jobs)
        except _Undone as exc:
            # Only a failure inside may be the fault of one of them; an unknown end of a commit must not be repeated.
            if len(jobs) > 1 and (exc.phase == "inside" or (exc.phase == "commit" and not is_lost(exc.error))):
                for job in jobs:
                    self._settle([job])
                return
            trouble = explain(exc.error, self.engines.name)
            if trouble is not None:
                trouble.__cause__ = exc.error
            for job in jobs:
                job.error = trouble or exc.error
        else:
            for job, value in zip(jobs, values, strict=True):
                job.value, job.error = value, None

    def _with_retries(self, jobs: list[_Job[Any]]) -> list[Any]:
        for left in reversed(range(TRIES)):
            try:
                return self._transaction(jobs)
            except _Undone as exc:
                lost = is_lost(exc.error) and exc.phase != "commit"
                if not left or not (lost or is_conflict(exc.error)):
                    raise
            time.sleep(random.uniform(0, 0.02) * (TRIES - left))
        raise AssertionError("unreachable")

    def _transaction(self, jobs: list[_Job[Any]]) -> list[Any]:
        phase, done = "begin", False
        try:
            with self.engines.writer.connect() as connection:
                transaction = connection.begin()
                try:
                    phase = "inside"
                    if self.companion is not None:
                        self.companion.begun()
                    values = []
                    for job in jobs:
                        values.append(job.fn(connection))
                        if connection.get_transaction() is not transaction or not transaction.is_active:
                            raise RuntimeError("a write function must not roll back: the transaction is shared with others")
                    if self.companion is not None:
                        self.companion.before_commit(connection)
                    phase = "commit"
                    self._committing = True
                    transaction.commit()
                    done = True
                    if self.companion is not None:
                        self.companion.after_commit()
                finally:
                    self._committing = False
                    if transaction.is_active:
                        transaction.rollback()
                    elif not (done or connection.invalidated):
                        # SQLAlchemy takes a commit that failed for the end of the transaction; the driver does not.
                        connection.connection.rollback()
                return values
        except BaseException as exc:
            raise _Undone(phase, exc) from exc
