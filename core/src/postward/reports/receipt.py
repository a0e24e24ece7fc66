"""What all plugins that take in reports say of them, and how a stranger's text is kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from postward.model import ReportReceipt

_ID_CHARS: Final = re.compile(r"[^!-~]|[;\"\\()]")
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_LONGEST: Final = 1000
_SHOWN: Final = 3


def storable(text: str) -> str:
    """A stranger's text as every database takes it, and no longer than anybody reads."""
    return _UNSTORABLE.sub("\ufffd", text[:_LONGEST])


def shown_id(text: str) -> str:
    """The id of a report for a header field, in quotes."""
    return f'"{_ID_CHARS.sub("_", text[:100])}"'


def refused(kind: str, reason: str, *, error_header: str, temporary: bool = False) -> ReportReceipt:
    """Nothing was taken in, and why; `temporary` asks the sender to come back."""
    return ReportReceipt(accepted=False, kind=kind, reason=reason, temporary=temporary, error_header=error_header)


def taken(kind: str, said: Sequence[str], *, error_header: str) -> ReportReceipt:
    """Something was taken in: a few words for each report, of which the first three are told."""
    return ReportReceipt(accepted=True, kind=kind, summary="; ".join(said[:_SHOWN]), error_header=error_header)
