"""The queue for people: everything works from another process, and agrees with itself afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from postward.names import Domain
from postward.queue import EVERYTHING, Admin, BounceMail, Dropped, Pick
from postward.queue import admin as admin_module
from queue_kit import MINUTE, NOW, Rig, ends, new_message, opened

A, B = Domain("a.example"), Domain("b.example")
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 8_000


async def due(rig: Rig) -> list[Domain]:
    return await rig.queue.due(rig.clock.now(), 100)


async def everything(rig: Rig, pick: Pick, limit: int) -> list[str]:
    found, after = [], ""
    while True:
        page = await rig.queue.list(pick, after=after, limit=limit)
        found += [one.cid for one in page.messages]
        if not page.next:
            return found
        after = page.next


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_lists_come_in_pages(tmp_path: Path, limit: int) -> None:
    async with opened(tmp_path) as rig:
        first = [await rig.put("x@a.example", "y@a.example", received=NOW - n) for n in range(5)]
        second = [await rig.put("x@b.example", sender=None) for _ in range(4)]
        assert await everything(rig, EVERYTHING, limit) == first + second
        assert await everything(rig, Pick(sender="from@sender.example"), limit) == first
        assert await everything(rig, Pick(sender=""), limit) == second
        assert await everything(rig, Pick(domain=A), limit) == first[::-1]
        assert await everything(rig, Pick(cid=second[2]), limit) == [second[2]]
        assert await everything(rig, Pick(held=True), limit) == []
        await rig.queue.hold(Pick(cid=first[3]))
        assert await everything(rig, Pick(held=True), limit) == [first[3]]
        assert await everything(rig, Pick(domain=A), limit) == [first[4], first[2], first[1], first[0], first[3]]


async def test_a_line_says_how_far_a_message_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        cid = await rig.put("x@a.example", "y@a.example", *(f"z{n}@b.example" for n in range(9)))
        await rig.queue.hold(Pick(domain=B))
        (job,) = await rig.queue.claim(A, NOW, 1)
        await rig.queue.settle(job, ends(job, "deferred", next_try=NOW + MINUTE))
        ((one,), end) = (lambda page: (page.messages, page.next))(await rig.queue.list())
        assert (one.cid, one.sender, one.received, end) == (cid, "from@sender.example", NOW, "")
        assert (one.pending, one.held, one.next_try, one.last_reply) == (2, 9, NOW + MINUTE, "250 2.0.0 ok")
        assert one.addresses == ("x@a.example", "y@a.example", "z0@b.example", "z1@b.example", "z2@b.example")


@pytest.mark.parametrize("body", [b"Subject: x\r\nA: b\r\n\r\nbody\r\n", LARGE], ids=len)
async def test_show_tells_everything(tmp_path: Path, body: bytes) -> None:
    async with opened(tmp_path) as rig:
        cid = await rig.put("x@a.example", "y@b.example", body=body, head=b"Received: r\r\n")
        (job,) = await rig.queue.claim(A, NOW, 1)
        await rig.queue.settle(job, ends(job, "deferred", next_try=NOW + MINUTE, host="mx.a.example"))
        await rig.queue.hold(Pick(domain=B))
        rig.clock.instant += 7
        shown = await rig.queue.show(cid)
        assert shown is not None
        assert shown.message is not None
        assert (shown.age, shown.message.size, shown.problem) == (7, len(body) + 13, "")
        assert shown.header == b"Received: r\r\n" + body.partition(b"\r\n\r\n")[0]
        first, second = shown.recipients
        assert (str(first.recipient.address), first.held, first.next_try) == ("x@a.example", False, NOW + MINUTE)
        assert (first.recipient.attempts, first.recipient.host, first.recipient.last_reply) == (
            1,
            "mx.a.example",
            "250 2.0.0 ok",
        )
        assert (str(second.recipient.address), second.held, second.recipient.attempts) == ("y@b.example", True, 0)
        assert await rig.queue.show("nothing") is None


async def test_what_is_held_waits_for_its_release(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        cid = await rig.put("x@a.example", "x@b.example")
        await rig.put("y@b.example")
        assert await rig.queue.hold(Pick(cid=cid)) == 2
        assert await rig.queue.hold(Pick(cid=cid)) == 0
        assert await due(rig) == [B]
        assert await rig.wrong() == []
        rig.clock.instant += MINUTE
        news = rig.queue.news
        assert await rig.queue.release(Pick(held=True)) == 2
        assert news.is_set()
        assert await due(rig) == [B, A]
        assert await rig.wrong() == []


async def test_retry_and_flush_make_things_due(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        cids = [await rig.put("x@a.example"), await rig.put("x@a.example"), await rig.put("x@b.example")]
        held = await rig.put("x@b.example")
        await rig.queue.hold(Pick(cid=held))
        for domain in (A, B):
            for job in await rig.queue.claim(domain, NOW, 9):
                await rig.queue.settle(job, ends(job, "deferred", next_try=NOW + MINUTE))
            await rig.queue.postpone(domain, NOW + 2 * MINUTE)
        assert await due(rig) == []
        assert await rig.queue.retry(Pick(cid=cids[1])) == 1
        assert await due(rig) == [A]
        assert [job.message.cid for job in await rig.queue.claim(A, NOW, 9)] == [cids[1]]
        assert await rig.wrong() == []
        assert await rig.queue.flush(A) == 1
        assert await rig.queue.flush() == 1
        assert sorted(await due(rig)) == [A, B]
        assert [job.message.cid for job in await rig.queue.claim(B, NOW, 9)] == [cids[2]]
        assert await rig.wrong() == []


async def test_flush_ends_a_wait_whose_mail_is_due_already(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example")
        await rig.queue.postpone(A, NOW + MINUTE)
        assert await rig.queue.flush() == 0
        assert await due(rig) == [A]


@pytest.mark.parametrize("at_once", [2, 500])
async def test_verbs_reach_everything_in_pieces(tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_module, "AT_ONCE", at_once)
    async with opened(tmp_path) as rig:
        for number in range(7):
            await rig.put("x@a.example", "y@a.example", "z@b.example", body=LARGE if number == 3 else b"x")
        for pick, count in ((Pick(domain=A), 14), (Pick(sender="from@sender.example"), 21), (EVERYTHING, 21)):
            assert await rig.queue.hold(pick) == count
            assert await rig.wrong() == []
            assert await rig.queue.release(pick) == count
            assert await rig.wrong() == []
        rig.clock.instant -= MINUTE
        assert await rig.queue.retry(Pick(domain=A)) == 14
        assert await rig.queue.retry(EVERYTHING) == 7
        assert await rig.queue.hold(Pick(domain=A)) == 14
        assert await rig.queue.drop(Pick(held=True)) == 14
        assert await rig.wrong() == []
        assert await rig.queue.drop(EVERYTHING) == 7
        assert await rig.wrong() == []
        assert await rig.rows("SELECT 1 FROM queue_messages") == []


async def test_mail_that_comes_during_a_verb_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_module, "AT_ONCE", 1)
    async with opened(tmp_path) as rig:
        for _ in range(3):
            await rig.put("x@a.example")

        async def more(dropped: Dropped) -> BounceMail | None:
            await rig.put("late@a.example")
            return None

        assert await rig.queue.drop(Pick(domain=A), bounce=more) == 3
        assert len(await rig.queue.claim(A, NOW, 9)) == 3


async def test_a_drop_can_tell_the_sender(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        cid = await rig.put("x@a.example", "y@b.example", body=LARGE)
        await rig.put("z@a.example", sender=None)

        async def bounce(dropped: Dropped) -> BounceMail | None:
            if dropped.message.sender is None:
                return None
            body = ",".join(str(one.address) for one in dropped.recipients).encode()
            return BounceMail(message=new_message(str(dropped.message.sender), sender=None), content=body + b"." * 100_000)

        assert await rig.queue.drop(Pick(domain=A), bounce=bounce) == 2
        (job,) = await rig.queue.claim(Domain("sender.example"), NOW, 9)
        assert (await anext(job.message.content.pieces())).startswith(b"x@a.example...")
        assert [one.message.cid for one in await rig.queue.claim(B, NOW, 9)] == [cid]
        assert await rig.wrong() == []


async def test_who_was_delivered_meanwhile_is_not_told_of_as_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        cid = await rig.put("x@a.example", "y@b.example")
        (job,) = await rig.queue.claim(A, NOW, 1)
        told: list[list[int]] = []

        async def bounce(dropped: Dropped) -> BounceMail | None:
            told.append([one.id for one in dropped.recipients])
            if len(told) == 1:
                await rig.queue.settle(job, ends(job))
            return BounceMail(message=new_message("from@sender.example", sender=None), content=repr(told[-1]).encode())

        assert await rig.queue.drop(Pick(cid=cid), bounce=bounce) == 1
        assert told == [[0, 1], [1]]
        (mail,) = await rig.queue.claim(Domain("sender.example"), NOW, 9)
        assert mail.message.content.whole == b"[1]"
        assert await rig.wrong() == []


async def test_counts(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        empty = await rig.queue.counts()
        assert (empty.messages, empty.oldest, empty.top, empty.bytes) == (0, None, (), 0)
        await rig.put("x@a.example", "y@a.example", "z@b.example", received=NOW - 5, body=b"x" * 10)
        await rig.put("x@c.example", body=b"x" * 100_000)
        await rig.queue.hold(Pick(domain=B))
        counts = await rig.queue.counts(top=2)
        assert (counts.messages, counts.pending, counts.held) == (2, 3, 1)
        assert (counts.bytes, counts.oldest) == (100_010, NOW - 5)
        assert [(one.domain, one.pending, one.held) for one in counts.top] == [("a.example", 2, 0), ("b.example", 0, 1)]


async def test_another_process_sees_and_changes_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path, on_disk=True) as run, opened(tmp_path, on_disk=True) as other:
        cid = await run.put("x@a.example", body=LARGE)
        admin = Admin(other.store.node_db, other.spool, other.clock)
        assert (await admin.show(cid)) is not None
        assert await admin.hold(Pick(cid=cid)) == 1
        assert await due(run) == []
        assert await admin.release(Pick(cid=cid)) == 1
        (job,) = await run.queue.claim(A, NOW, 1)
        assert await admin.drop(Pick(cid=cid)) == 1
        await run.queue.settle(job, ends(job, "deferred", next_try=NOW))
        assert await run.wrong() == []


def test_a_pick_is_one_thing() -> None:
    for how in ({}, {"cid": "x", "held": True}, {"sender": "", "everything": True}):
        with pytest.raises(ValueError):
            Pick(**how)
