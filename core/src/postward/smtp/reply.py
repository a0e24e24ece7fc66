"""SMTP replies, read and written (RFC 5321 §4.2, enhanced codes RFC 2034 and RFC 3463).

A reply comes from a stranger: it may be endless, hold bytes of any kind, or change its code between its lines. The parser takes
what can be understood, makes controls visible, and gives up with `SmtpError` on the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from postward.errors import PostwardError

_MAX_SHOWN: Final = 1000
_MAX_WRITTEN: Final = 400
_LINE: Final = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_ENHANCED: Final = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:[ \t]+|$)")
# Controls of both kinds, and what turns the direction of text round in a log.
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class SmtpError(PostwardError):
    """A dialogue that cannot go on. The connection is of no more use, and nothing that was not answered was delivered.

    `kind` is `timeout`, `lost` (closed or reset by the peer), `protocol` (the peer left the protocol), `too-long` (a limit of
    ours) or `content` (what was to be sent could not be read); `__cause__` keeps the transport's error.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a peer may say: octets of a reply line, lines and octets of a whole reply."""

    line: int = 4096
    reply_lines: int = 512
    reply_size: int = 65536


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: the code, the text lines without codes, and the enhanced code if there is one. `str` makes it one line."""

    code: int
    lines: tuple[str, ...] = ()
    enhanced: str | None = None

    @property
    def positive(self) -> bool:
        """Whether the command is done (2xx)."""
        return self.code // 100 == 2

    @property
    def intermediate(self) -> bool:
        """Whether more is asked for (3xx)."""
        return self.code // 100 == 3

    @property
    def transient(self) -> bool:
        """Whether the same may work later (4xx)."""
        return self.code // 100 == 4

    @property
    def permanent(self) -> bool:
        """Whether the same will not work later (5xx)."""
        return self.code // 100 == 5

    @property
    def too_many_recipients(self) -> bool:
        """Whether, of a recipient, it says that this one may come in another transaction (RFC 5321 §4.5.3.1.10)."""
        return self.code == 452 and self.enhanced in (None, "4.5.3")

    @property
    def status(self) -> str:
        """The status code for a report (RFC 3463): the enhanced code, else the class alone, such as `5.0.0`."""
        return self.enhanced or f"{self.code // 100}.0.0"

    def __str__(self) -> str:
        text = " ".join([str(self.code), *([self.enhanced] if self.enhanced else []), *filter(None, self.lines)])
        return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"

    def encode(self) -> bytes:
        """The reply on the wire: ASCII, controls made visible, long lines broken, enhanced code on every line (RFC 2034 §4)."""
        return _encoded(self)


@lru_cache(maxsize=64)
def _encoded(reply: Reply) -> bytes:
    # A server says the same few things all day.
    prefix = f"{reply.enhanced} " if reply.enhanced else ""
    texts = [part for line in reply.lines or ("",) for part in _broken(visible(line))]
    last = len(texts) - 1
    rows = [f"{reply.code}{' ' if index == last else '-'}{prefix}{text}" for index, text in enumerate(texts)]
    return "".join(f"{row.rstrip()}\r\n" for row in rows).encode("ascii", "backslashreplace")


class Refusal(Exception):
    """Raised where a server decides about mail, in a handler or a sink, to refuse it with `reply`."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, (text,), enhanced)


def visible(text: str) -> str:
    """The text with its controls as escapes, so that it cannot break a line, a terminal or a log."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSEEN.sub(lambda match: " " if match[0] == "\t" else ascii(match[0])[1:-1], text)


def _broken(text: str) -> list[str]:
    # In octets, because an escape of a character outside ASCII is longer than the character.
    octets = text.encode("ascii", "backslashreplace").decode()
    return [octets[at : at + _MAX_WRITTEN] for at in range(0, len(octets), _MAX_WRITTEN)] or [""]


class ReplyParser:
    """Bytes in, replies out, however the bytes are cut. After an error it must not be used again."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._buffer = bytearray()
        self._searched = 0
        self._code = b""
        self._texts: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> bool:
        """Whether bytes stand here that belong to no reply that was taken."""
        return bool(self._buffer) or bool(self._texts)

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._buffer += data

    def next(self) -> Reply | None:
        """The next whole reply, or None until there is one. Raises `SmtpError` (`protocol`, `too-long`)."""
        limit = self._limits.line
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end > limit or (end < 0 and len(self._buffer) > limit):
                raise SmtpError("too-long", f"a reply line of more than {limit} octets")
            if end < 0:
                self._searched = len(self._buffer)
                return None
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            self._searched = 0
            if self._take(line):
                return self._finish()

    def _take(self, line: bytes) -> bool:
        """Add a line; whether it was the last one of its reply."""
        match = _LINE.fullmatch(line)
        if match is None:
            raise SmtpError("protocol", f"not an SMTP reply: '{_decode(line[:200])}'")
        code, mark, text = match.groups()
        if self._texts and code != self._code:
            raise SmtpError("protocol", f"a reply of two codes, {self._code.decode()} and {code.decode()}")
        self._code = code
        self._texts.append(text or b"")
        self._size += len(line)
        if len(self._texts) > self._limits.reply_lines or self._size > self._limits.reply_size:
            raise SmtpError(
                "too-long", f"a reply of more than {len(self._texts) - 1} lines or {self._limits.reply_size} octets"
            )
        return bool(mark != b"-")

    def _finish(self) -> Reply:
        code, lines = int(self._code), [_decode(text) for text in self._texts]
        self._texts, self._size = [], 0
        match = _ENHANCED.match(lines[0])
        # RFC 2034 §4: the class of both codes agrees; anything else is text.
        enhanced = match[1] if match and match[1][0] == str(code)[0] else None
        if enhanced:
            lines = [_without(line, enhanced) for line in lines]
        return Reply(code, tuple(lines), enhanced)


def _decode(raw: bytes) -> str:
    return visible(raw.decode("utf-8", "backslashreplace"))


def _without(line: str, enhanced: str) -> str:
    match = _ENHANCED.match(line)
    return line[match.end() :] if match and match[1] == enhanced else line
