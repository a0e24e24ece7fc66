"""Sending what is due: plugins first, then mail and HTTPS; every end is told once."""

from __future__ import annotations

import pytest
import trio

from postward.dkim import Signer, SigningKey, generate
from postward.errors import StoreError
from postward.http import HttpResponse
from postward.model import MICROSECONDS, Delivered, Delivery, RecipientOutcome, ReportTarget
from postward.names import Domain
from postward.reports.outbox import HOUR, LEASE, MINUTE, Outbox
from postward.reports.rows import put
from postward.reports.sender import Sender
from postward.reports.suppressions import Suppressions
from report_kit import NEXT, FakeHooks, FakeLog, FakeOutcome, HandClock, VirtualClock, make_report, results_database

MAIL, WEB = ReportTarget(uri="mailto:a@b.example"), ReportTarget(uri="https://r.example/x")
ODD = ReportTarget(uri="ftp://b.example/x")
SIGNER = Signer([SigningKey(domain=Domain("a.example"), selector="s", key=generate("ed25519"))])


class World:
    """A sender whose mail and HTTPS end here."""

    def __init__(self, database, *, hooks=None, refuse_mail=0, **options):
        self.hooks, self.clock, self.log = hooks or FakeHooks(), HandClock(), FakeLog()
        self.outbox, self.database = Outbox(database), database
        self.mails, self.posts, self.refuse_mail = [], [], refuse_mail
        self.sender = Sender(
            outbox=self.outbox,
            hooks=self.hooks,
            clock=self.clock,
            signer=SIGNER,
            http=self,
            send=self.send,
            log=self.log.log,
            **options,
        )

    async def send(self, message):
        await trio.lowlevel.checkpoint()
        self.mails.append(message)
        good = len(self.mails) > self.refuse_mail
        reply = "250 2.0.0 ok" if good else "451 4.3.0 later"
        item = RecipientOutcome(address=message.recipients[0], delivered=good, permanent=False, reply=reply)
        return Delivery(recipients=(item,), attempts=())

    async def request(self, method, host, target, **options):
        await trio.lowlevel.checkpoint()
        self.posts.append((host, options["body"]))
        return HttpResponse(status=201, headers={}, body=b"")

    async def put(self, *reports, targets=(MAIL,)):
        await self.database.write(lambda connection: put(connection, reports, targets, due=NEXT, cid="run-1"))


async def test_mail_and_https_go_out():
    async with results_database() as database:
        world = World(database)
        await world.put(make_report(), make_report("r2"), targets=(MAIL, WEB))
        run = await world.sender.send_due()
        assert (run.delivered, run.failed, run.later) == (4, 0, 0)
        assert (len(world.mails), len(world.posts)) == (2, 2)
        assert sorted(outcome.state for outcome in world.hooks.told) == ["delivered"] * 4
        line = next(event for event in world.log.events if event["event"] == "report-delivered")
        assert line["cid"] == "run-1"
        assert line["report_id"] in {"r1", "r2"}
        assert (await world.sender.send_due()).delivered == 0


async def test_a_refused_report_comes_again():
    async with results_database() as database:
        world = World(database, refuse_mail=1)
        await world.put(make_report())
        assert (await world.sender.send_due()).later == 1
        assert not world.hooks.told
        world.clock.at += 10 * MINUTE
        assert (await world.sender.send_due()).delivered == 1
        assert world.hooks.told[0].attempts == 2


async def test_a_scheme_nobody_knows_fails():
    async with results_database() as database:
        world = World(database)
        await world.put(make_report(), targets=(ODD,))
        assert (await world.sender.send_due()).failed == 1
        assert world.hooks.told[0].detail == "unknown scheme: 'ftp'"


async def test_a_plugin_may_send():
    asked = []

    def answer(report, target):
        asked.append(target)
        return FakeOutcome("p", Delivered(accepted=True, detail="by pigeon")) if target == ODD else None

    async with results_database() as database:
        world = World(database, hooks=FakeHooks(answer=answer))
        await world.put(make_report(), targets=(ODD, MAIL))
        assert (await world.sender.send_due()).delivered == 2
        assert len(asked) == 2
        assert len(world.mails) == 1


