"""Paths and parameters of MAIL and RCPT (RFC 5321 §4.1.2, RFC 6531 §3.3, RFC 3461 §4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from postward.errors import InvalidName
from postward.names import Address

# RFC 5321 appendix C: a source route may still come, and is ignored.
_PATH: Final = re.compile(
    r"""(?:from|to):[ ]*
        <(?:@[^<>",:\s]+(?:,@[^<>",:\s]+)*:)?
        (?P<mailbox>(?:"(?:[^"\\]|\\.)*"|[^<>"\s])*)>
        (?:[ ]+(?P<rest>\S.*?))?[ ]*""",
    re.VERBOSE | re.IGNORECASE,
)
_KEYWORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_VALUE: Final = re.compile(r"[^\x00-\x20=\x7f]+")
_XTEXT: Final = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
# RFC 6533 §3: an address of type utf-8 may stand as it is where SMTPUTF8 is in use.
_ORCPT: Final = re.compile(r"[A-Za-z0-9-]+;[!-<>-~]+|(?i:utf-8);[!-<>-~\x80-\U0010ffff]+")
_NOTIFY: Final = frozenset({"SUCCESS", "FAILURE", "DELAY"})
MAX_PARAMETERS: Final = 20


def split_path(argument: str) -> tuple[str, Mapping[str, str]]:
    """Take `FROM:<path> parameters` apart: the mailbox without route and brackets, and the parameters.

    Raises `ValueError` with the reason.
    """
    match = _PATH.fullmatch(argument)
    if match is None:
        raise ValueError("not a path in angle brackets")
    return match["mailbox"], parse_parameters(match["rest"] or "")


def parse_mailbox(text: str) -> Address:
    """Read a mailbox. Raises `ValueError`."""
    try:
        return Address.parse(text)
    except InvalidName as exc:
        raise ValueError("not a mail address") from exc


def parse_parameters(text: str) -> dict[str, str]:
    """ESMTP parameters by upper-case keyword; the value is empty where there is none. Raises `ValueError`."""
    parameters: dict[str, str] = {}
    for word in text.split(" "):
        if not word:
            continue
        keyword, equals, value = word.partition("=")
        keyword = keyword.upper()
        if _KEYWORD.fullmatch(keyword) is None or (equals and _VALUE.fullmatch(value) is None):
            raise ValueError("not a parameter")
        if keyword in parameters:
            raise ValueError(f"{keyword} is given twice")
        if len(parameters) == MAX_PARAMETERS:
            raise ValueError("too many parameters")
        parameters[keyword] = value
    return parameters


def is_xtext(value: str) -> bool:
    """Whether the value is text with its odd characters as `+` and two digits (RFC 3461 §4)."""
    return _XTEXT.fullmatch(value) is not None


def dsn_value_is_good(keyword: str, value: str) -> bool:
    """Whether the value of RET, ENVID, NOTIFY or ORCPT is one (RFC 3461 §4.1-4.4, RFC 6533 §3)."""
    if keyword == "RET":
        return value.upper() in ("FULL", "HDRS")
    if keyword == "ENVID":
        return 0 < len(value) <= 100 and is_xtext(value)
    if keyword == "ORCPT":
        return len(value) <= 500 and _ORCPT.fullmatch(value) is not None
    words = value.upper().split(",")
    return words == ["NEVER"] or (len(words) == len(set(words)) and _NOTIFY.issuperset(words))
