"""The server's side of SMTP and LMTP without I/O: bytes in, events to decide and replies out (RFC 5321, RFC 2033).

Only CRLF ends a line and only CRLF `.` CRLF ends a message, so that nobody upstream who thinks otherwise can hide a second
message in one (SMTP smuggling). Commands are taken one by one: an event must be answered before the next one is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from postward.model import TlsInfo
from postward.names import Address
from postward.smtp.content import has_proper_lines, unstuff
from postward.smtp.envelope import Envelope
from postward.smtp.reply import Reply
from postward.smtp.server_commands import NUMBER, Mail, Rcpt, Refused, read_mail, read_rcpt, too_large
from postward.smtp.settings import ServerSettings, Session

__all__ = ["Content", "Event", "Mail", "Rcpt", "ServerProtocol", "StartTls"]

_END: Final = b"\r\n.\r\n"
_MAX_SKIPPED: Final = 64 * 1024
_MAX_BEYOND: Final = 16 * 1024 * 1024
_MAX_HELO: Final = 255
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# Browsers that were sent here to speak for somebody else.
_NOT_SMTP: Final = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH"})
_WITHOUT_TLS: Final = frozenset({"EHLO", "HELO", "LHLO", "STARTTLS", "NOOP", "RSET", "QUIT", "HELP"})
_IDLE: Final = frozenset({"EHLO", "HELO", "LHLO", "NOOP", "RSET", "VRFY", "HELP"})


@dataclass(frozen=True, slots=True)
class Content:
    """A whole message, to be answered with one reply, over LMTP one for each recipient."""

    envelope: Envelope
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartTls:
    """The client may begin its handshake; then call `tls_started`."""


Event = Mail | Rcpt | Content | StartTls


class _Mode(Enum):
    COMMAND = "command"
    SKIP = "skip"
    DATA = "data"
    CHUNK = "chunk"


class ServerProtocol:
    """One session. What it says comes out of `data_to_send`; `closed` says that the connection ends once that is sent.

    `progress` grows with every whole command and message, so that a shell can limit the wait for the next one.
    """

    def __init__(self, settings: ServerSettings, session: Session) -> None:
        self.closed = False
        self.progress = 0
        self._settings, self._session = settings, session
        self._buffer = bytearray()
        self._searched = 0
        self._out: list[bytes] = []
        self._mode = _Mode.COMMAND
        self._pending: Mail | Rcpt | Content | None = None
        self._errors = self._idle = self._skipped = 0
        self._mail: Mail | None = None
        self._recipients: list[Address] = []
        self._chunks = bytearray()
        self._chunking = self._chunk_last = self._chunk_belongs = self._too_big = False
        self._chunk_left = 0
        self._verbs: Mapping[str, Callable[[str], Event | None]] = {
            "LHLO" if settings.lmtp else "EHLO": self._ehlo,
            **({} if settings.lmtp else {"HELO": self._helo}),
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._on_mail,
            "RCPT": self._on_rcpt,
            "DATA": self._data,
            **({"BDAT": self._bdat} if settings.chunking else {}),
            "RSET": self._rset,
            "NOOP": lambda _: self._say(250, "2.0.0", "ok"),
            "VRFY": lambda _: self._say(252, "2.5.2", "send mail and see"),
            "HELP": lambda _: self._say(214, "2.0.0", "RFC 5321"),
            "QUIT": self._quit,
        }

    # --- the shell's side ---

    @property
    def reading_content(self) -> bool:
        """Whether the client is in the middle of a message."""
        return self._mode in (_Mode.DATA, _Mode.CHUNK)

    def greet(self) -> None:
        """Say hello (RFC 5321 §3.1)."""
        kind = "LMTP" if self._settings.lmtp else "ESMTP"
        self._reply(Reply(220, (f"{self._settings.hostname} {kind} {self._settings.greeting}",)))

    def receive(self, data: bytes) -> None:
        """Take what the client sent. Nothing more is kept once the session is closed."""
        if not self.closed:
            self._buffer += data

    def data_to_send(self) -> bytes:
        """Everything said since the last call."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def next_event(self) -> Event | None:
        """The next thing to decide; None when more bytes are needed, or the session is closed."""
        assert self._pending is None, "the last event was not answered"
        take = {_Mode.DATA: self._take_data, _Mode.CHUNK: self._take_chunk}
        while not self.closed:
            progress = self.progress
            try:
                event = take.get(self._mode, self._take_line)()
            except Refused as refused:
                event = None
                self._refuse(refused.reply)
            if isinstance(event, Mail | Rcpt | Content):
                self._pending = event
            if event is not None or self.progress == progress:
                return event
        return None

    def answer(self, *replies: Reply) -> None:
        """Answer the last event. Over LMTP a message may have one reply for all recipients or one for each."""
        event, self._pending = self._pending, None
        if isinstance(event, Mail):
            self._mail = event if replies[0].positive else None
        elif isinstance(event, Rcpt) and replies[0].positive:
            self._recipients.append(event.recipient)
        elif isinstance(event, Content):
            if self._settings.lmtp and len(replies) == 1:
                replies *= len(event.envelope.recipients)
            self._idle = 0
            self._reset()
        for reply in replies:
            self._reply(reply)

    def tls_started(self, tls: TlsInfo) -> None:
        """Begin again over TLS: all that was said in clear is forgotten (RFC 3207 §4.2)."""
        self._session.tls = tls
        self._session.helo, self._session.extended, self._session.user = "", False, None
        self._reset()

    def give_up(self, reply: Reply) -> None:
        """Say something last and close."""
        self._pending = None
        self._reply(reply)
        self.closed = True

    # --- bytes: each takes one unit from the buffer and lets `progress` grow, or waits for more ---

    def _take_line(self) -> Event | None:
        end = self._buffer.find(b"\n", self._searched)
        limit = self._settings.max_line
        if end < 0:
            if len(self._buffer) > limit or self._mode is _Mode.SKIP:
                self._skip()
            self._searched = len(self._buffer)
            return None
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        self._searched = 0
        self.progress += 1
        if self._mode is _Mode.SKIP or len(line) > limit:
            self._mode = _Mode.COMMAND
            raise Refused(500, "5.5.2", f"a line has at most {limit} octets")
        if not line.endswith(b"\r\n"):
            self.give_up(Reply(521, ("a line ends with CR and LF",), "5.5.2"))
            return None
        return self._command(line[:-2])

    def _skip(self) -> None:
        """Forget the beginning of a line that is too long."""
        self._mode = _Mode.SKIP
        self._skipped += len(self._buffer)
        self._buffer.clear()
        if self._skipped > _MAX_SKIPPED:
            self.give_up(Reply(421, ("that line does not end",), "4.7.0"))

    def _take_data(self) -> Event | None:
        end = self._buffer.find(_END, self._searched)
        if end < 0:
            self._searched = max(len(self._buffer) - len(_END) + 1, 0)
            # Dots make content larger by a third at most.
            if self._too_big or len(self._buffer) > self._settings.max_size * 4 // 3 + 64:
                self._forget_content()
            return None
        raw = bytes(self._buffer[2 : end + 2])
        del self._buffer[: end + len(_END)]
        self._searched = 0
        return self._finish(unstuff(raw))

    def _forget_content(self) -> None:
        self._too_big = True
        self._skipped += self._searched
        del self._buffer[: self._searched]
        self._searched = 0
        if self._skipped > self._settings.max_size + _MAX_BEYOND:
            self.give_up(too_large(self._settings).reply)

    def _take_chunk(self) -> Event | None:
        size = min(self._chunk_left, len(self._buffer))
        if self._chunk_belongs and not self._too_big:
            self._chunks += self._buffer[:size]
            if len(self._chunks) > self._settings.max_size:
                self._too_big = True
                self._chunks.clear()
        del self._buffer[:size]
        self._chunk_left -= size
        if self._chunk_left:
            return None
        if self._chunk_belongs and self._chunk_last:
            return self._finish(bytes(self._chunks))
        self._mode = _Mode.COMMAND
        self.progress += 1
        if not self._chunk_belongs:
            raise Refused(503, "5.5.1", "BDAT does not belong here")
        if self._too_big:
            raise too_large(self._settings)
        self._say(250, "2.0.0", "go on")
        return None

    def _finish(self, content: bytes) -> Event | None:
        """The message is whole: refuse it, or hand it on."""
        self._mode = _Mode.COMMAND
        self.progress += 1
        if self._too_big or len(content) > self._settings.max_size:
            refusal = too_large(self._settings).reply
        elif not has_proper_lines(content):
            refusal = Reply(550, ("a CR or LF stands alone in the message (RFC 5321 section 2.3.8)",), "5.6.0")
        else:
            return Content(self._envelope(content), content)
        for _ in self._recipients if self._settings.lmtp else (None,):
            self._reply(refusal)
        self._reset()
        return None

    def _envelope(self, content: bytes) -> Envelope:
        assert self._mail is not None
        parameters = self._mail.parameters
        return Envelope(
            sender=self._mail.sender,
            recipients=tuple(self._recipients),
            require_tls="REQUIRETLS" in parameters,
            smtputf8="SMTPUTF8" in parameters,
            eight_bit=not content.isascii(),
            size=len(content),
        )

    # --- commands ---

    def _command(self, line: bytes) -> Event | None:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise Refused(500, "5.5.2", "a command is ASCII or UTF-8") from None
        if _CONTROL.search(text):
            raise Refused(500, "5.5.2", "a control stands in the command")
        verb, _, argument = text.partition(" ")
        verb = verb.upper()
        if verb in _NOT_SMTP:
            self.give_up(Reply(421, ("this is a mail server",), "4.7.0"))
            return None
        act = self._verbs.get(verb)
        if act is None:
            raise Refused(500, "5.5.1", "no such command")
        if self._settings.require_tls and self._session.tls is None and verb not in _WITHOUT_TLS:
            raise Refused(530, "5.7.0", "issue STARTTLS first")
        if verb in _IDLE:
            self._idle += 1
            if self._idle > self._settings.max_idle:
                self.give_up(Reply(421, ("too many commands without a message",), "4.7.0"))
                return None
        return act(argument.strip(" "))

    def _ehlo(self, argument: str) -> None:
        self._hello(argument, extended=True)
        offered, in_tls = self._settings, self._session.tls is not None
        keywords = {
            "PIPELINING": offered.pipelining,
            f"SIZE {offered.max_size}": True,
            "STARTTLS": offered.context is not None and not in_tls,
            "ENHANCEDSTATUSCODES": True,
            "8BITMIME": offered.eight_bit,
            "SMTPUTF8": offered.smtputf8 and offered.eight_bit,
            "CHUNKING": offered.chunking,
            "DSN": offered.dsn,
            # RFC 8689 §2: only where there is TLS already.
            "REQUIRETLS": offered.requiretls and in_tls,
        }
        self._reply(Reply(250, (offered.hostname, *(word for word, offer in keywords.items() if offer))))

    def _helo(self, argument: str) -> None:
        self._hello(argument, extended=False)
        self._reply(Reply(250, (self._settings.hostname,)))

    def _hello(self, argument: str, *, extended: bool) -> None:
        if not argument or len(argument) > _MAX_HELO:
            raise Refused(501, "5.5.4", "say your host name")
        self._session.helo, self._session.extended = argument, extended
        self._reset()

    def _starttls(self, argument: str) -> Event | None:
        if argument:
            raise Refused(501, "5.5.4", "STARTTLS has no parameter")
        if self._session.tls is not None:
            raise Refused(503, "5.5.1", "TLS is there already")
        if self._settings.context is None:
            raise Refused(502, "5.5.1", "no TLS here")
        if self._buffer:
            # Whoever sent it in clear would be heard as the client that comes behind TLS (RFC 3207 §6).
            self._buffer.clear()
            self.give_up(Reply(554, ("something stood behind STARTTLS",), "5.5.0"))
            return None
        self._say(220, "2.0.0", "begin")
        return StartTls()

    def _auth(self, argument: str) -> None:
        # The place of RFC 4954; `Session.user` is what it would set.
        raise Refused(502, "5.5.1", "nobody can log in here")

    def _on_mail(self, argument: str) -> Event:
        if not self._session.helo:
            raise Refused(503, "5.5.1", "say hello first")
        if self._mail is not None:
            raise Refused(503, "5.5.1", "there is a sender already")
        return read_mail(argument, self._settings, in_tls=self._session.tls is not None)

    def _on_rcpt(self, argument: str) -> Event | None:
        if self._mail is None or self._chunking:
            raise Refused(503, "5.5.1", "MAIL comes first")
        rcpt = read_rcpt(argument, self._settings, self._mail)
        if len(self._recipients) < self._settings.max_recipients:
            return rcpt
        self._say(452, "4.5.3", "too many recipients")
        return None

    def _data(self, argument: str) -> None:
        if argument:
            raise Refused(501, "5.5.4", "DATA has no parameter")
        if not self._recipients or self._chunking:
            raise Refused(503, "5.5.1", "no recipient" if self._mail else "MAIL comes first")
        self._reply(Reply(354, ("go on, and end with a dot alone",)))
        self._mode = _Mode.DATA
        # So that a dot in the very first line is found as any other.
        self._buffer[:0] = b"\r\n"

    def _bdat(self, argument: str) -> None:
        number, _, last = argument.partition(" ")
        if NUMBER.fullmatch(number) is None or last.upper() not in ("", "LAST"):
            # What follows may be content, and must not be taken for commands (RFC 3030 §2).
            self.give_up(Reply(501, ("the command is BDAT size [LAST]",), "5.5.4"))
        elif int(number) > self._settings.max_size + _MAX_BEYOND:
            self.give_up(too_large(self._settings).reply)
        else:
            self._mode, self._chunk_left, self._chunk_last = _Mode.CHUNK, int(number), bool(last)
            self._chunking = self._chunk_belongs = bool(self._recipients)

    def _rset(self, argument: str) -> None:
        if argument:
            raise Refused(501, "5.5.4", "RSET has no parameter")
        self._reset()
        self._say(250, "2.0.0", "forgotten")

    def _quit(self, argument: str) -> None:
        self.give_up(Reply(221, (f"{self._settings.hostname} closing",), "2.0.0"))

    # --- replies ---

    def _reset(self) -> None:
        self._mail = None
        self._recipients = []
        self._chunks.clear()
        self._chunking = self._too_big = False
        self._skipped = 0

    def _say(self, code: int, enhanced: str, text: str) -> None:
        self._reply(Reply(code, (text,), enhanced))

    def _refuse(self, reply: Reply) -> None:
        """Refuse a command, and the whole session after too many of them."""
        self._errors += 1
        self._reply(reply if self._errors < self._settings.max_errors else Reply(421, ("too many errors",), "4.7.0"))

    def _reply(self, reply: Reply) -> None:
        self._out.append(reply.encode())
        self.closed = self.closed or reply.code == 421
