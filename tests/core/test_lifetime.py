"""`lifespan`: entered in order and left in reverse; whatever a plugin does in it, the program goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from structlog.testing import capture_logs

from postward.contract import implementations
from postward.errors import PluginError
from postward.hooks import Hooks
from postward.hookspecs import hookimpl
from postward.lifetime import LEAVE_WITHIN, held_open

Made = AbstractAsyncContextManager[None]
log = structlog.get_logger("test")


def held(*makers: Callable[[], Made | None]) -> AbstractAsyncContextManager[None]:
    """The lifespans of plugins `p0`, `p1`, … whose context managers these make."""
    hooks = Hooks()
    for number, make in enumerate(makers):
        hooks.register(implementations(f"p{number}", _plugin(make)))
    core: Any = None
    return held_open(hooks, lambda name: core, log)


def _plugin(make: Callable[[], Made | None]) -> object:
    class Plugin:
        @hookimpl
        def lifespan(self) -> Made | None:
            return make()

    return Plugin()


def noting(notes: list[str], name: str) -> Callable[[], Made]:
    @asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        notes.append(f"{name} in")
        yield
        await trio.lowlevel.checkpoint()
        notes.append(f"{name} out")

    return manager


async def fails() -> None:
    raise ValueError("broken")


@asynccontextmanager
async def cannot_be_entered() -> AsyncIterator[None]:
    await fails()
    yield


@asynccontextmanager
async def exits() -> AsyncIterator[None]:
    raise SystemExit(3)
    yield


@asynccontextmanager
async def cannot_be_left() -> AsyncIterator[None]:
    yield
    await fails()


@asynccontextmanager
async def hangs_in_leaving() -> AsyncIterator[None]:
    yield
    await trio.sleep_forever()


@asynccontextmanager
async def crashes_in_its_nursery() -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails)
        yield


async def test_in_order_and_in_reverse() -> None:
    notes: list[str] = []
    async with held(noting(notes, "a"), lambda: None, noting(notes, "b")):
        notes.append("body")
    assert notes == ["a in", "b in", "body", "b out", "a out"]


async def test_a_cancelled_program_leaves_in_reverse_too() -> None:
    notes: list[str] = []
    with trio.CancelScope() as scope:
        async with held(noting(notes, "a"), noting(notes, "b")):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert notes == ["a in", "b in", "b out", "a out"]


async def test_entering_can_be_cancelled() -> None:
    @asynccontextmanager
    async def never_entered() -> AsyncIterator[None]:
        await trio.sleep_forever()
        yield

    notes: list[str] = []
    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time()
        async with held(noting(notes, "a"), never_entered):
            raise AssertionError
    assert scope.cancelled_caught
    assert notes in ([], ["a in", "a out"])


@pytest.mark.parametrize(
    ("make", "said"), [(cannot_be_entered, "raised ValueError: broken"), (exits, "raised SystemExit: 3")], ids=["error", "exit"]
)
async def test_what_cannot_be_entered_stops_the_start_and_is_named(make: Callable[[], Made], said: str) -> None:
    notes: list[str] = []
    with pytest.raises(PluginError, match=f"plugin 'p1': hook 'lifespan' cannot be entered: it {said}"):
        async with held(noting(notes, "a"), make, noting(notes, "c")):
            raise AssertionError
    assert notes == ["a in", "a out"]


async def test_a_failure_in_leaving_is_logged() -> None:
    notes: list[str] = []
    with capture_logs() as logs:
        async with held(noting(notes, "a"), cannot_be_left):
            pass
    assert [(entry["plugin"], entry["hook"], entry["error"]) for entry in logs] == [
        ("p1", "lifespan", "raised ValueError: broken")
    ]
    assert notes == ["a in", "a out"]


async def test_leaving_has_a_limit(autojump_clock: trio.testing.MockClock) -> None:
    with capture_logs() as logs:
        async with held(hangs_in_leaving):
            started = trio.current_time()
    assert trio.current_time() - started == LEAVE_WITHIN
    assert [entry["error"] for entry in logs] == ["was not left within 5 s"]


async def test_a_crash_in_a_plugins_nursery_is_its_own_affair(autojump_clock: trio.testing.MockClock) -> None:
    notes: list[str] = []
    with capture_logs() as logs:
        async with held(noting(notes, "a"), crashes_in_its_nursery):
            await trio.sleep(1)
            notes.append("body")
    assert notes == ["a in", "body", "a out"]
    assert [entry["error"] for entry in logs] == ["raised ValueError: broken"]


@pytest.mark.parametrize("make", [noting([], "a"), cannot_be_left], ids=["good", "failing"])
async def test_an_error_of_the_program_comes_out_as_it_is(make: Callable[[], Made]) -> None:
    with capture_logs(), pytest.raises(KeyError, match="mine"):
        async with held(make):
            raise KeyError("mine")
