"""What a notice is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from postward.names import Address, Domain

Action = Literal["failed", "delayed", "delivered", "relayed", "expanded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """What became of one recipient (RFC 3464 §2.3).

    `orcpt` is the parameter of RCPT as given, empty without; `status` is an enhanced code (`status_of`); `reply` is the
    deciding SMTP reply, or our own words in that form; `remote_mta` is the host it is from, empty when there was none.
    Instants are in microseconds, 0 where unknown.
    """

    address: Address
    action: Action
    status: str
    reply: str = ""
    orcpt: str = ""
    remote_mta: str = ""
    last_attempt: int = 0
    will_retry_until: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One notice about one message.

    `kind` is what it mainly says; `to` is the sender of the message; `envid` is the parameter of MAIL as given (xtext);
    `arrival` and `date` are instants in microseconds, `arrival` 0 where unknown. `original` is the message or its header with
    CRLF lines, of which the beginning is enough; `full` returns more than the header (RET=FULL). `message_id` is the notice's
    own, with its brackets; without one, one is made. `headers` are added to those of the notice.
    """

    kind: Literal["failed", "delayed", "delivered", "relayed"]
    reporting_mta: Domain
    to: Address
    recipients: tuple[Recipient, ...]
    date: int
    arrival: int = 0
    envid: str = ""
    original: bytes = field(default=b"", repr=False)
    full: bool = False
    message_id: str = ""
    from_: Address | None = None
    headers: tuple[tuple[str, str], ...] = ()
