"""Windows: closed once, built once, in one transaction with the outbox (RFC 8460 §4.1)."""

from __future__ import annotations

import random

import sqlalchemy as sa
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from postward.errors import TryLater
from postward.model import ReportJob, ReportTarget, Window
from postward.reports.outbox import HOUR, Outbox
from postward.reports.schedule import Scheduler, Watcher
from report_kit import DAY, NEXT, FakeLog, HandClock, VirtualClock, make_report, results_database

RUA = ReportTarget(uri="mailto:a@b.example")


def counters(op):
    op.create_table(
        "x_counters",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("n", sa.Integer),
    )


class Plugin:
    """A plugin that counts by subject and reports the count as the content of its report."""

    def __init__(self, database):
        self.database = database
        self.answers = {}
        self.crash_in_build = False
        self.job = ReportJob(
            name="x", windows=self.windows, subjects=self.subjects, targets=self.targets, build=self.build, jitter=7200
        )

    async def count(self, day, subject, n=1):
        statement = sa.text(
            "INSERT INTO x_counters VALUES (:d, :s, :n) ON CONFLICT (day, subject) DO UPDATE SET n = x_counters.n + :n"
        )
        await self.database.write(lambda connection: connection.execute(statement, {"d": day, "s": subject, "n": n}))

    async def rows(self, where="", **values):
        statement = sa.text(f"SELECT day, subject, n FROM x_counters {where} ORDER BY 1, 2")
        return await self.database.read(lambda connection: connection.execute(statement, values).all())

    async def windows(self):
        return [Window.of_day(day) for day in sorted({row.day for row in await self.rows()})]

    async def subjects(self, window):
        return [row.subject for row in await self.rows("WHERE day = :d", d=window.day)]

    async def targets(self, window, subject):
        await trio.lowlevel.checkpoint()
        answer = self.answers.get(subject, [RUA])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def build(self, connection, window, subject, targets):
        values = {"d": window.day, "s": subject}
        row = connection.execute(sa.text("SELECT n FROM x_counters WHERE day = :d AND subject = :s"), values).one_or_none()
        connection.execute(sa.text("DELETE FROM x_counters WHERE day = :d AND subject = :s"), values)
        if self.crash_in_build:
            raise RuntimeError("died while building")
        if row is None or not targets:
            return []
        return [make_report(f"{window.day}.{subject}", window=window, content=str(row.n).encode())]


class Kept(Watcher):
    """Keeps the reports of a run."""

    def __init__(self):
        self.reports = []

    def built(self, built):
        self.reports.append(built.report)


def scheduler(plugin, database, *, closed=NEXT, log=None, jobs=None, **options):
    async def closed_until(name):
        assert name == "plug"
        return closed

    class Store:
        results = database

    return Scheduler(
        jobs=jobs or [("plug", plugin.job)],
        store=Store(),
        clock=options.pop("clock", HandClock()),
        closed_until=closed_until,
        outbox=Outbox(database),
        log=(log or FakeLog()).log,
        **({"jitter": False} | options),
    )


async def drain(database, now=NEXT + 30 * HOUR):
    outbox, found = Outbox(database), []
    while (item := await outbox.claim(now)) is not None:
        found.append(item)
    return found


async def test_a_closed_day_is_built_once():
    async with results_database(migrations=(counters,)) as database:
        plugin = Plugin(database)
        await plugin.count("2026-11-23", "b.example", 3)
        await plugin.count("2026-11-23", "c.example", 1)
        await plugin.count("2026-11-24", "b.example", 9)
        log, kicks = FakeLog(), []
        kept = Kept()
        runs = scheduler(plugin, database, log=log, built=lambda: kicks.append(1), watcher=kept)
        run = await runs.run_once()
        assert sorted(report.content for report in kept.reports) == [b"1", b"3"]
        assert run.complete
        assert kicks == [1]
        assert [tuple(row) for row in await plugin.rows()] == [("2026-11-24", "b.example", 9)]
        again = await runs.run_once()
        assert (again.built, again.complete) == (0, True)
        items = await drain(database)
        assert sorted(item.report.content for item in items) == [b"1", b"3"]
        lines = [event for event in log.events if event["event"] == "report-built"]
        assert len({line["report_cid"] for line in lines}) == 2
        assert {line["cid"] for line in lines} == {run.cid}
        assert {item.cid for item in items} == {line["report_cid"] for line in lines}


