"""How a client says who it is: the exchanges PLAIN and LOGIN, without I/O (RFC 4954 §4, RFC 4616).

Both carry the password as it is, so they belong behind TLS only.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final

from postward.smtp.reply import Refusal

MECHANISMS: Final = ("PLAIN", "LOGIN")
# RFC 4954 §4: a line of an exchange may be that long, its CRLF included.
MAX_LINE: Final = 12288
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_USER_PROMPT: Final = b"Username:"
_PASSWORD_PROMPT: Final = b"Password:"


@dataclass(frozen=True, slots=True)
class Login:
    """What a client claims, to be answered with one reply."""

    user: str
    password: str = field(repr=False)


class Exchange:
    """One AUTH command: lines of the client in, challenges out, until it is a `Login`."""

    def __init__(self, mechanism: str, initial: str) -> None:
        """Begin with what stands behind AUTH. Raises `Refusal` for a mechanism that is not there."""
        if mechanism.upper() not in MECHANISMS:
            raise Refusal(504, "5.5.4", f"the mechanisms are {' and '.join(MECHANISMS)}")
        self._steps = _plain() if mechanism.upper() == "PLAIN" else _login()
        self._initial = initial

    def begin(self) -> bytes | Login:
        """The first challenge, or the login where all of it was in the initial response."""
        challenge = next(self._steps)
        if not self._initial:
            return _line(challenge)
        return self._next(b"" if self._initial == "=" else _decode(self._initial))

    def answer(self, line: str) -> bytes | Login:
        """The next challenge as a line, or the login. Raises `Refusal`, which ends the exchange."""
        if line == "*":
            raise Refusal(501, "5.7.0", "given up")
        return self._next(_decode(line))

    def _next(self, response: bytes) -> bytes | Login:
        try:
            return _line(self._steps.send(response))
        except StopIteration as stop:
            login: Login = stop.value
            return login


Steps = Generator[bytes, bytes, Login]


def _plain() -> Steps:
    response = yield b""
    identity, _, credentials = response.partition(b"\0")
    user, separator, password = credentials.partition(b"\0")
    if not separator:
        raise Refusal(501, "5.5.2", "PLAIN is identity, user and password")
    login = Login(_text(user), _text(password))
    if identity and identity != user:
        raise Refusal(535, "5.7.8", "nobody acts for somebody else here")
    return login


def _login() -> Steps:
    user = _text((yield _USER_PROMPT))
    return Login(user, _text((yield _PASSWORD_PROMPT)))


def _text(octets: bytes) -> str:
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise Refusal(501, "5.5.2", "user and password are UTF-8") from None
    if not text or _CONTROL.search(text):
        raise Refusal(501, "5.5.2", "user and password are not empty and have no controls")
    return text


def _decode(line: str) -> bytes:
    try:
        return base64.b64decode(line.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise Refusal(501, "5.5.2", "not base64") from None


def _line(challenge: bytes) -> bytes:
    return b"334 " + base64.b64encode(challenge) + b"\r\n"
