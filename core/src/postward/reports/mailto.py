"""Reports by mail: composed, signed by the submitter's own domain, and sent like any other mail (RFC 8460 §5.3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from postward.dkim import NoKey
from postward.model import Delivered, Message, TlsWish
from postward.names import Address
from postward.reports.mime import compose

if TYPE_CHECKING:
    from postward.dkim import Signer
    from postward.model import Delivery, Report

Send = Callable[[Message], "Awaitable[Delivery]"]


def signed_mail(report: Report, address: Address, *, signer: Signer, now: int) -> bytes:
    """The mail with `report` to one address; `now` is the instant for Date and the signature.

    RFC 8460 §3: `d=` is the submitter, which is also the domain of From, and there is no `l=`; §5.3: the `TLS-Report-*` fields
    are signed. Raises `NoKey`, and `ValueError` for what cannot stand in a header.
    """
    content = compose(report, address, now=now)
    return signer.sign(content, report.submitter, headers=[name for name, _ in report.headers], at=now)


def sender_of(report: Report) -> Address:
    """The envelope sender of a report."""
    return Address("postmaster", report.submitter)


def wish_for(report: Report) -> TlsWish:
    """A TLS report goes out whatever the receiver's TLS looks like (RFC 8460 §3, §5.3.1); other reports follow the policies."""
    return TlsWish.IGNORE if report.kind == "tls" else TlsWish.FOLLOW


async def send_mail(report: Report, address: Address, *, signer: Signer, send: Send, now: int) -> Delivered:
    """Send `report` to one address at once: `send` delivers a message."""
    try:
        signed = signed_mail(report, address, signer=signer, now=now)
    except (NoKey, ValueError) as exc:
        return Delivered(accepted=False, detail=str(exc))
    message = Message(sender=sender_of(report), recipients=(address,), content=signed, wish=wish_for(report), is_report=True)
    delivery = await send(message)
    if not delivery.recipients:
        return Delivered(accepted=False, detail="no outcome")
    outcome = delivery.recipients[0]
    return Delivered(accepted=outcome.delivered, permanent=outcome.permanent, detail=" ".join(outcome.reply.split()))
