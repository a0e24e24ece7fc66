"""Compose a notice: multipart/report of three parts, for people, for programs, and the message itself
(RFC 3464 §2, RFC 6522 §3, RFC 3834 §3, §5).

It must never be answered: its own envelope has the null sender, which is up to the caller.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

from postward.dsn.fields import date, folded, one_line, status_fields
from postward.dsn.notice import Notice
from postward.dsn.original import Returned, message_id_of, quoted_printable, returned
from postward.dsn.words import explanation
from postward.smtp.reply import visible

_SUBJECTS: Final = {
    "failed": "Not delivered",
    "delayed": "Not delivered yet",
    "delivered": "Delivered",
    "relayed": "Passed on",
}
_MESSAGE_ID: Final = re.compile(r"<[!-;=?-~]{1,250}>")
_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,60}")


def build(notice: Notice) -> bytes:
    """The whole message, with CRLF and lines of at most 998 octets.

    It is 7-bit unless it says so in its Content-Transfer-Encoding; its header is ASCII unless `to` is not (RFC 6532). Raises
    `ValueError` for a notice without recipients, a status that is no code, or a header or id of the caller's that is none.
    """
    if not notice.recipients:
        raise ValueError("a notice about nobody")
    text, text_encoding = _encoded(explanation(notice))
    fields, utf8 = status_fields(notice)
    original = returned(notice.original, full=notice.full)
    eight_bit = utf8 or original.encoding == "8bit"
    boundary = secrets.token_hex(16)
    lines = _header(notice, boundary)
    lines += ["Content-Transfer-Encoding: 8bit"] if eight_bit else []
    opening = f"--{boundary}\r\n"
    parts: list[str | bytes] = [
        "\r\n".join([*lines, "", opening]),
        f"Content-Description: Notification\r\n{text_encoding}\r\n",
        text,
        f"\r\n{opening}Content-Description: Delivery report\r\n{_status_type(utf8=utf8)}\r\n",
        fields,
        f"\r\n{opening}Content-Description: {'Message' if notice.full else 'Message header'}\r\n{_returned_type(original)}\r\n",
        original.content,
        f"\r\n--{boundary}--\r\n",
    ]
    return b"".join(part.encode("utf-8", "replace") if isinstance(part, str) else part for part in parts)


def _header(notice: Notice, boundary: str) -> list[str]:
    message_id = notice.message_id or f"<{secrets.token_hex(16)}@{notice.reporting_mta}>"
    if _MESSAGE_ID.fullmatch(message_id) is None:
        raise ValueError("not a Message-ID")
    author = str(notice.from_ or f"postmaster@{notice.reporting_mta}")
    lines = [
        folded("From", f"Mail Delivery System <{author}>"),
        f"To: {one_line(str(notice.to), collapse=False)}",
        folded("Subject", f"{_SUBJECTS[notice.kind]}: {_whom(notice)}"),
        f"Date: {date(notice.date)}",
        f"Message-ID: {message_id}",
        "Auto-Submitted: auto-replied",
    ]
    if answered := message_id_of(notice.original):
        lines += [f"In-Reply-To: {answered}", f"References: {answered}"]
    for name, value in notice.headers:
        if _NAME.fullmatch(name) is None or not value.isascii() or visible(value) != value:
            raise ValueError(f"not a header field: {name[:60]!r}")
        lines.append(folded(name, value))
    return [
        *lines,
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',
    ]


def _whom(notice: Notice) -> str:
    address = notice.recipients[0].address
    if len(notice.recipients) > 1:
        return f"{len(notice.recipients)} recipients"
    return str(address) if address.is_ascii else f"a recipient at {address.domain}"


def _encoded(text: str) -> tuple[bytes, str]:
    kind = "Content-Type: text/plain; charset="
    if text.isascii():
        return text.encode("ascii"), f"{kind}us-ascii\r\n"
    content = quoted_printable(text.encode("utf-8", "replace"))
    return content, f"{kind}utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n"


def _status_type(*, utf8: bool) -> str:
    if utf8:
        return "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n"
    return "Content-Type: message/delivery-status\r\n"


def _returned_type(original: Returned) -> str:
    encoding = f"Content-Transfer-Encoding: {original.encoding}\r\n" if original.encoding else ""
    return f"Content-Type: {original.media_type}\r\n{encoding}"
