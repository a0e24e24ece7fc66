"""Find the reports in what was received: a mail, or a report by itself, compressed or not (RFC 8460 §5.3, §6.2 to §6.4).

One file may hold several reports, and one that is bad does not hide the others: each comes as a `Reading` or a `ReportError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from postward.model import BytesContent
from postward.reports.container import ContainerError, Part, gunzip, mime_parts, unzip
from postward_tlsrpt.quick import quick
from postward_tlsrpt.read import MAX_JSON, Reading, ReportError, domain_or_nothing, read

MAX_MAIL: Final = 15 << 20
MAX_REPORTS: Final = 20
JSON_TYPE: Final = "application/tlsrpt+json"
GZIP_TYPE: Final = "application/tlsrpt+gzip"
_PLAIN_TYPE: Final = "application/tlsrpt"
_OWN_TYPES: Final = (JSON_TYPE, GZIP_TYPE, _PLAIN_TYPE)
_GZIP: Final = b"\x1f\x8b"
_ZIP: Final = b"PK\x03\x04"
_SPACE: Final = b"\xef\xbb\xbf \t\r\n"
_HEADER_FIELD: Final = re.compile(
    rb"(?im)^(tls-report-domain|tls-report-submitter)[ \t]*:[ \t]*(?:\r?\n[ \t]+)?([^\s]{1,255})[ \t]*\r?$"
)

Found: TypeAlias = Reading | ReportError


def reports_in(content: bytes, *, now: int | None = None, filename: str = "", attached: bool = False) -> Sequence[Found]:
    """The reports in the content of a file, at least one `Reading` or `ReportError`. Never raises for what it holds.

    `now`, microseconds, refuses reports of the future; `filename` may say what a report is about (RFC 8460 §5.1). With
    `attached`, messages that a mail forwards are opened, one level deep; whoever forwards a report cannot vouch for it.
    """
    if not content.strip():
        return [ReportError("empty")]
    if is_report(content):
        return [read_body(content, now=now, about=_about(filename))]
    return list(_in_mail(content, now, attached=attached))


def is_report(content: bytes) -> bool:
    """Whether this looks like a report by itself: JSON, gzip or zip, and no mail."""
    return content.startswith((_GZIP, _ZIP)) or _is_json(content)


def read_body(
    content: bytes, *, media_type: str = "", now: int | None = None, about: str = "", defects: Sequence[str] = ()
) -> Found:
    """Read a report that is nothing but itself. `media_type` is what it was said to be, empty where nothing was said."""
    found = list(defects)
    if media_type and media_type not in (JSON_TYPE, GZIP_TYPE):
        found.append("media-type")
    try:
        data = content
        if content.startswith(_GZIP):
            data = gunzip(content, MAX_JSON)
        elif content.startswith(_ZIP):
            (data,) = unzip(content, MAX_JSON)
            found.append("media-type")
        if media_type in (JSON_TYPE, GZIP_TYPE) and (media_type == GZIP_TYPE) is (data is content):
            found.append("content-type")
        return read(data, now=now, about=about, defects=found)
    except ContainerError as exc:
        return ReportError(str(exc))
    except ReportError as exc:
        return exc


def _in_mail(content: bytes, now: int | None, *, attached: bool) -> Iterator[Found]:
    known = quick(content) if len(content) <= MAX_MAIL else None
    if known is not None:
        yield _from_part(known.data, known.media_type, known.filename, _header_fields(known.header), now)
        return
    try:
        parts = mime_parts(content, MAX_MAIL)
    except ContainerError as exc:
        yield ReportError(str(exc))
        return
    said = _header_fields(BytesContent(content).header)
    chosen = [part for part in parts if part.media_type in _OWN_TYPES]
    chosen = chosen or [part for part in parts if _may_hold_report(part, alone=len(parts) == 1)]
    forwarded = [part.data for part in parts if part.media_type == "message/rfc822"] if attached and not chosen else []
    for message in forwarded[:MAX_REPORTS]:
        for found in _in_mail(message, now, attached=False):
            yield (
                found
                if isinstance(found, ReportError)
                else replace(found, defects=tuple(sorted({*found.defects, "forwarded"})))
            )
    if not chosen and not forwarded:
        yield ReportError("there is no TLS report in this message")
    for part in chosen[:MAX_REPORTS]:
        proper = part.report_type == "tlsrpt" if part.parents else True
        yield _from_part(part.data, part.media_type, part.filename, said, now, () if proper else ("structure",))
    if len(chosen) > MAX_REPORTS or len(forwarded) > MAX_REPORTS:
        yield ReportError(f"more than {MAX_REPORTS} reports in one message")


def _from_part(
    data: bytes, media_type: str, filename: str, said: Mapping[str, str], now: int | None, defects: Sequence[str] = ()
) -> Found:
    """Read a part of a mail; `said` are the fields of the mail's header."""
    about = domain_or_nothing(said.get("tls-report-domain", "")) or _about(filename)
    found = read_body(data, media_type=media_type, now=now, about=about, defects=defects)
    return _compared(found, domain_or_nothing(said.get("tls-report-submitter", "")))


def _may_hold_report(part: Part, *, alone: bool) -> bool:
    """Whether a part of another type has a TLS report in it, as some senders have it; `alone`: it is all of the mail."""
    data = part.data
    if part.media_type.startswith("text/") and not (alone or part.filename):
        return False
    try:
        if data.startswith(_GZIP):
            data = gunzip(data, MAX_JSON)
        elif data.startswith(_ZIP):
            (data,) = unzip(data, MAX_JSON)
    except ContainerError:
        # Nobody can say what it was; its name may.
        return ".json" in part.filename.lower()
    return _is_json(data)


def _compared(found: Found, submitter: str) -> Found:
    """With a defect where the header names another submitter; the JSON is what counts (RFC 8460 §5.6)."""
    if isinstance(found, ReportError) or not submitter or found.submitter in ("", submitter):
        return found
    return replace(found, defects=tuple(sorted({*found.defects, "submitter-disagrees"})))


def _header_fields(header: bytes) -> dict[str, str]:
    return {match[1].decode().lower(): match[2].decode("ascii", "replace") for match in _HEADER_FIELD.finditer(header)}


def _about(filename: str) -> str:
    """The policy domain in `sender!policy-domain!begin!end…` (RFC 8460 §5.1)."""
    fields = filename.replace("\\", "/").rpartition("/")[2].split("!")
    return domain_or_nothing(fields[1]) if len(fields) >= 4 else ""


def _is_json(content: bytes) -> bool:
    return content[:64].lstrip(_SPACE)[:1] == b"{"
