"""The runner: who is served when, and what a silent host costs the others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from postward.model import Message, TlsWish
from postward.names import Domain
from postward.queue import runner as running
from postward.queue.retry import HOUR
from queue_kit import NOW, opened
from runner_kit import Site, silent, site, taken

# --- nothing is left lying, nothing is done twice ---


async def test_what_is_queued_is_delivered_once(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with site(tmp_path, taken) as here:
        for number in range(120):
            await here.put(f"u{number}@a.example", f"u{number}@b.example")
        await here.empty()
        assert len(here.pipeline.offered) == len(set(here.pipeline.offered)) == 240
        assert here.runner.counts.delivered == 240
        # As mail gets through, there are more lanes, up to the limit.
        assert 2 < here.pipeline.most[Domain("a.example")] <= running.PER_DESTINATION


async def test_more_recipients_than_a_job_holds_follow_at_once(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with site(tmp_path, taken) as here:
        await here.put(*(f"u{number}@a.example" for number in range(350)))
        await here.empty(within=5)
        assert len(set(here.pipeline.offered)) == len(here.pipeline.offered) == 350


async def test_while_memory_is_scarce_mail_goes_on(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "HELD_BYTES", -1)
    async with site(tmp_path, taken) as here:
        for number in range(30):
            await here.rig.put(f"u{number}@a.example")
        here.runner.kick()
        await here.empty(within=5)


async def test_memory_is_bounded_by_what_is_claimed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when all destinations claim at once."""
    monkeypatch.setattr(running, "HELD_BYTES", 20_000)
    held: list[int] = []

    async def look(domain: Domain, message: Message) -> str:
        held.append(here.runner._held)
        return await taken(domain, message)

    async with opened(tmp_path) as rig, trio.open_nursery() as nursery:
        here = Site(rig, look, lanes=40)
        for number in range(400):
            await rig.put(f"u@d{number % 40}.example", body=b"x" * 1000)
        nursery.start_soon(here.runner.run)
        await here.empty()
        nursery.cancel_scope.cancel()
    assert max(held) <= 20_000 + running.CLAIMS_AT_ONCE * 10_000 + 40 * 1_000


async def test_a_claim_slower_than_a_lanes_patience_still_gets_work_done(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path, taken) as here:
        real = here.rig.queue.claim

        async def slow(*args: Any) -> Any:
            await trio.sleep(running.IDLE * 2)
            return await real(*args)

        monkeypatch.setattr(here.rig.queue, "claim", slow)
        await here.put("u@a.example")
        await here.empty()