async def test_leftover_days_keep_their_own_windows():
    async with results_database(migrations=(counters,)) as database:
        plugin = Plugin(database)
        for day in ("2026-11-21", "2026-11-22", "2026-11-23"):
            await plugin.count(day, "b.example")
        kept = Kept()
        await scheduler(plugin, database, watcher=kept).run_once()
        assert [report.window.day for report in kept.reports] == ["2026-11-21", "2026-11-22", "2026-11-23"]
        assert len({report.report_id for report in kept.reports}) == 3


async def test_one_day_alone():
    """`reports send --day` leaves the other days."""
    async with results_database(migrations=(counters,)) as database:
        plugin, kept = Plugin(database), Kept()
        for day in ("2026-11-21", "2026-11-22", "2026-11-23"):
            await plugin.count(day, "b.example")
        await scheduler(plugin, database, watcher=kept).run_once(day="2026-11-22")
        assert [report.window.day for report in kept.reports] == ["2026-11-22"]
        assert [row.day for row in await plugin.rows()] == ["2026-11-21", "2026-11-23"]


async def test_a_window_waits_for_every_node():
    async with results_database(migrations=(counters,)) as database:
        plugin = Plugin(database)
        await plugin.count("2026-11-23", "b.example")
        run = await scheduler(plugin, database, closed=DAY.end - 1).run_once()
        assert (run.built, run.waiting, run.complete) == (0, 1, False)
        assert (await scheduler(plugin, database, closed=DAY.end).run_once()).built == 1


async def test_nobody_asked():
    async with results_database(migrations=(counters,)) as database:
        plugin = Plugin(database)
        plugin.answers = {"b.example": []}
        await plugin.count("2026-11-23", "b.example")
        run = await scheduler(plugin, database).run_once()
        assert (run.built, run.nobody) == (0, 1)
        assert await plugin.rows() == []


async def test_trouble_with_one_subject_does_not_stop_others():
    async with results_database(migrations=(counters,)) as database:
        plugin, log = Plugin(database), FakeLog()
        plugin.answers = {"a.example": TryLater("DNS: SERVFAIL"), "c.example": ValueError("bug")}
        for subject in ("a.example", "b.example", "c.example", "d.example"):
            await plugin.count("2026-11-23", subject)
        kept = Kept()
        runs = scheduler(plugin, database, log=log, watcher=kept)
        run = await runs.run_once()
        assert sorted(report.report_id[11:] for report in kept.reports) == ["b.example", "d.example"]
        assert (run.later, run.failed, run.complete) == (1, 1, False)
        assert any(event["event"] == "report-postponed" and event["reason"] == "DNS: SERVFAIL" for event in log.events)
        plugin.answers = {}
        assert (await runs.run_once()).built == 2


async def test_a_slow_name_server_does_not_stop_the_run(autojump_clock):
    async with results_database(migrations=(counters,)) as database:
        plugin = Plugin(database)
        await plugin.count("2026-11-23", "a.example")
        await plugin.count("2026-11-23", "b.example")
        targets = plugin.targets

        async def slow(window, subject):
            if subject == "a.example":
                await trio.sleep_forever()
            return await targets(window, subject)

        object.__setattr__(plugin.job, "targets", slow)
        run = await scheduler(plugin, database).run_once()
        assert (run.built, run.later) == (1, 1)


async def test_a_crash_while_building_leaves_the_counters():
    async with results_database(migrations=(counters,)) as database:
        plugin = Plugin(database)
        await plugin.count("2026-11-23", "b.example", 5)
        plugin.crash_in_build = True
        run = await scheduler(plugin, database).run_once()
        assert (run.failed, await drain(database)) == (1, [])
        assert [tuple(row) for row in await plugin.rows()] == [("2026-11-23", "b.example", 5)]
        plugin.crash_in_build = False
        kept = Kept()
        await scheduler(plugin, database, watcher=kept).run_once()
        assert [report.content for report in kept.reports] == [b"5"]


