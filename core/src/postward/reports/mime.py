"""Compose the mail that carries a report (RFC 8460 §5.3, RFC 9990 §3.5.2, RFC 3834 §5, RFC 8689 §3).

The same report to the same target is the same mail but for its date: a repeated attempt is recognised by its Message-ID.
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

from postward.model import MICROSECONDS

if TYPE_CHECKING:
    from postward.model import Report
    from postward.names import Address

_LINE: Final = 76
_MAX_TEXT_LINE: Final = 900
_LINE_ENDS: Final = re.compile(r"[\r\n\0]")


def compose(report: Report, address: Address, *, now: int) -> bytes:
    """The unsigned mail with `report` to one address; `now` is the instant of its Date field.

    Raises `ValueError` for a report whose header values hold line ends.
    """
    identity = hashlib.sha256(f"{report.kind}\0{report.report_id}\0{address}".encode()).hexdigest()
    boundary = f"part-{identity[:32]}"
    fields = [
        ("From", f"postmaster@{report.submitter}"),
        ("To", str(address)),
        ("Subject", report.subject),
        ("Date", format_datetime(datetime.fromtimestamp(now // MICROSECONDS, UTC))),
        ("Message-ID", f"<{identity[32:]}@{report.submitter}>"),
        ("Auto-Submitted", "auto-generated"),
        *([("TLS-Required", "No")] if report.kind == "tls" else []),
        *report.headers,
        ("MIME-Version", "1.0"),
        ("Content-Type", f'{report.mail_type}; boundary="{boundary}"'),
    ]
    lines = [_field(name, value) for name, value in fields]
    lines += ["", f"--{boundary}", *_text(report.explanation), f"--{boundary}"]
    lines += [
        _field("Content-Type", f'{report.media_type}; name="{report.filename}"'),
        _field("Content-Disposition", f'attachment; filename="{report.filename}"'),
        "Content-Transfer-Encoding: base64",
        "",
        *_base64(report.content),
        f"--{boundary}--",
        "",
    ]
    return "\r\n".join(lines).encode()


def _field(name: str, value: str) -> str:
    """A header field, folded at its spaces (RFC 5322 §2.2.3)."""
    if _LINE_ENDS.search(value) or _LINE_ENDS.search(name):
        raise ValueError(f"line end in header field {name!r}")
    if len(name) + 2 + len(value) <= _LINE:
        return f"{name}: {value}"
    lines, line = [], f"{name}:"
    for word in value.split(" "):
        if len(line) + 1 + len(word) > _LINE and line != f"{name}:":
            lines.append(line)
            line = ""
        line += f" {word}"
    return "\r\n".join([*lines, line])


def _text(text: str) -> list[str]:
    lines = text.splitlines() or [""]
    if text.isascii() and max(map(len, lines)) < _MAX_TEXT_LINE:
        return ["Content-Type: text/plain; charset=us-ascii", "", *lines, ""]
    content = "\r\n".join([*lines, ""]).encode("utf-8", "replace")
    return ["Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: base64", "", *_base64(content)]


def _base64(content: bytes) -> list[str]:
    text = base64.b64encode(content).decode()
    return [text[i : i + _LINE] for i in range(0, len(text), _LINE)]
