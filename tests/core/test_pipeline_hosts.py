"""How far a delivery goes: which hosts and addresses it tries, in how many transactions, and what it says at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from delivery_rig import RECIPIENT, ZONE, Issuer, Rig, make_rig
from postward.model import Mode, TlsPolicy, TlsWish
from postward.names import Address, Domain
from postward.smtp.client import Reply

DOMAIN = Domain("example.test")
TWO_ADDRESSES = "@ IN MX 10 mx1\nmx1 IN A 192.0.2.1\nmx1 IN AAAA 2001:db8::1\n"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with make_rig() as made:
        yield made


def people(count: int) -> list[Address]:
    return [Address(f"u{number}", DOMAIN) for number in range(count)]


async def test_a_host_that_cannot_be_looked_up_excludes_only_itself(rig: Rig) -> None:
    """RFC 7672 §2.1.2: the other hosts are tried; where none is left, mail waits."""
    rig.dns.fault("mx1.example.test", rcode="SERVFAIL", ede=((6, ""),))
    done = await rig.deliver()
    assert done.recipients[0].delivered
    assert (rig.mx1.sessions, len(rig.mx2.received)) == (0, 1)
    rig.dns.fault("mx2.example.test", rcode="SERVFAIL")
    outcome = (await rig.deliver()).recipients[0]
    assert (outcome.delivered, outcome.permanent) == (False, False)


async def test_results_name_the_host_of_the_mx_record(rig: Rig) -> None:
    """RFC 7672 §2.2.1: SHOULD log the unexpanded name, which is what the owner of the domain has written down."""
    rig.dns.set_zone("example.test", "@ IN MX 10 mx1\nmx1 IN CNAME real.provider.test.\n")
    rig.dns.set_zone("provider.test", "real IN A 192.0.2.1\n")
    done = await rig.deliver()
    assert [attempt.host for attempt in done.attempts] == ["mx1.example.test"]
    assert [result.host for result in rig.journal.results] == ["mx1.example.test"]


# --- more recipients than a server takes at once ---


@pytest.mark.parametrize("limit", [1, 40, 130])
async def test_recipients_beyond_the_limit_have_another_transaction(rig: Rig, limit: int) -> None:
    """RFC 5321 §4.5.3.1.10. Over the same connection, and it is one TLS result."""
    rig.mx1.options = {"max_recipients": limit, "max_errors": 3 + 100 // limit}
    everybody = people(3 * limit + 1)
    delivery = await rig.deliver(*everybody)
    assert delivery.delivered
    assert [address for recipients, _ in rig.mx1.received for address in recipients] == everybody
    assert [len(recipients) for recipients, _ in rig.mx1.received] == [limit, limit, limit, 1]
    assert (rig.mx1.sessions, len(rig.journal.results), len(delivery.attempts)) == (1, 1, 1)


async def test_a_server_that_takes_nobody_is_not_asked_again(rig: Rig) -> None:
    """452 for everybody is a full disk."""
    everybody = people(3)
    rig.mx1.refuse = rig.mx2.refuse = {str(each): Reply(452, ("no room",), "4.3.1") for each in everybody}
    delivery = await rig.deliver(*everybody)
    assert [(each.delivered, each.permanent, each.reply) for each in delivery.recipients] == [
        (False, False, "452 4.3.1 no room")
    ] * 3
    assert (rig.mx1.sessions, rig.mx2.sessions) == (1, 1)


async def test_one_mailbox_without_room_is_asked_for_once_more_and_no_more(rig: Rig) -> None:
    first, second, third = people(3)
    rig.mx1.refuse = rig.mx2.refuse = {str(second): Reply(452, ("hm",))}
    delivery = await rig.deliver(first, second, third)
    assert [each.delivered for each in delivery.recipients] == [True, False, True]
    assert [recipients for recipients, _ in rig.mx1.received] == [(first, third)]
    assert (rig.mx1.sessions, rig.mx2.sessions) == (1, 1)


async def test_what_was_taken_stays_taken_when_the_next_transaction_breaks(rig: Rig) -> None:
    taken, left = people(2)
    rig.net.refuse("192.0.2.2", 25)

    async def host(stream: trio.abc.Stream) -> None:
        """One recipient a transaction, and one transaction a session."""
        await stream.send_all(b"220 mx1\r\n")
        for reply in (b"250 mx1", b"250 ok", b"250 ok", b"452 4.5.3 too many", b"354 go", b"250 done"):
            assert await stream.receive_some()
            await stream.send_all(reply + b"\r\n")
        await stream.receive_some()

    rig.net.listen("192.0.2.1", 25, host)
    delivery = await rig.deliver(taken, left)
    assert [(each.delivered, each.reply) for each in delivery.recipients] == [(True, "250 done"), (False, "452 4.5.3 too many")]


# --- the addresses of a host ---


def greeting(reply: bytes) -> object:
    async def host(stream: trio.abc.Stream) -> None:
        await stream.send_all(reply)
        while await stream.receive_some():
            pass

    return host


@pytest.mark.parametrize("said", [b"421 4.3.2 busy\r\n", b"", b"what?\r\n"])
async def test_an_address_that_has_no_time_leaves_it_to_the_next_one(rig: Rig, said: bytes, autojump_clock: object) -> None:
    """RFC 5321 §5.1: at least two addresses, also where a domain has one host only."""
    rig.dns.set_zone("example.test", TWO_ADDRESSES)
    rig.net.listen("2001:db8::1", 25, greeting(said))  # type: ignore[arg-type]
    delivery = await rig.deliver()
    assert (delivery.delivered, [attempt.address for attempt in delivery.attempts]) == (True, ["2001:db8::1", "192.0.2.1"])


async def test_an_address_that_hangs_up_over_mail_leaves_it_to_the_next_one(rig: Rig) -> None:
    """Also where it had come so far that its TLS was counted."""

    async def host(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"220 mx1\r\n")
        await stream.receive_some()
        await stream.send_all(b"250 mx1\r\n")
        await stream.receive_some()

    rig.dns.set_zone("example.test", TWO_ADDRESSES)
    rig.net.listen("2001:db8::1", 25, host)
    delivery = await rig.deliver()
    assert (delivery.delivered, len(delivery.attempts), len(rig.journal.results)) == (True, 2, 2)


async def test_a_refusal_for_good_is_that_of_the_host(rig: Rig) -> None:
    rig.dns.set_zone("example.test", TWO_ADDRESSES)
    rig.net.listen("2001:db8::1", 25, greeting(b"554 5.7.1 go away\r\n"))  # type: ignore[arg-type]
    delivery = await rig.deliver()
    assert [(each.permanent, each.reply) for each in delivery.recipients] == [(True, "554 5.7.1 go away")]
    assert len(delivery.attempts) == 1


async def test_a_temporary_refusal_of_a_recipient_is_not_tried_at_every_address(rig: Rig) -> None:
    """Greylisting takes no note of which of its addresses was asked."""
    rig.dns.set_zone("example.test", TWO_ADDRESSES)
    rig.net.listen("2001:db8::1", 25, rig.mx1)
    rig.mx1.refuse = {str(RECIPIENT): Reply(451, ("later",), "4.7.1")}
    assert len((await rig.deliver()).attempts) == 1


async def test_a_probe_looks_at_one_address_that_works(rig: Rig) -> None:
    rig.dns.set_zone("example.test", TWO_ADDRESSES)
    rig.net.listen("2001:db8::1", 25, rig.mx1)
    assert len((await rig.pipeline.probe(DOMAIN)).attempts) == 1


# --- the way back to ourselves ---


async def test_we_are_not_tried_and_neither_is_who_stands_behind_us() -> None:
    """RFC 5321 §5.1."""
    async with make_rig(hostname=Domain("mx2.example.test")) as rig:
        rig.dns.set_zone("example.test", f"{ZONE}@ IN MX 30 mx3\n")
        rig.net.refuse("192.0.2.1", 25)
        (outcome,) = (await rig.deliver()).recipients
        assert (outcome.delivered, outcome.permanent, rig.mx2.sessions) == (False, False, 0)


@pytest.mark.parametrize("takes_mail", [True, False])
async def test_mail_for_ourselves(takes_mail: bool) -> None:
    """A loop where we are the server that answers; otherwise another server of this machine has its mailboxes."""
    async with make_rig(hostname=Domain("mx1.example.test"), takes_mail=takes_mail) as rig:
        (outcome,) = (await rig.deliver()).recipients
        assert (outcome.delivered, outcome.permanent) == (not takes_mail, takes_mail)
        assert outcome.reply.startswith("554 5.4.6 " if takes_mail else "250 ")


# --- words at the beginning and at the end ---


async def test_a_failure_that_is_not_final_never_looks_final(rig: Rig) -> None:
    """A 5xx of one host is no answer while another could not be reached: scripts look at the first digit."""
    rig.dns.set_zone("example.test", ZONE, "insecure")
    rig.net.refuse("192.0.2.1", 25)
    (outcome,) = (await rig.deliver(wish=TlsWish.REQUIRE)).recipients
    assert (outcome.permanent, outcome.reply[:10]) == (False, "451 4.4.1 ")
    assert "550 5.7.30" in outcome.reply


@pytest.mark.parametrize(("subject", "said"), [("größer".encode(), True), ("größer".encode("latin-1"), False), (b"x", False)])
async def test_smtputf8_is_for_utf_8(rig: Rig, subject: bytes, said: bool) -> None:
    """RFC 6532 §3.2: octets of another charset in a header are no UTF-8, and a server without SMTPUTF8 may have them."""
    rig.mx1.options = {"smtputf8": False}
    delivery = await rig.deliver(content=b"Subject: " + subject + b"\r\n\r\nx\r\n")
    assert (delivery.delivered, delivery.recipients[0].reply[:9] == "550 5.6.9") == (not said, said)


@pytest.mark.parametrize(("wish", "permanent"), [(TlsWish.FOLLOW, False), (TlsWish.IGNORE, True)])
async def test_a_server_that_wants_the_tls_that_broke(rig: Rig, wish: TlsWish, permanent: bool) -> None:
    """530 in clear is final only where the sender asked to do without TLS (RFC 8689 §4.2.2)."""

    async def host(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"220 mx1\r\n")
        replies = {b"EHLO": b"250-mx1\r\n250 STARTTLS\r\n", b"STAR": b"220 go\r\n", b"MAIL": b"530 5.7.0 STARTTLS first\r\n"}
        while data := bytes(await stream.receive_some()):
            await stream.send_all(replies.get(data[:4], b"221 bye\r\n"))

    rig.dns.set_zone("example.test", "@ IN MX 10 mx1\nmx1 IN A 192.0.2.1\n")
    rig.net.listen("192.0.2.1", 25, host)
    delivery = await rig.deliver(wish=wish)
    assert len(delivery.attempts) == 2
    assert [(each.permanent, "530 5.7.0 STARTTLS first" in each.reply) for each in delivery.recipients] == [(permanent, True)]
    assert delivery.recipients[0].reply.startswith("530" if permanent else "451 4.7.5 ")


async def test_leave_is_taken_where_starttls_was_refused(rig: Rig) -> None:
    """RFC 5321 §4.1.1.10: QUIT, also where a policy leaves nothing else to do."""
    heard: list[bytes] = []

    async def host(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"220 mx1\r\n")
        while data := await stream.receive_some():
            heard.append(bytes(data))
            replies = {b"EHLO": b"250-mx1\r\n250 STARTTLS\r\n", b"STAR": b"454 4.7.0 not now\r\n"}
            await stream.send_all(replies.get(bytes(data[:4]), b"221 bye\r\n"))

    rig.plugins.add("issuer", Issuer(domain=TlsPolicy(kind="x-test", mode=Mode.ENFORCE, domain=DOMAIN)))
    rig.dns.set_zone("example.test", "@ IN MX 10 mx1\nmx1 IN A 192.0.2.1\n")
    rig.net.listen("192.0.2.1", 25, host)
    await rig.deliver()
    assert heard[1:] == [b"STARTTLS\r\n", b"QUIT\r\n"]


# --- bounces of messages with REQUIRETLS ---


async def test_a_bounce_keeps_requiretls_where_it_is_taken_on(rig: Rig) -> None:
    """RFC 8689 §5: bounces of such mail ask for the same."""
    assert (await rig.deliver(sender=None, wish=TlsWish.REQUIRE)).delivered
    assert rig.mx1.required == [True]


@pytest.mark.parametrize("how", ["not offered", "not proven", "no TLS"])
async def test_a_bounce_goes_without_requiretls_rather_than_not_at_all(rig: Rig, how: str) -> None:
    """RFC 8689 §5: with an empty return path it is no reason to discard the bounce. For other mail it is."""
    rig.dns.set_zone("example.test", ZONE, "insecure" if how == "not proven" else "secure")
    rig.mx1.options = rig.mx2.options = {"requiretls": how != "not offered"}
    if how == "no TLS":
        rig.mx1.context = rig.mx2.context = None
    (outcome,) = (await rig.deliver(wish=TlsWish.REQUIRE)).recipients
    assert (outcome.permanent, outcome.reply[:10]) == (True, "550 5.7.30")
    assert (await rig.deliver(sender=None, wish=TlsWish.REQUIRE)).delivered
    assert (rig.mx1.required, rig.mx1.over_tls) == ([False], [how != "no TLS"])


async def test_a_bounce_still_follows_the_policies(rig: Rig) -> None:
    rig.plugins.add("issuer", Issuer(domain=TlsPolicy(kind="x-test", mode=Mode.ENFORCE, domain=DOMAIN)))
    rig.mx1.context = rig.mx2.context = None
    assert not (await rig.deliver(sender=None, wish=TlsWish.REQUIRE)).delivered
    assert rig.mx1.received == rig.mx2.received == []
