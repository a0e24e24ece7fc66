"""How a server listens: what it offers, how much it takes, how long it waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    from postward.model import TlsInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimeouts:
    """How long a server waits, in seconds (RFC 5321 §4.5.3.2.7).

    `command` is for a whole command; `data_block` for the next piece of content, `message` for all of it, without the time that
    the handler takes; `reply` for a client to take what is said to it; `handler` for each decision of the handler, and each
    write to its sink; `login` is waited before a failed login is answered; `session` is for everything.
    """

    command: float = 300
    data_block: float = 180
    message: float = 1800
    reply: float = 120
    handler: float = 540
    handshake: float = 60
    login: float = 1
    session: float = 14400


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a listener is. `context` has the certificate, None means no TLS; `max_size` is in octets.

    `implicit_tls` begins with the handshake (RFC 8314); `require_tls` takes no mail in clear (RFC 3207 §4); `lmtp` speaks LMTP
    (RFC 2033). `max_errors` refused commands, `max_idle` commands in a row without a message, `max_logins` failed logins, or
    a new message behind `max_commands` commands end the session. A message of at most `max_size` octets has a header of at
    most `max_header`, and comes with `min_rate` octets a second or more once `ServerTimeouts.data_block` has passed.

    `auth` offers AUTH (RFC 4954), over TLS only; `require_auth` takes no mail from who has not logged in.
    """

    hostname: str
    context: ssl.SSLContext | None = None
    implicit_tls: bool = False
    require_tls: bool = False
    lmtp: bool = False
    greeting: str = "Postward"
    max_size: int = 50 * 1024 * 1024
    max_header: int = 1024 * 1024
    min_rate: int = 100
    max_recipients: int = 1000
    max_line: int = 2048
    max_errors: int = 20
    max_idle: int = 100
    max_logins: int = 3
    max_commands: int = 100_000
    auth: bool = False
    require_auth: bool = False
    pipelining: bool = True
    chunking: bool = True
    eight_bit: bool = True
    smtputf8: bool = True
    requiretls: bool = True
    dsn: bool = False
    timeouts: ServerTimeouts = field(default_factory=ServerTimeouts)


@dataclass(slots=True, kw_only=True)
class Session:
    """The facts of one connection, as handlers see them. `peer` is an IP address, empty over a Unix socket.

    `helo` is what the client called itself; `extended` whether it spoke EHLO or LHLO; `user` who logged in, None for nobody.
    """

    peer: str
    lmtp: bool = False
    helo: str = ""
    extended: bool = False
    tls: TlsInfo | None = None
    user: str | None = None

    @property
    def protocol(self) -> str:
        """The word for `with` in a Received field (RFC 3848)."""
        if not self.extended:
            return "SMTP"
        return ("LMTP" if self.lmtp else "ESMTP") + "S" * (self.tls is not None) + "A" * (self.user is not None)
