"""The policy file: which hosts may take mail, how strictly, for how long (RFC 8461 §3.2).

A file is bytes from the network. It is read by the grammar of the RFC and by nothing else, so a web page that a server gives
with status 200 is an error and never a policy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from postward.errors import InvalidName, PostwardError
from postward.model import Mode
from postward.names import Domain

PATH: Final = "/.well-known/mta-sts.txt"
MAX_BYTES: Final = 65_536
MAX_AGE: Final = 31_557_600
MAX_MX: Final = 1000
_MAX_LINES: Final = 2000
_SHOWN_LINES: Final = 200
_SHOWN_LENGTH: Final = 500

_LINE_END: Final = re.compile(r"\r?\n")
_KEY: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31}):")
_NAME: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,31})?")
# The grammar takes any UTF-8 that is not ASCII; what is shown to people must not steer their terminals.
_NOT_ALLOWED: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")
_SECONDS: Final = re.compile(r"[0-9]{1,10}")


class PolicyError(PostwardError):
    """A text that is no policy. `line` and `column` (characters) count from 1; both are 0 for the file as a whole."""

    def __init__(self, message: str, *, line: int = 0, column: int = 0) -> None:
        super().__init__(f"line {line}, column {column}: {message}" if line else message)
        self.line, self.column = line, column


@dataclass(frozen=True, slots=True, kw_only=True)
class StsPolicy:
    """A policy as published.

    `max_age` is seconds, at most a year (RFC 8461 §3.2); `mx` are patterns in lower-case A-labels, `*.` standing for one label;
    `extensions` are the fields that RFC 8461 does not know, in their order.
    """

    mode: Mode
    max_age: int
    mx: tuple[str, ...]
    extensions: tuple[tuple[str, str], ...] = ()


def policy_host(domain: Domain) -> Domain:
    """The host that serves the policy of a domain (RFC 8461 §3.2). Raises `InvalidName` when the domain is too long for one."""
    return Domain(f"mta-sts.{domain}")


def decode(body: bytes) -> str:
    """The bytes of a policy file as text. Raises `PolicyError` when they are none."""
    if len(body) > MAX_BYTES:
        raise PolicyError(f"the policy is larger than {MAX_BYTES} bytes")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = body.count(b"\n", 0, exc.start) + 1
        before = body[body.rfind(b"\n", 0, exc.start) + 1 : exc.start]
        raise PolicyError("not UTF-8", line=line, column=len(before.decode("utf-8")) + 1) from exc


def lines(text: str) -> tuple[str, ...]:
    """The lines as declared, errors included: the `policy-string` of a report (RFC 8460 §4.5).

    Endless ones are cut, control characters are replaced, so that a web page in the place of a policy stays bearable.
    """
    shown = _split(text)[:_SHOWN_LINES]
    return tuple(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", line[:_SHOWN_LENGTH]).rstrip(" \t") for line in shown)


def parse(text: str) -> StsPolicy:
    """Read a policy (RFC 8461 §3.2). Of duplicated fields other than `mx` the first counts. Raises `PolicyError`.

    Lines end with LF or CRLF (the grammar; erratum 6253 on the prose). Empty lines carry nothing and are passed over.
    """
    fields: dict[str, _Value] = {}
    mx: dict[str, None] = {}
    split = _split(text)
    if len(split) > _MAX_LINES:
        raise PolicyError(f"more than {_MAX_LINES} lines")
    for number, line in enumerate(split, 1):
        if not line.strip(" \t"):
            continue
        key, value = _field(line, number)
        if key == "mx":
            mx[_pattern(value)] = None
        else:
            fields.setdefault(key, value)
    if len(mx) > MAX_MX:
        raise PolicyError(f"more than {MAX_MX} mx patterns")
    version = _required(fields, "version")
    if version.text != "STSv1":
        raise version.error(f"the version is {version.text[:40]!r}, not 'STSv1'")
    mode = _mode(_required(fields, "mode"))
    max_age = _max_age(_required(fields, "max_age"))
    if not mx and mode is not Mode.NONE:
        raise PolicyError(f"mode {mode} without any mx")
    extensions = tuple((key, value.text) for key, value in fields.items())
    return StsPolicy(mode=mode, max_age=max_age, mx=tuple(mx), extensions=extensions)


@dataclass(frozen=True, slots=True)
class _Value:
    """A value and where it stands, counted from 1."""

    text: str
    line: int
    column: int

    def error(self, message: str) -> PolicyError:
        return PolicyError(message, line=self.line, column=self.column)


def _split(text: str) -> list[str]:
    split = _LINE_END.split(text)
    return split[:-1] if split[-1] == "" else split


def _field(line: str, number: int) -> tuple[str, _Value]:
    if control := _NOT_ALLOWED.search(line):
        raise PolicyError(f"control character {control[0]!r}", line=number, column=control.start() + 1)
    key = _KEY.match(line)
    if key is None:
        column = len(_NAME.match(line)[0]) + 1  # type: ignore[index]  # it also matches nothing
        raise PolicyError(f"not 'key: value': {line[:40]!r}", line=number, column=column)
    text = line[key.end() :].strip(" \t")
    if not text:
        raise PolicyError(f"{key[1]!r} has no value", line=number, column=key.end() + 1)
    return key[1], _Value(text, number, line.index(text, key.end()) + 1)


def _required(fields: dict[str, _Value], key: str) -> _Value:
    try:
        return fields.pop(key)
    except KeyError:
        raise PolicyError(f"{key!r} is missing") from None


def _mode(value: _Value) -> Mode:
    try:
        return Mode(value.text)
    except ValueError:
        raise value.error(f"the mode is {value.text[:40]!r}, not enforce, testing or none") from None


def _max_age(value: _Value) -> int:
    if _SECONDS.fullmatch(value.text) is None:
        raise value.error(f"max_age is {value.text[:40]!r}, not a number of seconds")
    return min(int(value.text), MAX_AGE)


def _pattern(value: _Value) -> str:
    try:
        return pattern(value.text)
    except InvalidName:
        raise value.error(f"not a host name or '*.' and a domain: {value.text[:80]!r}") from None


def pattern(text: str) -> str:
    """An `mx` pattern in lower case (RFC 8461 §3.2: A-labels, `*.` at most once and in front). Raises `InvalidName`."""
    wildcard, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    # A U-label, an address or a final dot is no `Domain` of RFC 5321 §4.1.2, whatever can be made of it.
    if not name.isascii() or name.startswith("[") or name.endswith("."):
        raise InvalidName(name)
    return f"{wildcard}{Domain(name)}"
