"""What a server's machine asks its shell to decide or to do, besides the commands with a syntax of their own."""

from __future__ import annotations

from dataclasses import dataclass, field

from postward.smtp.envelope import Envelope
from postward.smtp.sasl import Login
from postward.smtp.server_commands import Mail, Rcpt

__all__ = ["Begin", "Drop", "Event", "Login", "Mail", "Piece", "Rcpt", "StartTls"]


@dataclass(frozen=True, slots=True)
class Begin:
    """A message is about to come: call `go_ahead`, or answer with one reply, which refuses it."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Piece:
    """The next piece of the message, which never ends within a CRLF; only the last may be empty.

    To the last one there is an answer: one reply, or over LMTP one for each recipient. Others need none; `discard` is for a
    message that is no longer wanted.
    """

    content: bytes = field(repr=False)
    last: bool


@dataclass(frozen=True, slots=True)
class Drop:
    """The message that was begun comes to nothing. Needs no answer."""


@dataclass(frozen=True, slots=True)
class StartTls:
    """The client may begin its handshake; then call `tls_started`."""


Event = Mail | Rcpt | Begin | Piece | Drop | Login | StartTls
