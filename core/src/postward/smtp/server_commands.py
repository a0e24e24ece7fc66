"""What MAIL and RCPT say to a server, and which of it is refused.

RFC 5321 §4.1.1.2-3, RFC 1870, 3461, 4954 §5, 6152, 6531, 8689.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postward.model import DsnRequest
from postward.names import Address
from postward.smtp.envelope import Envelope
from postward.smtp.reply import Refusal
from postward.smtp.sasl import MECHANISMS
from postward.smtp.syntax import dsn_value_is_good, is_xtext, parse_mailbox, split_path

if TYPE_CHECKING:
    from postward.smtp.settings import ServerSettings

NUMBER: Final = re.compile(r"[0-9]{1,20}")


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


def too_large(settings: ServerSettings) -> Refusal:
    """The refusal of a message by its size (RFC 1870 §6)."""
    return Refusal(552, "5.3.4", f"a message has at most {settings.max_size} octets")


def offers(settings: ServerSettings, *, in_tls: bool) -> list[str]:
    """What the reply to EHLO announces."""
    keywords = {
        "PIPELINING": settings.pipelining,
        f"SIZE {settings.max_size}": True,
        "STARTTLS": settings.context is not None and not in_tls,
        "ENHANCEDSTATUSCODES": True,
        "8BITMIME": settings.eight_bit,
        "SMTPUTF8": settings.smtputf8 and settings.eight_bit,
        "CHUNKING": settings.chunking,
        "DSN": settings.dsn,
        # A password in clear is no secret (RFC 4954 §4), and RFC 8689 §2 has this only where there is TLS already.
        f"AUTH {' '.join(MECHANISMS)}": settings.auth and in_tls,
        "REQUIRETLS": settings.requiretls and in_tls,
    }
    return [keyword for keyword, offered in keywords.items() if offered]


def read_mail(argument: str, settings: ServerSettings, *, in_tls: bool) -> Mail:
    """Read what stands behind MAIL. Raises `Refusal`."""
    mailbox, parameters = _split(argument, "FROM:", "MAIL FROM:<address>")
    for keyword, value in parameters.items():
        _check_mail_parameter(keyword, value, settings, in_tls=in_tls)
    if not mailbox:
        return Mail(None, parameters)
    return Mail(_address(mailbox, "5.1.7", utf8="SMTPUTF8" in parameters), parameters)


def read_rcpt(argument: str, settings: ServerSettings, mail: Mail) -> Rcpt:
    """Read what stands behind RCPT. Raises `Refusal`."""
    mailbox, parameters = _split(argument, "TO:", "RCPT TO:<address>")
    for keyword, value in parameters.items():
        if keyword not in ("NOTIFY", "ORCPT") or not settings.dsn:
            raise Refusal(555, "5.5.4", f"no parameter {keyword} here")
        if not dsn_value_is_good(keyword, value):
            raise Refusal(501, "5.5.4", f"not a value of {keyword}")
        if not value.isascii() and "SMTPUTF8" not in mail.parameters:
            raise Refusal(553, "5.6.7", "an address in UTF-8 needs SMTPUTF8")
    if mailbox.lower() == "postmaster":  # RFC 5321 §4.5.1
        mailbox = f"{mailbox}@{settings.hostname}"
    return Rcpt(_address(mailbox, "5.1.3", utf8="SMTPUTF8" in mail.parameters), parameters)


def envelope(mail: Mail, rcpts: Sequence[Rcpt]) -> Envelope:
    """What MAIL and all RCPT said, together."""
    parameters = mail.parameters
    asked = any(rcpt.parameters for rcpt in rcpts)
    return Envelope(
        sender=mail.sender,
        recipients=tuple(rcpt.recipient for rcpt in rcpts),
        require_tls="REQUIRETLS" in parameters,
        smtputf8="SMTPUTF8" in parameters,
        eight_bit=parameters.get("BODY", "").upper() == "8BITMIME",
        size=int(parameters.get("SIZE", "0")),
        ret=parameters.get("RET", "").upper(),
        envid=parameters.get("ENVID", ""),
        dsn=tuple(_dsn_request(rcpt.parameters) for rcpt in rcpts) if asked else (),
    )


def _dsn_request(parameters: Mapping[str, str]) -> DsnRequest:
    notify = parameters.get("NOTIFY", "").upper()
    return DsnRequest(notify=tuple(notify.split(",")) if notify else (), orcpt=parameters.get("ORCPT", ""))


def _split(argument: str, begin: str, usage: str) -> tuple[str, Mapping[str, str]]:
    if not argument.upper().startswith(begin):
        raise Refusal(501, "5.5.4", f"the command is {usage}")
    try:
        return split_path(argument)
    except ValueError as exc:
        raise Refusal(501, "5.5.4", str(exc)) from None


def _address(mailbox: str, enhanced: str, *, utf8: bool) -> Address:
    if not utf8 and not mailbox.isascii():
        raise Refusal(553, "5.6.7", "an address in UTF-8 needs SMTPUTF8")
    try:
        return parse_mailbox(mailbox)
    except ValueError as exc:
        raise Refusal(553, enhanced, str(exc)) from None


def _check_mail_parameter(keyword: str, value: str, settings: ServerSettings, *, in_tls: bool) -> None:
    offered = {
        "SIZE": True,
        "BODY": settings.eight_bit,
        "SMTPUTF8": settings.smtputf8 and settings.eight_bit,
        "REQUIRETLS": settings.requiretls,
        "RET": settings.dsn,
        "ENVID": settings.dsn,
        "AUTH": settings.auth and in_tls,
    }
    if not offered.get(keyword):
        raise Refusal(555, "5.5.4", f"no parameter {keyword} here")
    if keyword == "REQUIRETLS" and not in_tls:
        raise Refusal(523, "5.7.10", "REQUIRETLS needs TLS")  # RFC 8689 §2
    if keyword == "SIZE":
        good = NUMBER.fullmatch(value) is not None
    elif keyword == "BODY":
        good = value.upper() in ("7BIT", "8BITMIME")
    elif keyword in ("RET", "ENVID"):
        good = dsn_value_is_good(keyword, value)
    elif keyword == "AUTH":  # who wrote it is nobody's claim to make here, so it is read and forgotten (RFC 4954 §5)
        good = value == "<>" or (bool(value) and is_xtext(value))
    else:
        good = not value
    if not good:
        raise Refusal(501, "5.5.4", f"not a value of {keyword}")
    if keyword == "SIZE" and int(value) > settings.max_size:
        raise too_large(settings)
