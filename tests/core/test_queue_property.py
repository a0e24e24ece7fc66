"""In whatever order things happen: a committed recipient is delivered, failed, dropped or queued, and exactly one of these."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from postward.errors import StoreError
from postward.names import Domain
from postward.queue import EVERYTHING, SCHEMA, BounceMail, Dropped, End, Job, Pick, Queue
from postward.store.engine import open_engines
from postward.store.migrations import upgrade_engine
from queue_kit import MINUTE, NOW, FixedClock, Rig, new_message
from result_kit import tls_result

DOMAINS = [Domain("a.example"), Domain("b.example"), Domain("sender.example")]
PICKS = st.one_of(
    st.just(EVERYTHING),
    st.just(Pick(held=True)),
    st.sampled_from(DOMAINS).map(lambda name: Pick(domain=name)),
    st.sampled_from(["", "from@sender.example"]).map(lambda name: Pick(sender=name)),
)
STATES = ["delivered", "failed", "deferred"]


class Direct:
    """A node's database without a writer task, and a journal that counts."""

    inline = True

    def __init__(self) -> None:
        self.engines = open_engines("sqlite://")
        upgrade_engine(self.engines.writer, {"queue": SCHEMA})
        self.journalled = self._held = 0

    async def write(self, fn: Callable[[Any], Any]) -> Any:
        self._held = 0
        with self.engines.writer.begin() as connection:
            value = fn(connection)
        self.journalled += self._held
        return value

    read = write

    def append_in(self, _connection: object, results: Sequence[object]) -> None:
        self._held += len(results)


