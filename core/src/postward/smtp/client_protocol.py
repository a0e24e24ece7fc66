"""The client's side of SMTP and LMTP without I/O: bytes in, replies matched to what they answer, bytes out.

`ClientProtocol` knows the session: what is awaited, what the server offers, whether it is still there. `Transaction` knows one
message: which commands may go together (RFC 2920), and which reply decides which recipient (RFC 5321 §3.3, RFC 2033 §4.2).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from postward.smtp.envelope import Envelope
from postward.smtp.reply import Limits, Reply, ReplyParser, SmtpError
from postward.smtp.syntax import dsn_value_is_good

# Commands and replies in flight must fit the buffers between the two sides, or both could wait for ever (RFC 2920 §3.1).
_FLIGHT: Final = 100
_MAX_NAME: Final = 255
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SERVICE_CLOSING: Final = 421
_TOO_MANY: Final = 452
_NO_ROOM_OR_TOO_MANY: Final = 552


class Step(Enum):
    """What a reply answers."""

    GREETING = "greeting"
    HELLO = "hello"
    STARTTLS = "starttls"
    RESET = "reset"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    QUIT = "quit"


class ClientProtocol:
    """One session. Raises `SmtpError` for everything that ends it, and then for every further use."""

    def __init__(self, limits: Limits | None = None, *, lmtp: bool = False) -> None:
        self._parser = ReplyParser(limits)
        self._expected: deque[Step] = deque()
        self.lmtp = lmtp
        self.extensions: Mapping[str, str] = {}
        self.remote_name = ""
        self.secure = False
        self.dirty = False
        self.reused = False
        self.closed = ""

    @property
    def expecting(self) -> bool:
        """Whether a reply is awaited."""
        return bool(self._expected)

    @property
    def pending(self) -> bool:
        """Whether the server said something that was not looked at."""
        return self._parser.pending

    @property
    def next_step(self) -> Step:
        """What the next reply answers."""
        return self._expected[0]

    def receive(self, data: bytes) -> None:
        """Take what the server sent; nothing means that it closed."""
        if not data:
            awaited = f" before the reply to {self.next_step.value}" if self._expected else ""
            raise SmtpError("lost", f"the server closed the connection{awaited}")
        self._parser.feed(data)

    def next_reply(self) -> tuple[Step, Reply] | None:
        """The next reply and what it answers; None until more bytes come."""
        reply = self._parser.next()
        if reply is None:
            return None
        if not self._expected:
            raise self._out_of_step(reply)
        step = self._expected.popleft()
        if reply.intermediate and step is not Step.DATA:
            raise SmtpError("protocol", f"out of place as the reply to {step.value}: {reply}")
        if reply.code == _SERVICE_CLOSING:
            self.closed = str(reply)
            self._expected.clear()
        elif step is Step.GREETING:
            self.remote_name = _first_word(reply)
        elif step is Step.HELLO and reply.positive:
            self.remote_name = _first_word(reply) or self.remote_name
            self.extensions = parse_extensions(reply.lines[1:])
        elif step is Step.STARTTLS and reply.positive and self._parser.pending:
            # RFC 3207 §4.2, and what an attacker in between put there would be read as if it came over TLS.
            raise SmtpError("protocol", "bytes behind the reply to STARTTLS")
        return step, reply

    def expect(self, step: Step, count: int = 1) -> None:
        """Await replies to what is about to be sent. Nothing else may be on its way."""
        if self.closed:
            raise SmtpError("lost", f"the server closed the session: {self.closed}")
        if not self._expected and self._parser.pending:
            stray = self._parser.next()
            raise self._out_of_step(stray) if stray else SmtpError("protocol", "bytes of a reply that nothing asked for")
        self._expected.extend([step] * count)

    def hello(self, hostname: str, *, extended: bool = True) -> bytes:
        """EHLO, LHLO, or HELO for a server that knows no other (RFC 5321 §3.2)."""
        self.extensions = {}
        verb = "HELO" if not extended else "LHLO" if self.lmtp else "EHLO"
        return self._command(Step.HELLO, f"{verb} {hostname}")

    def starttls(self) -> bytes:
        """STARTTLS, with nothing behind it (RFC 3207 §4)."""
        return self._command(Step.STARTTLS, "STARTTLS")

    def quit(self) -> bytes:
        """QUIT."""
        return self._command(Step.QUIT, "QUIT")

    def upgraded(self) -> None:
        """TLS has begun: what was said in clear is forgotten (RFC 3207 §4.2)."""
        self.secure = True
        self.extensions = {}
        self.dirty = False

    def _command(self, step: Step, text: str) -> bytes:
        line = command_line(text)
        self.expect(step)
        return line

    @staticmethod
    def _out_of_step(reply: Reply) -> SmtpError:
        if reply.code == _SERVICE_CLOSING:
            return SmtpError("lost", f"the server closed the session: {reply}")
        return SmtpError("protocol", f"a reply that nothing asked for: {reply}")


def command_line(text: str) -> bytes:
    """A command as a line. Raises `ValueError` for text that would be more than one."""
    if _CONTROL.search(text):
        raise ValueError(f"a control in an SMTP command: {text[:80]!r}")
    return f"{text}\r\n".encode()


def parse_extensions(lines: Iterable[str]) -> dict[str, str]:
    """What a server offers: upper-case keyword and the rest of its line (RFC 5321 §4.1.1.1)."""
    extensions: dict[str, str] = {}
    for line in lines:
        keyword, _, parameters = line.strip().partition(" ")
        if keyword:
            extensions.setdefault(keyword.upper(), parameters.strip())
    return extensions


def too_many_recipients(reply: Reply) -> bool:
    """Whether a reply to RCPT leaves a recipient for another transaction (RFC 5321 §4.5.3.1.10)."""
    return reply.code == _TOO_MANY and reply.enhanced in (None, "4.5.3")


def _first_word(reply: Reply) -> str:
    words = reply.lines[0].split(maxsplit=1) if reply.lines else []
    return words[0][:_MAX_NAME] if words else ""


class Transaction:
    """One message over a session. Send `next_flight()` until it is empty, hand every reply to `take`, then look here.

    With `wants_content` the content is to be sent, after `begin_content()`, and its replies taken too. `outcome` is the end.
    """

    def __init__(self, protocol: ClientProtocol, envelope: Envelope, *, size: int = 0, eight_bit: bool = False) -> None:
        """`size` is that of the content if it is known; `eight_bit` whether it has octets above 127."""
        self._protocol = protocol
        self._replies: list[Reply | None] = [None] * len(envelope.recipients)
        self._asked: deque[int] = deque()
        self._accepted: list[int] = []
        self._commands: deque[tuple[Step, int]] = deque()
        self._mail = b""
        self._rcpt: list[bytes] = []
        self._mail_accepted = False
        self.wants_content = False
        self._width = _FLIGHT if "PIPELINING" in protocol.extensions else 1
        if refusal := self._refusal(envelope, size=size, eight_bit=eight_bit):
            self._decide_rest(refusal)
            return
        utf8 = self._refuse_unreachable(envelope)
        if None not in self._replies:
            return
        try:
            self._mail = self._mail_command(envelope, size=size, eight_bit=eight_bit, utf8=utf8)
        except ValueError:
            self._decide_rest(Reply(553, ("the sender has a control in it",), "5.1.7"))
            return
        self._plan()

    # --- before anything is sent ---

    def _refusal(self, envelope: Envelope, *, size: int, eight_bit: bool) -> Reply | None:
        """Why this server cannot take the message at all."""
        extensions = self._protocol.extensions
        if envelope.require_tls and not (self._protocol.secure and "REQUIRETLS" in extensions):
            # Another host may have it, so the message must not be refused for good here (RFC 8689 §4.2.1).
            return Reply(451, ("the server does not offer REQUIRETLS",), "4.7.30")
        if eight_bit and "8BITMIME" not in extensions:
            return Reply(554, ("the content has 8-bit octets and the server does not offer 8BITMIME",), "5.6.3")
        if "SMTPUTF8" not in extensions:
            if envelope.sender is not None and not envelope.sender.is_ascii:
                return Reply(550, ("the sender needs SMTPUTF8, which the server does not offer",), "5.6.7")
            if envelope.smtputf8:
                return Reply(550, ("the header needs SMTPUTF8, which the server does not offer",), "5.6.9")
        limit = _size_limit(extensions)
        if limit and size > limit:
            return Reply(552, (f"the message has {size} octets and the server takes {limit}",), "5.3.4")
        return None

    def _refuse_unreachable(self, envelope: Envelope) -> bool:
        """Refuse the recipients that this server cannot be told; whether the others need SMTPUTF8."""
        offered = "SMTPUTF8" in self._protocol.extensions
        utf8 = envelope.smtputf8 or (envelope.sender is not None and not envelope.sender.is_ascii)
        for index, recipient in enumerate(envelope.recipients):
            utf8_here = utf8 or (offered and not recipient.is_ascii)
            words = [f"RCPT TO:<{recipient}>", *self._dsn_of_recipient(envelope, index, utf8=utf8_here)]
            try:
                self._rcpt.append(command_line(" ".join(words)))
            except ValueError:
                self._rcpt.append(b"")
                self._replies[index] = Reply(553, ("the address has a control in it",), "5.1.3")
                continue
            if recipient.is_ascii:
                continue
            utf8 = utf8 or offered
            if not offered:
                self._replies[index] = Reply(550, ("the address needs SMTPUTF8, which the server does not offer",), "5.6.7")
        return utf8

    def _mail_command(self, envelope: Envelope, *, size: int, eight_bit: bool, utf8: bool) -> bytes:
        words = [f"MAIL FROM:<{envelope.sender or ''}>"]
        if size and "SIZE" in self._protocol.extensions:
            words.append(f"SIZE={size}")
        if eight_bit:
            words.append("BODY=8BITMIME")
        if utf8:
            words.append("SMTPUTF8")
        if envelope.require_tls:
            words.append("REQUIRETLS")
        if "DSN" in self._protocol.extensions:
            words += _good_parameters(RET=envelope.ret, ENVID=envelope.envid)
        return command_line(" ".join(words))

    def _dsn_of_recipient(self, envelope: Envelope, index: int, *, utf8: bool) -> list[str]:
        """The parameters of RFC 3461 §4 for one recipient, where the server knows them."""
        if not envelope.dsn or "DSN" not in self._protocol.extensions:
            return []
        request = envelope.dsn[index]
        # RFC 6533 §3: UTF-8 as it is needs SMTPUTF8, and is not worth asking for it.
        orcpt = request.orcpt if utf8 or request.orcpt.isascii() else ""
        return _good_parameters(NOTIFY=",".join(request.notify), ORCPT=orcpt)

    def _plan(self) -> None:
        if self._protocol.dirty:
            self._commands.append((Step.RESET, 0))
        self._commands.append((Step.MAIL, 0))
        self._commands.extend((Step.RCPT, index) for index, reply in enumerate(self._replies) if reply is None)
        self._commands.append((Step.DATA, 0))

    # --- commands and their replies ---

    def next_flight(self) -> bytes:
        """What to send now; empty when everything was sent. Take all replies before asking for more."""
        lines: list[bytes] = []
        while self._commands and len(lines) < self._width:
            step, index = self._commands.popleft()
            if step is Step.DATA and not self._accepted and not self._asked:
                break
            lines.append(self._line(step, index))
            self._protocol.expect(step)
        return b"".join(lines)

    def _line(self, step: Step, index: int) -> bytes:
        if step is Step.RCPT:
            self._asked.append(index)
            return self._rcpt[index]
        if step is Step.MAIL:
            return self._mail
        return b"DATA\r\n" if step is Step.DATA else b"RSET\r\n"

    def take(self, step: Step, reply: Reply) -> None:
        """Take the reply to a command of this transaction, or to its content.

        Raises `SmtpError` of kind `lost` for a server that closed a used session before it heard of this message.
        """
        if self._protocol.closed and self._protocol.reused and step in (Step.RESET, Step.MAIL):
            raise SmtpError("lost", f"the server closed the session: {reply}")
        if step is Step.RCPT:
            self._take_rcpt(reply)
        elif step is Step.MAIL:
            self._protocol.reused = True
            self._mail_accepted = self._protocol.dirty = reply.positive
            if not reply.positive:
                self._give_up(reply)
        elif step is Step.DATA:
            self._take_data(reply)
        elif step is Step.CONTENT:
            self._take_content(reply)
        elif reply.positive:  # RSET
            self._protocol.dirty = False
        elif not self._protocol.closed:
            raise SmtpError("protocol", f"RSET was refused: {reply}")
        if self._protocol.closed:
            self._give_up(reply)

    def _take_rcpt(self, reply: Reply) -> None:
        index = self._asked.popleft()
        if not self._mail_accepted:
            return
        if reply.positive:
            self._accepted.append(index)
            return
        if reply.code == _NO_ROOM_OR_TOO_MANY and reply.enhanced in (None, "5.5.3") and self._accepted:
            # RFC 5321 §4.5.3.1.10: that is "too many recipients", and the rest may follow later.
            reply = Reply(_TOO_MANY, reply.lines, "4.5.3")
        self._replies[index] = reply
        if self._accepted and too_many_recipients(reply):
            self._leave_the_rest(reply)

    def _leave_the_rest(self, reply: Reply) -> None:
        """Ask for no further recipient: a server counts what goes beyond its limit as errors, and hangs up over many."""
        for step, index in self._commands:
            if step is Step.RCPT:
                self._replies[index] = reply
        self._commands = deque(command for command in self._commands if command[0] is not Step.RCPT)

    def _take_data(self, reply: Reply) -> None:
        if reply.intermediate:
            # Also without a recipient: the server then waits for an end (RFC 2920 §3.1).
            self.wants_content = True
        elif reply.positive:
            raise SmtpError("protocol", f"out of place as the reply to data: {reply}")
        else:
            self._give_up(reply)

    def _take_content(self, reply: Reply) -> None:
        self._protocol.dirty = False
        if not self._protocol.lmtp:
            self._decide_rest(reply)
        elif self._asked:
            self._replies[self._asked.popleft()] = reply

    def begin_content(self) -> bool:
        """Await the replies to the content. False where no recipient was accepted: then only its end is to be sent."""
        self.wants_content = False
        self._asked = deque(self._accepted)
        self._protocol.expect(Step.CONTENT, max(len(self._accepted), 1) if self._protocol.lmtp else 1)
        return bool(self._accepted)

    def _give_up(self, reply: Reply) -> None:
        self._commands.clear()
        self.wants_content = False
        self._decide_rest(reply)

    def _decide_rest(self, reply: Reply) -> None:
        self._replies = [known or reply for known in self._replies]

    @property
    def outcome(self) -> tuple[Reply, ...]:
        """The deciding reply of each recipient, in their order."""
        undecided = Reply(451, ("the server did not decide",), "4.5.0")
        return tuple(reply or undecided for reply in self._replies)


def _good_parameters(**parameters: str) -> list[str]:
    """Those that have a value, and a good one: what came from elsewhere must not make a command into another."""
    return [f"{keyword}={value}" for keyword, value in parameters.items() if value and dsn_value_is_good(keyword, value)]


def _size_limit(extensions: Mapping[str, str]) -> int:
    """The limit that the server announced, 0 without one (RFC 1870 §3)."""
    text = extensions.get("SIZE", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0
