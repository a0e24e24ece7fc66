"""The machine-readable part: fields of a message and of its recipients (RFC 3464 §2), and the encodings of what ESMTP
parameters carry into them (RFC 3461 §4, RFC 6533 §3).

What comes from a stranger, also what was encoded, is made visible before it stands in a field, so it can end none.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from postward.dsn.notice import Notice, Recipient
from postward.dsn.status import is_status
from postward.model import MICROSECONDS
from postward.names import Address
from postward.smtp.reply import visible

_LINE: Final = 76
_MAX_PLAIN: Final = 900
_MAX_UTF8: Final = 220  # characters, of four octets at most
_XTEXT: Final = re.compile(r"\+([0-9A-F]{2})")
_EMBEDDED: Final = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_TYPE: Final = re.compile(r"[A-Za-z0-9-]{1,40}")
_LAST_CHARACTER: Final = 0x10FFFF


def status_fields(notice: Notice) -> tuple[bytes, bool]:
    """The lines of the part, and whether it is in UTF-8 because an address or an envelope id is. Raises `ValueError`."""
    envid = one_line(from_xtext(notice.envid))
    originals = [_original(recipient.orcpt) for recipient in notice.recipients]
    texts = [envid, *originals, *(str(recipient.address) for recipient in notice.recipients)]
    utf8 = not all(text.isascii() for text in texts)
    lines = [f"Reporting-MTA: dns; {notice.reporting_mta}"]
    if envid:
        lines.append(f"Original-Envelope-Id: {envid}")
    if notice.arrival:
        lines.append(f"Arrival-Date: {date(notice.arrival)}")
    for recipient, original in zip(notice.recipients, originals, strict=True):
        lines += ["", *_recipient(recipient, original)]
    text = "\r\n".join([*lines, ""])
    return text.encode("utf-8", "replace") if utf8 else text.encode("ascii", "backslashreplace"), utf8


def _recipient(recipient: Recipient, original: str) -> list[str]:
    if not is_status(recipient.status):
        raise ValueError(f"not a status code: {recipient.status[:20]!r}")
    lines = [f"Original-Recipient: {original}"] if original else []
    lines += [
        f"Final-Recipient: {_typed(recipient.address)}",
        f"Action: {recipient.action}",
        f"Status: {recipient.status}",
    ]
    if remote := one_line(recipient.remote_mta):
        lines.append(folded("Remote-MTA", f"dns; {remote}"))
    if reply := one_line(recipient.reply):
        lines.append(folded("Diagnostic-Code", f"{'smtp' if reply[:3].isdigit() else 'x-postward'}; {reply}"))
    if recipient.last_attempt:
        lines.append(f"Last-Attempt-Date: {date(recipient.last_attempt)}")
    if recipient.will_retry_until and recipient.action == "delayed":
        lines.append(f"Will-Retry-Until: {date(recipient.will_retry_until)}")
    return lines


def _typed(address: Address) -> str:
    text = one_line(str(address), collapse=False)
    return f"rfc822; {text}" if text.isascii() else f"utf-8; {_embed_backslash(text)}"


def _original(orcpt: str) -> str:
    """The value of ORCPT as it stands in Original-Recipient; empty for what is none."""
    kind, semicolon, text = orcpt.partition(";")
    if not semicolon or _TYPE.fullmatch(kind) is None:
        return ""
    if kind.lower() != "utf-8":
        address = one_line(from_xtext(text), collapse=False)
        return f"{kind}; {address}" if address else ""
    address = one_line(from_embedded(text), collapse=False)
    return f"{kind}; {_embed_backslash(address)}" if address else ""


def from_xtext(text: str) -> str:
    """Decode xtext (RFC 3461 §4); octets that are no UTF-8 become visible escapes."""
    octets = _XTEXT.sub(lambda match: chr(int(match[1], 16)), text)
    if octets == text or not text.isascii():
        return text
    return octets.encode("latin-1").decode("utf-8", "backslashreplace")


def from_embedded(text: str) -> str:
    r"""Decode `\x{F6}` of a `utf-8` address (RFC 6533 §3)."""
    return _EMBEDDED.sub(lambda match: _character(match[1]) or match[0], text)


def _character(digits: str) -> str:
    number = int(digits, 16)
    return "" if number > _LAST_CHARACTER or 0xD800 <= number < 0xE000 else chr(number)


def _embed_backslash(text: str) -> str:
    # Where characters may be embedded, the sign that begins one cannot stand for itself (RFC 6533 §3, QCHAR).
    return text.replace("\\", "\\x{5C}")


def one_line(text: str, *, collapse: bool = True) -> str:
    """A stranger's text, made safe for a field: no controls, no line ends, at most 900 octets where it is not to be folded."""
    shown = visible(text.encode("utf-8", "replace").decode())
    if collapse:
        return " ".join(shown.split())
    return shown.encode()[:_MAX_PLAIN].decode("utf-8", "ignore").strip()


def folded(name: str, value: str) -> str:
    """A field, folded at its blanks; words too long for any line are broken."""
    lines, line = [], f"{name}:"
    for word in value.split():
        size = _MAX_PLAIN if word.isascii() else _MAX_UTF8
        for part in (word[at : at + size] for at in range(0, len(word), size)):
            if len(line) + 1 + len(part) > _LINE and line.strip() and line != f"{name}:":
                lines.append(line)
                line = ""
            line += f" {part}"
    return "\r\n".join([*lines, line])


def date(instant: int) -> str:
    """An instant in microseconds, as header fields have it."""
    return format_datetime(datetime.fromtimestamp(instant // MICROSECONDS, UTC))
