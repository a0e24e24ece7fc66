"""The report of a mail that is built as RFC 8460 §5.3 has it, without a whole MIME parser: nearly all mails are.

It looks only at what it is sure of. Whatever is unusual, be it right or wrong, gives None, and the mail is for
`postward.reports.container.mime_parts`, which knows everything and takes ten times as long.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field
from typing import Final

_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'+_,./:=?-]{1,70}")
_TYPES: Final = (b"application/tlsrpt+gzip", b"application/tlsrpt+json")
_PARAMETER: Final = re.compile(rb"""[ \t]*;\s*([A-Za-z-]+)[ \t]*=[ \t]*(?:"([^"\\\r\n]*)"|([^\s";()<>@,\\]+))[ \t]*""")
_FOLD: Final = re.compile(rb"\r?\n(?=[ \t])")
_HEADER: Final = re.compile(rb"[!-9;-~]+:[^\r\n]*(?:\r?\n(?:[!-9;-~]+:|[ \t]+[^\r\n \t])[^\r\n]*)*\r?\n?")
_MAX_HEADER: Final = 64 * 1024
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickPart:
    """The part that is a report, decoded; `header` is that of the message."""

    media_type: str
    filename: str
    header: bytes = field(repr=False)
    data: bytes = field(repr=False)


def quick(content: bytes) -> QuickPart | None:
    """The only report of a mail of the usual form; None for anything else."""
    end = _end_of_header(content)
    if end is None:
        return None
    header = content[: end[0]]
    if _HEADER.fullmatch(header) is None:
        return None
    top = _media_type(header)
    if top is None or top[0] != b"multipart/report" or top[1].get(b"report-type", b"").lower() != b"tlsrpt":
        return None
    boundary = top[1].get(b"boundary", b"")
    if _BOUNDARY.fullmatch(boundary) is None or content.count(b"--" + boundary) != 3:
        return None
    # Two parts between three lines: the text, and the report.
    body = content[end[0] :]
    pieces = body.split(b"\n--" + boundary)
    if len(pieces) != 4 or not pieces[3].startswith(b"--"):
        return None
    first, second = _behind_line(pieces[1]), _behind_line(pieces[2])
    text, report = _part(first) if first else None, _part(second) if second else None
    if text is None or report is None or not text[0].startswith(b"text/") or report[0] not in _TYPES:
        return None
    media_type, parameters, data = report
    filename = parameters.get(b"name", b"").decode("ascii", "replace")
    return QuickPart(media_type=media_type.decode(), filename=filename, header=header, data=data)


def _behind_line(piece: bytes) -> bytes | None:
    """What stands behind the line of a boundary; None when more than the boundary stands in it."""
    line, _, rest = piece.partition(b"\n")
    return None if line.removesuffix(b"\r").strip(b" \t") else rest


def _part(piece: bytes) -> tuple[bytes, dict[bytes, bytes], bytes] | None:
    """Media type, its parameters, and the decoded content of a part."""
    end = _end_of_header(piece)
    if end is None:
        return None
    header = piece[: end[0]]
    if _HEADER.fullmatch(header) is None:
        return None
    kind = _media_type(header)
    if kind is None:
        return None
    if kind[0] not in _TYPES:
        return *kind, b""
    encoding = _only(header, b"content-transfer-encoding")
    body = piece[end[1] :]
    if encoding is None:
        return None
    encoding = encoding.strip().lower()
    if encoding in (b"", b"7bit", b"8bit", b"binary"):
        return *kind, body.removesuffix(b"\r")
    if encoding != b"base64" or body.translate(None, _BASE64):
        return None
    try:
        return *kind, binascii.a2b_base64(body)
    except binascii.Error:
        return None


def _end_of_header(data: bytes) -> tuple[int, int] | None:
    """Where the header ends, and where the body begins; None when there is no empty line."""
    crlf, lf = data.find(b"\n\r\n", 0, _MAX_HEADER), data.find(b"\n\n", 0, _MAX_HEADER)
    if crlf < 0 and lf < 0:
        return None
    return (lf, lf + 2) if crlf < 0 or 0 <= lf < crlf else (crlf - (data[crlf - 1 : crlf] == b"\r"), crlf + 3)


def _only(header: bytes, name: bytes) -> bytes | None:
    """The value of a field, unfolded; empty when there is none, None when there are several."""
    lowered, wanted = b"\n" + header.lower(), b"\n" + name + b":"
    at = lowered.find(wanted)
    if at < 0:
        return None if b"\n" + name + b" " in lowered or b"\n" + name + b"\t" in lowered else b""
    if lowered.find(wanted, at + 1) >= 0:
        return None
    begin = end = at + len(wanted) - 1
    while True:
        end = header.find(b"\n", end)
        if end < 0 or header[end + 1 : end + 2] not in (b" ", b"\t"):
            break
        end += 1
    value = header[begin:] if end < 0 else header[begin:end]
    return _FOLD.sub(b"", value) if b"\n" in value else value


def _media_type(header: bytes) -> tuple[bytes, dict[bytes, bytes]] | None:
    """The Content-Type of a header, in lower case, with its parameters; None when it is not there or not understood."""
    value = _only(header, b"content-type")
    if not value:
        return None
    value = value.rstrip()
    name = value.partition(b";")[0]
    parameters: dict[bytes, bytes] = {}
    at = len(name)
    while at < len(value):
        match = _PARAMETER.match(value, at)
        if match is None:
            return None
        key = match[1].lower()
        if key in parameters:
            return None
        parameters[key] = match[2] if match[2] is not None else match[3]
        at = match.end()
    return name.strip().lower(), parameters