class QueueMachine(RuleBasedStateMachine):
    """A runner and an operator on one queue; `queued` is what they must find in it, `ended` what must never come back."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        database: Any = Direct()
        self.database, self.clock = database, FixedClock()
        self.queue = Queue(database, database, self.folder, self.clock)
        store: Any = SimpleNamespace(node_db=database)
        self.rig = Rig(self.queue, store, self.clock, self.folder)
        self.flight: list[Job] = []
        self.queued: set[tuple[str, int]] = set()
        self.ended: dict[tuple[str, int], str] = {}
        self.results = 0

    def teardown(self) -> None:
        self.database.engines.dispose()
        shutil.rmtree(self.folder)

    def run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            return await call()

        return trio.run(main)

    def end(self, key: tuple[str, int], how: str) -> None:
        assert key in self.queued, f"{key} ended as {how}, and was {self.ended.get(key, 'never there')}"
        self.queued.remove(key)
        self.ended[key] = how

    def rows(self, where: str = "1") -> set[tuple[str, int]]:
        query = f"SELECT cid, position FROM queue_recipients JOIN queue_messages ON id = message WHERE {where}"
        return set(self.run(lambda: self.rig.rows(query)))

    @rule(to=st.lists(st.sampled_from(DOMAINS), min_size=1, max_size=4), large=st.booleans(), null=st.booleans())
    def put(self, to: list[Domain], large: bool, null: bool) -> None:
        body = b"x" * (70_000 if large else 5)
        how = {"sender": None} if null else {}
        cid = self.run(lambda: self.rig.put(*(f"u{n}@{name}" for n, name in enumerate(to)), body=body, **how))
        self.queued |= {(cid, position) for position in range(len(to))}

    @precondition(lambda self: self.queued)
    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        self._claim(limit)

    def _claim(self, limit: int) -> None:
        taken = {job.message.id for job in self.flight}
        names = self.run(lambda: self.queue.due(self.clock.now(), 9))
        jobs = self.run(lambda: self.queue.claim_many(names, self.clock.now(), limit, taken))
        for job in jobs:
            name = job.domain
            assert sum(other.domain == name for other in jobs) <= limit
            assert job.message.id not in taken
            assert job.recipients
            for one in job.recipients:
                assert (job.message.cid, one.id) in self.queued, "handed out after its end"
                assert one.address.domain == name
        self.flight += jobs

    @precondition(lambda self: self.queued)
    @rule(limit=st.integers(1, 3), data=st.data())
    def attempt(self, limit: int, data: st.DataObject) -> None:
        """What happens most: a claim with its end."""
        self._claim(limit)
        if self.flight:
            self._settle(data, data.draw(st.integers(0, 3)), data.draw(st.sampled_from([0, 5, 70_000])), False)

    @precondition(lambda self: self.flight)
    @rule(data=st.data(), waits=st.integers(0, 3), size=st.sampled_from([0, 5, 70_000]), twice=st.booleans())
    def settle(self, data: st.DataObject, waits: int, size: int, twice: bool) -> None:
        self._settle(data, waits, size, twice)

    def _settle(self, data: st.DataObject, waits: int, size: int, twice: bool) -> None:
        job = self.flight.pop(data.draw(st.integers(0, len(self.flight) - 1)))
        states = [data.draw(st.sampled_from(STATES)) for _ in job.recipients]
        instant = self.clock.now() + waits * MINUTE
        ends = [
            End(recipient=one.id, state=state, reply="x", next_try=instant)
            for one, state in zip(job.recipients, states, strict=True)
        ]
        bounce = BounceMail(message=new_message("from@sender.example", sender=None), content=b"b" * size)
        bounces = [bounce] if size else []
        keys = {(job.message.cid, end.recipient): end.state for end in ends}
        there = self.queued & set(keys)
        self.run(lambda: self.queue.settle(job, ends, results=[tls_result(1)], bounces=bounces))
        self.results += 1
        for key in there:
            if keys[key] != "deferred":
                self.end(key, keys[key])
        if bounces and there:
            self.queued.add((bounce.message.cid, 0))
        if twice and "deferred" not in states:
            # What is settled again finds nothing of its own.
            self.run(lambda: self.queue.settle(job, ends, results=[tls_result(1)], bounces=bounces))
            self.results += 1

    @precondition(lambda self: self.flight and self.queued)
    @rule(data=st.data())
    def fail_to_settle(self, data: st.DataObject) -> None:
        """The transaction is undone: nothing of it may stay."""
        job = self.flight[data.draw(st.integers(0, len(self.flight) - 1))]
        there = {(job.message.cid, one.id) for one in job.recipients} & self.queued
        if not there:
            return
        cid = sorted(self.queued)[0][0]
        clash = BounceMail(message=new_message("from@sender.example", sender=None, cid=cid), content=b"b" * 70_000)
        other = BounceMail(message=new_message("from@sender.example", sender=None), content=b"b" * 70_000)
        ends = [End(recipient=one.id, state="failed", reply="x") for one in job.recipients]
        # The message whose id clashes must be another one, for its own may be gone by then.
        try:
            self.run(lambda: self.queue.settle(job, ends, results=[tls_result(1)], bounces=[other, clash]))
        except StoreError:
            return
        self.results += 1
        for key in there:
            self.end(key, "failed")
        self.queued |= {(other.message.cid, 0), (cid, 0)}

    @precondition(lambda self: self.flight)
    @rule()
    def crash(self) -> None:
        """The process dies: what was in flight is not known any more, and files without rows may be left."""
        self.flight.clear()
        (self.folder / ("0" * 32)).write_bytes(b"half")
        assert self.run(self.queue.clean) == 1

    @rule(pick=PICKS)
    def hold(self, pick: Pick) -> None:
        self.run(lambda: self.queue.hold(pick))

    @rule(pick=PICKS)
    def release(self, pick: Pick) -> None:
        self.run(lambda: self.queue.release(pick))

    @rule(pick=PICKS)
    def retry(self, pick: Pick) -> None:
        self.run(lambda: self.queue.retry(pick))

    @rule(name=st.one_of(st.none(), st.sampled_from(DOMAINS)))
    def flush(self, name: Domain | None) -> None:
        self.run(lambda: self.queue.flush(name))
        waiting = self.rows("state = 0" + ("" if name is None else f" AND domain = '{name}'"))
        if waiting:
            assert self.run(lambda: self.queue.due(self.clock.now(), 9))

    @rule(pick=PICKS, tell=st.booleans())
    def drop(self, pick: Pick, tell: bool) -> None:
        told: list[str] = []

        async def bounce(dropped: Dropped) -> BounceMail | None:
            if dropped.message.sender is None:
                return None
            mail = new_message(str(dropped.message.sender), sender=None)
            told.append(mail.cid)
            return BounceMail(message=mail, content=b"b" * 70_000)

        count = self.run(lambda: self.queue.drop(pick, bounce=bounce if tell else None))
        self.queued |= {(cid, 0) for cid in told}
        gone = self.queued - self.rows()
        assert len(gone) == count
        for key in gone:
            self.end(key, "dropped")

    @rule(name=st.sampled_from(DOMAINS), minutes=st.integers(-1, 300))
    def postpone(self, name: Domain, minutes: int) -> None:
        self.run(lambda: self.queue.postpone(name, self.clock.now() + minutes * MINUTE))

    @rule(minutes=st.sampled_from([1, 60, -3000, 3000]))
    def pass_time(self, minutes: int) -> None:
        self.clock.instant = max(NOW, self.clock.instant + minutes * MINUTE)
        self.run(lambda: self.queue.due(self.clock.now(), 9))
        due = self.run(self.queue.next_due)
        assert due is None or due <= self.clock.now() + self.queue._longest_wait

    @invariant()
    def nothing_is_lost_or_double(self) -> None:
        assert self.rows() == self.queued
        assert not self.queued & set(self.ended)
        assert self.run(self.rig.wrong) == []
        assert self.database.journalled == self.results


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
