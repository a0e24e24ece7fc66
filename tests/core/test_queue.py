"""The queue as the relay uses it: put, claim, settle."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from postward.errors import StoreError
from postward.model import TlsWish
from postward.names import Address, Domain
from postward.queue import INLINE_BYTES, BounceMail, End, NewMessage, NewRecipient, Pick, Shards, shard_of
from queue_kit import BODY, MINUTE, NOW, SENDER, Rig, ends, new_message, opened
from result_kit import tls_result

A, B = Domain("a.example"), Domain("b.example")
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 60_000


async def contents(job) -> bytes:
    return b"".join([piece async for piece in job.message.content.pieces()])


async def claim(rig: Rig, domain: Domain = A, limit: int = 20, taken=()):
    return await rig.queue.claim(domain, rig.clock.now(), limit, taken)


# --- what goes in comes out ---


@pytest.mark.parametrize("body", [BODY, b"", b"x" * INLINE_BYTES, b"x" * (INLINE_BYTES + 1), LARGE], ids=len)
@pytest.mark.parametrize("inline", [True, False])
async def test_a_message_comes_out_as_it_went_in(tmp_path: Path, body: bytes, inline: bool) -> None:
    async with opened(tmp_path, on_disk=not inline, inline=inline) as rig:
        message = NewMessage(
            cid="0123456789ab",
            sender=SENDER,
            recipients=(NewRecipient(address=Address.parse("Ü@a.example"), notify=("SUCCESS", "DELAY"), orcpt="rfc822;o@x"),),
            received=NOW,
            eight_bit=False,
            wish=TlsWish.REQUIRE,
            smtputf8=True,
            ret="HDRS",
            envid="e+2B",
            is_report=True,
            is_bounce=True,
            head=b"Received: here\r\n",
        )
        writer = rig.queue.writer()
        for start in range(0, len(body), 30_000):
            await writer.write(body[start : start + 30_000])
        assert (writer.size, writer.eight_bit) == (len(body), False)
        await writer.commit(message)
        await writer.abort()
        assert len(list(rig.spool.glob("*"))) == (len(body) > INLINE_BYTES)
        (job,) = await claim(rig)
        found = job.message
        assert (found.cid, found.sender, found.received, found.wish) == ("0123456789ab", SENDER, NOW, TlsWish.REQUIRE)
        assert (found.smtputf8, found.eight_bit, found.is_report, found.is_bounce) == (True, False, True, True)
        assert (found.ret, found.envid, found.size) == ("HDRS", "e+2B", len(body) + 16)
        assert found.content.size == found.size
        assert await contents(job) == b"Received: here\r\n" + body
        assert await contents(job) == b"Received: here\r\n" + body
        assert found.content.header.startswith(b"Received: here")
        assert (found.content.whole is None) == (len(body) > INLINE_BYTES)
        (recipient,) = job.recipients
        assert (recipient.address, recipient.notify) == (Address.parse("Ü@a.example"), ("SUCCESS", "DELAY"))
        assert (recipient.orcpt, recipient.attempts, recipient.told_delay) == ("rfc822;o@x", 0, False)
        assert await rig.wrong() == []


async def test_the_header_of_a_large_message_is_known_without_its_body(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        header = b"X-Long: " + b"y" * 100_000
        await rig.put("x@a.example", body=header + b"\r\n\r\n" + b"z" * 200_000, head=b"Received: 1\r\n")
        (job,) = await claim(rig)
        assert job.message.content.header == b"Received: 1\r\n" + header


async def test_the_null_sender_stays_null(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example", sender=None)
        assert (await claim(rig))[0].message.sender is None


async def test_eight_bit_is_seen_in_any_piece(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        writer = rig.queue.writer()
        for piece in (b"a", "ü".encode(), b"b"):
            await writer.write(piece)
        assert writer.eight_bit
        await writer.abort()


@pytest.mark.parametrize("size", [10, 200_000])
async def test_an_aborted_message_leaves_nothing(tmp_path: Path, size: int) -> None:
    async with opened(tmp_path) as rig:
        writer = rig.queue.writer()
        await writer.write(b"x" * size)
        await writer.abort()
        with pytest.raises(StoreError):
            await writer.commit(new_message("x@a.example", sender=SENDER))
        assert await rig.queue.due(NOW, 10) == []
        assert await rig.wrong() == []


async def test_what_cannot_be_stored_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        cid = await rig.put("x@a.example")
        surrogate = NewRecipient(address=Address("\udcff", A))
        for message, error in (
            (new_message(sender=SENDER), ValueError),
            (new_message("x@a.example", sender=SENDER, cid=cid), StoreError),
            (NewMessage(cid="1", sender=None, recipients=(surrogate,), received=NOW, eight_bit=False), ValueError),
        ):
            writer = rig.queue.writer()
            await writer.write(b"x" * 100_000)
            with pytest.raises(error):
                await writer.commit(message)
        assert len(await rig.rows("SELECT 1 FROM queue_messages")) == 1
        assert await rig.wrong() == []


async def test_a_cancelled_commit_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        writer = rig.queue.writer()
        await writer.write(b"x" * 100_000)
        with trio.CancelScope() as scope:
            scope.cancel()
            await writer.commit(new_message("x@a.example", sender=SENDER))
        assert scope.cancelled_caught
        assert await rig.rows("SELECT 1 FROM queue_messages") == []
        assert await rig.wrong() == []


# --- what is due ---


async def test_the_longest_due_destination_comes_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        for number in range(20):
            await rig.put("x@a.example", received=NOW - 100 + number)
        await rig.put("x@b.example", received=NOW - 200)
        await rig.put("x@later.example", received=NOW + 5)
        assert await rig.queue.due(NOW, 10) == [B, A]
        assert await rig.queue.due(NOW, 1) == [B]
        assert await rig.queue.due(NOW, 1, {B}) == [A]
        assert await rig.queue.due(NOW, 5, {A, B}) == []
        assert await rig.queue.next_due() == NOW - 200
        assert await rig.queue.next_due({A, B}) == NOW + 5
        assert await rig.queue.next_due({A, B, Domain("later.example")}) is None


async def test_every_destination_belongs_to_one_worker(tmp_path: Path) -> None:
    names = [Domain(f"d{number}.example") for number in range(100)]
    async with opened(tmp_path) as rig:
        for name in names:
            await rig.put(f"x@{name}")
        found = []
        for index in range(3):
            rig.queue._shards = Shards(3, index)
            own = await rig.queue.due(NOW, 1000)
            assert all(shard_of(name) % 3 == index for name in own)
            assert await rig.queue.next_due(own) is None
            found += own
        assert sorted(found) == sorted(names)
    with pytest.raises(ValueError):
        Shards(2, 2)


async def test_claims_come_oldest_due_first_without_those_in_flight(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        cids = [await rig.put("x@a.example", received=NOW - number) for number in range(5)]
        jobs = await claim(rig, limit=2)
        assert [job.message.cid for job in jobs] == [cids[4], cids[3]]
        taken = {job.message.id for job in jobs}
        assert [job.message.cid for job in await claim(rig, taken=taken)] == [cids[2], cids[1], cids[0]]


async def test_recipients_of_a_message_come_together_and_at_most_100(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put(*(f"u{number}@a.example" for number in range(150)), "x@b.example")
        sizes = []
        while jobs := await claim(rig):
            (job,) = jobs
            assert {one.address.domain for one in job.recipients} == {A}
            sizes.append(len(job.recipients))
            await rig.queue.settle(job, ends(job))
        assert sizes == [100, 50]
        assert await rig.queue.due(NOW, 9) == [B]
        assert await rig.wrong() == []


async def test_recipients_with_different_instants_come_together_once_both_are_due(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example", "y@a.example", "z@a.example")
        (job,) = await claim(rig)
        await rig.queue.settle(job, [End(recipient=n, state="deferred", reply="450", next_try=NOW + 10 * n) for n in (0, 1, 2)])
        rig.clock.instant += 10
        assert [[one.id for one in job.recipients] for job in await claim(rig)] == [[0, 1]]


async def test_several_destinations_in_one_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example", "x@b.example")
        await rig.put("x@b.example")
        jobs = await rig.queue.claim_many([A, B], NOW, 5)
        # A message that is in flight to one destination is not in another job of the same claim.
        assert [(job.domain, job.message.id) for job in jobs] == [(A, 1), (B, 2)]


async def test_a_destination_that_is_put_off_waits_with_all_its_mail(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example")
        await rig.queue.postpone(A, NOW + MINUTE)
        await rig.put("y@a.example")
        await rig.put("y@b.example")
        assert await rig.queue.due(NOW, 9) == [B]
        assert await claim(rig) == []
        assert await rig.queue.next_due({B}) == NOW + MINUTE
        assert await rig.wrong() == []
        rig.clock.instant += MINUTE
        assert await rig.queue.due(rig.clock.now(), 9) == [B, A]
        assert len(await claim(rig)) == 2


async def test_the_runner_is_told_of_news(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        news = rig.queue.news
        await rig.put("x@a.example")
        assert news.is_set()
        assert not rig.queue.news.is_set()


# --- how it ends ---


async def test_a_message_goes_with_its_last_recipient(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example", "x@b.example", body=LARGE)
        (first,) = await claim(rig)
        await rig.queue.settle(first, ends(first))
        assert await rig.wrong() == []
        assert len(list(rig.spool.iterdir())) == 1
        (second,) = await claim(rig, B)
        await rig.queue.settle(second, ends(second, "failed"))
        assert list(rig.spool.iterdir()) == []
        assert await rig.rows("SELECT 1 FROM queue_messages") == []
        assert await rig.queue.next_due() is None
        assert await rig.wrong() == []


async def test_a_deferred_recipient_remembers_why(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example")
        (job,) = await claim(rig)
        reply = "450 4.2.0 \udcff" + "x" * 5000
        end = End(recipient=0, state="deferred", reply=reply, host="mx.a.example", next_try=NOW + MINUTE, told_delay=True)
        await rig.queue.settle(job, [end])
        assert await claim(rig) == []
        assert await rig.queue.next_due() == NOW + MINUTE
        rig.clock.instant += MINUTE
        (job,) = await claim(rig)
        (one,) = job.recipients
        assert (one.attempts, one.told_delay, one.host, one.last_try) == (1, True, "mx.a.example", NOW)
        assert one.last_reply.startswith("450 4.2.0 ?x")
        assert len(one.last_reply) == 1000
        await rig.queue.settle(job, [End(recipient=0, state="deferred", reply="450", next_try=NOW)])
        assert (await claim(rig))[0].recipients[0].told_delay


@pytest.mark.parametrize("size", [100, 200_000])
async def test_results_and_bounces_are_stored_with_the_end(tmp_path: Path, size: int) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example")
        (job,) = await claim(rig)
        news = rig.queue.news
        bounce = BounceMail(message=new_message("from@sender.example", sender=None, is_bounce=True), content=b"b" * size)
        await rig.queue.settle(job, ends(job, "failed"), results=[tls_result(1)], bounces=[bounce])
        batch = await rig.store.journal.read("alpha")
        assert batch is not None
        assert [entry.result for entry in batch.entries] == [tls_result(1)]
        (found,) = await claim(rig, Domain("sender.example"))
        assert (found.message.is_bounce, found.message.sender) == (True, None)
        assert await contents(found) == b"b" * size
        assert news.is_set()
        assert await rig.wrong() == []


async def test_a_settle_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        cid = await rig.put("x@a.example")
        (job,) = await claim(rig)
        twice = BounceMail(message=new_message("from@sender.example", sender=None, cid=cid), content=b"b" * 100_000)
        with pytest.raises(StoreError):
            await rig.queue.settle(job, ends(job, "failed"), results=[tls_result(1)], bounces=[twice])
        assert [one.message.cid for one in await claim(rig)] == [cid]
        assert await rig.store.journal.read("alpha") is None
        assert await rig.wrong() == []


@pytest.mark.parametrize("size", [100, 200_000])
async def test_what_was_dropped_meanwhile_is_passed_over(tmp_path: Path, size: int) -> None:
    async with opened(tmp_path) as rig:
        cid = await rig.put("x@a.example")
        (job,) = await claim(rig)
        assert await rig.queue.drop(Pick(cid=cid)) == 1
        other = await rig.put("y@a.example")
        bounce = BounceMail(message=new_message("from@sender.example", sender=None), content=b"b" * size)
        await rig.queue.settle(job, ends(job, "failed"), results=[tls_result(1)], bounces=[bounce])
        # The session took place, so it counts; the recipient was dropped, so nobody is told.
        assert await rig.store.journal.read("alpha") is not None
        assert [one.message.cid for one in await claim(rig)] == [other]
        assert await rig.queue.due(NOW, 9) == [A]
        assert await rig.wrong() == []


async def test_what_was_held_meanwhile_stays_held(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        cid = await rig.put("x@a.example", "y@a.example")
        (job,) = await claim(rig)
        await rig.queue.hold(Pick(cid=cid))
        await rig.queue.settle(
            job,
            [
                End(recipient=0, state="delivered", reply="250"),
                End(recipient=1, state="deferred", reply="450", next_try=NOW),
            ],
        )
        assert await claim(rig) == []
        assert await rig.queue.next_due() is None
        counts = await rig.queue.counts()
        assert (counts.pending, counts.held) == (0, 1)
        assert await rig.wrong() == []


# --- the clock ---


async def test_instants_beyond_reason_come_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        day = 24 * 60 * MINUTE
        rig.clock.instant = NOW + day
        await rig.put("x@a.example")
        await rig.put("x@b.example")
        await rig.queue.postpone(B, NOW + day + 30 * MINUTE)
        # Somebody corrects a clock that was a day ahead.
        rig.clock.instant = NOW
        horizon = NOW + rig.queue._longest_wait
        assert await rig.queue.next_due() == horizon
        assert await rig.queue.due(NOW, 9) == []
        assert await rig.wrong() == []
        assert sorted(await rig.queue.due(horizon, 9)) == [A, B]


async def test_no_wait_is_longer_than_the_longest(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example")
        (job,) = await claim(rig)
        await rig.queue.settle(job, ends(job, "deferred", next_try=NOW + 10**15))
        assert await rig.rows("SELECT next_try FROM queue_recipients") == [(NOW + rig.queue._longest_wait,)]
        await rig.queue.postpone(A, NOW + 10**15)
        assert await rig.queue.next_due() == NOW + rig.queue._longest_wait