async def test_one_plugin_does_not_stop_another():
    async with results_database(migrations=(counters,)) as database:
        plugin = Plugin(database)
        await plugin.count("2026-11-23", "b.example")

        async def broken():
            raise RuntimeError("bug")

        bad = ReportJob(name="bad", windows=broken, subjects=plugin.subjects, targets=plugin.targets, build=plugin.build)
        run = await scheduler(plugin, database, jobs=[("bad", bad), ("plug", plugin.job)]).run_once()
        assert (run.built, run.failed) == (1, 1)


async def test_sending_is_spread():
    """RFC 8460 §4.1: reports are delayed by up to hours, so that receivers do not get all at midnight."""
    async with results_database(migrations=(counters,)) as database:
        plugin = Plugin(database)
        for i in range(40):
            await plugin.count("2026-11-23", f"d{i}.example")
        await scheduler(plugin, database, jitter=True, rng=random.Random(1)).run_once(NEXT)
        early = len(await drain(database, NEXT + 3600 * 1_000_000))
        assert 5 < early < 35
        assert all(item.report.report_id for item in await drain(database, NEXT + 7200 * 1_000_000))
        assert await Outbox(database).counts() == {"leased": 40}


async def test_runs_at_start_and_after_midnight(autojump_clock):
    async with results_database(migrations=(counters,)) as database, trio.open_nursery() as nursery:
        plugin, outbox = Plugin(database), Outbox(database)
        await plugin.count("2026-11-23", "left.example")
        nursery.start_soon(scheduler(plugin, database, clock=VirtualClock(), closed=NEXT + 100 * HOUR).run_forever)
        await trio.sleep(1)
        assert await outbox.counts() == {"pending": 1}
        await plugin.count("2026-11-24", "b.example")
        await trio.sleep(23 * 3600 - 10)
        assert await outbox.counts() == {"pending": 1}
        await trio.sleep(120)
        assert await outbox.counts() == {"pending": 2}
        nursery.cancel_scope.cancel()


async def test_what_was_left_is_tried_again_before_the_next_day(autojump_clock):
    async with results_database(migrations=(counters,)) as database, trio.open_nursery() as nursery:
        plugin, outbox = Plugin(database), Outbox(database)
        await plugin.count("2026-11-23", "b.example")
        plugin.answers = {"b.example": TryLater("x")}
        nursery.start_soon(scheduler(plugin, database, clock=VirtualClock()).run_forever)
        await trio.sleep(60)
        plugin.answers = {}
        await trio.sleep(3600)
        assert await outbox.counts() == {"pending": 1}
        nursery.cancel_scope.cancel()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("count"), st.sampled_from(["2026-11-22", "2026-11-23"]), st.sampled_from("ab")),
        st.tuples(st.sampled_from(["run", "crash", "dns"]), st.just(""), st.just("")),
    ),
    max_size=25,
)


@settings(max_examples=50, deadline=None)
@given(steps=STEPS)
async def test_every_count_is_reported_exactly_once(steps):
    """Whatever fails in between, counters plus reports hold what was counted."""
    async with results_database(migrations=(counters,)) as database:
        plugin, counted, unique = Plugin(database), 0, 0
        build = plugin.build

        def numbered(connection, window, subject, targets):
            nonlocal unique
            unique += 1
            return [make_report(f"u{unique}", content=report.content) for report in build(connection, window, subject, targets)]

        object.__setattr__(plugin.job, "build", numbered)
        for step, day, subject in steps:
            if step == "count":
                await plugin.count(day, subject)
                counted += 1
                continue
            plugin.crash_in_build = step == "crash"
            plugin.answers = {"a": TryLater("x"), "b": TryLater("x")} if step == "dns" else {}
            await scheduler(plugin, database).run_once()
        left = sum(row.n for row in await plugin.rows())
        assert left + sum(int(item.report.content) for item in await drain(database)) == counted