async def test_a_plugin_that_fails_is_a_refusal_for_now():
    async with results_database() as database:
        world = World(database, hooks=FakeHooks(answer=lambda **_: FakeOutcome("p", error=ValueError("boom"))))
        await world.put(make_report())
        assert (await world.sender.send_due()).later == 1
        assert not world.mails, "the plugin was asked to send it, so core must not do so beside it"


async def test_suppression_is_told():
    async with results_database() as database:
        world = World(database)
        await Suppressions(database).add("b.example", until=NEXT + HOUR, reason="x")
        await world.put(make_report())
        assert (await world.sender.send_due()).suppressed == 1
        assert (world.mails, world.hooks.told[0].state) == ([], "suppressed")


async def test_a_hanging_attempt_ends(autojump_clock):
    async with results_database() as database:
        world = World(database)

        async def hang(message):
            await trio.sleep_forever()

        world.sender._send = hang
        await world.put(make_report())
        assert (await world.sender.send_due()).later == 1
        assert trio.current_time() >= 900


async def test_no_more_than_allowed_at_once():
    async with results_database() as database:
        world = World(database, at_once=3)
        running, most = 0, 0
        send = world.sender._send

        async def count(message):
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(50):
                await trio.lowlevel.checkpoint()
            running -= 1
            return await send(message)

        world.sender._send = count
        await world.put(*(make_report(f"r{i}") for i in range(10)))
        assert (await world.sender.send_due()).delivered == 10
        assert most == 3


async def test_trouble_with_the_database_is_told_once():
    class Broken:
        async def claim_some(self, now, limit, way):
            raise StoreError("database x: the disk is full")

    async with results_database() as database:
        world = World(database)
        world.sender._outbox = Broken()
        with pytest.raises(StoreError, match="full"):
            await world.sender.send_due()


class Forgetful(Outbox):
    """Its database is away for the first `times` attempts to settle."""

    times = 2

    async def settle(self, *arguments):
        self.times -= 1
        if self.times >= 0:
            raise StoreError("database x: the server is starting up")
        return await super().settle(*arguments)


async def test_a_database_that_is_away_for_a_moment_causes_no_second_copy(autojump_clock):
    async with results_database() as database:
        world = World(database)
        world.sender._outbox = Forgetful(database)
        await world.put(make_report())
        assert (await world.sender.send_due()).delivered == 1
        assert len(world.mails) == 1
        assert trio.current_time() < LEASE / MICROSECONDS


async def test_what_was_sent_while_the_program_ends_is_stored():
    async with results_database() as database:
        world = World(database)
        await world.put(make_report())
        with trio.CancelScope() as scope:
            send = world.sender._send

            async def send_and_end(message):
                delivery = await send(message)
                scope.cancel()
                return delivery

            world.sender._send = send_and_end
            await world.sender.send_due()
        assert scope.cancelled_caught
        assert await world.outbox.counts() == {"delivered": 1}


async def test_one_attempt_that_breaks_does_not_end_those_beside_it():
    async with results_database() as database:
        world = World(database)

        async def broken(method, host, target, **options):
            raise RuntimeError("bug")

        world.request = broken
        await world.put(make_report(), targets=(WEB, MAIL))
        run = await world.sender.send_due()
        assert (run.delivered, run.later) == (1, 1)
        assert any(event["event"] == "report-attempt-failed" for event in world.log.events)


async def test_a_detail_that_no_database_takes_is_stored_all_the_same():
    answer = FakeOutcome("other", value=Delivered(accepted=True, detail="ok\0\ud800\x1b[31m"))
    async with results_database() as database:
        world = World(database, hooks=FakeHooks(lambda **_: answer))
        await world.put(make_report())
        assert (await world.sender.send_due()).delivered == 1
        assert world.hooks.told[0].detail == "ok   [31m"


async def test_it_runs_until_cancelled_and_notices_new_reports(autojump_clock):
    async with results_database() as database, trio.open_nursery() as nursery:
        world = World(database, refuse_mail=1)
        world.sender._clock = VirtualClock()
        nursery.start_soon(world.sender.run_forever)
        await trio.sleep(30)
        await world.put(make_report(), targets=(WEB,))
        world.sender.kick()
        await trio.sleep(1)
        assert len(world.posts) == 1
        await world.put(make_report("r2"))
        await trio.sleep(61)
        assert len(world.mails) == 1, "put there by another node"
        await trio.sleep(400)
        assert len(world.mails) == 2, "tried again"
        nursery.cancel_scope.cancel()