async def test_new_mail_does_not_wait_for_a_lane_that_is_at_work(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def answer(domain: Domain, message: Message) -> str:
        await trio.sleep(600 if message.recipients[0].local == "slow" else 0)
        return "250 ok"

    async with site(tmp_path, answer) as here:
        await here.put("slow@a.example")
        await trio.sleep(10)
        await here.put("quick@a.example")
        await here.delivered(1, within=1)
        await here.empty(within=1000)


# --- fairness ---


async def test_slow_destinations_hold_up_nobody(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def answer(domain: Domain, message: Message) -> str:
        await trio.sleep(1000 if domain.startswith("slow") else 0.01)
        return "250 ok"

    async with site(tmp_path, answer, lanes=20) as here:
        for number in range(5):
            for copy in range(5):
                await here.put(f"u{copy}@slow{number}.example")
        for number in range(50):
            await here.put(f"u@quick{number}.example")
        await here.delivered(50, within=30)


async def test_a_large_backlog_makes_room_for_others_in_turn(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Also where its mail is older than that of all others, which would put it first again."""

    async def answer(domain: Domain, message: Message) -> str:
        await trio.sleep(1)
        return "250 ok"

    async with opened(tmp_path) as rig, trio.open_nursery() as nursery:
        here = Site(rig, answer, lanes=2)
        for number in range(200):
            await rig.put(f"u{number}@big.example", f"u{number}@large.example", received=NOW - HOUR + number)
        for number in range(6):
            await rig.put(f"u@small{number}.example")
        nursery.start_soon(here.runner.run)
        await trio.sleep(120)
        first = [domain for domain, _ in here.pipeline.offered]
        assert {f"small{number}.example" for number in range(6)} <= set(first)
        # And it gets its turn again.
        last = max(number for number, domain in enumerate(first) if domain.startswith("small"))
        assert set(first[last + 1 :]) == {"big.example", "large.example"}
        nursery.cancel_scope.cancel()


async def test_lanes_never_exceed_their_limit(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    most = 0

    async def answer(domain: Domain, message: Message) -> str:
        nonlocal most
        most = max(most, here.runner.counts.lanes)
        return await taken(domain, message)

    async with site(tmp_path, answer, lanes=7) as here:
        for number in range(300):
            await here.put(f"u{number}@d{number % 30}.example")
        await here.empty()
    assert most <= 8


async def test_lanes_beyond_the_limit_are_no_harm(tmp_path: Path) -> None:
    """Lanes may grow while the queue is read, and then there is less room than none."""
    async with opened(tmp_path) as rig, trio.open_nursery() as nursery:
        here = Site(rig, taken, lanes=4)
        await here.put("u@a.example")
        here.runner.counts.lanes = 7
        await here.runner._start_due(nursery)
        assert (here.runner.counts.lanes, here.runner._wanted) == (7, True)


# --- a destination that is down ---


async def test_a_silent_destination_is_asked_once_for_all_its_mail(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    up = False

    async def answer(domain: Domain, message: Message) -> str:
        return await taken(domain, message) if up else await silent(domain, message)

    async with site(tmp_path, answer) as here:
        for number in range(200):
            await here.put(f"u{number}@down.example")
        await trio.sleep(30)
        assert 1 <= len(here.pipeline.offered) <= 2
        before = len(here.pipeline.offered)
        await trio.sleep(300)
        # A minute, then two, four: each time one connection.
        assert before + 2 <= len(here.pipeline.offered) <= before + 3
        up = True
        await here.empty(within=1200)


async def test_lanes_shrink_when_a_destination_goes_silent(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    calls = 0

    async def answer(domain: Domain, message: Message) -> str:
        nonlocal calls
        calls += 1
        return await (silent if calls > 100 else taken)(domain, message)

    async with site(tmp_path, answer) as here:
        for number in range(500):
            await here.put(f"u{number}@a.example")
        await trio.sleep(20)
        assert calls <= 100 + running.PER_DESTINATION + 4


async def test_mail_behind_a_silent_destination_is_told_about_once_and_given_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Without a connection for each."""

    async def answer(domain: Domain, message: Message) -> str:
        return await (silent if domain == "down.example" else taken)(domain, message)

    async with site(tmp_path, answer) as here:
        for number in range(150):
            await here.put(f"u{number}@down.example")
        await trio.sleep(6 * 3600)
        assert len(here.log.of("notice-queued")) == 150
        assert {line["notice"] for line in here.log.of("notice-queued")} == {"delayed"}
        await trio.sleep(5 * 24 * 3600)
        assert await here.left() == 0
        assert Counter(line["notice"] for line in here.log.of("notice-queued")) == {"delayed": 150, "failed": 150}
        assert len(here.offered("down.example")) < 150


async def test_a_message_that_demands_more_than_a_server_has_keeps_no_other_waiting(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def answer(domain: Domain, message: Message) -> str:
        return "" if message.wish is TlsWish.REQUIRE else "250 ok"

    async with site(tmp_path, answer) as here:
        here.pipeline.spoke = 100
        for number in range(10):
            await here.rig.put(f"u{number}@a.example", wish=TlsWish.REQUIRE)
        await here.put("plain@a.example")
        await trio.sleep(5)
        assert here.runner.counts.delivered == 1
