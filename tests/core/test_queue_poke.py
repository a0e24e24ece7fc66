"""The poke: told at once, answered honestly, and never an error."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path

import pytest
import trio

from postward.queue.poke import Life, ask, listen, poke

pytestmark = pytest.mark.loopback


async def test_a_poke_wakes_and_a_ping_is_answered(tmp_path: Path) -> None:
    path, woken = tmp_path / "poke.sock", trio.Event()
    assert not poke(path)
    assert ask(path).life is Life.ABSENT
    async with trio.open_nursery() as nursery:
        await nursery.start(listen, path, woken.set)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        answer = await trio.to_thread.run_sync(ask, path)
        assert (answer.life, answer.process) == (Life.RUNNING, os.getpid())
        assert 0 < answer.since <= time.time_ns() // 1000
        assert not woken.is_set()
        assert poke(path)
        await woken.wait()
        nursery.cancel_scope.cancel()
    assert os.listdir(tmp_path) == []


async def test_a_path_too_long_for_an_address_works_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    path, woken = folder / "poke.sock", trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(listen, path, woken.set)
        assert (await trio.to_thread.run_sync(ask, path)).life is Life.RUNNING
        assert poke(path)
        await woken.wait()
        nursery.cancel_scope.cancel()
    assert os.listdir(folder) == []


async def test_what_a_dead_service_left_behind_is_no_service_and_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "poke.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(path))
    assert ask(path).life is Life.ABSENT
    assert not poke(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(listen, path, lambda: None)
        assert (await trio.to_thread.run_sync(ask, path)).life is Life.RUNNING
        nursery.cancel_scope.cancel()


async def test_the_older_service_leaves_the_newer_ones_socket_alone(tmp_path: Path) -> None:
    path, woken = tmp_path / "poke.sock", trio.Event()
    async with trio.open_nursery() as newer:
        async with trio.open_nursery() as older:
            await older.start(listen, path, lambda: None)
            await newer.start(listen, path, woken.set)
            older.cancel_scope.cancel()
        assert poke(path)
        await woken.wait()
        newer.cancel_scope.cancel()


def test_one_that_does_not_answer_is_silent_and_a_full_one_was_told(tmp_path: Path) -> None:
    path = tmp_path / "poke.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
        stuck.bind(str(path))
        assert ask(path, within=0.01).life is Life.SILENT
        for _ in range(1000):
            assert poke(path)


async def test_where_no_socket_can_be_made_the_service_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "poke.sock").write_text("a file of somebody")
    for path in (tmp_path / "nowhere" / "poke.sock", tmp_path / "poke.sock"):
        async with trio.open_nursery() as nursery:
            await nursery.start(listen, path, lambda: None)
        assert not poke(path)
    assert (tmp_path / "poke.sock").read_text() == "a file of somebody"
    assert os.listdir(tmp_path) == ["poke.sock"]
    assert ask(tmp_path / "poke.sock").life is not Life.RUNNING


async def test_rubbish_wakes_nobody(tmp_path: Path) -> None:
    path, woken = tmp_path / "poke.sock", 0

    def wake() -> None:
        nonlocal woken
        woken += 1

    async with trio.open_nursery() as nursery:
        await nursery.start(listen, path, wake)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            for data in (b"", b"wake up", b"x" * 1000, b"ping"):  # the last without an address to answer at
                stranger.sendto(data, str(path))
        assert (await trio.to_thread.run_sync(ask, path)).life is Life.RUNNING
        assert woken == 0
        nursery.cancel_scope.cancel()
