"""The server's side of SMTP and LMTP without I/O: bytes in, events to decide and replies out (RFC 5321, RFC 2033).

Only CRLF ends a line and only CRLF `.` CRLF ends a message, so that nobody upstream who thinks otherwise can hide a second
message in one (SMTP smuggling). Commands are taken one by one: an event must be answered before the next one is asked for.
Content goes through in pieces, so that memory does not depend on the size of a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from postward.model import TlsInfo
from postward.smtp.content import DotReader
from postward.smtp.incoming import MAX_BEYOND, Incoming
from postward.smtp.reply import Refusal, Reply
from postward.smtp.sasl import MAX_LINE, Exchange
from postward.smtp.server_commands import NUMBER, envelope, offers, read_mail, read_rcpt, too_large
from postward.smtp.server_events import Begin, Drop, Event, Login, Mail, Piece, Rcpt, StartTls
from postward.smtp.settings import ServerSettings, Session

_MAX_SKIPPED: Final = 64 * 1024
_NEEDS_ANSWER: Final = (Mail, Rcpt, Begin, Login)
_GO_ON: Final = Reply(354, ("go on, and end with a dot alone",))
_MAX_HELO: Final = 255
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# Browsers that were sent here to speak for somebody else.
_NOT_SMTP: Final = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH"})
_WITHOUT_TLS: Final = frozenset({"EHLO", "HELO", "LHLO", "STARTTLS", "NOOP", "RSET", "QUIT", "HELP"})
_IDLE: Final = frozenset({"EHLO", "HELO", "LHLO", "NOOP", "RSET", "VRFY", "HELP"})


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
        # Bytes that were not looked at begin at `_at`, so that a command costs no copy of what stands behind it.
        self._buffer, self._at = b"", 0
        self._out: list[bytes] = []
        self._mode = _Mode.COMMAND
        self._pending: Event | None = None
        self._errors = self._idle = self._commands = self._skipped = self._failed_logins = 0
        self._exchange: Exchange | None = None
        self._mail: Mail | None = None
        self._rcpts: list[Rcpt] = []
        self._incoming: Incoming | None = None
        self._dots = DotReader()
        # Whether somebody was told to expect content, and not yet to forget it.
        self._begun = False
        self._chunk_last, self._chunk_left = False, 0
        self._takers: Mapping[_Mode, Callable[[], Event | None]] = {
            _Mode.COMMAND: self._take_line,
            _Mode.SKIP: self._take_line,
            _Mode.DATA: self._take_data,
            _Mode.CHUNK: self._take_chunk,
        }
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
    def in_message(self) -> bool:
        """Whether the client is in the middle of a message; between two chunks, too."""
        return self._incoming is not None

    @property
    def recipients(self) -> int:
        """How many recipients the message has that is on its way."""
        return len(self._rcpts)

    def greet(self) -> None:
        """Say hello (RFC 5321 §3.1)."""
        kind = "LMTP" if self._settings.lmtp else "ESMTP"
        self._reply(Reply(220, (f"{self._settings.hostname} {kind} {self._settings.greeting}",)))

    def receive(self, data: bytes) -> None:
        """Take what the client sent. Nothing more is kept once the session is closed."""
        if not self.closed:
            self._buffer, self._at = (self._rest() + data if self._at < len(self._buffer) else data), 0

    def data_to_send(self) -> bytes:
        """Everything said since the last call."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def next_event(self) -> Event | None:
        """The next thing to decide; None when more bytes are needed, or the session is closed."""
        assert self._pending is None, "the last event was not answered"
        while not self.closed:
            progress = self.progress
            try:
                event = self._takers[self._mode]()
            except Refusal as refusal:
                event = None
                self._refuse(refusal.reply)
            if isinstance(event, _NEEDS_ANSWER) or (isinstance(event, Piece) and event.last):
                self._pending = event
            if event is not None or self.progress == progress:
                return event
        self._buffer, self._at = b"", 0
        return None

    def answer(self, *replies: Reply) -> None:
        """Answer the last event. Over LMTP a message may have one reply for all recipients or one for each."""
        event, self._pending = self._pending, None
        if isinstance(event, Mail):
            self._mail = event if replies[0].positive else None
        elif isinstance(event, Rcpt):
            if replies[0].positive:
                self._rcpts.append(event)
        elif isinstance(event, Begin):
            self._refuse_begin(replies[0])
            return
        elif isinstance(event, Login):
            self._answer_login(event, replies[0])
            return
        elif isinstance(event, Piece):
            if self._settings.lmtp and len(replies) == 1:
                replies *= len(self._rcpts)
            self._idle = 0
            self._reset()
        for reply in replies:
            self._reply(reply)

    def go_ahead(self) -> None:
        """Let the message come that `Begin` is about."""
        self._pending = None
        self._begun = True
        if self._mode is _Mode.DATA:
            self._reply(_GO_ON)

    def discard(self, reply: Reply) -> None:
        """Read the rest of the message for nothing, and refuse it with `reply` behind its end."""
        assert self._incoming is not None, "there is no message"
        self._begun = False
        self._incoming.refuse(reply)

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

    def _rest(self) -> bytes:
        return self._buffer[self._at :]

    def _take_line(self) -> Event | None:
        end = self._buffer.find(b"\n", self._at)
        limit = MAX_LINE if self._exchange else self._settings.max_line
        if end < 0:
            # Nothing that was read is kept, since the wait for the rest may be long.
            self._buffer, self._at = self._rest(), 0
            if len(self._buffer) > limit or self._mode is _Mode.SKIP:
                self._skip()
            return None
        line = self._buffer[self._at : end + 1]
        self._at = end + 1
        self.progress += 1
        if self._mode is _Mode.SKIP or len(line) > limit:
            exchange, self._exchange = self._exchange, None
            self._mode = _Mode.COMMAND
            raise Refusal(500, "5.5.6" if exchange else "5.5.2", f"a line has at most {limit} octets")
        if not line.endswith(b"\r\n"):
            self.give_up(Reply(521, ("a line ends with CR and LF",), "5.5.2"))
            return None
        return self._command(line[:-2]) if self._exchange is None else self._go_on_with(self._exchange, line[:-2])

    def _skip(self) -> None:
        """Forget the beginning of a line that is too long."""
        self._mode = _Mode.SKIP
        self._skipped += len(self._buffer)
        self._buffer = b""
        if self._skipped > _MAX_SKIPPED:
            self.give_up(Reply(421, ("that line does not end",), "4.7.0"))

    def _take_data(self) -> Event | None:
        assert self._incoming is not None
        data = self._rest()
        piece, rest = self._dots.feed(data)
        self._buffer, self._at = rest or b"", 0
        self._incoming.add(piece, len(data))
        return self._hand_on(self._incoming, at_end=rest is not None)

    def _take_chunk(self) -> Event | None:
        data = self._buffer[self._at : self._at + self._chunk_left]
        self._at += len(data)
        self._chunk_left -= len(data)
        at_end, incoming = not self._chunk_left, self._incoming
        event = None
        if incoming is not None:
            incoming.add(data, len(data))
            event = self._hand_on(incoming, at_end=at_end and self._chunk_last)
        if at_end and (incoming is None or not self._chunk_last):
            self._mode = _Mode.COMMAND
            self.progress += 1
            if incoming is None:
                raise Refusal(503, "5.5.1", "BDAT does not belong here")
            if incoming.refusal is None:
                self._say(250, "2.0.0", "go on")
            else:
                self._refuse(incoming.refusal)
        return event

    def _hand_on(self, incoming: Incoming, *, at_end: bool) -> Event | None:
        """What the shell is to hear of content that was just read."""
        if at_end:
            incoming.finish()
            self._mode = _Mode.COMMAND
            self.progress += 1
        if incoming.refusal is None:
            return Piece(incoming.take(), at_end) if at_end or incoming.ready else None
        dropped, self._begun = self._begun, False
        if at_end:
            for _ in self._rcpts if self._settings.lmtp else (None,):
                self._reply(incoming.refusal)
            self._reset()
        elif incoming.endless:
            self.give_up(incoming.refusal)
        return Drop() if dropped else None

    # --- commands ---

    def _command(self, line: bytes) -> Event | None:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise Refusal(500, "5.5.2", "a command is ASCII or UTF-8") from None
        if _CONTROL.search(text):
            raise Refusal(500, "5.5.2", "a control stands in the command")
        verb, _, argument = text.partition(" ")
        verb = verb.upper()
        if verb in _NOT_SMTP:
            self.give_up(Reply(421, ("this is a mail server",), "4.7.0"))
            return None
        self._commands += 1
        # A new message may as well come over a new connection; one that was begun is let through, within reason.
        if self._commands > self._settings.max_commands * (1 if self._mail is None else 2):
            self.give_up(Reply(421, ("enough for one session, please connect again",), "4.7.0"))
            return None
        act = self._verbs.get(verb)
        if act is None:
            raise Refusal(500, "5.5.1", "no such command")
        if self._settings.require_tls and self._session.tls is None and verb not in _WITHOUT_TLS:
            raise Refusal(530, "5.7.0", "issue STARTTLS first")
        if verb in _IDLE:
            self._idle += 1
            if self._idle > self._settings.max_idle:
                self.give_up(Reply(421, ("too many commands without a message",), "4.7.0"))
                return None
        return act(argument.strip(" "))

    def _ehlo(self, argument: str) -> Event | None:
        dropped = self._hello(argument, extended=True)
        keywords = offers(self._settings, in_tls=self._session.tls is not None)
        self._reply(Reply(250, (self._settings.hostname, *keywords)))
        return dropped

    def _helo(self, argument: str) -> Event | None:
        dropped = self._hello(argument, extended=False)
        self._reply(Reply(250, (self._settings.hostname,)))
        return dropped

    def _hello(self, argument: str, *, extended: bool) -> Event | None:
        if not argument or len(argument) > _MAX_HELO:
            raise Refusal(501, "5.5.4", "say your host name")
        self._session.helo, self._session.extended = argument, extended
        return self._forget()

    def _starttls(self, argument: str) -> Event | None:
        if argument:
            raise Refusal(501, "5.5.4", "STARTTLS has no parameter")
        if self._session.tls is not None:
            raise Refusal(503, "5.5.1", "TLS is there already")
        if self._settings.context is None:
            raise Refusal(502, "5.5.1", "no TLS here")
        if self._at < len(self._buffer):
            # Whoever sent it in clear would be heard as the client that comes behind TLS (RFC 3207 §6).
            self._buffer, self._at = b"", 0
            self.give_up(Reply(554, ("something stood behind STARTTLS",), "5.5.0"))
            return None
        self._say(220, "2.0.0", "begin")
        return StartTls()

    def _auth(self, argument: str) -> Event | None:
        if not self._settings.auth:
            raise Refusal(502, "5.5.1", "nobody can log in here")
        if self._session.tls is None:
            raise Refusal(530, "5.7.0", "issue STARTTLS first")
        if not self._session.helo:
            raise Refusal(503, "5.5.1", "say hello first")
        if self._session.user is not None or self._mail is not None:
            raise Refusal(503, "5.5.1", "there is a sender already" if self._mail else "you are logged in")
        mechanism, _, initial = argument.partition(" ")
        exchange = Exchange(mechanism, initial)
        return self._challenge(exchange, exchange.begin())

    def _go_on_with(self, exchange: Exchange, line: bytes) -> Event | None:
        self._exchange = None
        return self._challenge(exchange, exchange.answer(line.decode("ascii", "replace")))

    def _challenge(self, exchange: Exchange, said: bytes | Login) -> Event | None:
        if isinstance(said, Login):
            return said
        self._exchange = exchange
        self._out.append(said)
        return None

    def _answer_login(self, login: Login, reply: Reply) -> None:
        if reply.positive:
            self._session.user = login.user
            self._reply(reply)
            return
        self._failed_logins += reply.permanent
        enough = self._failed_logins >= self._settings.max_logins
        self._refuse(Reply(421, ("too many failed logins",), "4.7.0") if enough else reply)

    def _on_mail(self, argument: str) -> Event:
        if not self._session.helo:
            raise Refusal(503, "5.5.1", "say hello first")
        if self._mail is not None:
            raise Refusal(503, "5.5.1", "there is a sender already")
        if self._settings.require_auth and self._session.user is None:
            raise Refusal(530, "5.7.0", "log in first")
        return read_mail(argument, self._settings, in_tls=self._session.tls is not None)

    def _on_rcpt(self, argument: str) -> Event | None:
        if self._mail is None or self._incoming is not None:
            raise Refusal(503, "5.5.1", "MAIL comes first")
        rcpt = read_rcpt(argument, self._settings, self._mail)
        if len(self._rcpts) < self._settings.max_recipients:
            return rcpt
        self._say(452, "4.5.3", "too many recipients")
        return None

    def _data(self, argument: str) -> Event | None:
        if argument:
            raise Refusal(501, "5.5.4", "DATA has no parameter")
        if not self._rcpts or self._incoming is not None:
            raise Refusal(503, "5.5.1", "no recipient" if self._mail else "MAIL comes first")
        self._mode, self._dots = _Mode.DATA, DotReader()
        return self._begin()

    def _bdat(self, argument: str) -> Event | None:
        number, _, last = argument.partition(" ")
        if NUMBER.fullmatch(number) is None or last.upper() not in ("", "LAST"):
            # What follows may be content, and must not be taken for commands (RFC 3030 §2).
            self.give_up(Reply(501, ("the command is BDAT size [LAST]",), "5.5.4"))
            return None
        if int(number) > self._settings.max_size + MAX_BEYOND:
            self.give_up(too_large(self._settings).reply)
            return None
        self._mode, self._chunk_left, self._chunk_last = _Mode.CHUNK, int(number), bool(last)
        return self._begin() if self._rcpts and self._incoming is None else None

    def _begin(self) -> Event:
        assert self._mail is not None
        self._incoming = Incoming(self._settings)
        return Begin(envelope(self._mail, self._rcpts))

    def _refuse_begin(self, reply: Reply) -> None:
        if self._mode is _Mode.DATA:
            self._mode = _Mode.COMMAND
            self._reset()
            self._reply(reply)
        elif self._incoming is not None:
            # The chunk is on its way already.
            self._incoming.refuse(reply)

    def _rset(self, argument: str) -> Event | None:
        if argument:
            raise Refusal(501, "5.5.4", "RSET has no parameter")
        self._say(250, "2.0.0", "forgotten")
        return self._forget()

    def _quit(self, argument: str) -> None:
        self.give_up(Reply(221, (f"{self._settings.hostname} closing",), "2.0.0"))

    # --- replies ---

    def _forget(self) -> Event | None:
        dropped = self._begun
        self._reset()
        return Drop() if dropped else None

    def _reset(self) -> None:
        self._mail = self._incoming = None
        self._rcpts = []
        self._begun = False
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
