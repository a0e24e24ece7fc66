"""The runner: who is served when, what one bad message or host costs the others, and what is told of it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from postward.delivery.keep import Keeper
from postward.dkim import Signer
from postward.errors import StoreError
from postward.model import ConnectionReport, Delivery, Message, RecipientOutcome, TlsWish
from postward.names import Address, Domain
from postward.queue import runner as running
from postward.queue.bounce import Bouncer
from postward.queue.retry import HOUR
from postward.queue.runner import Runner
from queue_kit import NOW, SENDER, Rig, opened

HOST = Domain("relay.sender.example")
Answer = Callable[[Domain, Message], Awaitable[str]]


class MockTime:
    """Wall time that goes as fast as trio's."""

    def now(self) -> int:
        return NOW + int(trio.current_time() * 1_000_000)

    async def sleep_until(self, instant: int) -> None:
        await trio.sleep(max(instant - self.now(), 0) / 1_000_000)


class Pipeline:
    """Answers as a test wants: a reply, empty where no server says a word."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.offered: list[tuple[Domain, str]] = []
        self.busy = Counter[Domain]()
        self.most = Counter[Domain]()
        self.spoke = 0

    async def deliver_to(self, domain: Domain, message: Message, *, keeper: Keeper, results: list[Any]) -> Delivery:
        self.offered += [(domain, str(address)) for address in message.recipients]
        self.busy[domain] += 1
        self.most[domain] = max(self.most[domain], self.busy[domain])
        try:
            reply = await self.answer(domain, message)
        finally:
            self.busy[domain] -= 1
        return Delivery(
            recipients=tuple(
                RecipientOutcome(
                    address=address,
                    delivered=reply.startswith("2"),
                    permanent=reply.startswith("5"),
                    reply=reply or "451 4.4.1 connecting failed",
                    host=f"mx.{domain}" if reply else "",
                )
                for address in message.recipients
            ),
            attempts=(
                ConnectionReport(
                    domain=domain,
                    host=domain,
                    address="",
                    tls=None,
                    policies=(),
                    delivered=False,
                    bytes_received=self.spoke,
                ),
            ),
        )


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **more: self.lines.append((level, event, more))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [more for _, name, more in self.lines if name == event]


class Site:
    """A queue with a runner on it."""

    def __init__(self, rig: Rig, answer: Answer, **options: Any) -> None:
        self.rig, self.pipeline, self.log = rig, Pipeline(answer), Log()
        rig.queue._clock = rig.clock = MockTime()  # type: ignore[assignment]
        bouncer = Bouncer(hostname=HOST, signer=options.pop("signer", Signer([])), clock=rig.clock, log=self.log)  # type: ignore[arg-type]
        self.runner = Runner(
            queue=rig.queue,
            pipeline=self.pipeline,  # type: ignore[arg-type]
            bouncer=bouncer,
            clock=rig.clock,
            log=self.log,  # type: ignore[arg-type]
            **options,
        )

    async def put(self, *to: str, **how: Any) -> str:
        cid = await self.rig.put(*to, **how)
        self.runner.wake({Address.parse(one).domain for one in to})
        return cid

    async def left(self) -> int:
        ((count,),) = await self.rig.rows("SELECT COUNT(*) FROM queue_recipients")
        return int(count)

    async def empty(self, within: float = 60) -> None:
        with trio.fail_after(within):
            while await self.left():  # noqa: ASYNC110 - other processes could empty a queue as well
                await trio.sleep(0.1)

    async def delivered(self, count: int, within: float) -> None:
        with trio.fail_after(within):
            while self.runner.counts.delivered < count:  # noqa: ASYNC110
                await trio.sleep(0.01)

    def offered(self, domain: str) -> list[str]:
        return [address for name, address in self.pipeline.offered if name == domain]


@asynccontextmanager
async def site(folder: Path, answer: Answer, **options: Any) -> AsyncIterator[Site]:
    async with opened(folder) as rig, trio.open_nursery() as nursery:
        made = Site(rig, answer, **options)
        nursery.start_soon(made.runner.run)
        yield made
        assert await rig.wrong() == []
        nursery.cancel_scope.cancel()
    assert (made.runner._held, made.runner.counts.lanes, made.runner.counts.destinations) == (0, 0, 0)


async def taken(domain: Domain, message: Message) -> str:
    await trio.sleep(0.01)
    return "250 2.0.0 taken"


async def silent(domain: Domain, message: Message) -> str:
    await trio.sleep(0.01)
    return ""


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
