"""Reports through our own queue: each mail is there once, and what became of it comes back once, whatever dies in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from postward.dkim import Signer, SigningKey, generate
from postward.errors import StoreError
from postward.model import Delivered, ReportTarget, TlsWish
from postward.names import Domain
from postward.queue import End, Pick
from postward.reports.outbox import HOUR, LEASE, QUEUE_ANSWERS_WITHIN, Outbox
from postward.reports.post import Post, cid_of, tag_of
from postward.reports.rows import put
from postward.reports.sender import Sender
from postward.reports.suppressions import Suppressions
from queue_kit import Rig, opened
from report_kit import FakeHooks, FakeLog, FakeOutcome, make_report, results_database

MAIL, OTHER = ReportTarget(uri="mailto:a@b.example"), ReportTarget(uri="MAILTO:z@c.example")
WEB = ReportTarget(uri="https://r.example/x")
SIGNER = Signer([SigningKey(domain=Domain("a.example"), selector="s", key=generate("ed25519"))])


class World:
    """An outbox and a queue, and a sender between them."""

    def __init__(self, database: Any, rig: Rig) -> None:
        self.rig, self.clock, self.database = rig, rig.clock, database
        self.log, self.hooks = FakeLog(), FakeHooks()
        self.woken: list[Any] = []
        self.outbox = Outbox(database, node="mx1")
        self.post = Post(
            outbox=self.outbox,
            queue=rig.queue,
            signer=SIGNER,
            clock=self.clock,
            log=self.log.log,
            queued=lambda domains, jobs: self.woken.extend(domains),
        )
        self.sender = self.make_sender()

    def make_sender(self) -> Sender:
        async def send(message: Any) -> Any:
            raise AssertionError("the queue delivers")

        return Sender(
            outbox=self.outbox, hooks=self.hooks, clock=self.clock, signer=SIGNER, http=self, send=send, post=self.post,
            log=self.log.log,
        )  # type: ignore[arg-type]  # fmt: skip

    async def request(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("nothing goes to the web here")

    async def put(self, *targets: ReportTarget, report_id: str = "r1", **changes: Any) -> None:
        report, due = make_report(report_id, **changes), self.clock.now()
        await self.database.write(lambda connection: put(connection, [report], targets or (MAIL,), due=due, cid="run-1"))

    async def jobs(self, domain: str = "b.example") -> list[Any]:
        return await self.rig.queue.claim(Domain(domain), self.clock.now(), 10)

    async def end(self, state: Any, reply: str, domain: str = "b.example") -> None:
        """What the runner does when an attempt has ended."""
        (job,) = await self.jobs(domain)
        again = self.clock.now() + HOUR
        end = End(recipient=job.recipients[0].id, state=state, reply=reply, host="mx.b.example", next_try=again)
        await self.rig.queue.settle(job, [end])

    async def states(self) -> dict[str, int]:
        return await self.outbox.counts()


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    async with results_database() as database, opened(folder) as rig:
        yield World(database, rig)


async def test_the_mail_goes_into_the_queue(tmp_path: Path) -> None:
    """RFC 8460 §3, §5.3.1: TLS-Required: No, whatever the receiver's TLS looks like; from postmaster at the submitter."""
    async with world(tmp_path) as here:
        await here.put()
        assert (await here.sender.send_due()).queued == 1
        (job,) = await here.jobs()
        message = job.message
        assert (message.wish, message.is_report, str(message.sender)) == (TlsWish.IGNORE, True, "postmaster@a.example")
        header = message_from_bytes(message.content.whole)
        assert (header["From"], header["To"], header["TLS-Required"]) == ("postmaster@a.example", "a@b.example", "No")
        assert "d=a.example" in header["DKIM-Signature"]
        assert await here.states() == {"queued": 1}
        assert here.woken == ["b.example"]
        (line,) = [event for event in here.log.events if event["event"] == "report-queued"]
        assert (line["cid"], line["message"]) == ("run-1", message.cid)
        assert (await here.sender.send_due()).queued == 0


