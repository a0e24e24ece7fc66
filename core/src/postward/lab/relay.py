"""The whole life of a message in the lab: handed in over SMTP, queued, and delivered, waiting, or returned to its sender.

Each case sends one message through the running service, as an application would. Where the message went is seen from outside:
in the mailboxes of the hosts, in the queue, and in the notice that its sender gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from postward.dsn import NotStatusReport, parse
from postward.lab.case import Case, expect
from postward.lab.run import Watcher, letter
from postward.lab.world import HOSTNAME, SENDER, World
from postward.model import Endpoint, TlsWish
from postward.names import Address, Domain
from postward.smtp.client import Envelope, SmtpConnection, SmtpError
from postward.tls import client_handshake

if TYPE_CHECKING:
    from postward.queue.store import Queue

WAIT: Final = 90.0
_LOOK: Final = 0.05
_AT_ONCE: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What became of one message. `fate` is in the words of `Expectation.fate`; `host` took it; `said` is the last word."""

    case: Case
    cid: str
    expected: str
    fate: str
    host: str = ""
    said: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is what had to become of it."""
        return self.fate == self.expected


async def send_all(world: World, queue: Queue, port: int, watcher: Watcher) -> list[Life]:
    """Send the message of every case through the listener at `port`, and say what became of each, in the order of the table."""
    watcher.stage("handing in")
    handed = await hand_in(world.cases, port)
    watcher.stage("following")
    lives: dict[int, Life] = {}
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def one(number: int, case: Case, cid: str) -> None:
        async with limit:
            lives[number] = await follow(world, queue, case, cid)

    async with trio.open_nursery() as nursery:
        for number, (case, reply) in enumerate(handed):
            nursery.start_soon(one, number, case, reply)
    return [lives[number] for number in sorted(lives)]


async def hand_in(cases: Sequence[Case], port: int) -> list[tuple[Case, str]]:
    """Hand in one message for each case over one connection; the id that the relay gave it, or its refusal."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    connection = SmtpConnection(stream)
    handed: list[tuple[Case, str]] = []
    try:
        await connection.greet()
        await connection.ehlo("client.lab.test")
        # REQUIRETLS may only be asked for over TLS (RFC 8689 §2).
        await connection.starttls()
        endpoint = Endpoint(host=HOSTNAME, address="127.0.0.1", port=port)
        secure, _ = await client_handshake(stream, endpoint, HOSTNAME)
        connection.upgraded(secure)
        await connection.ehlo("client.lab.test")
        for case in cases:
            content = letter(case, recipient_of(case))
            envelope = Envelope(
                sender=sender_of(case),
                recipients=(recipient_of(case),),
                require_tls=case.wish is TlsWish.REQUIRE,
                size=len(content),
            )
            (reply,) = await connection.send(envelope, content)
            handed.append((case, str(reply).rpartition(" ")[2] if reply.positive else str(reply)))
        await connection.quit()
    except SmtpError as exc:
        handed += [(case, str(exc)) for case in cases[len(handed) :]]
    finally:
        await connection.aclose()
    return handed


def sender_of(case: Case) -> Address:
    """Each case has a sender of its own, so that a notice tells which message it is about."""
    return Address(case.name, SENDER)


def recipient_of(case: Case) -> Address:
    """Whom a case writes to."""
    return Address("someone", Domain(case.domain))


async def follow(world: World, queue: Queue, case: Case, cid: str) -> Life:
    """Watch a message until it has arrived, waits for another attempt, or has come back."""
    expected = expect(case, world.without).fate
    with trio.move_on_after(WAIT):
        while True:
            if (mail := next(iter(world.mailbox.to(recipient_of(case))), None)) is not None:
                fate = "delivered over TLS" if mail.protocol else "delivered in clear"
                return Life(case=case, cid=cid, expected=expected, fate=fate, host=str(mail.host), said="")
            if (said := _returned(world, case)) is not None:
                return Life(case=case, cid=cid, expected=expected, fate="refused", said=said)
            shown = await queue.show(cid)
            waiting = shown.recipients[0].recipient if shown is not None and shown.recipients else None
            if waiting is not None and waiting.attempts:
                return Life(case=case, cid=cid, expected=expected, fate="deferred", said=waiting.last_reply)
            await trio.sleep(_LOOK)
    return Life(case=case, cid=cid, expected=expected, fate="lost", said=cid if " " in cid else "nothing was seen of it")


def _returned(world: World, case: Case) -> str | None:
    """What the notice to the sender says of the recipient, once there is one."""
    for mail in world.mailbox.to(sender_of(case)):
        try:
            report = parse(mail.content)
        except NotStatusReport:
            continue
        for recipient in report.recipients:
            if recipient.action == "failed":
                return recipient.diagnostic or recipient.status
    return None
