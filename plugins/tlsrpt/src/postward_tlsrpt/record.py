"""The TXT record at `_smtp._tls.<domain>`: where reports about the domain go (RFC 8460 §3)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from postward.errors import PostwardError

MAX_RECORD: Final = 8192
MAX_URIS: Final = 50

# White space before the semicolon is in the grammar and not in the prose that selects records; such a record is meant as one.
_START: Final = re.compile(r"v=TLSRPTv1[ \t]*;")
_FIELD: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=(.*)", re.DOTALL)
_VISIBLE: Final = re.compile(r"[\x21-\x7e]*")
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):[\x21-\x7e]+")
_SCHEMES: Final = ("mailto", "https")
_SPACE: Final = " \t"


class RecordError(PostwardError):
    """Records that say nothing that can be used. `slug` names the reason; `position` counts characters from 0."""

    def __init__(self, message: str, *, slug: str = "record-syntax-error", position: int = 0) -> None:
        super().__init__(message)
        self.slug, self.position = slug, position


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsRptRecord:
    """A record: the URIs reports may go to, as published (percent-encoded), in order and once each.

    `ignored` are URIs that no report can be sent to: of other schemes, or with a `!` that is not encoded. `extensions` are
    the fields that RFC 8460 does not know.
    """

    rua: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    extensions: tuple[tuple[str, str], ...] = ()


def parse(text: str) -> TlsRptRecord:
    """Read one record; several `rua` fields add up, unknown fields are kept. Raises `RecordError`."""
    if _START.match(text) is None:
        raise RecordError("the record does not begin with 'v=TLSRPTv1;'")
    if len(text) > MAX_RECORD:
        raise RecordError(f"the record is longer than {MAX_RECORD} characters", position=MAX_RECORD)
    uris: list[str] | None = None
    extensions: dict[str, str] = {}
    position = text.find(";") + 1
    for number, part in enumerate(text.split(";")[1:]):
        start, position = position, position + len(part) + 1
        if not part.strip(_SPACE) and number and position > len(text):
            break  # the one delimiter that may end the record
        field = _FIELD.fullmatch(part.strip(_SPACE))
        if field is None:
            raise RecordError(f"no field 'name=value' at character {start}", position=start)
        if field[1] == "rua":
            uris = [*(uris or ()), *_uris(field[2], start)]
        elif _VISIBLE.fullmatch(field[2]) is None:
            raise RecordError(f"the value of {field[1]!r} holds a space or a character that is not ASCII", position=start)
        else:
            extensions.setdefault(field[1], field[2])
    if uris is None:
        raise RecordError("the record has no rua", position=len(text))
    if len(uris) > MAX_URIS:
        raise RecordError(f"the record has more than {MAX_URIS} addresses")
    unique = tuple(dict.fromkeys(uris))
    usable = tuple(uri for uri in unique if _usable(uri))
    ignored = tuple(uri for uri in unique if not _usable(uri))
    return TlsRptRecord(rua=usable, ignored=ignored, extensions=tuple(extensions.items()))


def choose(texts: Iterable[str]) -> TlsRptRecord | None:
    """The one record among the TXT records of a name, their strings already joined; None when there is none.

    Those that are not meant as TLSRPT do not count. Raises `RecordError` when several are left or the one is invalid: then
    the domain is treated as one without TLSRPT (RFC 8460 §3).
    """
    meant = [text for text in texts if _START.match(text)]
    if len(meant) > 1:
        raise RecordError(f"{len(meant)} records begin with 'v=TLSRPTv1;'", slug="multiple-tlsrpt-records")
    return parse(meant[0]) if meant else None


def _uris(value: str, position: int) -> list[str]:
    uris = [uri.strip(_SPACE) for uri in value.split(",")]
    for uri in uris:
        if _URI.fullmatch(uri) is None:
            raise RecordError(f"not a URI: {uri[:80]!r}", position=position)
    return uris


def _usable(uri: str) -> bool:
    # An unencoded `!` is a size limit of DMARC that was copied here: nobody knows which address was meant (RFC 8460 §3).
    return uri.partition(":")[0].lower() in _SCHEMES and "!" not in uri
