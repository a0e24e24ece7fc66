"""One connection for many messages: when it is used, when it must not be, and what is counted and told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from delivery_rig import CONTENT, RECIPIENT, Issuer, Rig, make_rig
from postward.delivery.keep import Keeper
from postward.model import BytesContent, Delivery, Message, Mode, TlsPolicy, TlsResult, TlsWish
from postward.names import Address, Domain
from postward.smtp.client import Reply

DOMAIN = Domain("example.test")
SENDER = Address("me", Domain("sender.test"))
OTHER = Address("other", DOMAIN)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with make_rig() as made:
        yield made


class Lane:
    """Sends one message after the other, as a queue does."""

    def __init__(self, rig: Rig, **limits: Any) -> None:
        self.rig, self.keeper, self.results = rig, Keeper(**limits), list[TlsResult]()

    async def send(
        self, *recipients: Address, wish: TlsWish = TlsWish.FOLLOW, content: Any = CONTENT, is_report: bool = False
    ) -> Delivery:
        to = recipients or (RECIPIENT,)
        message = Message(sender=SENDER, recipients=to, content=content, wish=wish, is_report=is_report)
        domain = message.recipients[0].domain
        with trio.fail_after(3600):
            return await self.rig.pipeline.deliver_to(domain, message, keeper=self.keeper, results=self.results)


async def test_many_messages_go_over_one_connection_which_counts_once(rig: Rig) -> None:
    """One session is one result (RFC 8460 §4.2), and plugins hear of a connection when it has ended."""
    lane = Lane(rig)
    for _ in range(3):
        delivery = await lane.send()
        (outcome,) = delivery.recipients
        assert (outcome.delivered, outcome.host) == (True, "mx1.example.test")
        assert [each.delivered for each in delivery.attempts] == [True]
    assert (rig.mx1.sessions, len(rig.mx1.received), len(lane.results)) == (1, 3, 1)
    assert (rig.journal.results, rig.observed) == ([], [])
    await lane.keeper.close()
    (report,) = rig.observed
    assert (report.messages, report.delivered, lane.keeper.empty) == (3, True, True)
    assert report.bytes_sent > 3 * len(CONTENT)


async def test_no_connection_is_shared_between_domains_or_wishes(rig: Rig) -> None:
    """RFC 8461 §2, RFC 8689: what was judged for one next hop or wish proves nothing for another."""
    rig.dns.set_zone("other.test", "@ IN MX 10 mx1.example.test.")
    lane = Lane(rig)
    await lane.send()
    await lane.send(Address("you", Domain("other.test")))
    await lane.send(Address("you", Domain("other.test")), wish=TlsWish.IGNORE)
    assert (rig.mx1.sessions, len(rig.observed)) == (3, 2)
    await lane.keeper.close()


async def test_reports_and_other_mail_have_connections_of_their_own(rig: Rig) -> None:
    """RFC 8460 §3 SHOULD NOT count the session that carries a report, and every other session counts."""
    lane = Lane(rig)
    for is_report in (True, True, False, False):
        await lane.send(wish=TlsWish.IGNORE, is_report=is_report)
    assert rig.mx1.sessions == 2
    assert [result.is_report for result in lane.results] == [True, False]
    await lane.keeper.close()


@pytest.mark.parametrize(("limits", "sessions"), [({"messages": 2}, 2), ({"longest": 10.0}, 4)])
async def test_a_connection_is_bounded_in_messages_and_age(
    rig: Rig, autojump_clock: trio.testing.MockClock, limits: dict[str, Any], sessions: int
) -> None:
    """So that a policy that has changed is looked at again."""
    lane = Lane(rig, **limits)
    issuer = Issuer(domain=TlsPolicy(kind="x-test", mode=Mode.TESTING, domain=DOMAIN))
    rig.plugins.add("issuer", issuer)
    for _ in range(4):
        assert (await lane.send()).delivered
        await trio.sleep(11)
    assert (rig.mx1.sessions, issuer.asked) == (sessions, sessions)
    await lane.keeper.close()


async def test_a_connection_that_broke_in_between_is_replaced(rig: Rig) -> None:
    """Nothing of the second message was sent, so sending it over a new connection repeats nothing."""
    streams: list[trio.abc.Stream] = []

    def remember(stream: trio.abc.Stream) -> trio.abc.Stream:
        streams.append(stream)
        return stream

    rig.mx1.wrap = remember
    lane = Lane(rig)
    await lane.send()
    await trio.aclose_forcefully(streams[0])
    assert (await lane.send()).delivered
    assert (rig.mx1.sessions, len(rig.mx1.received), len(rig.observed)) == (2, 2, 1)
    await lane.keeper.close()


async def test_a_message_that_may_have_arrived_is_not_sent_again_at_once(rig: Rig) -> None:
    """A connection lost behind the final dot leaves the message to a later try (RFC 5321 §4.5.4.1)."""
    lane = Lane(rig)
    await lane.send()
    cut = trio.CancelScope()
    real = rig.mx1._take

    async def vanish(session: Any, envelope: Any, content: bytes) -> Reply:
        await real(session, envelope, content)
        cut.cancel()
        await trio.sleep_forever()
        raise AssertionError

    rig.mx1._take = vanish  # type: ignore[method-assign]
    kept = await lane.keeper.take(DOMAIN, TlsWish.FOLLOW)
    assert kept is not None
    with cut:
        await lane.send()
    # The caller was cancelled in the middle: the connection must not serve anybody else.
    assert not kept.connection.usable
    rig.mx1._take = real  # type: ignore[method-assign]
    assert (await lane.send()).delivered
    assert rig.mx1.sessions == 2
    await lane.keeper.close()


async def test_refusals_leave_the_connection_in_use(rig: Rig) -> None:
    """A recipient that is refused says nothing of the next message."""
    rig.mx1.refuse = {str(OTHER): Reply(550, ("nobody",), "5.1.1")}
    lane = Lane(rig)
    assert not (await lane.send(OTHER)).delivered
    assert (await lane.send()).delivered
    assert (rig.mx1.sessions, rig.mx2.sessions) == (1, 0)
    await lane.keeper.close()


async def test_recipients_that_are_too_many_for_one_transaction_follow_in_the_next(rig: Rig) -> None:
    """RFC 5321 §4.5.3.1.10."""
    many = tuple(Address(f"u{number}", DOMAIN) for number in range(5))
    taken: list[Address] = []

    async def rcpt(session: Any, recipient: Address, parameters: Any) -> Reply | None:
        taken.append(recipient)
        return Reply(452, ("too many",), "4.5.3") if 3 <= len(taken) <= 5 else None

    rig.mx1.rcpt = rcpt  # type: ignore[method-assign]
    delivery = await Lane(rig).send(*many)
    assert [outcome.delivered for outcome in delivery.recipients] == [True] * 5
    assert (rig.mx1.sessions, len(rig.mx1.received)) == (1, 2)


async def test_the_first_of_two_hosts_that_were_needed_is_kept(rig: Rig) -> None:
    """A recipient that the first host defers goes to the second; only one connection can wait for the next message."""
    rig.mx1.refuse = {str(OTHER): Reply(450, ("not now",), "4.2.0")}
    lane = Lane(rig)
    delivery = await lane.send(RECIPIENT, OTHER)
    assert [outcome.host for outcome in delivery.recipients] == ["mx1.example.test", "mx2.example.test"]
    assert [report.host for report in rig.observed] == ["mx2.example.test"]
    await lane.send()
    assert (rig.mx1.sessions, len(rig.mx1.received)) == (1, 2)
    await lane.keeper.close()


class Large(BytesContent):
    """Content that is not in memory, as far as anybody can tell."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data, self.whole = data, None  # type: ignore[assignment]
        self.header, self.eight_bit = b"From: <me@sender.test>", False  # type: ignore[misc]

    async def pieces(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.data), 1000):
            yield self.data[at : at + 1000]


async def test_content_that_is_not_in_memory_is_sent_piece_by_piece(rig: Rig) -> None:
    data = b"From: <me@sender.test>\r\n\r\n" + b".line with a dot\r\n" * 20_000
    lane = Lane(rig)
    assert (await lane.send(content=Large(data))).delivered
    assert rig.mx1.received[0][1] == data
    await lane.keeper.close()
