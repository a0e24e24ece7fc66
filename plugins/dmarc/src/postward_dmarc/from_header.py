"""The author domains of a message: what stands in From, in every form that mail software accepts (RFC 5322 §3.6.2, §4.4).

DMARC protects what the reader sees, so this reads leniently and reports everything it finds: several From fields, several
addresses, groups, comments, quoted strings, source routes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from postward.errors import InvalidName
from postward.names import Domain

_MAX_HEADER: Final = 1 << 20
_MAX_ADDRESSES: Final = 100
_FROM: Final = re.compile(rb"(?im)^from[ \t]*:((?:[^\n]|\n[ \t])*)")
_END: Final = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authors:
    """The distinct domains in From, in order. `problem` says why there is not exactly one."""

    domains: tuple[Domain, ...] = ()
    problem: str = ""

    @property
    def single(self) -> Domain | None:
        """The author domain, when DMARC can be applied (RFC 9989 §5.3.1)."""
        return self.domains[0] if len(self.domains) == 1 and not self.problem else None


def authors(content: bytes) -> Authors:
    """Find the author domains of a message."""
    end = _END.search(content)
    header = content[: min(end.start() if end else len(content), _MAX_HEADER)]
    if content.startswith((b"\n", b"\r\n")):
        header = b""
    fields = [match[1].decode("utf-8", "surrogateescape") for match in _FROM.finditer(header)]
    if len(fields) != 1:
        return Authors(domains=_unique(fields), problem="no From field" if not fields else "several From fields")
    try:
        domains = _domains(fields[0])
    except ValueError as exc:
        return Authors(problem=str(exc))
    if not domains:
        return Authors(problem="From holds no address")
    if len(domains) > 1:
        return Authors(domains=domains, problem="From holds addresses of several domains")
    return Authors(domains=domains)


def _unique(fields: list[str]) -> tuple[Domain, ...]:
    found: dict[Domain, None] = {}
    for field in fields[:10]:
        try:
            found.update(dict.fromkeys(_domains(field)))
        except ValueError:
            continue
    return tuple(found)


def _domains(text: str) -> tuple[Domain, ...]:
    found: dict[Domain, None] = {}
    plain_text = False
    for count, mailbox in enumerate(_mailboxes(text)):
        if count >= _MAX_ADDRESSES:
            raise ValueError("From holds too many addresses")
        local, at, domain = mailbox.rpartition("@")
        if not at:
            # Names like `Doe, John <…>` that nobody quoted.
            plain_text = True
            continue
        if "@" in local or "\0" in mailbox:
            # Whose address that is depends on the program that reads it.
            raise ValueError("From holds something that is no address")
        try:
            found[Domain("".join(domain.split()))] = None
        except InvalidName:
            raise ValueError("From holds an address without a good domain") from None
    if plain_text and not found:
        raise ValueError("From holds something that is no address")
    return tuple(found)


def _mailboxes(text: str) -> Iterator[str]:
    """The addr-specs of an address list, without comments; quoted strings stay whole but for their quotes."""
    plain, angle, behind = "", None, False
    for kind, token in _tokens(text):
        if kind == "quoted":
            if angle is None:
                plain += "q"
            else:
                angle += "q"
        elif token == "<" and angle is None:
            angle = ""
        elif token == ">" and angle is not None:
            yield angle.rpartition(":")[2] if angle.startswith("@") else angle
            angle, plain, behind = None, "", True
        elif angle is not None:
            angle += token
        elif token in ",;":
            if _is_mailbox(plain, behind=behind):
                yield plain
            plain, behind = "", False
        elif token == ":":
            plain = ""
        else:
            plain += token
    if angle is not None:
        yield angle
    elif _is_mailbox(plain, behind=behind):
        yield plain


def _is_mailbox(plain: str, *, behind: bool) -> bool:
    """Whether text outside of brackets counts. Behind them it does when a reader might take it for the address."""
    return "@" in plain if behind else bool(plain.strip())


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Quoted strings and domain literals whole, comments not at all, everything else one character at a time."""
    position, size = 0, len(text)
    while position < size:
        char = text[position]
        if char == "(":
            position = _after_comment(text, position)
        elif char in '"[':
            end = _after(text, position + 1, '"' if char == '"' else "]")
            yield ("quoted" if char == '"' else "text"), text[position:end]
            position = end
        else:
            yield "text", char
            position += 1


def _after(text: str, position: int, closing: str) -> int:
    while position < len(text) and text[position] != closing:
        position += 2 if text[position] == "\\" else 1
    return min(position + 1, len(text))


def _after_comment(text: str, position: int) -> int:
    depth = 0
    while position < len(text):
        char = text[position]
        depth += (char == "(") - (char == ")")
        position += 2 if char == "\\" else 1
        if not depth:
            break
    return min(position, len(text))
