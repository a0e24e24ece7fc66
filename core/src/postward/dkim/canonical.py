"""What DKIM hashes: fields chosen from a message, and both canonicalizations (RFC 6376 §3.4).

Line ends are CRLF from here on: a bare LF becomes CRLF when a message is split, a bare CR stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_LINE_END: Final = re.compile(rb"\r?\n")
_FIELD: Final = re.compile(rb"([\x21-\x39\x3b-\x7e]+)[ \t]*:")
_SPACES: Final = re.compile(rb"[ \t]+")


@dataclass(frozen=True, slots=True)
class Field:
    """A header field: its lower-case name, and the whole field as it stands, without the final CRLF."""

    name: bytes
    raw: bytes

    @property
    def value(self) -> bytes:
        """What stands behind the colon, folds included."""
        return self.raw.partition(b":")[2]


def split_message(content: bytes) -> tuple[list[Field], bytes]:
    """Split a message into its fields and its body. Lines that are no fields are skipped (an mbox `From `, garbage)."""
    if content.count(b"\n") != content.count(b"\r\n"):
        content = _LINE_END.sub(b"\r\n", content)
    if content.startswith(b"\r\n"):
        return [], content[2:]
    header, _, body = content.partition(b"\r\n\r\n")
    fields: list[Field] = []
    pending: list[bytes] = []
    for line in header.removesuffix(b"\r\n").split(b"\r\n"):
        if line[:1] in (b" ", b"\t") and pending:
            pending.append(line)
            continue
        _finish(fields, pending)
        pending = [line]
    _finish(fields, pending)
    return fields, body


def _finish(fields: list[Field], lines: Sequence[bytes]) -> None:
    raw = b"\r\n".join(lines)
    if (match := _FIELD.match(raw)) is not None:
        fields.append(Field(match[1].lower(), raw))


def choose(fields: Sequence[Field], names: Iterable[bytes]) -> list[Field]:
    """The fields that `h=` names: of equal names the last first; a name without a field is nothing (RFC 6376 §5.4.2)."""
    left: dict[bytes, list[Field]] = {}
    for field in fields:
        left.setdefault(field.name, []).append(field)
    return [stack.pop() for name in names if (stack := left.get(name))]


def header(field: Field, *, relaxed: bool) -> bytes:
    """One canonical field, without its final CRLF (RFC 6376 §3.4.1, §3.4.2)."""
    if not relaxed:
        return field.raw
    value = field.value.replace(b"\r\n", b"")
    return field.name + b":" + _SPACES.sub(b" ", value).strip(b" ")


def body(content: bytes, *, relaxed: bool) -> bytes:
    """The canonical body (RFC 6376 §3.4.3, §3.4.4): an empty one is CRLF when simple, nothing when relaxed."""
    if relaxed:
        content = _SPACES.sub(b" ", content).replace(b" \r\n", b"\r\n")
        content = content.removesuffix(b" ")
    content = content[: _end_of_text(content)]
    if content or not relaxed:
        content += b"\r\n"
    return content


def _end_of_text(content: bytes) -> int:
    """Where the empty lines and the last CRLF begin, in time linear in their number."""
    text = content.rstrip(b"\r\n")
    tail = content[len(text) :]
    if tail.endswith(b"\r"):
        return len(content)
    return len(text) + tail.rfind(b"\r\r") + 1
