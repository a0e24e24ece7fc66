"""What goes wrong below the queue: damage, full disks, locks, crashes. One message may suffer, the others never."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import structlog.testing

from postward.errors import StoreError
from postward.names import Domain
from postward.queue import EVERYTHING, End, Pick
from postward.queue.spool import SpoolFile
from postward.queue.store import TROUBLE_WAIT
from queue_kit import MINUTE, NOW, Rig, ends, new_message, opened

A = Domain("a.example")
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 8_000

DAMAGE = {
    "body": "DELETE FROM queue_bodies WHERE message = 1",
    "shorter body": "UPDATE queue_bodies SET data = x'00' WHERE message = 1",
    "no octets": "UPDATE queue_bodies SET data = 7 WHERE message = 1",
    "wish": "UPDATE queue_messages SET wish = 'whatever' WHERE id = 1",
    "sender": "UPDATE queue_messages SET sender = 'nobody' WHERE id = 1",
    "sender text": "UPDATE queue_messages SET sender = CAST(x'ff4078' AS TEXT) WHERE id = 1",
    "size": "UPDATE queue_messages SET size = 'x' WHERE id = 1",
    "head": "UPDATE queue_messages SET head = 1 WHERE id = 1",
    "recipient": "UPDATE queue_recipients SET local = CAST(x'ff' AS TEXT) WHERE message = 1",
    "attempts": "UPDATE queue_recipients SET attempts = 'x' WHERE message = 1",
    "message": "DELETE FROM queue_messages WHERE id = 1",
}


async def claim(rig: Rig) -> list[str]:
    return [job.message.cid for job in await rig.queue.claim(A, rig.clock.now(), 20)]


@pytest.mark.parametrize("kind", DAMAGE)
async def test_a_damaged_message_is_held_and_blocks_nobody(tmp_path: Path, kind: str) -> None:
    async with opened(tmp_path) as rig:
        bad = await rig.put("x@a.example", received=NOW - 1)
        good = await rig.put("x@a.example")
        await rig.execute(DAMAGE[kind])
        with structlog.testing.capture_logs() as logs:
            assert await claim(rig) == [good]
        assert [(one["event"], one["log_level"]) for one in logs] == [("queue-message-damaged", "error")]
        with structlog.testing.capture_logs() as logs:
            assert await claim(rig) == [good]
        assert logs == []
        assert (await rig.rows("SELECT state FROM queue_recipients WHERE message = 1")) == [(1,)]
        assert await rig.queue.next_due() == NOW
        if kind != "message":
            # People can still see it, and be rid of it.
            assert len((await rig.queue.list(EVERYTHING)).messages) == 2
            shown = await rig.queue.show(bad)
            assert shown is not None
            assert shown.problem
            assert await rig.queue.drop(Pick(cid=bad)) == 1
            assert len((await rig.queue.list(EVERYTHING)).messages) == 1


async def test_a_bounce_cannot_be_made_of_a_damaged_message(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        cid = await rig.put("x@a.example")
        await rig.execute(DAMAGE["body"])

        async def bounce(_dropped: object) -> None:
            raise AssertionError("there is nothing to make it of")

        assert await rig.queue.drop(Pick(cid=cid), bounce=bounce) == 1
        assert await rig.rows("SELECT 1 FROM queue_messages") == []


async def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example", body=LARGE, received=NOW - 1)
        good = await rig.put("x@a.example", body=LARGE)
        (name,) = (await rig.rows("SELECT spool FROM queue_messages WHERE id = 1"))[0]
        (rig.spool / name).unlink()
        assert await claim(rig) == [good]
        assert await claim(rig) == [good]
        (reply,) = (await rig.rows("SELECT last_reply FROM queue_recipients WHERE message = 1"))[0]
        assert "its file is missing" in reply


async def test_a_file_that_cannot_be_read_just_now_waits(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        bad = await rig.put("x@a.example", body=LARGE, received=NOW - 1)
        good = await rig.put("x@a.example")
        (name,) = (await rig.rows("SELECT spool FROM queue_messages WHERE id = 1"))[0]
        data = (rig.spool / name).read_bytes()
        (rig.spool / name).unlink()
        (rig.spool / name).mkdir()
        assert await claim(rig) == [good]
        assert await rig.queue.next_due() == NOW
        (rig.spool / name).rmdir()
        (rig.spool / name).write_bytes(data)
        rig.clock.instant += TROUBLE_WAIT
        assert sorted(await claim(rig)) == sorted([bad, good])


async def test_a_file_that_goes_while_it_is_sent_is_an_error_of_the_machine(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        cid = await rig.put("x@a.example", body=LARGE)
        (job,) = await rig.queue.claim(A, NOW, 1)
        await rig.queue.drop(Pick(cid=cid))
        with pytest.raises(OSError):
            await anext(job.message.content.pieces())


async def test_a_destination_whose_name_is_damaged_blocks_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example")
        await rig.put("x@b.example", received=NOW - 1)
        for table in ("queue_destinations", "queue_recipients"):
            await rig.execute(f"UPDATE {table} SET domain = CAST(x'ff20' AS TEXT) WHERE domain = 'b.example'")
        assert await rig.queue.due(NOW, 9) == [A]
        assert await rig.queue.next_due() == NOW
        assert await rig.rows("SELECT state FROM queue_recipients WHERE message = 2") == [(1,)]
        assert (await rig.queue.counts()).held == 1


async def test_a_run_queue_that_is_wrong_is_put_right(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example")
        await rig.execute("INSERT INTO queue_destinations VALUES ('b.example', 1, 0, 0)")
        # Nothing is due there: that must not be found again and again.
        assert await rig.queue.claim(Domain("b.example"), NOW, 1, {1}) == []
        assert await rig.queue.due(NOW, 9) == [A]
        await rig.execute("DELETE FROM queue_destinations")
        assert await rig.queue.next_due() is None
        await rig.queue.clean()
        assert await rig.queue.due(NOW, 9) == [A]
        assert await rig.wrong() == []


# --- the disk ---


async def full(rig: Rig) -> None:
    """Let the database grow no more."""

    def work(connection: object) -> None:
        database = connection.connection.driver_connection  # type: ignore[attr-defined]
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")

    await rig.store.node_db.write(work)


async def test_a_full_database_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    async with opened(tmp_path, on_disk=True) as rig:
        cid = await rig.put("x@a.example")
        (job,) = await rig.queue.claim(A, NOW, 1)
        await full(rig)
        with pytest.raises(StoreError, match="the disk is full"):
            for _ in range(10):
                await rig.put("y@a.example", body=b"x" * 60_000)
        taken = len(await claim(rig))
        assert len(await rig.rows("SELECT 1 FROM queue_bodies")) == taken
        await rig.queue.settle(job, ends(job))
        assert cid not in await claim(rig)
        assert await rig.wrong() == []


async def test_a_locked_database_refuses(tmp_path: Path) -> None:
    async with opened(tmp_path, on_disk=True) as rig:
        await rig.put("x@a.example")
        (job,) = await rig.queue.claim(A, NOW, 1)
        await rig.execute("PRAGMA busy_timeout=0")
        other = sqlite3.connect(tmp_path / "node.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for size in (10, 100_000):
            with pytest.raises(StoreError, match="locked"):
                await rig.put("y@a.example", body=b"x" * size)
        with pytest.raises(StoreError, match="locked"):
            await rig.queue.settle(job, ends(job))
        other.execute("ROLLBACK")
        other.close()
        assert len(await claim(rig)) == 1
        await rig.queue.settle(job, ends(job))
        assert await rig.wrong() == []


async def test_a_spool_without_room_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as rig:

        def no_room(_file: SpoolFile, _data: bytes) -> None:
            raise OSError(28, "No space left on device")

        writer = rig.queue.writer()
        await writer.write(b"x" * 100_000)
        monkeypatch.setattr(SpoolFile, "append", no_room)
        with pytest.raises(StoreError, match="spool: No space left on device"):
            await writer.write(b"x" * 100_000)
        with pytest.raises(StoreError):
            await writer.commit(new_message("x@a.example", sender=None))
        with pytest.raises(StoreError, match="No space left"):
            await rig.put("x@a.example", body=LARGE)
        await rig.put("x@a.example")
        assert await rig.wrong() == []


async def test_a_file_that_cannot_be_removed_stays_for_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example", body=LARGE)
        (job,) = await rig.queue.claim(A, NOW, 1)

        def refuse(path: Path, missing_ok: bool = False) -> None:
            raise PermissionError(1, "Operation not permitted")

        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
            patch.setattr(Path, "unlink", refuse)
            await rig.queue.settle(job, ends(job))
        assert [one["event"] for one in logs] == ["spool-file-stays"]
        assert await rig.queue.clean() == 1
        assert await rig.wrong() == []


# --- crashes ---


async def test_orphans_go_and_what_is_being_written_stays(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.put("x@a.example", body=LARGE)
        writer = rig.queue.writer()
        await writer.write(LARGE)
        (rig.spool / ("0" * 32)).write_bytes(b"left by a crash")
        (rig.spool / "README").write_bytes(b"not ours")
        assert await rig.queue.clean() == 1
        assert len(list(rig.spool.iterdir())) == 3
        await writer.commit(new_message("y@a.example", sender=None))
        (rig.spool / "README").unlink()
        assert await rig.queue.clean() == 0
        assert len(await claim(rig)) == 2
        assert await rig.wrong() == []


WORKER = """
import secrets, sys, trio
from pathlib import Path
sys.path.insert(0, {tests!r})
from queue_kit import new_message, opened

