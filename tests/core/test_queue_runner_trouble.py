"""The runner in trouble: what crashes, a store that fails, the end of the program, and any order of events."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from postward.errors import StoreError
from postward.model import Message
from postward.names import Domain
from postward.queue.bounce import Bouncer
from queue_kit import SENDER, opened
from runner_kit import Site, silent, site, taken

# --- trouble of our own ---


async def test_a_message_that_crashes_us_stands_in_nobodys_way(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def answer(domain: Domain, message: Message) -> str:
        if message.recipients[0].local == "bad":
            raise RuntimeError("a plugin")
        return "250 ok"

    async with site(tmp_path, answer) as here:
        await here.put("bad@a.example")
        for number in range(5):
            await here.put(f"u{number}@a.example")
        await trio.sleep(10)
        assert (await here.left(), here.runner.counts.delivered) == (1, 5)
        assert len(here.offered("a.example")) == 6
        await trio.sleep(6 * 24 * 3600)
        # It is given up as any other, and its sender is told.
        assert "bad@a.example" not in {address for _, address in await _recipients(here)}
        assert [line["notice"] for line in here.log.of("notice-queued")] == ["delayed", "failed"]


async def _recipients(here: Site) -> list[tuple[str, str]]:
    return [
        (domain, f"{local}@{domain}") for local, domain in await here.rig.rows("SELECT local, domain FROM queue_recipients")
    ]


@pytest.mark.parametrize("call", ["claim", "due", "next_due", "settle", "postpone"])
async def test_trouble_with_the_store_passes_without_hands(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    up = False

    async def answer(domain: Domain, message: Message) -> str:
        return await (taken if up or call != "postpone" else silent)(domain, message)

    async with site(tmp_path, answer) as here:
        real, failures = getattr(here.rig.queue, call), 3

        async def fail(*args: Any, **more: Any) -> Any:
            nonlocal failures
            if failures:
                failures -= 1
                raise StoreError("disk full")
            return await real(*args, **more)

        monkeypatch.setattr(here.rig.queue, call, fail)
        for number in range(3):
            await here.put(f"u{number}@a.example", f"u{number}@b.example")
        await trio.sleep(60)
        up = True
        await here.empty(within=1000)
        if call != "postpone":
            # What was taken is not sent again, however long storing that takes.
            assert len(here.pipeline.offered) == 6
        assert here.log.of("queue-unusable") or here.log.of("outcome-not-stored")


async def test_a_notice_that_cannot_be_written_has_nothing_sent_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(domain: Domain, message: Message) -> str:
        return "550 5.1.1 nobody"

    async def broken(self: Any, job: Any, outcome: Any) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Bouncer, "notices", broken)
    async with site(tmp_path, answer) as here:
        await here.put("u@a.example")
        await here.empty()
        assert len(here.pipeline.offered) == 1
        assert here.log.of("notice-not-written")


async def test_what_a_server_took_is_stored_although_the_program_ends(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as rig:
        async with trio.open_nursery() as nursery:
            here = Site(rig, taken)
            real = rig.queue.settle

            async def settle(*args: Any, **more: Any) -> None:
                nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()
                await real(*args, **more)

            monkeypatch.setattr(rig.queue, "settle", settle)
            nursery.start_soon(here.runner.run)
            await here.put("u@a.example")
            await trio.sleep(10)
        assert await here.left() == 0


async def test_stop_finishes_what_was_begun_and_begins_nothing(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def answer(domain: Domain, message: Message) -> str:
        await trio.sleep(5)
        return "250 ok"

    async with opened(tmp_path) as rig, trio.open_nursery() as nursery:
        here = Site(rig, answer)
        nursery.start_soon(here.runner.run)
        for number in range(50):
            await here.put(f"u{number}@a.example")
        await trio.sleep(1)
        begun = len(here.pipeline.offered)
        start = trio.current_time()
        await here.runner.stop(30)
        assert trio.current_time() - start <= 5
        assert (len(here.pipeline.offered), await here.left()) == (begun, 50 - begun)
        assert here.runner._held == 0
        with trio.fail_after(1):  # `run` returns by itself
            while nursery.child_tasks:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_stop_does_not_wait_for_ever(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def answer(domain: Domain, message: Message) -> str:
        await trio.sleep_forever()
        raise AssertionError

    async with site(tmp_path, answer) as here:
        await here.put("u@a.example")
        await trio.sleep(1)
        start = trio.current_time()
        await here.runner.stop(30)
        assert trio.current_time() - start == pytest.approx(30)
        assert await here.left() == 1


# --- any order of events ---

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3), st.sampled_from(["ok", "bad", "later", "silent", "crash", "slow"])),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.005, 0.5, 3.0, 12.0, 70.0]), st.just("")),
        st.tuples(st.just("store"), st.integers(1, 3), st.sampled_from(["claim", "due", "settle", "postpone"])),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, lanes=st.integers(1, 6), per=st.integers(1, 3))
def test_in_any_order_of_events_all_mail_comes_to_its_end_once(events: list[Any], lanes: int, per: int) -> None:
    """Every message ends exactly once, none is in two hands at a time, and nothing stays behind."""

    async def main(folder: Path) -> None:
        at_work: set[str] = set()
        ended = Counter[str]()
        tries = Counter[str]()
        failing: dict[str, int] = {}

        async def answer(domain: Domain, message: Message) -> str:
            if message.sender is None:
                return "250 ok"
            (address,) = message.recipients
            name, kind = str(address), address.local.split(".")[0]
            assert name not in at_work
            at_work.add(name)
            try:
                tries[name] += 1
                await trio.sleep(20 if kind == "slow" else 0.01)
                first = tries[name] == 1
                if kind == "crash" and first:
                    raise RuntimeError("crash")
                if kind in ("later", "silent") and first:
                    return "" if kind == "silent" else "450 4.2.0 later"
                ended[name] += 1
                return "550 5.1.1 no" if kind == "bad" else "250 ok"
            finally:
                at_work.discard(name)

        async with opened(folder) as rig, trio.open_nursery() as nursery:
            here = Site(rig, answer, lanes=lanes, per_destination=per)

            for call in ("claim", "due", "settle", "postpone"):

                def failer(call: str, real: Any) -> Any:
                    async def do(*args: Any, **more: Any) -> Any:
                        if failing.get(call, 0) > 0:
                            failing[call] -= 1
                            await trio.lowlevel.checkpoint()
                            raise StoreError("trouble")
                        return await real(*args, **more)

                    return do

                setattr(rig.queue, call, failer(call, getattr(rig.queue, call)))
            nursery.start_soon(here.runner.run)
            expected = set()
            for number, (event, value, kind) in enumerate(events):
                if event == "put":
                    name = f"{kind}.{number}@d{value}.example"
                    expected.add(name)
                    await here.put(name, sender=SENDER)
                elif event == "wait":
                    await trio.sleep(value)
                else:
                    failing[kind] = value
            await here.empty(within=12 * 3600)
            assert ended == Counter(expected)
            await here.runner.stop(60)
            assert here.runner._held == 0
            nursery.cancel_scope.cancel()

    with tempfile.TemporaryDirectory() as folder:
        trio.run(main, Path(folder), clock=trio.testing.MockClock(autojump_threshold=0))
