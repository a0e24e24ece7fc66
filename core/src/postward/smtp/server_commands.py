"""What MAIL and RCPT say to a server, and which of it is refused (RFC 5321 §4.1.1.2-3, RFC 1870, 3461, 6152, 6531, 8689)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postward.names import Address
from postward.smtp.reply import Reply
from postward.smtp.syntax import dsn_value_is_good, parse_mailbox, split_path

if TYPE_CHECKING:
    from postward.smtp.settings import ServerSettings

NUMBER: Final = re.compile(r"[0-9]{1,20}")


class Refused(Exception):
    """A command that is answered with `reply`, and counts as an error of the client."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, (text,), enhanced)


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL, to be answered with one reply."""

    sender: Address | None
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rcpt:
    """RCPT, to be answered with one reply."""

    recipient: Address
    parameters: Mapping[str, str]


def too_large(settings: ServerSettings) -> Refused:
    """The refusal of a message by its size (RFC 1870 §6)."""
    return Refused(552, "5.3.4", f"a message has at most {settings.max_size} octets")


def read_mail(argument: str, settings: ServerSettings, *, in_tls: bool) -> Mail:
    """Read what stands behind MAIL. Raises `Refused`."""
    mailbox, parameters = _split(argument, "FROM:", "MAIL FROM:<address>")
    for keyword, value in parameters.items():
        _check_mail_parameter(keyword, value, settings, in_tls=in_tls)
    if not mailbox:
        return Mail(None, parameters)
    return Mail(_address(mailbox, "5.1.7", utf8="SMTPUTF8" in parameters), parameters)


def read_rcpt(argument: str, settings: ServerSettings, mail: Mail) -> Rcpt:
    """Read what stands behind RCPT. Raises `Refused`."""
    mailbox, parameters = _split(argument, "TO:", "RCPT TO:<address>")
    for keyword, value in parameters.items():
        if keyword not in ("NOTIFY", "ORCPT") or not settings.dsn:
            raise Refused(555, "5.5.4", f"no parameter {keyword} here")
        if not dsn_value_is_good(keyword, value):
            raise Refused(501, "5.5.4", f"not a value of {keyword}")
    if mailbox.lower() == "postmaster":  # RFC 5321 §4.5.1
        mailbox = f"{mailbox}@{settings.hostname}"
    return Rcpt(_address(mailbox, "5.1.3", utf8="SMTPUTF8" in mail.parameters), parameters)


def _split(argument: str, begin: str, usage: str) -> tuple[str, Mapping[str, str]]:
    if not argument.upper().startswith(begin):
        raise Refused(501, "5.5.4", f"the command is {usage}")
    try:
        return split_path(argument)
    except ValueError as exc:
        raise Refused(501, "5.5.4", str(exc)) from None


def _address(mailbox: str, enhanced: str, *, utf8: bool) -> Address:
    if not utf8 and not mailbox.isascii():
        raise Refused(553, "5.6.7", "an address in UTF-8 needs SMTPUTF8")
    try:
        return parse_mailbox(mailbox)
    except ValueError as exc:
        raise Refused(553, enhanced, str(exc)) from None


def _check_mail_parameter(keyword: str, value: str, settings: ServerSettings, *, in_tls: bool) -> None:
    offered = {
        "SIZE": True,
        "BODY": settings.eight_bit,
        "SMTPUTF8": settings.smtputf8 and settings.eight_bit,
        "REQUIRETLS": settings.requiretls,
        "RET": settings.dsn,
        "ENVID": settings.dsn,
    }
    if not offered.get(keyword):
        raise Refused(555, "5.5.4", f"no parameter {keyword} here")
    if keyword == "REQUIRETLS" and not in_tls:
        raise Refused(523, "5.7.10", "REQUIRETLS needs TLS")  # RFC 8689 §2
    if keyword == "SIZE":
        good = NUMBER.fullmatch(value) is not None
    elif keyword == "BODY":
        good = value.upper() in ("7BIT", "8BITMIME")
    elif keyword in ("RET", "ENVID"):
        good = dsn_value_is_good(keyword, value)
    else:
        good = not value
    if not good:
        raise Refused(501, "5.5.4", f"not a value of {keyword}")
    if keyword == "SIZE" and int(value) > settings.max_size:
        raise too_large(settings)