async def main():
    async with opened(Path({folder!r}), on_disk=True, inline=False) as rig:
        async def send(number):
            while True:
                body = secrets.token_bytes(50) * (2000 if number == 0 else 20)
                cid = await rig.put("x@a.example", body=body, eight_bit=True)
                print(cid, flush=True)
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(send, number)

trio.run(main)
"""


@pytest.mark.loopback
@pytest.mark.parametrize("seed", range(3))
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, seed: int) -> None:
    """A process that is killed at a random moment has kept every promise it made."""
    program = WORKER.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip()]
        time.sleep(random.Random(seed).uniform(0, 0.5))
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert acknowledged[0]

    async def check() -> None:
        async with opened(tmp_path, on_disk=True) as rig:
            await rig.queue.clean()
            assert await rig.wrong() == []
            taken: set[int] = set()
            found = set()
            while jobs := await rig.queue.claim(A, NOW, 100, taken):
                taken |= {job.message.id for job in jobs}
                found |= {job.message.cid for job in jobs}
            assert set(acknowledged) <= found
            held = await rig.rows("SELECT 1 FROM queue_recipients WHERE state = 1")
            assert held == []

    import trio

    trio.run(check)


async def test_what_was_in_flight_is_due_again(tmp_path: Path) -> None:
    async with opened(tmp_path, on_disk=True) as rig:
        cid = await rig.put("x@a.example")
        await claim(rig)
    async with opened(tmp_path, on_disk=True) as rig:
        (job,) = await rig.queue.claim(A, NOW, 1)
        assert job.message.cid == cid
        await rig.queue.settle(job, [End(recipient=0, state="deferred", reply="450", next_try=NOW + MINUTE)])
        assert await rig.queue.next_due() == NOW + MINUTE
