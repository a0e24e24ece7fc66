"""Domain names and mail addresses, normalised once at the edge.

A `Domain` is a `str` that is known to be good: lower-case A-labels without a trailing dot (RFC 5890, RFC 1035 §2.3.4), so it
compares, hashes, sorts and stores as plain text. U-labels are for display only. An address literal (RFC 5321 §4.1.3) is
also a `Domain`, because it stands where a domain stands; policies never apply to it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Self

import idna

from postward.errors import InvalidName

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_PLAIN: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_MAX_NAME: Final = 253
_ANY_NAME: Final = re.compile(r"(?!\[)[ -\-/-\[\]-~]{1,63}(?:\.[ -\-/-\[\]-~]{1,63})*")
_DOT_ATOM: Final = re.compile(r"[^\s\x00-\x20\x7f()<>\[\]:;@\\,.\"]+(?:\.[^\s\x00-\x20\x7f()<>\[\]:;@\\,.\"]+)*")
_QUOTED: Final = re.compile(r'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"')
_MAX_LOCAL: Final = 64


class Domain(str):
    """A domain name as lower-case A-labels, or an address literal in brackets. Raises `InvalidName`."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if type(text) is cls:
            return text
        return super().__new__(cls, _normalise(text))

    @classmethod
    def to_ask(cls, text: str) -> Self:
        """A name to ask the DNS about that need not be one of a host or mail domain. Raises `InvalidName`.

        SPF's macros put local parts into names, such as `bounce+1=a.example.com` (RFC 7208 §7).
        """
        name = text.removesuffix(".").lower()
        if len(name) > _MAX_NAME or _ANY_NAME.fullmatch(name) is None:
            return cls(text)
        return super().__new__(cls, name)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Makes `Domain` a type for fields of a plugin's `Config`."""
        return _from_text(cls, cls)

    @property
    def is_literal(self) -> bool:
        """Whether this is an address literal, such as `[192.0.2.1]`."""
        return self.startswith("[")

    @property
    def ip(self) -> IpAddress:
        """The address of a literal. Raises `ValueError` for a name."""
        return ipaddress.ip_address(self[1:-1].removeprefix("ipv6:"))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, left-most first."""
        return tuple(self.split("."))

    @property
    def parent(self) -> Domain | None:
        """The name without its left-most label; None for a single label or a literal."""
        _, dot, rest = self.partition(".")
        return None if self.is_literal or not dot else Domain(rest)

    @property
    def unicode(self) -> str:
        """The name with U-labels, for people to read; labels that do not decode stay as they are."""
        if "xn--" not in self:
            return str(self)
        return ".".join(_to_unicode(label) for label in self.labels)

    def is_below(self, other: Domain) -> bool:
        """Whether this name is `other` or a name below it."""
        return self == other or self.endswith(f".{other}")


def _to_unicode(label: str) -> str:
    try:
        return idna.decode(label)
    except (idna.IDNAError, UnicodeError):
        return label


@lru_cache(maxsize=65536)
def _normalise(text: str) -> str:
    if text.startswith("["):
        return _normalise_literal(text)
    name = text.removesuffix(".")
    if not name or len(text) > 1024:
        raise InvalidName(f"not a domain name: {text[:80]!r}")
    lowered = name.lower()
    if not lowered.isascii():
        try:
            lowered = idna.encode(lowered, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as exc:
            raise InvalidName(f"not a domain name: {text[:80]!r}") from exc
    if len(lowered) > _MAX_NAME or _PLAIN.fullmatch(lowered) is None:
        raise InvalidName(f"not a domain name: {text[:80]!r}")
    return lowered


def _normalise_literal(text: str) -> str:
    inner = text[1:-1].lower()
    try:
        if not text.endswith("]"):
            raise ValueError(text)
        if inner.startswith("ipv6:"):
            return f"[ipv6:{ipaddress.IPv6Address(inner.removeprefix('ipv6:')).compressed}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError as exc:
        raise InvalidName(f"not an address literal: {text[:80]!r}") from exc


@dataclass(frozen=True, slots=True)
class Address:
    """A mail address (RFC 5321 §4.1.2, RFC 6531): the local part as given, the domain normalised.

    `local` keeps its case and its quotes; only the domain decides where mail goes.
    """

    local: str
    domain: Domain

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `local@domain`, without angle brackets. Raises `InvalidName`."""
        local, at, domain = text.rpartition("@")
        plain = _DOT_ATOM.fullmatch(local) or _QUOTED.fullmatch(local)
        if not at or plain is None or len(local.encode("utf-8", "replace")) > _MAX_LOCAL:
            raise InvalidName(f"not a mail address: {text[:80]!r}")
        return cls(local, Domain(domain))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Makes `Address` a type for fields of a plugin's `Config`."""
        return _from_text(cls, cls.parse)

    @property
    def is_ascii(self) -> bool:
        """Whether it can be sent without SMTPUTF8 (the domain always can)."""
        return self.local.isascii()

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


def _from_text(kind: type[Any], read: Callable[[str], Any]) -> CoreSchema:
    """A pydantic schema: text that `read` understands, or what is already of the kind."""
    from pydantic_core import core_schema  # only a configuration needs it

    def check(value: object) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise InvalidName("should be text in quotes")
        return read(value)

    return core_schema.no_info_plain_validator_function(check, serialization=core_schema.to_string_ser_schema())
