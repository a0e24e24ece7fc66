"""What became of a job, and who is told what: RFC 3461 §5, RFC 3464, RFC 8689 §5."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from postward import dsn
from postward.dkim import Signer, SigningKey, dns_record, verify
from postward.dns import ZoneResolver
from postward.model import BytesContent, Content, Delivery, RecipientOutcome, TlsWish
from postward.names import Address, Domain
from postward.queue import Job, QueuedMessage, QueuedRecipient
from postward.queue.bounce import Bouncer
from postward.queue.outcome import Outcome, outcome_of, without_reply
from postward.queue.retry import DAY, HOUR
from queue_kit import NOW, SENDER, FixedClock, Rig, opened

HOST = Domain("relay.sender.example")
A = Domain("a.example")
TO = Address.parse("you@a.example")
BODY = b"From: <from@sender.example>\r\nMessage-ID: <1@sender.example>\r\nSubject: s\r\n\r\nsecret body\r\n"


class Log:
    def __getattr__(self, level: str) -> Any:
        return lambda *args, **more: None


def job(*recipients: QueuedRecipient, content: Content | None = None, **how: Any) -> Job:
    content = content or BytesContent(BODY)
    fields: dict[str, Any] = {
        **{"id": 1, "cid": "0123456789ab", "sender": SENDER, "received": NOW, "size": content.size, "wish": TlsWish.FOLLOW},
        **{"smtputf8": False, "eight_bit": content.eight_bit, "is_report": False, "is_bounce": False, "ret": "", "envid": ""},
        **{"spool": "", "content": content},
    }
    return Job(
        message=QueuedMessage(**{**fields, **how}), domain=A, recipients=recipients or (QueuedRecipient(id=0, address=TO),)
    )


def said(reply: str, *, host: str = "mx.a.example", count: int = 1, relayed: bool = False) -> Delivery:
    outcome = RecipientOutcome(
        address=TO,
        delivered=reply[0] == "2",
        permanent=reply[0] == "5",
        reply=reply,
        host=host,
        dsn_relayed=relayed,
    )
    return Delivery(recipients=(outcome,) * count, attempts=())


def bouncer(signer: Signer | None = None) -> Bouncer:
    return Bouncer(hostname=HOST, signer=signer or Signer([]), clock=FixedClock(), log=Log())  # type: ignore[arg-type]


def told(outcome: Outcome) -> str:
    return "".join(name for name, who in (("F", outcome.failed), ("D", outcome.delayed), ("R", outcome.relayed)) if who)


# --- whom to tell ---

WORDS = [(), ("NEVER",), *(c for n in (1, 2, 3) for c in itertools.combinations(("SUCCESS", "FAILURE", "DELAY"), n))]


@pytest.mark.parametrize("notify", WORDS, ids="+".join)
@pytest.mark.parametrize("reply", ["250 2.0.0 ok", "450 4.2.0 later", "550 5.1.1 nobody"])
@pytest.mark.parametrize("hours", [1, 5, 121])
@pytest.mark.parametrize("relayed", [True, False])
@pytest.mark.parametrize("how", [{}, {"sender": None}, {"is_report": True}], ids=str)
def test_everybody_hears_what_was_asked_for(
    notify: tuple[str, ...], reply: str, hours: int, relayed: bool, how: dict[str, Any]
) -> None:
    """Nobody about the null sender or a report; a delay only after four hours; success only where nobody else tells it."""
    here = job(QueuedRecipient(id=7, address=TO, notify=notify), **how)
    outcome = outcome_of(here, said(reply, relayed=relayed), NOW + hours * HOUR, chance=lambda: 0.5)
    (end,) = outcome.ends
    given_up = hours > 120 or (how.get("sender", SENDER) is None and hours > 24)
    state = {"2": "delivered", "5": "failed"}.get(reply[0], "failed" if given_up else "deferred")
    assert (end.recipient, end.state, end.reply) == (7, state, reply)
    assert (end.next_try > NOW + hours * HOUR) is (state == "deferred")
    expected = ""
    if state == "failed" and (not notify or "FAILURE" in notify):
        expected = "F"
    elif state == "deferred" and hours > 4 and (not notify or "DELAY" in notify):
        expected = "D"
    elif state == "delivered" and "SUCCESS" in notify and not relayed:
        expected = "R"
    assert told(outcome) == ("" if how else expected)


def test_a_delay_is_told_once() -> None:
    recipient = QueuedRecipient(id=0, address=TO, told_delay=True)
    outcome = outcome_of(job(recipient), said("450 later"), NOW + 5 * HOUR)
    assert (told(outcome), outcome.ends[0].told_delay) == ("", True)


@pytest.mark.parametrize(("reply", "host", "hours", "dead"), [
    ("451 4.4.1 connecting failed", "", 1, True),
    ("451 4.4.1 connecting failed", "", 121, True),
    ("450 4.2.0 later", "mx.a.example", 1, False),
    ("450 4.2.0 later", "mx.a.example", 121, False),
    ("556 5.1.10 null MX", "", 1, False),
])  # fmt: skip
def test_a_destination_is_dead_by_what_was_said_and_not_by_the_age_of_its_mail(
    reply: str, host: str, hours: int, dead: bool
) -> None:
    assert outcome_of(job(), said(reply, host=host), NOW + hours * HOUR).dead is dead


# --- what they are told ---


async def notice(here: Job, reply: str, *, hours: int = 1, signer: Signer | None = None) -> Any:
    outcome = outcome_of(here, said(reply, count=len(here.recipients)), NOW + hours * HOUR)
    (mail,) = await bouncer(signer).notices(here, outcome)
    assert (mail.message.sender, mail.message.is_bounce) == (None, True)
    assert [(each.address, each.notify) for each in mail.message.recipients] == [(SENDER, ("NEVER",))]
    return mail


async def test_a_failure_is_reported_with_all_that_the_sender_gave() -> None:
    recipients = (
        QueuedRecipient(id=0, address=TO, orcpt="rfc822;first+2Blast@x.example"),
        QueuedRecipient(id=1, address=Address.parse("two@a.example")),
    )
    mail = await notice(job(*recipients, envid="Q+2B1"), "550 5.1.1 nobody here")
    found = dsn.parse(mail.content)
    assert (found.reporting_mta, found.envelope_id, found.arrival) == (str(HOST), "Q+1", NOW)
    assert [(each.recipient, each.original, each.action, each.status) for each in found.recipients] == [
        (str(TO), "first+last@x.example", "failed", "5.1.1"),
        ("two@a.example", "", "failed", "5.1.1"),
    ]
    assert {each.remote_mta for each in found.recipients} == {"mx.a.example"}
    assert b"secret" not in mail.content
    assert b"<1@sender.example>" in mail.content


async def test_a_message_that_grew_too_old_has_failed_for_good() -> None:
    """The class of the status follows what became of it, the rest what was said last."""
    mail = await notice(job(), "451 4.4.1 connecting failed", hours=121)
    (found,) = dsn.parse(mail.content).recipients
    assert (found.action, found.status) == ("failed", "5.4.1")
    assert "451 4.4.1" in found.diagnostic


@pytest.mark.parametrize(
    ("ret", "wish", "reply", "full"),
    [
        ("", TlsWish.FOLLOW, "550 no", False),
        ("HDRS", TlsWish.FOLLOW, "550 no", False),
        ("FULL", TlsWish.FOLLOW, "550 no", True),
        ("FULL", TlsWish.IGNORE, "550 no", True),
        ("FULL", TlsWish.REQUIRE, "550 no", False),
        ("FULL", TlsWish.FOLLOW, "450 later", False),
        ("FULL", TlsWish.FOLLOW, "250 ok", False),
    ],
)
async def test_what_is_returned(ret: str, wish: TlsWish, reply: str, full: bool) -> None:
    """RET speaks of failures (RFC 3461 §4.3), and what needed TLS is not returned (RFC 8689 §5)."""
    here = job(QueuedRecipient(id=0, address=TO, notify=("SUCCESS", "FAILURE", "DELAY")), ret=ret, wish=wish)
    mail = await notice(here, reply, hours=5)
    assert (b"secret" in mail.content) is full
    assert mail.message.wish is (TlsWish.REQUIRE if wish is TlsWish.REQUIRE else TlsWish.FOLLOW)


class Gone(BytesContent):
    """A file that vanished."""

    def __init__(self) -> None:
        super().__init__(BODY)
        self.header, self.eight_bit, self.whole = b"Subject: gone", False, None  # type: ignore[misc,assignment]

    def pieces(self) -> Any:
        raise OSError("gone")


async def test_a_message_that_cannot_be_read_is_still_reported() -> None:
    mail = await notice(job(content=Gone(), ret="FULL"), "550 no")
    assert b"Subject: gone" in mail.content


async def test_a_notice_is_signed_where_a_key_fits() -> None:
    key = SigningKey(domain=Domain("sender.example"), selector="s1", key=Ed25519PrivateKey.generate())
    mail = await notice(job(), "550 no", signer=Signer([key]))
    _, record = dns_record(key)
    resolver = ZoneResolver({"sender.example": f"s1._domainkey IN TXT {record}\n"})
    assert [each.result for each in await verify(mail.content, resolver, at=NOW, inline=True)] == ["pass"]
    other = SigningKey(domain=Domain("other.example"), selector="s1", key=key.key)
    assert b"DKIM-Signature" not in (await notice(job(), "550 no", signer=Signer([other]))).content


EIGHT_BIT = [
    b"Subject: s\r\n\r\nK\xc3\xb6ln\r\n",
    b"Subject: K\xc3\xb6ln\r\nMessage-ID: <2@x.example>\r\n\r\nplain\r\n",
    b"Subject: K\xf6ln\r\n\r\n--\xf6--\r\n",
]


@pytest.mark.parametrize("content", EIGHT_BIT)
@pytest.mark.parametrize("signed", [True, False])
async def test_a_notice_that_a_server_cannot_take_for_its_octets_goes_in_ascii(content: bytes, signed: bool) -> None:
    key = SigningKey(domain=Domain("sender.example"), selector="s1", key=Ed25519PrivateKey.generate())
    signer = Signer([key] if signed else [])
    first = await notice(job(content=BytesContent(content), ret="FULL"), "550 5.1.1 no", signer=signer)
    assert not first.content.isascii()
    refused = "554 5.6.3 the content has 8-bit octets and the server does not offer 8BITMIME"
    back = job(
        QueuedRecipient(id=0, address=SENDER, notify=("NEVER",)),
        content=BytesContent(first.content),
        sender=None,
        is_bounce=True,
    )
    outcome = outcome_of(back, said(refused), NOW)
    (second,) = await bouncer(signer).notices(back, outcome)
    assert second.content.isascii()
    assert (second.message.eight_bit, second.message.sender, second.message.is_bounce) == (False, None, True)
    assert second.message.recipients[0].address == SENDER
    assert dsn.parse(second.content).recipients == dsn.parse(first.content).recipients
    assert b"Subject: s" in second.content or b"Subject: K=" in second.content
    assert second.content.count(b"DKIM-Signature:") == signed
    # Once more, it is the end.
    again = job(back.recipients[0], content=BytesContent(second.content), sender=None, is_bounce=True)
    assert await bouncer().notices(again, outcome_of(again, said(refused), NOW)) == []


async def test_old_mail_is_found_by_age_also_where_its_destination_waits(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        old = await rig.put("old@a.example", received=NOW - 5 * HOUR)
        await rig.put("young@a.example", received=NOW - HOUR)
        null = await rig.put("null@a.example", received=NOW - 25 * HOUR, sender=None)
        expired = await rig.put("expired@a.example", received=NOW - 6 * DAY)
        await rig.execute("UPDATE queue_recipients SET told_delay = 1 WHERE local IN ('null', 'expired')")
        await rig.queue.postpone(A, NOW + HOUR)
        assert await cids(rig, 10) == {old, null, expired}
        assert len(await cids(rig, 2)) == 2
        await rig.execute("UPDATE queue_recipients SET told_delay = 1 WHERE local = 'old'")
        assert await cids(rig, 10) == {null, expired}


async def test_a_report_is_tried_for_a_day(tmp_path: Path) -> None:
    """RFC 8460 §5.5: retries for up to 24 hours, however long other mail is tried."""
    async with opened(tmp_path) as rig:
        await rig.put("r@a.example", received=NOW - 23 * HOUR, is_report=True)
        late = await rig.put("late@a.example", received=NOW - 25 * HOUR, is_report=True)
        await rig.put("other@a.example", received=NOW - 25 * HOUR)
        await rig.execute("UPDATE queue_recipients SET told_delay = 1")
        assert await cids(rig, 10) == {late}
        (found,) = await rig.queue.claim_old(A, NOW, 10)
        outcome = outcome_of(found, without_reply(found, "451 4.4.1 down"), NOW)
        assert [end.state for end in outcome.ends] == ["failed"]
        assert (outcome.failed, outcome.delayed) == ((), ()), "nobody is told by mail about a report"


async def cids(rig: Rig, limit: int) -> set[str]:
    return {each.message.cid for each in await rig.queue.claim_old(A, NOW, limit)}
