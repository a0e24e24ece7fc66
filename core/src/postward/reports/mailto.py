"""Send a report by mail: composed, signed by the submitter's own domain, delivered like any other mail (RFC 8460 §5.3)."""

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


async def send_mail(report: Report, address: Address, *, signer: Signer, send: Send, now: int) -> Delivered:
    """Send `report` to one address. `send` delivers a message at once; `now` is the instant for Date and the signature.

    A TLS report goes out whatever the receiver's TLS looks like (RFC 8460 §3); other reports follow the policies.
    """
    try:
        content = compose(report, address, now=now)
        signed = signer.sign(content, report.submitter, headers=[name for name, _ in report.headers], at=now)
    except (NoKey, ValueError) as exc:
        return Delivered(accepted=False, detail=str(exc))
    message = Message(
        sender=Address("postmaster", report.submitter),
        recipients=(address,),
        content=signed,
        wish=TlsWish.IGNORE if report.kind == "tls" else TlsWish.FOLLOW,
        is_report=True,
    )
    delivery = await send(message)
    if not delivery.recipients:
        return Delivered(accepted=False, detail="no outcome")
    outcome = delivery.recipients[0]
    return Delivered(accepted=outcome.delivered, permanent=outcome.permanent, detail=" ".join(outcome.reply.split()))
