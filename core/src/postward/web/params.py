"""What a page may be asked: its parameters, each of a kind, read from a query or a form or refused with the reason.

A page gets values, never text that it has to check. What is not declared is refused too: a misspelt condition that is ignored
would show more than was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

from postward.errors import InvalidName, PostwardError
from postward.model import Window
from postward.names import Domain

Values: TypeAlias = Mapping[str, str | int]

MAX_QUERY: Final = 4096
MAX_FORM: Final = 64 * 1024
PAGE: Final = 50
LARGEST_PAGE: Final = 200
_MAX_FIELDS: Final = 50
_LONGEST: Final = 320
_SHOWN: Final = 60
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CURSOR: Final = re.compile(r"[0-9A-Za-z._~:/\[\]\-]{1,400}")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


class BadQuery(PostwardError):
    """A request that cannot be answered as it stands; the text says what is wrong with it."""

    routine = True


class Kind(StrEnum):
    """What a parameter holds. A page gets a NUMBER as `int` and all others as text: a DOMAIN as A-labels, a DAY of UTC."""

    TEXT = "text"
    NUMBER = "number"
    DOMAIN = "domain"
    DAY = "day"
    CHOICE = "choice"
    CURSOR = "cursor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """A parameter. `label` names it in the form above a page, where one with none does not appear.

    `default` is what a page gets when nothing is given; TEXT has at most `longest` characters, a NUMBER lies from `least` to
    `most`, a CHOICE is one of `choices`.
    """

    name: str
    kind: Kind = Kind.TEXT
    label: str = ""
    help: str = ""
    default: str | int = ""
    choices: tuple[str, ...] = ()
    longest: int = _LONGEST
    least: int = 0
    most: int = 2**31

    def read(self, given: str) -> str | int:
        """The value of what was given. Raises `BadQuery`."""
        value = given.strip(" ")
        if not value:
            return self.default
        if self.kind is Kind.NUMBER:
            return self._number(value)
        if self.kind is Kind.DOMAIN:
            return self._domain(value)
        if self.kind is Kind.DAY:
            return self._day(value)
        if self.kind is Kind.CHOICE and value not in self.choices:
            raise BadQuery(f"{self.name} is {_short(value)}, and should be one of {', '.join(self.choices)}")
        if self.kind is Kind.CURSOR and _CURSOR.fullmatch(value) is None:
            raise BadQuery(f"{self.name} is {_short(value)}, which is no place in a list; begin without it")
        if len(value) > self.longest and self.kind is Kind.TEXT:
            raise BadQuery(f"{self.name} has {len(value):,} characters, and may have {self.longest}")
        if _CONTROL.search(value):
            raise BadQuery(f"{self.name} holds control characters: {_short(value)}")
        return value

    def _number(self, value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= 18 and self.least <= int(value) <= self.most):
            raise BadQuery(f"{self.name} is {_short(value)}, and should be a number from {self.least:,} to {self.most:,}")
        return int(value)

    def _domain(self, value: str) -> str:
        try:
            return str(Domain(value))
        except InvalidName as exc:
            raise BadQuery(f"{self.name} is no domain name: {exc}") from exc

    def _day(self, value: str) -> str:
        try:
            if _DAY.fullmatch(value):
                return Window.of_day(value).day
        except (ValueError, OverflowError):
            pass
        raise BadQuery(f"{self.name} is {_short(value)}, and should be a day such as 2026-11-24")


DAY: Final = Param(name="day", kind=Kind.DAY, label="Day", help="A UTC day, such as 2026-11-24.")
DOMAIN: Final = Param(name="domain", kind=Kind.DOMAIN, label="Domain")
AFTER: Final = Param(name="after", kind=Kind.CURSOR, help="Where the page begins: `next` of the one before.")
LIMIT: Final = Param(name="limit", kind=Kind.NUMBER, default=PAGE, least=1, most=LARGEST_PAGE, help="How many on a page.")


def choice(name: str, label: str, *choices: str, help: str = "") -> Param:
    """A parameter with a fixed set of values, or none."""
    return Param(name=name, kind=Kind.CHOICE, label=label, choices=choices, help=help)


def text(name: str, label: str = "", *, longest: int = _LONGEST, help: str = "") -> Param:
    """A parameter with any text of one line."""
    return Param(name=name, label=label, longest=longest, help=help)


def fields(encoded: bytes, *, most: int = MAX_QUERY) -> dict[str, str]:
    """The fields of a query or a form (`application/x-www-form-urlencoded`). Raises `BadQuery`."""
    if len(encoded) > most:
        raise BadQuery(f"the query has {len(encoded):,} octets, and may have {most:,}")
    found: dict[str, str] = {}
    for pair in encoded.split(b"&") if encoded else ():
        if not pair:
            continue
        name, value = (_decoded(part) for part in (*pair.split(b"=", 1), b"")[:2])
        if name in found:
            raise BadQuery(f"{_short(name)} is given twice")
        found[name] = value
        if len(found) > _MAX_FIELDS:
            raise BadQuery("there are too many parameters")
    return found


def read(params: Sequence[Param], given: Mapping[str, str]) -> dict[str, str | int]:
    """The values of `params`. Raises `BadQuery` for what is wrong, and for what nobody asked for."""
    known = {param.name: param for param in params}
    for name in given:
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "this page takes none"
            raise BadQuery(f"there is no parameter {_short(name)}: {there}")
    return {name: param.read(given.get(name, "")) for name, param in known.items()}


def _decoded(part: bytes) -> str:
    try:
        return unquote_to_bytes(part.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise BadQuery("the query is not UTF-8") from None


def _short(value: str) -> str:
    return ascii(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…") if _CONTROL.search(value) else repr(value[:_SHOWN])
