"""The TXT record at `_mta-sts.<domain>`: does the domain have a policy, and which instance of it (RFC 8461 §3.1).

The record only says that something changed: ids are compared for equality and have no order. Unknown fields are ignored, and
of duplicates the first counts (RFC 8461 §3.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from postward.errors import PostwardError

MAX_RECORD: Final = 4096

# The prose selects records by `v=STSv1;`, the grammar allows white space before the semicolon (erratum 6285): such a record is
# meant as one, so it is taken as one.
_START: Final = re.compile(r"v=STSv1[ \t]*;")
_DELIMITER: Final = re.compile(r"[ \t]*;[ \t]*")
_FIELD: Final = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,31})=(?P<value>[\x21-\x3a\x3c-\x7e]*)")
_ID: Final = re.compile(r"[A-Za-z0-9]{1,32}")


class RecordError(PostwardError):
    """Records that name no policy. `slug` is the reason for a report; `position` is the offset in octets, from 0."""

    def __init__(self, message: str, *, slug: str = "record-syntax-error", position: int = 0) -> None:
        super().__init__(message)
        self.slug, self.position = slug, position


@dataclass(frozen=True, slots=True, kw_only=True)
class StsRecord:
    """A record: the `id` of the policy instance, and fields that RFC 8461 does not know, in their order."""

    id: str
    extensions: tuple[tuple[str, str], ...] = ()


@lru_cache(maxsize=1024)
def parse(text: str) -> StsRecord:
    """Read one record by the grammar of RFC 8461 §3.1. Raises `RecordError`.

    Of duplicated fields the first counts, unknown ones are kept (RFC 8461 §3.2).
    """
    start = _START.match(text)
    if start is None:
        raise RecordError("the record does not begin with 'v=STSv1;'")
    if len(text) > MAX_RECORD:
        raise RecordError(f"the record is longer than {MAX_RECORD} characters", position=MAX_RECORD)
    identifier = ""
    extensions: dict[str, str] = {}
    position = _skip_space(text, start.end())
    while position < len(text):
        field = _FIELD.match(text, position)
        if field is None:
            raise RecordError(f"no field 'name=value' at octet {position}", position=position)
        name, value = field["name"], field["value"]
        if name != "id":
            extensions.setdefault(name, value)
        elif not identifier:
            if _ID.fullmatch(value) is None:
                raise RecordError("the id is not 1 to 32 letters and digits", position=field.start("value"))
            identifier = value
        position = _skip_delimiter(text, field.end())
    if not identifier:
        raise RecordError("the record has no id", position=len(text))
    return StsRecord(id=identifier, extensions=tuple(extensions.items()))


def choose(texts: Iterable[str]) -> StsRecord | None:
    """The one record among the TXT records of a name, their strings already joined; None when there is none.

    Those that are not meant as MTA-STS do not count. Raises `RecordError` when several are left, or the one is invalid: then
    the domain has no policy that can be had (RFC 8461 §3.1).
    """
    meant = [text for text in texts if _START.match(text)]
    if len(meant) > 1:
        raise RecordError(f"{len(meant)} records begin with 'v=STSv1;'", slug="multiple-mta-sts-records")
    return parse(meant[0]) if meant else None


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t":
        position += 1
    return position


def _skip_delimiter(text: str, position: int) -> int:
    delimiter = _DELIMITER.match(text, position)
    if delimiter is not None:
        return delimiter.end()
    rest = _skip_space(text, position)
    if rest < len(text):
        raise RecordError(f"unexpected {text[rest]!r} at octet {rest}", position=rest)
    return rest
