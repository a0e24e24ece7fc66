"""Messages on their way out and in, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from postward.model.content import Content
from postward.model.tls import MessageResult, PolicyResult, TlsWish
from postward.names import Address, Domain, IpAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class DsnRequest:
    """What to report of one recipient: `NEVER`, or some of `SUCCESS`, `FAILURE`, `DELAY`; empty leaves it to the server.

    `orcpt` is the address that the sender wrote to, with its type and as given (`rfc822;…` in xtext), empty where unknown.
    """

    notify: tuple[str, ...] = ()
    orcpt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DsnWish:
    """What a sender wants to hear of a message (RFC 3461): `ret` is `FULL`, `HDRS` or empty, `envid` xtext as given.

    `requests` has one for each recipient of the message, in their order.
    """

    ret: str = ""
    envid: str = ""
    requests: tuple[DsnRequest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to deliver. `sender` is None for the null path; `content` is RFC 5322 with CRLF lines, in memory or not."""

    sender: Address | None
    recipients: tuple[Address, ...]
    content: bytes | Content = field(repr=False)
    wish: TlsWish = TlsWish.FOLLOW
    is_report: bool = False
    dsn: DsnWish | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsInfo:
    """Protocol and cipher as OpenSSL names them, such as `TLSv1.3`."""

    protocol: str
    cipher: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionReport:
    """What one connection came to: of `connection_closed`, and the `attempts` of `deliver --json`.

    `domain` is the next hop, `address` is empty where a host was excluded before dialling, `error` is one line, empty when
    all went well. `started` and `ended` are instants; bytes are those of the clear SMTP dialogue; `messages` is how many
    went over it.
    """

    domain: Domain
    host: Domain
    address: str
    tls: TlsInfo | None
    policies: tuple[PolicyResult, ...]
    delivered: bool
    error: str = ""
    started: int = 0
    ended: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    messages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientOutcome:
    """The end of one recipient: `reply` is the deciding SMTP reply, or our own words in that form.

    `host` is the server that said it, empty where none did. `dsn_relayed`: that server was told what the sender wants to hear,
    and tells the sender itself (RFC 3461 §5.2.1).
    """

    address: Address
    delivered: bool
    permanent: bool
    reply: str
    host: str = ""
    dsn_relayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Everything one delivery came to, recipients in the order given, attempts in the order made."""

    recipients: tuple[RecipientOutcome, ...]
    attempts: tuple[ConnectionReport, ...]

    @property
    def delivered(self) -> bool:
        """Whether every recipient was delivered."""
        return all(outcome.delivered for outcome in self.recipients)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundMessage:
    """A received message, before it is judged. `client_ip` is None where the origin is unknown."""

    client_ip: IpAddress | None
    helo: str
    sender: Address | None
    recipients: tuple[Address, ...]
    content: bytes = field(repr=False)
    received: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthResult:
    """One result of authenticating a message, in the words of RFC 8601 §2.7: `method`, `result`, and `ptype.property` pairs.

    `data` is the authenticating plugin's own, richer form.
    """

    method: str
    result: str
    properties: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    data: Any = field(default=None, compare=False, repr=False)


class Disposition(StrEnum):
    """What is to happen to a received message, mildest first. DEFER asks the client to come back (4xx)."""

    ACCEPT = "accept"
    QUARANTINE = "quarantine"
    DEFER = "defer"
    REJECT = "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A plugin's judgement of a message. `reply` is the SMTP text of a refusal; `results` are counted with the answer."""

    disposition: Disposition
    reason: str = ""
    reply: str = ""
    auth: tuple[AuthResult, ...] = ()
    results: tuple[MessageResult, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportReceipt:
    """A message to a report address: taken in as a `kind` of report, or refused with the `reason` for a header.

    `summary` says in a few words what was taken in. `temporary`: the client is asked to come back, because what is missing now
    may be there later. `error_header` is the name of the field that a refusal is told in.
    """

    accepted: bool
    kind: str
    reason: str = ""
    summary: str = ""
    temporary: bool = False
    error_header: str = "X-Postward-Report-Error"