async def test_other_reports_follow_the_policies(tmp_path: Path) -> None:
    """RFC 8460 §3 speaks of TLS reports only."""
    async with world(tmp_path) as here:
        await here.put(kind="aggregate", headers=())
        await here.sender.send_due()
        (job,) = await here.jobs()
        assert (job.message.wish, job.message.is_report) == (TlsWish.FOLLOW, True)
        assert "TLS-Required" not in message_from_bytes(job.message.content.whole)


async def test_each_address_gets_a_message_of_its_own(tmp_path: Path) -> None:
    """RFC 8460 §3: addresses are not told of each other."""
    async with world(tmp_path) as here:
        await here.put(MAIL, OTHER)
        assert (await here.sender.send_due()).queued == 2
        (one,), (two,) = await here.jobs(), await here.jobs("c.example")
        assert one.message.id != two.message.id
        assert b"c.example" not in one.message.content.whole
        assert b"b.example" not in two.message.content.header.replace(b"Report Domain: b.example", b"").replace(
            b"TLS-Report-Domain: b.example", b""
        )


async def test_what_became_of_it_is_told_once(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.put()
        await here.sender.send_due()
        await here.end("deferred", "450 4.2.0 later")
        assert (await here.sender.collect()).delivered == 0
        here.clock.instant += 2 * HOUR
        await here.end("delivered", "250 2.0.0 ok")
        assert (await here.sender.collect()).delivered == 1
        assert (await here.sender.collect()).delivered == 0
        assert await here.states() == {"delivered": 1}
        (told,) = here.hooks.told
        assert (told.state, told.attempts, told.detail) == ("delivered", 2, "250 2.0.0 ok (mx.b.example)")
        assert await here.rig.rows("SELECT * FROM queue_report_ends") == []


@pytest.mark.parametrize(
    ("reply", "suppressed"),
    [
        ("550 5.1.1 no such user", True),
        ("550 No such user", True),
        ("552 5.2.2 mailbox full", True),
        ("550 5.7.1 your DKIM is broken", False),
        ("554 5.6.0 I do not like your MIME", False),
        ("503 5.5.1 wrong order", False),
    ],
)
async def test_a_permanent_bounce_suppresses_the_address_for_a_month(tmp_path: Path, reply: str, suppressed: bool) -> None:
    """What speaks of us or of this message says nothing about the address."""
    async with world(tmp_path) as here:
        await here.put()
        await here.sender.send_due()
        await here.end("failed", reply)
        assert (await here.sender.collect()).failed == 1
        found = await Suppressions(here.database).list()
        assert [one.subject for one in found] == ["a@b.example"] * suppressed
        if suppressed:
            assert found[0].until == here.clock.now() + 30 * 24 * HOUR
            assert reply in found[0].reason
        await here.put(report_id="r2")
        run = await here.sender.send_due()
        assert (run.suppressed, run.queued) == (int(suppressed), int(not suppressed))
        await Suppressions(here.database).remove("A@b.example")
        await here.put(report_id="r3")
        assert (await here.sender.send_due()).queued == 1, "it is reversible"


async def test_the_end_of_its_time_suppresses_nobody(tmp_path: Path) -> None:
    """RFC 8460 §5.5: 24 hours."""
    async with world(tmp_path) as here:
        await here.put()
        await here.sender.send_due()
        await here.end("failed", "451 4.4.1 connecting failed")
        assert (await here.sender.collect()).failed == 1
        assert here.hooks.told[0].detail.startswith("given up after 24 hours: 451 4.4.1")
        assert await Suppressions(here.database).list() == []


async def test_what_an_operator_drops_has_failed(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.put()
        await here.sender.send_due()
        (job,) = await here.jobs()
        assert await here.rig.queue.drop(Pick(cid=job.message.cid)) == 1
        assert (await here.sender.collect()).failed == 1
        assert "operator" in here.hooks.told[0].detail
        assert await Suppressions(here.database).list() == []


# --- whatever dies in between ---


async def test_a_crash_before_the_outbox_knew_queues_nothing_twice(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.put()
        real = here.outbox.hand_over

        async def die(*_: Any) -> None:
            raise StoreError("killed")

        here.outbox.hand_over = die  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            await here.sender.send_due()
        here.outbox.hand_over = real  # type: ignore[method-assign]
        assert await here.states() == {"leased": 1}
        here.clock.instant += LEASE
        assert (await here.sender.send_due()).queued == 1
        assert len(await here.rig.rows("SELECT * FROM queue_messages")) == 1
        assert await here.states() == {"queued": 1}


@pytest.mark.parametrize("collected", [False, True])
async def test_a_crash_behind_which_the_mail_was_delivered(tmp_path: Path, collected: bool) -> None:
    """The end is remembered under the id, so the mail is not queued again, and the target ends."""
    async with world(tmp_path) as here:
        await here.put()
        real = here.outbox.hand_over

        async def die(*_: Any) -> None:
            raise StoreError("killed")

        here.outbox.hand_over = die  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            await here.sender.send_due()
        here.outbox.hand_over = real  # type: ignore[method-assign]
        await here.end("delivered", "250 2.0.0 ok")
        if collected:
            assert (await here.sender.collect()).delivered == 1
        here.clock.instant += LEASE
        await here.sender.send_due()
        assert await here.rig.rows("SELECT * FROM queue_messages") == []
        await here.sender.collect()
        assert await here.states() == {"delivered": 1}
        assert [told.state for told in here.hooks.told] == ["delivered"]


async def test_a_crash_before_the_end_was_forgotten_tells_it_once(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.put()
        await here.sender.send_due()
        await here.end("delivered", "250 2.0.0 ok")
        rows = await here.rig.rows("SELECT * FROM queue_report_ends")
        await here.sender.collect()
        await here.rig.execute("INSERT INTO queue_report_ends VALUES (?, ?, ?, ?, ?, ?)", rows[0])
        await here.sender.collect()
        assert [told.state for told in here.hooks.told] == ["delivered"]
        assert await here.rig.rows("SELECT * FROM queue_report_ends") == []


async def test_a_node_that_is_gone_leaves_a_failure(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.put()
        await here.sender.send_due()
        here.clock.instant += QUEUE_ANSWERS_WITHIN
        assert (await here.sender.collect()).failed == 1
        assert here.hooks.told[0].detail == "no word from node mx1"


async def test_a_thing_that_cannot_be_signed_waits_in_the_outbox(tmp_path: Path) -> None:
    """RFC 8460 §3: no DKIM key, no report."""
    async with world(tmp_path) as here:
        await here.put(submitter=Domain("keyless.example"))
        run = await here.sender.send_due()
        assert (run.queued, run.later) == (0, 1)
        assert await here.rig.rows("SELECT * FROM queue_messages") == []


def test_ids_follow_from_the_target() -> None:
    assert cid_of("ab", 0) == cid_of("ab", 0) != cid_of("ab", 1)
    assert len(cid_of("ab", 0)) == 12
    assert tag_of("ab", 3) == "ab.3"


async def test_many_share_a_transaction_and_one_spoils_no_other(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        for number in range(100):
            await here.put(report_id=f"r{number}", submitter=Domain("keyless.example" if number == 50 else "a.example"))
        await Suppressions(here.database).add("a@b.example", until=here.clock.now() - 1, reason="over")
        run = await here.sender.send_due()
        assert (run.queued, run.later) == (99, 1)
        assert len(await here.rig.rows("SELECT * FROM queue_messages")) == 99
        assert await here.states() == {"queued": 99, "pending": 1}


async def test_a_large_report_goes_through_a_file(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.put(content=bytes(range(256)) * 400)
        assert (await here.sender.send_due()).queued == 1
        (job,) = await here.jobs()
        assert job.message.spool
        assert await here.rig.wrong() == []
        await here.end("delivered", "250 2.0.0 ok")
        assert await here.rig.wrong() == []


async def test_a_plugin_that_sends_is_asked_first(tmp_path: Path) -> None:
    """What a plugin has taken never comes into the queue."""
    async with world(tmp_path) as here:
        here.hooks.answer = lambda **_: FakeOutcome("p", value=Delivered(accepted=True, detail="by pigeon"))
        await here.put()
        assert (await here.sender.send_due()).delivered == 1
        assert await here.rig.rows("SELECT * FROM queue_messages") == []
