"""The outbox: every target reaches exactly one end, whatever dies in between (RFC 8460 §5.5)."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from itertools import pairwise

import pytest
import sqlalchemy as sa
import trio
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from postward.model import Delivered, ReportTarget
from postward.reports.outbox import GIVE_UP_AFTER, HOUR, LEASE, MINUTE, Claimed, Ended, Outbox, pause_after
from postward.reports.rows import State, put
from postward.reports.suppressions import Suppressions
from postward.reports.tables import MIGRATIONS, Base, lock_job
from report_kit import NEXT, make_report, migrate, results_database

A, B = ReportTarget(uri="mailto:a@b.example"), ReportTarget(uri="https://r.example/x")
YES = Delivered(accepted=True, detail="250 ok")
NO = Delivered(accepted=False, permanent=True, detail="550 5.7.1 no")
LATER = Delivered(accepted=False, detail="450 later")


async def store(database, *reports, targets=(A,), due=NEXT):
    await database.write(lambda connection: put(connection, reports, targets, due=due, cid="c"))


async def test_a_target_is_claimed_once_and_delivered():
    async with results_database() as database:
        outbox = Outbox(database, node="n")
        report = make_report()
        await store(database, report)
        assert await outbox.claim(NEXT - 1) is None
        claimed = await outbox.claim(NEXT)
        assert isinstance(claimed, Claimed)
        assert (claimed.report, claimed.target, claimed.attempts, claimed.cid) == (report, A, 1, "c")
        assert await outbox.claim(NEXT) is None
        ended = await outbox.settle(claimed, YES, NEXT + 1)
        assert ended is not None
        assert (ended.outcome.state, ended.outcome.attempts, ended.outcome.detail) == ("delivered", 1, "250 ok")
        assert await outbox.claim(NEXT + 100 * HOUR) is None
        assert await outbox.counts() == {"delivered": 1}
        assert await outbox.settle(claimed, YES, NEXT + 2) is None


async def test_targets_are_apart():
    async with results_database() as database:
        outbox = Outbox(database)
        await store(database, make_report(), targets=(A, B, A))
        first, second = await outbox.claim(NEXT), await outbox.claim(NEXT)
        assert await outbox.claim(NEXT) is None
        assert {first.target.uri, second.target.uri} == {A.uri, B.uri}
        await outbox.settle(first, NO, NEXT)
        await outbox.settle(second, YES, NEXT)
        assert await outbox.counts() == {"failed": 1, "delivered": 1}


async def test_retries_grow_and_end_after_a_day():
    """RFC 8460 §5.5: exponential back-off, 24 hours from the first attempt."""
    async with results_database() as database:
        outbox = Outbox(database)
        await store(database, make_report())
        now, pauses, ended = NEXT, [], None
        while ended is None and len(pauses) < 30:
            claimed = await outbox.claim(now)
            ended = await outbox.settle(claimed, LATER, now)
            if ended is None:
                due = await outbox.next_due()
                pauses.append(due - now)
                assert await outbox.claim(due - 1) is None
                now = due
        assert ended is not None
        assert now == NEXT + GIVE_UP_AFTER
        assert ended.outcome.state == "failed"
        assert ended.outcome.detail == "given up after 24 hours: 450 later"
        assert 4 * MINUTE <= pauses[0] <= 6 * MINUTE
        assert all(later > sooner for sooner, later in pairwise(pauses[:6]))
        assert ended.outcome.attempts == len(pauses) + 1 < 20


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_are_bounded(attempts, chance):
    assert 4 * MINUTE <= pause_after(attempts, chance) <= 4.8 * HOUR


async def test_a_dead_process_loses_its_lease():
    async with results_database() as database:
        outbox = Outbox(database)
        await store(database, make_report())
        dead = await outbox.claim(NEXT)
        assert await outbox.claim(NEXT + LEASE - 1) is None
        other = await outbox.claim(NEXT + LEASE)
        assert (other.report, other.attempts) == (dead.report, 2)
        # The dead one was only slow. Its bad news is old, its good news is true.
        assert await outbox.settle(dead, NO, NEXT + LEASE + 1) is None
        assert await outbox.counts() == {"leased": 1}
        assert (await outbox.settle(dead, YES, NEXT + LEASE + 2)).outcome.state == "delivered"
        assert await outbox.settle(other, NO, NEXT + LEASE + 3) is None
        assert await outbox.counts() == {"delivered": 1}


async def test_suppressed_addresses_get_nothing():
    async with results_database() as database:
        outbox = Outbox(database)
        for subject in ("A@b.example", "r.example"):
            await Suppressions(database).add(subject, until=NEXT + HOUR, reason="asked us to")
        await store(database, make_report(), targets=(A, B, ReportTarget(uri="mailto:other@b.example")))
        items = [await outbox.claim(NEXT) for _ in range(3)]
        ended = {item.outcome.target.uri: item.outcome for item in items if isinstance(item, Ended)}
        assert set(ended) == {A.uri, B.uri}
        assert ended[A.uri].state == "suppressed"
        assert ended[A.uri].detail == "a@b.example is suppressed: asked us to"
        assert [each.subject for each in await Suppressions(database).list()] == ["a@b.example", "r.example"]
        assert await Suppressions(database).remove("r.example")
        assert not await Suppressions(database).remove("r.example")
        await store(database, make_report("r2"), targets=(A,))
        assert isinstance(await outbox.claim(NEXT + HOUR), Claimed), "the suppression has run out"


@pytest.mark.parametrize(
    ("detail", "suppressed"),
    [("550 5.1.1 no such user", True), ("550 5.2.1 disabled", True), ("550 5.7.1 bad DKIM", False), ("550 go away", True)],
)
async def test_an_address_that_does_not_exist_is_suppressed(detail, suppressed):
    """A refusal of the mailbox stops later reports; a refusal of this message does not."""
    async with results_database() as database:
        outbox = Outbox(database)
        await store(database, make_report())
        await outbox.settle(await outbox.claim(NEXT), replace(NO, detail=detail), NEXT)
        assert [each.subject for each in await Suppressions(database).list()] == (["a@b.example"] if suppressed else [])


async def test_the_same_report_is_never_stored_twice():
    """A second build of a window that was built already is undone as a whole."""
    async with results_database() as database:
        await store(database, make_report())
        with pytest.raises((sa.exc.IntegrityError, sqlite3.IntegrityError)):
            await store(database, make_report("other"), make_report())
        assert await Outbox(database).counts() == {"pending": 1}


async def test_it_survives_the_process(tmp_path):
    url = f"sqlite:///{tmp_path}/results.db"
    async with results_database(url) as database:
        await store(database, make_report())
        await Outbox(database).claim(NEXT)
    async with results_database(url, new=False) as database:
        outbox = Outbox(database)
        assert await outbox.next_due() == NEXT + LEASE
        claimed = await outbox.claim(NEXT + LEASE)
        assert claimed.report == make_report()


async def test_old_reports_go_once_all_targets_have_ended():
    async with results_database() as database:
        outbox = Outbox(database)
        await store(database, make_report("done"), make_report("open"))
        item = await outbox.claim(NEXT)
        await outbox.settle(item, YES, NEXT)
        assert await outbox.prune(NEXT + 13 * 24 * HOUR) == 0
        assert await outbox.prune(NEXT + 15 * 24 * HOUR) == 1
        assert await outbox.counts() == {"pending": 1}


async def test_migration_makes_what_the_models_say():
    async with results_database() as database:

        def differences(connection):
            from alembic.autogenerate import compare_metadata

            context = MigrationContext.configure(connection, opts={"compare_type": False})
            return compare_metadata(context, Base.metadata)

        assert await database.read(differences) == []


async def test_builds_of_a_job_take_turns():
    async with results_database() as database:
        for _ in range(2):
            await database.write(lambda connection: lock_job(connection, "tls"))
        rows = await database.read(lambda connection: connection.execute(sa.text("SELECT * FROM core_report_locks")).all())
        assert rows == [], "who writes to SQLite is alone; the test with PostgreSQL shows the turns"


class OutboxMachine(RuleBasedStateMachine):
    """Two senders that share an outbox, die, answer late and are answered by anything.

    Every target ends once; one that was told delivered was really sent; nothing is sent again after its end was stored.
    """

    def __init__(self):
        super().__init__()
        self.engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        self.connection = self.engine.connect()
        migrate(self.connection, MIGRATIONS)
        self.now, self.count = NEXT, 0
        self.held: list[Claimed] = []
        self.sent: dict[tuple[str, str], int] = {}
        self.ended: dict[tuple[str, str], str] = {}
        self.known: set[tuple[str, str]] = set()
        self.times: dict[str, int] = {}

    def write(self, call):
        """Run one Outbox method against the connection, without a writer task."""

        class Direct:
            async def write(_, fn):
                return fn(self.connection)

            read = write

        return trio.run(call, Outbox(Direct(), node="n"))

    @rule(to=st.lists(st.sampled_from([A, B]), min_size=1, max_size=2, unique=True), wait=st.integers(0, 3))
    def build(self, to, wait):
        self.count += 1
        report = make_report(f"r{self.count}")
        put(self.connection, [report], to, due=self.now + wait * MINUTE)
        self.known |= {(report.report_id, target.uri) for target in to}

    @rule()
    def claim(self):
        item = self.write(lambda outbox: outbox.claim(self.now))
        if isinstance(item, Claimed):
            key = item.report.report_id, item.target.uri
            assert key not in self.ended, "sent again after its end"
            assert all((held.key, held.position) != (item.key, item.position) or self.expired(held) for held in self.held)
            self.held.append(item)
            self.times[item.token] = self.now

    def expired(self, held):
        return self.times[held.token] + LEASE <= self.now

    @precondition(lambda self: self.held)
    @rule(data=st.data(), answer=st.sampled_from([YES, NO, LATER]))
    def settle(self, data, answer):
        item = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        key = item.report.report_id, item.target.uri
        if answer is YES:
            self.sent[key] = self.sent.get(key, 0) + 1
        ended = self.write(lambda outbox: outbox.settle(item, answer, self.now))
        if ended is not None:
            assert key not in self.ended, "ended twice"
            self.ended[key] = ended.outcome.state
            assert (ended.outcome.state == "delivered") == (answer is YES)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), sent=st.booleans())
    def die(self, data, sent):
        """The process ends, before or after the receiver took the report, and nothing is stored."""
        item = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        if sent:
            key = item.report.report_id, item.target.uri
            self.sent[key] = self.sent.get(key, 0) + 1

    @rule(minutes=st.sampled_from([1, 5, 20, 60, 300]))
    def wait(self, minutes):
        self.now += minutes * MINUTE

    @invariant()
    def nothing_is_lost(self):
        rows = self.connection.execute(
            sa.text("SELECT report_id, uri, state FROM core_outbox JOIN core_outbox_targets ON report = id")
        ).all()
        assert {(row.report_id, row.uri) for row in rows} == self.known
        stored = {(row.report_id, row.uri): row.state for row in rows if row.state not in ("pending", "leased")}
        assert stored == self.ended

    def teardown(self):
        """Left alone, every target reaches its end within two days."""
        for _ in range(12):
            self.now += 4 * HOUR
            self.held.clear()
            self.claim()
            while self.held:
                item = self.held.pop()
                self.write(lambda outbox, item=item: outbox.settle(item, LATER, self.now))
                self.claim()
        states = {row[0] for row in self.connection.execute(sa.text("SELECT state FROM core_outbox_targets"))}
        assert states <= {State.DELIVERED, State.FAILED, State.SUPPRESSED}
        self.connection.close()
        self.engine.dispose()


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
