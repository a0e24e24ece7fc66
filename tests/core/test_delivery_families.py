"""Hosts with addresses of both families: a refusal by policy may be about one of them only."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from delivery_rig import CONTENT, RECIPIENT, MailHost, Rig, context_for, make_rig
from postward.delivery.keep import Keeper
from postward.model import Delivery, Message
from postward.names import Address, Domain
from postward.smtp.client import Reply

SIX, FOUR = "2001:db8::1", "192.0.2.1"
NO_NAME = Reply(550, ("your address has no name",), "5.7.25")
UNKNOWN = Reply(550, ("nobody",), "5.1.1")
OTHER = Address("other", Domain("example.test"))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with make_rig() as made:
        made.dns.set_zone("example.test", f"@ IN MX 10 mx1\nmx1 IN A {FOUR}\nmx1 IN AAAA {SIX}")
        made.mx2 = MailHost("mx1.example.test", context_for("mx1.example.test"))
        made.net.listen(SIX, 25, made.mx2)
        yield made


async def send(rig: Rig, *recipients: Address, first: bool = True) -> Delivery:
    keeper = Keeper()
    message = Message(sender=None, recipients=recipients or (RECIPIENT,), content=CONTENT)
    try:
        return await rig.pipeline.deliver_to(RECIPIENT.domain, message, keeper=keeper, results=[], first=first)
    finally:
        await keeper.close()


async def test_the_other_family_is_tried_when_a_policy_refuses_the_first(rig: Rig) -> None:
    """What is held against an IPv6 address without a name says nothing of IPv4."""
    rig.mx2.refuse = {str(RECIPIENT): NO_NAME}
    delivery = await send(rig, RECIPIENT, OTHER)
    assert [outcome.delivered for outcome in delivery.recipients] == [True, True]
    assert [attempt.address for attempt in delivery.attempts] == [SIX, FOUR]
    # Whom the first address took has no second copy.
    assert (rig.mx2.received[0][0], rig.mx1.received[0][0]) == ((OTHER,), (RECIPIENT,))


async def test_what_both_families_refuse_is_final(rig: Rig) -> None:
    rig.mx1.refuse = rig.mx2.refuse = {str(RECIPIENT): NO_NAME}
    (outcome,) = (await send(rig)).recipients
    assert (outcome.permanent, outcome.reply) == (True, str(NO_NAME))


async def test_where_the_other_family_cannot_be_reached_it_is_not_final_the_first_time(rig: Rig) -> None:
    rig.mx2.refuse = {str(RECIPIENT): NO_NAME}
    rig.net.refuse(FOUR, 25)
    (outcome,) = (await send(rig)).recipients
    assert (outcome.permanent, outcome.delivered) == (False, False)
    assert outcome.reply.startswith("451 4.7.25")
    (outcome,) = (await send(rig, first=False)).recipients
    assert outcome.permanent


@pytest.mark.parametrize("reply", [UNKNOWN, Reply(550, ("no",))])
async def test_any_other_refusal_is_final_at_once(rig: Rig, reply: Reply) -> None:
    rig.mx2.refuse = {str(RECIPIENT): reply}
    (outcome,) = (await send(rig)).recipients
    assert outcome.permanent
    assert rig.mx1.sessions == 0
